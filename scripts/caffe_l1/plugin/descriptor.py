"""caffe.proto as the library itself carries it, which no version of a header can contradict."""

from __future__ import annotations

import re
from pathlib import Path

# A FileDescriptorProto as protoc serializes it: field 1, the name, then field 2, the package.
START = re.compile(rb"\n[\x01-\x7f](?:[\w./-]+/)?caffe\.proto\x12\x05caffe")
# Its other fields: dependencies, messages, enums, services, extensions, options, syntax.
TAGS = b"\x0a\x12\x1a\x22\x2a\x32\x3a\x42\x62"


def descriptor_in(library: Path) -> bytes | None:
    """The serialized FileDescriptorProto of caffe.proto, by which protobuf describes messages."""
    data = library.read_bytes()
    found = START.search(data)
    return data[found.start():end_of_message(data, found.start())] if found else None


def end_of_message(data: bytes, position: int) -> int:
    """Where the fields that begin at position end; they are in order, and a NUL follows."""
    last = 0
    while data[position] in TAGS and data[position] >= last:
        last = data[position]
        length, position = varint(data, position + 1)
        position += length
    return position


def varint(data: bytes, position: int) -> tuple[int, int]:
    """A number in protobuf's base 128, least digits first, and the position behind it."""
    number = shift = 0
    while data[position] & 0x80:
        number |= (data[position] & 0x7F) << shift
        shift, position = shift + 7, position + 1
    return number | data[position] << shift, position + 1


def to_varint(number: int) -> bytes:
    digits = b""
    while number > 0x7F:
        digits, number = digits + bytes([number & 0x7F | 0x80]), number >> 7
    return digits + bytes([number])


def descriptor_set(descriptor: bytes) -> bytes:
    """A FileDescriptorSet with that one file: field 1, length-delimited."""
    return b"\x0a" + to_varint(len(descriptor)) + descriptor


def file_name(descriptor: bytes) -> str:
    """The name of the file described: field 1, a short string."""
    return descriptor[2:2 + descriptor[1]].decode("ascii")
