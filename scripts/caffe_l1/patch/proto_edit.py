"""Put our message and field into caffe.proto and take them out: bytes and descriptor in, bytes out.

Where things stand is what protoc reports; nothing here searches the text for braces.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Tuple

from ..common.errors import Refused
from ..common.tree import PROTO
from .naming import FIRST_RESERVED, LAST_RESERVED, MAX_FIELD_ID

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto

Parse = Callable[[bytes], "FileDescriptorProto"]
Span = Tuple[int, int]

# Numbers of fields in descriptor.proto: a path such as (4, 2, 2, 0) is the first field of the
# third message of the file.
MESSAGE_TYPE, FIELD = 4, 2
HOST = "LayerParameter"


@dataclass(frozen=True)
class Addition:
    """What goes in: the text of the message, and the declaration of the field."""

    message: str
    field_name: str
    field_id: int
    text: bytes

    @property
    def field(self) -> bytes:
        return b"optional %s %s = %d;" % (
            self.message.encode(),
            self.field_name.encode(),
            self.field_id,
        )


def insert(data: bytes, addition: Addition, parse: Parse) -> bytes:
    """caffe.proto with our message and field, or Refused; what else is in it stays as it is."""
    before = parse(data)
    check_free(data, before, addition)
    start, end = message_span(data, before, HOST)
    newline = line_end_before(data, end - 1)
    edited = insert_message(data, end, addition.text, newline)
    edited = insert_field(edited, end - 1, addition.field, indent_of(data, before), newline)
    check_difference(before, parse(edited), addition)
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
    block = newline * 2 + text.replace(b"\n", newline)
    return data[:position] + block + data[position:]


def remove(data: bytes, addition: Addition, parse: Parse) -> bytes:
    """caffe.proto without our message and field, or Refused where they are not as we wrote them.

    Whatever was edited elsewhere in the file stays.
    """
    before = parse(data)
    field = field_span(data, before, addition)
    message = message_span(data, before, addition.message)
    edited = data
    for start, end in sorted(
        [whole_field(data, field, addition), whole_message(data, message, addition)], reverse=True
    ):
        edited = edited[:start] + edited[end:]
    check_difference(parse(edited), before, addition)
    return edited


def whole_field(data: bytes, span: Span, addition: Addition) -> Span:
    """The span of all that insert_field put in."""
    start, end = span
    check_ours(data, span, addition.field)
    line_start = data.rfind(b"\n", 0, start) + 1
    if not data[line_start:start].strip(b" \t"):
        rest = re.compile(rb"\r?\n").match(data, end)
        if rest:
            return line_start, rest.end()
    elif data[start - 1 : start] == b" " and data[end : end + 1] == b" ":
        return start - 1, end + 1
    raise changed(data, end)


def whole_message(data: bytes, span: Span, addition: Addition) -> Span:
    """The span of all that insert_message put in: comments and two line ends in front as well."""
    end = span[1]
    for newline in (b"\r\n", b"\n"):
        block = newline * 2 + addition.text.replace(b"\n", newline)
        if data[:end].endswith(block):
            return end - len(block), end
    newline = line_end_before(data, end)
    text = addition.text.replace(b"\n", newline)
    start = end - len(text)
    name = b"message " + addition.message.encode()
    check_ours(data, span, text[text.index(name) :])
    raise changed(data, max(start, 0))


def check_ours(data: bytes, span: Span, expected: bytes) -> None:
    found = data[span[0] : span[1]]
    if found != expected:
        raise changed(data, span[0] + first_difference(found, expected))


def first_difference(one: bytes, other: bytes) -> int:
    for index, (a, b) in enumerate(zip(one, other)):
        if a != b:
            return index
    return min(len(one), len(other))


def changed(data: bytes, offset: int) -> Refused:
    return Refused(
        "the kit's lines were edited here",
        "move your edit elsewhere, then run this again",
        PROTO,
        data.count(b"\n", 0, offset) + 1,
    )


# What is there


def present(file: FileDescriptorProto, addition: Addition) -> tuple[bool, bool]:
    """Whether a message and a field of these names are there, whoever put them in."""
    host = find_message(file, HOST)
    return (
        find_message(file, addition.message) is not None,
        host is not None and any(f.name == addition.field_name for f in host.field),
    )


def field_number(file: FileDescriptorProto, field_name: str) -> int | None:
    host = find_message(file, HOST)
    numbers = [f.number for f in host.field if f.name == field_name] if host else []
    return numbers[0] if numbers else None


def check_free(data: bytes, file: FileDescriptorProto, addition: Addition) -> None:
    """Refuse where the name or the number is taken; the comment on the next free one may lie."""
    if file.package != "caffe":
        raise Refused(f"the package is {file.package!r}, not caffe", "use Caffe's own file", PROTO)
    host = find_message(file, HOST)
    if host is None:
        raise Refused(f"there is no message {HOST}", "use a Caffe of 2015 or later", PROTO)
    check_names_free(data, file, host, addition)
    check_number_free(data, file, host, addition)


def check_names_free(
    data: bytes, file: FileDescriptorProto, host: DescriptorProto, addition: Addition
) -> None:
    names = [(m.name, (MESSAGE_TYPE, i)) for i, m in enumerate(file.message_type)]
    names += [(e.name, (5, i)) for i, e in enumerate(file.enum_type)]
    names += [(s.name, (6, i)) for i, s in enumerate(file.service)]
    names += [(e.name, (7, i)) for i, e in enumerate(file.extension)]
    for name, path in names:
        if name == addition.message:
            raise taken(f"{name} is defined here already", "type-name", data, file, path)
    host_path = (MESSAGE_TYPE, list(file.message_type).index(host))
    inner = [(f.name, (FIELD, i)) for i, f in enumerate(host.field)]
    inner += [(o.name, (8, i)) for i, o in enumerate(host.oneof_decl)]
    inner += [(m.name, (3, i)) for i, m in enumerate(host.nested_type)]
    inner += [(e.name, (4, i)) for i, e in enumerate(host.enum_type)]
    for name, path in inner:
        if name in (addition.field_name, addition.message):
            raise taken(
                f"{HOST} has {name} already", "field-name", data, file, host_path + path
            )
    if addition.field_name in host.reserved_name:
        raise taken(
            f"{HOST} reserves the name {addition.field_name}",
            "field-name",
            data,
            file,
            host_path,
        )


def taken(
    problem: str, option: str, data: bytes, file: FileDescriptorProto, path: tuple[int, ...]
) -> Refused:
    example = {"type-name": "--type-name MyL1Loss --field-name my_l1_loss_param"}.get(
        option, "--field-name my_l1_loss_param"
    )
    return Refused(problem, f"apply under another name: {example}", PROTO, line(file, path))


def check_number_free(
    data: bytes, file: FileDescriptorProto, host: DescriptorProto, addition: Addition
) -> None:
    number = addition.field_id
    host_path = (MESSAGE_TYPE, list(file.message_type).index(host))
    fix = f"choose another with --field-id, such as --field-id {free_number(host)}"
    for index, field in enumerate(host.field):
        if field.number == number:
            raise Refused(
                f"field number {number} is taken by {field.name}",
                fix,
                PROTO,
                line(file, host_path + (FIELD, index)),
            )
    ranges = [("reserved", 9, host.reserved_range), ("extensions", 5, host.extension_range)]
    for word, tag, spans in ranges:
        for index, span in enumerate(spans):
            if span.start <= number < span.end:
                where = line(file, host_path + (tag, index))
                raise Refused(f"field number {number} is in {word}", fix, PROTO, where)


def free_number(host: DescriptorProto) -> int:
    """One that nothing uses or keeps: the next from 1702 on, else the last one below."""
    taken = [(f.number, f.number + 1) for f in host.field]
    taken += [(s.start, s.end) for s in [*host.reserved_range, *host.extension_range]]
    number = 1702
    for start, end in sorted([*taken, (FIRST_RESERVED, LAST_RESERVED + 1)]):
        if start <= number < end:
            number = end
    if number <= MAX_FIELD_ID:
        return number
    number = 1700
    for start, end in sorted(taken, reverse=True):
        if start <= number < end:
            number = start - 1
    return number


def check_difference(
    before: FileDescriptorProto, after: FileDescriptorProto, addition: Addition
) -> None:
    """protoc's own view of the two files differs by exactly our message and our field."""
    rest = copy_of(after)
    host = find_message(rest, HOST)
    fields = [f for f in host.field if f.name == addition.field_name] if host else []
    messages = [m for m in rest.message_type if m.name == addition.message]
    right = len(fields) == len(messages) == 1 and (
        (fields[0].number, fields[0].type_name)
        == (addition.field_id, ".caffe." + addition.message)
    )
    if host and right:
        host.field.remove(fields[0])
        rest.message_type.remove(messages[0])
    if not right or bare(rest) != bare(before):
        raise Refused(
            "the edit would change more than one message and one field",
            "report this file to the kit's authors",
            PROTO,
        )


