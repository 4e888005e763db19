"""Protobuf's text format: bytes in, fields with their positions out.

Only the grammar is read, no message types, so a net of any Caffe will do. Source: protobuf's
io::Tokenizer and TextFormat::Parser, with comments that begin with '#'. Their Python twin gives no
positions, and its regular expressions take memory for each character of a string.
"""

import re
from typing import Iterator, List, NamedTuple, TypeVar

T = TypeVar("T", list, bytes, str)
DEPTH = 100
TOKEN = re.compile(rb"""[ \t\r\n\v\f]*(?:
    (?P<comment>\#[^\n\0]*)
    |(?P<name>[A-Za-z_]\w*
        |\[[\w.\s/-]*\](?=(?:\s|\#[^\n]*\n)*[:{<]))  # an extension or an Any
    |(?P<number>0[xX][0-9a-fA-F]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?[fF]?)
    |(?P<string>["'])
    |(?P<symbol>[{}<>\[\]:,;-])
    |(?P<end>\Z)
    |(?P<wrong>.))""", re.VERBOSE | re.DOTALL)
ESCAPE = (rb"\\(?:(?P<octal>[0-7]{1,3})|[xX](?P<hex>[0-9a-fA-F]{1,2})"
          rb"|(?:u(?P<unicode>[0-9a-fA-F]{4})|U(?P<long>[0-9a-fA-F]{8}))"
          rb"|(?P<letter>[abfnrtv\\?'\"]))")
IN_STRING = re.compile(ESCAPE + rb"|[\\\"'\n\0]|\Z")  # whatever does not just stand for itself
LETTERS = {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t",
           b"v": b"\v"}
CLOSING = {b"{": b"}", b"<": b">"}
NOT_A = {list: "has no brackets; fix: write { } around its fields",
         bytes: "is not a string; fix: put it in quotes",
         str: "is not a word or a number; fix: remove its quotes or brackets"}


class Problem(Exception):
    """What is wrong and what to do, in one line, and the byte where that is, if it is in a net."""

    def __init__(self, text: str, offset: "int | None" = None) -> None:
        super().__init__(text)
        self.offset = offset


def place(data: bytes, offset: int) -> "tuple[int, int]":
    """Line and column, from 1, as editors count them: in characters."""
    before = data[:offset]
    start = before.rfind(b"\n") + 1
    return before.count(b"\n") + 1, len(before[start:].decode("utf-8", "replace")) + 1


class Token(NamedTuple):
    kind: str
    text: bytes
    start: int


class Field(NamedTuple):
    """`name: value`, without the comma or semicolon that may follow; a list is several of them."""

    name: str
    start: int
    value_start: int
    end: int
    value: "list[Field] | bytes | str"  # of a message, a string, or a number or name with its minus
    in_list: bool

    def get(self, kind: "type[T]") -> T:
        """The value, which must be of this kind, or Problem."""
        if self.in_list:
            raise Problem(f'"{self.name}" is a list; fix: give it one value', self.start)
        if not isinstance(self.value, kind):
            raise Problem(f'"{self.name}" {NOT_A[kind]}', self.start)
        return self.value


def parse(data: bytes) -> "tuple[list[Field], list[Token]]":
    """The fields and the comments, or Problem with the place where it stops being text format."""
    found = list(tokens(data))
    parser = Parser([token for token in found if token.kind != "comment"])
    return parser.fields(b""), [token for token in found if token.kind == "comment"]


def tokens(data: bytes) -> Iterator[Token]:
    kind, at = "", 3 if data.startswith(b"\xef\xbb\xbf") else 0  # a byte order mark
    while kind != "end":
        match = TOKEN.match(data, at)
        assert match and match.lastgroup
        kind, start, at = match.lastgroup, match.start(match.lastgroup), match.end()
        if kind == "wrong":
            character = data[start : start + 4].decode("utf-8", "backslashreplace")[:1]
            raise Problem(f"{character!r} is not valid here; fix: remove it, or put it in quotes",
                          start)
        if kind == "string":
            at = end_of_string(data, start)
        yield Token(kind, data[start:at], start)


def end_of_string(data: bytes, start: int) -> int:
    """Step by step: one regular expression for all of it takes memory for each escape."""
    for match in IN_STRING.finditer(data, start + 1):
        if match.group() == data[start : start + 1]:
            return match.end()
        if match.group() == b"\\":
            raise Problem("this escape is not valid in a string; fix: double the backslash",
                          match.start())
        if match.group() in (b"\n", b"\0", b""):
            break
    raise Problem("the string does not end on its line; fix: close the quote", start)


def unescaped(match: "re.Match[bytes]") -> bytes:
    kind, text = match.lastgroup, match.group(match.lastgroup or 0)
    if kind == "letter":
        return LETTERS.get(text, text)
    code = int(text, 8 if kind == "octal" else 16)
    if kind in ("octal", "hex"):
        return bytes([code & 0xFF])
    return chr(min(code, 0x10FFFF)).encode("utf-8", "replace")


class Parser:
    def __init__(self, tokens: "list[Token]") -> None:
        self.tokens = tokens
        self.at = 0
        self.depth = 0

    @property
    def next(self) -> Token:
        return self.tokens[self.at]

    def accept(self, *texts: bytes) -> bool:
        found = self.next.text in texts
        self.at += found
        return found

    def expect(self, found: bool, what: str) -> bytes:
        """Take the next token, if it was found to be what is expected."""
        token = self.next
        if not found:
            text = token.text[:80].decode("utf-8", "replace")
            instead = repr(text) if text else "the end of the file"
            raise Problem(f"expected {what}, found {instead}; fix: correct the net here",
                          token.start)
        self.at += 1
        return token.text

    def fields(self, closing: bytes) -> "list[Field]":
        """Up to the closing bracket or the end of the text, which are not taken."""
        found = []
        while self.next.text not in (closing, b""):
            found += self.field()
            self.accept(b",", b";")
        return found

    def field(self) -> "list[Field]":
        start = self.next.start
        name = self.expect(self.next.kind == "name", "the name of a field").decode()
        if self.next.text not in (b"{", b"<", b"["):
            self.expect(self.next.text == b":", "':' or '{'")
        if not self.accept(b"["):
            return [self.with_value(name, start, False)]
        found: List[Field] = []
        while not self.accept(b"]"):
            if found:
                self.expect(self.next.text == b",", "']'")
            found.append(self.with_value(name, start, True))
        return found

    def with_value(self, name: str, start: int, in_list: bool) -> Field:
        value_start, value = self.next.start, self.value()
        last = self.tokens[self.at - 1]
        return Field(name, start, value_start, last.start + len(last.text), value, in_list)

    def value(self) -> "list[Field] | bytes | str":
        if self.next.text in CLOSING:
            return self.message(CLOSING[self.next.text])
        parts = []
        while self.next.kind == "string":
            parts.append(re.sub(ESCAPE, unescaped, self.next.text[1:-1]))
            self.at += 1
        if parts:
            return b"".join(parts)
        minus = "-" if self.accept(b"-") else ""
        return minus + self.expect(self.next.kind in ("name", "number"), "a value").decode()

    def message(self, closing: bytes) -> "list[Field]":
        if self.depth == DEPTH:
            raise Problem(f"more than {DEPTH} levels of brackets; fix: use fewer", self.next.start)
        self.at += 1
        self.depth += 1
        found = self.fields(closing)
        self.depth -= 1
        self.expect(self.next.text == closing, repr(closing.decode()))
        return found
