"""Put our message and field into caffe.proto and take them out: bytes and descriptor in, bytes out.

Where things stand is what protoc reports; nothing here searches the text for braces.
"""

import re
from os.path import commonprefix
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, NamedTuple, Tuple

from ..common.errors import Refused
from ..common.tree import PROTO, line_of
from .naming import FIRST_RESERVED, LAST_RESERVED, MAX_FIELD_ID, OTHER_NAMES

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

Parse = Callable[[bytes], "FileDescriptorProto"]
Span = Tuple[int, int]
Path = Tuple[int, ...]  # protoc's: (4, 2, 2, 0) is the first field of the third message of the file

HOST = "LayerParameter"
# What a descriptor lists that has a name.
IN_FILE = ("message_type", "enum_type", "service", "extension")
IN_MESSAGE = ("field", "oneof_decl", "nested_type", "enum_type")


class Addition(NamedTuple):
    """What goes in: the text of the message, and the declaration of the field."""

    message: str
    field_name: str
    field_id: int
    text: bytes

    @property
    def field(self) -> bytes:
        return f"optional {self.message} {self.field_name} = {self.field_id};".encode()


class Source:
    """The bytes of caffe.proto, and what protoc reports of them; an empty path is nowhere."""

    def __init__(self, data: bytes, parse: Parse) -> None:
        self.data = data
        self.file = parse(data)
        self.places = {tuple(p.path): list(p.span) for p in self.file.source_code_info.location}

    def message(self, name: str) -> Path:
        return path_of(name, listed(self.file, "message_type"))

    def field(self, name: str) -> Path:
        return path_of(name, self.in_host("field"))

    def in_host(self, *kinds: str) -> "list[tuple[Path, Any]]":
        """What LayerParameter lists of these kinds."""
        path = self.message(HOST)
        return list(listed(self.file.message_type[path[1]], *kinds, above=path)) if path else []

    def line(self, path: Path) -> int:
        return self.places[path][0] + 1

    def span(self, path: Path) -> Span:
        first, start, *last, end = self.places[path]
        return self.offset(first, start), self.offset(last[0] if last else first, end)

    def offset(self, line: int, column: int) -> int:
        """protoc counts lines from 0, and a tab as up to eight columns."""
        offset = 0
        for _ in range(line):
            offset = self.data.index(b"\n", offset) + 1
        at = 0
        while at < column:
            at += 8 - at % 8 if self.data[offset : offset + 1] == b"\t" else 1
            offset += 1
        return offset


def listed(descriptor: Any, *kinds: str, above: Path = ()) -> "Iterator[tuple[Path, Any]]":
    for kind in kinds:
        number = descriptor.DESCRIPTOR.fields_by_name[kind].number
        for index, item in enumerate(getattr(descriptor, kind)):
            yield (*above, number, index), item


def path_of(name: str, items: "Iterable[tuple[Path, Any]]") -> Path:
    return next((path for path, item in items if item.name == name), ())


def field_number(data: bytes, name: str, parse: Parse) -> "int | None":
    fields = Source(data, parse).in_host("field")
    return next((field.number for _, field in fields if field.name == name), None)


# In


def insert(data: bytes, addition: Addition, parse: Parse) -> bytes:
    """caffe.proto with our message and field, or Refused; what else is in it stays as it is."""
    before = Source(data, parse)
    check_free(before, addition)
    end = before.span(before.message(HOST))[1]
    newline = line_end_before(data, end - 1)
    edited = insert_message(data, end, addition.text, newline)
    edited = insert_field(edited, end - 1, addition.field, indent_of(before), newline)
    check_difference(before.file, parse(edited), addition)
    return edited


def insert_field(data: bytes, brace: int, field: bytes, indent: bytes, newline: bytes) -> bytes:
    """In front of the closing brace; on a line of its own where the brace has one."""
    line_start = data.rfind(b"\n", 0, brace) + 1
    if data[line_start:brace].strip(b" \t\r\f\v"):
        return data[:brace] + b" " + field + b" " + data[brace:]
    return data[:line_start] + indent + field + newline + data[line_start:]


def insert_message(data: bytes, end: int, text: bytes, newline: bytes) -> bytes:
    """Behind the message that ends here, and behind the remark that may follow it."""
    rest = re.match(rb"[ \t]*(?://[^\r\n]*)?(?=\r?\n|\Z)", data[end:])
    position = end + rest.end() if rest else end
    return data[:position] + as_block(text, newline) + data[position:]


def as_block(text: bytes, newline: bytes) -> bytes:
    return newline * 2 + text.replace(b"\n", newline)


def line_end_before(data: bytes, offset: int) -> bytes:
    """How the line in front of this place ends; the neighbours' line ends are used."""
    feed = data.rfind(b"\n", 0, offset)
    if feed < 0:
        feed = data.find(b"\n")
    return b"\r\n" if feed > 0 and data[feed - 1 : feed] == b"\r" else b"\n"


def indent_of(source: Source) -> bytes:
    """How the last field that begins a line is indented."""
    for path, _ in reversed(source.in_host("field")):
        start, _ = source.span(path)
        indent = source.data[source.data.rfind(b"\n", 0, start) + 1 : start]
        if not indent.strip(b" \t"):
            return indent
    return b"  "