def bare(file: FileDescriptorProto) -> bytes:
    without = copy_of(file)
    without.ClearField("source_code_info")
    return without.SerializeToString(deterministic=True)


def copy_of(file: FileDescriptorProto) -> FileDescriptorProto:
    other = type(file)()
    other.CopyFrom(file)
    return other


def find_message(file: FileDescriptorProto, name: str) -> DescriptorProto | None:
    for message in file.message_type:
        if message.name == name:
            return message
    return None


# Where it is


def message_span(data: bytes, file: FileDescriptorProto, name: str) -> Span:
    names = [message.name for message in file.message_type]
    span = span_at(data, file, (MESSAGE_TYPE, names.index(name)))
    if data[span[1] - 1 : span[1]] != b"}":
        raise Refused(f"protoc and the kit disagree on where {name} ends", "", PROTO)
    return span


def field_span(data: bytes, file: FileDescriptorProto, addition: Addition) -> Span:
    names = [message.name for message in file.message_type]
    fields = [f.name for f in file.message_type[names.index(HOST)].field]
    path = (MESSAGE_TYPE, names.index(HOST), FIELD, fields.index(addition.field_name))
    return span_at(data, file, path)


def locations(file: FileDescriptorProto) -> dict[tuple[int, ...], list[int]]:
    return {tuple(place.path): list(place.span) for place in file.source_code_info.location}


