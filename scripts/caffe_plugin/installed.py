"""Find the Caffe that is installed: its library, its headers, its caffe.proto."""

from __future__ import annotations

import glob
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple, Sequence

from caffe_kit.errors import Refused

LIBRARY_FOLDERS = ("/usr/lib/*", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64")
INCLUDE_FOLDERS = ("/usr/include", "/usr/local/include")

# The library that pycaffe runs on, and the serialized caffe.proto that it was built from.
ASK_PYCAFFE = """
import caffe, caffe._caffe, sys
from caffe.proto import caffe_pb2
sys.stdout.write(caffe._caffe.__file__ + "\\n" + repr(bytes(caffe_pb2.DESCRIPTOR.serialized_pb)))
"""


class Caffe(NamedTuple):
    """An installed Caffe."""

    library: Path  # libcaffe.so, links followed
    include: Path  # the folder that holds caffe/layer.hpp
    descriptor: bytes | None  # caffe.proto as a serialized FileDescriptorProto, from pycaffe
    cpu_only: bool


def find() -> Caffe:
    """The Caffe of CAFFE_ROOT, if that is built, else pycaffe's, else the system's."""
    root = os.environ.get("CAFFE_ROOT")
    module, descriptor = ask_pycaffe(root)
    library = find_library(root, module)
    return Caffe(library, find_include(root, library), descriptor, is_cpu_only(library))


def ask_pycaffe(root: str | None) -> tuple[str, bytes | None]:
    """The file of pycaffe's core and its caffe.proto; nothing where there is no pycaffe."""
    import ast
    environment = dict(os.environ, GLOG_minloglevel="2")
    if root and glob.glob(os.path.join(root, "python", "caffe", "_caffe*.so")):
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, [os.path.join(root, "python"), os.environ.get("PYTHONPATH")]))
    done = subprocess.run([sys.executable, "-c", ASK_PYCAFFE], env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if done.returncode != 0:
        return "", None
    module, descriptor = done.stdout.splitlines()[-2:]
    return module, ast.literal_eval(descriptor)


def find_library(root: str | None, module: str) -> Path:
    candidates = []
    if root:
        candidates += [f"{root}/build/lib/libcaffe.so", f"{root}/.build_release/lib/libcaffe.so"]
    if module:
        candidates += linked_libraries(module)
    for folder in LIBRARY_FOLDERS:
        candidates += sorted(glob.glob(f"{folder}/libcaffe.so*"))
    for candidate in candidates:
        if os.path.exists(candidate):
            return Path(candidate).resolve()
    if module:
        raise Refused("this pycaffe has no libcaffe.so: it is linked statically, and a plugin "
                      "needs the shared library", "build Caffe with BUILD_SHARED_LIBS on", module)
    raise Refused("no libcaffe.so is installed here",
                  "apt-get install libcaffe-dev python3-caffe on Debian 11, or set CAFFE_ROOT to "
                  "a checkout that is built")


def linked_libraries(module: str) -> list[str]:
    """The libcaffe that this file is linked to."""
    listing = output(["ldd", module])
    return re.findall(r"=> (\S*/libcaffe(?:-d)?\.so\S*)", listing)


def find_include(root: str | None, library: Path) -> Path:
    """The headers nearest to the library; a checkout's are taken last, it may be any version."""
    folders = [str(parent / "include") for parent in list(library.parents)[:4]]
    for folder in [*folders, *INCLUDE_FOLDERS, *([f"{root}/include"] if root else [])]:
        if os.path.exists(f"{folder}/caffe/layer.hpp"):
            return Path(folder)
    raise Refused("the headers of Caffe are missing", "apt-get install libcaffe-dev on Debian, or "
                  "set CAFFE_ROOT to the checkout that it was built from", str(library))


def is_cpu_only(library: Path) -> bool:
    return "libcudart" not in output(["ldd", str(library)])


def output(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True).stdout
    except FileNotFoundError:
        raise Refused(f"{command[0]} is not on PATH", "apt-get install g++ binutils") from None
