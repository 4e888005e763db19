"""Protobuf's text format: bytes in, the fields with their positions out.

Only the grammar is read, no message types, so a net of any Caffe will do. Source: protobuf's
io::Tokenizer and TextFormat::Parser, with comments that begin with '#'.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Iterator

from .errors import Problem

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
DEPTH = 100
TOKEN = re.compile(
    rb"""(?P<blank>[ \t\r\n\v\f]+)
    |(?P<comment>\#[^\n\0]*)
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<number>0[xX][0-9a-fA-F]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?[fF]?)
    |(?P<string>["'])
    |(?P<symbol>[{}<>\[\]:,;./-])""",
    re.VERBOSE,
)
# What ends a string that begins with this quote, or stands in the way of that, and escapes.
STOPS = {quote: re.compile(rb"%s|\\[^\n\0]|[\\\n\0]" % quote) for quote in (b'"', b"'")}
ESCAPE = re.compile(
    rb"""\\(?:(?P<octal>[0-7]{1,3})|[xX](?P<hex>[0-9a-fA-F]{1,2})
    |(?P<unicode>u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})|(?P<letter>[abfnrtv\\?'"])|(?P<wrong>.))""",
    re.VERBOSE,
)
LETTERS = {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t",
           b"v": b"\v"}
CLOSING = {b"{": b"}", b"<": b">"}


@dataclass(frozen=True)
class Token:
    kind: str
    text: bytes
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


@dataclass(frozen=True)
class Value:
    """A scalar, which is its tokens, or a message, which is its fields and two brackets."""

    start: int
    end: int
    tokens: tuple[Token, ...] = ()
    fields: tuple[Field, ...] | None = None


@dataclass(frozen=True)
class Field:
    """`name: value`, without the comma or semicolon that may follow; a list has several values."""

    name: str
    start: int
    end: int
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Document:
    fields: tuple[Field, ...]
    comments: tuple[Token, ...]


def parse(data: bytes) -> Document:
    """The fields of a text, or Problem with the place where it stops being text format."""
    parser = Parser(data)
    return Document(parser.fields(b"", 0), parser.comments)


def tokens(data: bytes) -> Iterator[Token]:
    at = len(BYTE_ORDER_MARK) if data.startswith(BYTE_ORDER_MARK) else 0
    while at < len(data):
        match = TOKEN.match(data, at)
        if match is None:
            raise unreadable(data, at)
        token = Token(str(match.lastgroup), match.group(), at)
        if token.kind == "comment":  # the \r of a line end is none of it
            token = Token("comment", token.text.rstrip(b"\r"), at)
        elif token.kind == "string":
            token = Token("string", data[at : end_of_string(data, at)], at)
            check_escapes(token)
        yield token
        at = token.end


def end_of_string(data: bytes, at: int) -> int:
    """Step by step: one regular expression for all of it takes memory for each character."""
    quote = data[at : at + 1]
    for match in STOPS[quote].finditer(data, at + 1):
        if match.group() == quote:
            return match.end()
        if len(match.group()) == 1:
            break
    raise Problem("the string does not end on its line; fix: close the quote", at)


def unreadable(data: bytes, at: int) -> Problem:
    character = data[at : at + 4].decode("utf-8", "backslashreplace")[:1]
    return Problem(f"{character!r} is not valid here; fix: remove it, or put it in quotes", at)


def check_escapes(token: Token) -> None:
    for match in ESCAPE.finditer(token.text):
        if match.group("wrong") is not None:
            raise Problem("this escape is not valid in a string; fix: double the backslash",
                          token.start + match.start())


def unescaped(strings: tuple[Token, ...]) -> bytes:
    """What string literals, one behind the other, say together."""
    return b"".join(ESCAPE.sub(unescape, token.text[1:-1]) for token in strings)


def unescape(match: re.Match[bytes]) -> bytes:
    if match.group("octal"):
        return bytes([int(match.group("octal"), 8) & 0xFF])
    if match.group("hex"):
        return bytes([int(match.group("hex"), 16)])
    if match.group("unicode"):
        code = int(match.group("unicode")[1:], 16)
        return chr(min(code, 0x10FFFF)).encode("utf-8", "replace")
    letter = match.group("letter")
    return LETTERS.get(letter, letter)


class Parser:
    def __init__(self, data: bytes) -> None:
        everything = list(tokens(data))
        self.comments = tuple(token for token in everything if token.kind == "comment")
        self.found = [token for token in everything if token.kind not in ("blank", "comment")]
        self.at = 0
        self.end = Token("end", b"", len(data))

    @property
    def next(self) -> Token:
        return self.found[self.at] if self.at < len(self.found) else self.end

    def take(self) -> Token:
        token = self.next
        self.at += 1
        return token

    def accept(self, *texts: bytes) -> bool:
        if self.next.kind == "symbol" and self.next.text in texts:
            self.at += 1
            return True
        return False

    def expect(self, text: bytes) -> Token:
        token = self.next
        if not self.accept(text):
            raise self.expected(repr(text.decode()))
        return token

    def expected(self, what: str) -> Problem:
        text = self.next.text[:80].decode("utf-8", "replace")
        found = repr(text) if text else "the end of the file"
        return Problem(f"expected {what}, found {found}; fix: correct the net here",
                       self.next.start)

    def fields(self, closing: bytes, depth: int) -> tuple[Field, ...]:
        """Up to the closing bracket, or the end of the text, which is not taken."""
        found = []
        while self.next.kind != "end" and not (closing and self.next.text == closing):
            found.append(self.field(depth))
            self.accept(b",", b";")
        if closing and self.next.kind == "end":
            raise self.expected(repr(closing.decode()))
        return tuple(found)

    def field(self, depth: int) -> Field:
        start = self.next.start
        name = self.name()
        colon = self.accept(b":")
        values = self.values(colon, depth)
        return Field(name, start, self.found[self.at - 1].end, values)

    def name(self) -> str:
        if self.accept(b"["):  # an extension or an Any
            parts = []
            while self.next.kind == "name" or self.next.text in (b".", b"/", b"-"):
                parts.append(self.take().text.decode())
            self.expect(b"]")
            return f"[{''.join(parts)}]"
        if self.next.kind != "name":
            raise self.expected("the name of a field")
        return self.take().text.decode()

    def values(self, colon: bool, depth: int) -> tuple[Value, ...]:
        if not self.accept(b"["):
            return (self.value(colon, depth),)
        found = []
        if not self.accept(b"]"):
            found.append(self.value(colon, depth))
            while self.accept(b","):
                found.append(self.value(colon, depth))
            self.expect(b"]")
        return tuple(found)

    def value(self, colon: bool, depth: int) -> Value:
        if self.next.kind == "symbol" and self.next.text in CLOSING:
            return self.message(depth)
        if not colon:
            raise self.expected("':' or '{'")
        return self.scalar()

    def message(self, depth: int) -> Value:
        opening = self.take()
        if depth == DEPTH:
            raise Problem(f"more than {DEPTH} levels of brackets; fix: use fewer", opening.start)
        closing = CLOSING[opening.text]
        fields = self.fields(closing, depth + 1)
        return Value(opening.start, self.expect(closing).end, fields=fields)

    def scalar(self) -> Value:
        first = self.at
        if self.next.kind == "string":
            while self.next.kind == "string":
                self.at += 1
        else:
            self.accept(b"-")
            if self.next.kind not in ("name", "number"):
                raise self.expected("a value")
            self.at += 1
        found = tuple(self.found[first : self.at])
        return Value(found[0].start, found[-1].end, found)
