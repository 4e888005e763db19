"""protoc itself parses caffe.proto; the protobuf package reads what it reports."""

import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.errors import Refused
from ..common.packages import install, install_protobuf, not_on_path, packages_for
from ..common.tree import PROTO

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

ERROR_LINE = re.compile(r"^(?:\S*/)?caffe\.proto:(\d+):(?:\d+:)? ?(.*)$", re.MULTILINE)


def parse(data: bytes, folder: Path) -> "FileDescriptorProto":
    """The descriptor, with source positions, of caffe.proto with these bytes.

    `folder` is where caffe.proto stands in the tree: imports are looked up from there.
    """
    need_protobuf()
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    return FileDescriptorSet.FromString(run_protoc(ascii_twin(data), folder)).file[0]


def need_protobuf() -> None:
    """A package for another Python may raise anything when it is imported."""
    try:
        import google.protobuf.descriptor_pb2  # noqa: F401
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and str(error.name).startswith("google"):
            raise Refused("Python's protobuf package is missing", install_protobuf()) from None
        said = (str(error).strip() or "no message").splitlines()[0]
        raise Refused(
            f"Python's protobuf package cannot be used: {type(error).__name__}: {said}",
            f"{sys.executable} -m pip install --upgrade protobuf, or run this by another Python",
        ) from None


@functools.lru_cache(maxsize=16)
def run_protoc(data: bytes, folder: Path) -> bytes:
    with tempfile.TemporaryDirectory(prefix="l1loss-kit-") as scratch:
        source, descriptors = Path(scratch, "caffe.proto"), Path(scratch, "descriptors")
        source.write_bytes(data)
        command = ["protoc", "--proto_path=" + scratch, "--proto_path=.", "--proto_path=../..",
                   "--include_source_info", f"--descriptor_set_out={descriptors}", str(source)]
        try:
            done = subprocess.run(command, cwd=str(folder), stderr=subprocess.PIPE)
        except FileNotFoundError:
            raise not_on_path("protoc") from None
        except OSError as error:
            raise unusable(f"cannot be run: {error.strerror}") from None
        if done.returncode != 0:
            raise invalid(done.stderr.decode("utf-8", "replace"))
        if not descriptors.is_file():
            raise unusable("writes nothing")
        return descriptors.read_bytes()


def unusable(problem: str) -> Refused:
    where = shutil.which("protoc", mode=os.F_OK) or "protoc"
    package, _ = packages_for("protoc: not found")
    return Refused(f"{where} {problem}", f"{install('--reinstall', package)}, or take it from PATH")


def invalid(message: str) -> Refused:
    found = ERROR_LINE.search(message)
    problem = found.group(2) if found else (message.strip() or "unknown error").splitlines()[-1]
    fix = "repair the file first: protoc --proto_path=src/caffe/proto -o /dev/null caffe.proto"
    problem = "protoc refuses this file: " + problem.rstrip(".\r")
    return Refused(problem, fix, PROTO, int(found.group(1)) if found else 0)


def ascii_twin(data: bytes) -> bytes:
    """The same file, byte for byte as long, with ? for every letter that is not ASCII.

    Comments are part of what protoc reports, and the protobuf package cannot read a report with a
    Latin-1 letter in one. Outside of comments and strings protoc accepts no such letter anyway.
    """
    start = 3 if data.startswith(b"\xef\xbb\xbf") else 0  # a byte order mark
    return data[:start] + re.sub(rb"[\x80-\xff]", b"?", data[start:])