# Out


def remove(data: bytes, addition: Addition, parse: Parse) -> bytes:
    """caffe.proto without our message and field, or Refused where they are not as we wrote them.

    Whatever was edited elsewhere in the file stays.
    """
    after = Source(data, parse)
    message, field = after.message(addition.message), after.field(addition.field_name)
    if not message and not field:
        return data
    if not message or not field:
        names = [f"message {addition.message}", addition.field_name]
        there, gone = names if message else reversed(names)
        raise Refused(f"{there} is there, but {gone} is gone",
                      "delete it as well, then run this again", PROTO, after.line(message or field))
    spans = [whole_field(data, after.span(field), addition.field),
             whole_message(data, after.span(message)[1], addition.text)]
    for start, end in sorted(spans, reverse=True):
        data = data[:start] + data[end:]
    check_difference(parse(data), after.file, addition)
    return data


def whole_field(data: bytes, span: Span, field: bytes) -> Span:
    """The span of all that insert_field put in."""
    start, end = span
    line_start = data.rfind(b"\n", 0, start) + 1
    line_end = re.compile(rb"\r?\n").match(data, end)
    if data[start:end] == field:
        if data[line_start:start].strip(b" \t"):
            if data[start - 1 : start] == data[end : end + 1] == b" ":
                return start - 1, end + 1
        elif line_end:
            return line_start, line_end.end()
    raise edited_at(data, end)


def whole_message(data: bytes, end: int, text: bytes) -> Span:
    """The span of all that insert_message put in: comments and two line ends in front as well."""
    block = as_block(text, line_end_before(data, end))
    same = len(commonprefix([data[:end][::-1], block[::-1]]))
    if same < len(block):
        raise edited_at(data, end - same)
    return end - len(block), end


def edited_at(data: bytes, offset: int) -> Refused:
    return Refused("the kit's lines were edited here",
                   "move your edit elsewhere, then run this again", PROTO, line_of(data, offset))


# Checks


def check_free(source: Source, addition: Addition) -> None:
    """Refuse where the name or the number is taken; the comment on the next free one may lie."""
    package, host = source.file.package, source.message(HOST)
    if package != "caffe":
        raise Refused(f"the package is {package!r}, not caffe", "use Caffe's own file", PROTO)
    if not host:
        raise Refused(f"there is no message {HOST}", "use a Caffe of 2015 or later", PROTO)
    check_names_free(source, addition)
    if addition.field_name in source.file.message_type[host[1]].reserved_name:
        raise Refused(f"{HOST} reserves the name {addition.field_name}", OTHER_NAMES, PROTO,
                      source.line(host))
    check_number_free(source, addition.field_id)


def check_names_free(source: Source, addition: Addition) -> None:
    for path, item in [*listed(source.file, *IN_FILE), *source.in_host(*IN_MESSAGE)]:
        inside = len(path) > 2  # outside of LayerParameter the field's name is in nobody's way
        if item.name == addition.message or (inside and item.name == addition.field_name):
            raise Refused(f"{item.name} is there already, and the kit did not put it there",
                          OTHER_NAMES, PROTO, source.line(path))


def check_number_free(source: Source, number: int) -> None:
    used = [(range(field.number, field.number + 1), f"taken by {field.name}", path)
            for path, field in source.in_host("field")]
    for kind, word in (("reserved_range", "reserved"), ("extension_range", "kept for extensions")):
        used += [(range(kept.start, kept.end), word, path) for path, kept in source.in_host(kind)]
    for numbers, word, path in used:
        if number in numbers:
            free = free_number([numbers for numbers, _, _ in used])
            raise Refused(f"field number {number} is {word}",
                          f"choose another with --field-id, such as --field-id {free}", PROTO,
                          source.line(path))


def free_number(used: "list[range]") -> int:
    """The next from 1702 on that nothing uses or keeps, else the last one below."""
    used = [*used, range(FIRST_RESERVED, LAST_RESERVED + 1)]
    above = sorted({1702, *(numbers.stop for numbers in used)})
    below = sorted({1700, *(numbers.start - 1 for numbers in used)}, reverse=True)
    wanted = [n for n in above if 1702 <= n <= MAX_FIELD_ID] + [n for n in below if n <= 1700]
    return next(n for n in wanted if not any(n in numbers for numbers in used))


def check_difference(
    before: "FileDescriptorProto", after: "FileDescriptorProto", addition: Addition
) -> None:
    """protoc's own view of the two files differs by exactly our message and our field."""
    rest = without_places(after)
    ours = [(message, field) for message in rest.message_type if message.name == HOST
            for field in message.field if field.name == addition.field_name]
    put = [(field.number, field.type_name) for _, field in ours]
    for host, field in ours:
        host.field.remove(field)
    for message in [m for m in rest.message_type if m.name == addition.message]:
        rest.message_type.remove(message)
    wanted = [(addition.field_id, ".caffe." + addition.message)]
    if put != wanted or rest != without_places(before):
        raise Refused("the edit would change more than one message and one field",
                      "report this file to the kit's authors", PROTO)


def without_places(file: "FileDescriptorProto") -> "FileDescriptorProto":
    other = type(file)()
    other.CopyFrom(file)
    other.ClearField("source_code_info")
    return other
