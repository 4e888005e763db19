"""caffe.proto as the library itself carries it, which no version of a header can contradict."""

import re
from pathlib import Path

from ..common.errors import Refused

# A FileDescriptorProto as protoc serializes it: field 1, the name, then field 2, the package.
START = re.compile(rb"\n[\x01-\x7f]((?:[\w./-]+/)?caffe\.proto)\x12\x05caffe")
# Its other fields: dependencies, messages, enums, services, extensions, options, syntax.
TAGS = b"\x0a\x12\x1a\x22\x2a\x32\x3a\x42\x62"


def descriptor_in(library: Path) -> "tuple[str, bytes]":
    """The name of caffe.proto and its serialized FileDescriptorProto."""
    data = library.read_bytes()
    found = START.search(data)
    if not found:
        raise Refused("it does not hold caffe.proto, from which the plugin's caffe.pb.h is made",
                      "use a Caffe whose messages are linked into its library", str(library))
    return found.group(1).decode("ascii"), data[found.start():end_of_message(data, found.start())]


def end_of_message(data: bytes, position: int) -> int:
    """Where the fields that begin at position end; they are in order, and a NUL follows."""
    last = 0
    while data[position] in TAGS and data[position] >= last:
        last = data[position]
        length, position = varint(data, position + 1)
        position += length
    return position


def varint(data: bytes, position: int) -> "tuple[int, int]":
    """A number in protobuf's base 128, least digits first, and the position behind it."""
    number = shift = 0
    while data[position] & 0x80:
        number |= (data[position] & 0x7F) << shift
        shift, position = shift + 7, position + 1
    return number | data[position] << shift, position + 1


def descriptor_set(descriptor: bytes) -> bytes:
    """A FileDescriptorSet with that one file: field 1, and its length in four such digits."""
    size = len(descriptor)
    digits = [size >> shift & 0x7F | 0x80 for shift in (0, 7, 14)]
    return bytes([0x0A, *digits, size >> 21]) + descriptor