def line(file: FileDescriptorProto, path: tuple[int, ...]) -> int:
    span = locations(file).get(path)
    return span[0] + 1 if span else 0


def span_at(data: bytes, file: FileDescriptorProto, path: tuple[int, ...]) -> Span:
    span = locations(file)[path]
    first, start, end = span[0], span[1], span[-1]
    last = span[2] if len(span) == 4 else first
    return offset_of(data, first, start), offset_of(data, last, end)


def offset_of(data: bytes, line_number: int, column: int) -> int:
    """protoc counts lines from 0, and a tab as up to eight columns."""
    offset = 0
    for _ in range(line_number):
        offset = data.index(b"\n", offset) + 1
    at = 0
    while at < column:
        at += 8 - at % 8 if data[offset : offset + 1] == b"\t" else 1
        offset += 1
    return offset


def line_end_before(data: bytes, offset: int) -> bytes:
    """How the line in front of this place ends; the neighbours' line ends are used."""
    feed = data.rfind(b"\n", 0, offset)
    if feed < 0:
        feed = data.find(b"\n")
    return b"\r\n" if feed > 0 and data[feed - 1 : feed] == b"\r" else b"\n"


def indent_of(data: bytes, file: FileDescriptorProto) -> bytes:
    """How the last field that begins a line is indented."""
    names = [message.name for message in file.message_type]
    host = names.index(HOST)
    for index in reversed(range(len(file.message_type[host].field))):
        start, _ = span_at(data, file, (MESSAGE_TYPE, host, FIELD, index))
        indent = data[data.rfind(b"\n", 0, start) + 1 : start]
        if not indent.strip(b" \t"):
            return indent
    return b"  "
