"""Find the Caffe that is installed: its library, its headers, its caffe.proto."""

from __future__ import annotations

import glob
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple, Sequence

from ..common.errors import Refused
from ..common.packages import install, not_on_path
from .descriptor import descriptor_in

# Below CAFFE_ROOT, a checkout that is built by make or CMake, or a folder it was installed into.
BUILT_FOLDERS = ("build/lib", ".build_release/lib", "build/install/lib", "distribute/lib", "lib",
                 "lib64", "lib/*")
LIBRARY_FOLDERS = ("/usr/lib/*", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64")
INCLUDE_FOLDERS = ("/usr/include", "/usr/local/include")
# What only a Caffe with CUDA exports.
CUDA_SYMBOL = "caffe_gpu_memcpy"
ASK_PYCAFFE = "import caffe, caffe._caffe, sys; sys.stdout.write(caffe._caffe.__file__)"


class Caffe(NamedTuple):
    """An installed Caffe."""

    library: Path  # libcaffe.so, links followed
    include: Path  # the folder that holds caffe/layer.hpp
    descriptor: bytes | None  # caffe.proto as a serialized FileDescriptorProto
    cpu_only: bool


def find(python: str = sys.executable) -> Caffe:
    """The Caffe of CAFFE_ROOT, if that is built, else pycaffe's, else the system's."""
    root = os.environ.get("CAFFE_ROOT")
    library = find_library(root, pycaffe_core(root, python))
    return Caffe(library, find_include(root, library), descriptor_in(library),
                 is_cpu_only(library))


def pycaffe_core(root: str | None, python: str) -> str:
    """The file of pycaffe's compiled core; nothing where that Python can import none."""
    environment = dict(os.environ, GLOG_minloglevel="2")
    if root and glob.glob(os.path.join(root, "python", "caffe", "_caffe*.so")):
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, [os.path.join(root, "python"), os.environ.get("PYTHONPATH")]))
    try:
        done = subprocess.run([python, "-c", ASK_PYCAFFE], env=environment, text=True,
                              errors="replace", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError as error:
        raise Refused(error.strerror or str(error), "name a Python with --python",
                      python) from None
    return done.stdout.splitlines()[-1] if done.returncode == 0 and done.stdout else ""


def find_library(root: str | None, core: str) -> Path:
    """The shared library; a static one next to where it should be is an error that says so."""
    if root:
        found = library_in([f"{root}/{folder}" for folder in BUILT_FOLDERS])
        if found:
            return found
    if core:
        linked = linked_libraries(core)
        if not linked:
            raise static_library(core)
        return Path(linked[0]).resolve()
    found = library_in(LIBRARY_FOLDERS)
    if not found:
        raise Refused("no libcaffe.so is installed here",
                      f"{install('libcaffe-dev', 'python3-caffe')} on Debian 11, or set CAFFE_ROOT "
                      "to a checkout that is built")
    return found


def library_in(folders: Sequence[str]) -> Path | None:
    static = ""
    for folder in folders:
        for shared in sorted(glob.glob(f"{folder}/libcaffe.so*")):
            if os.path.exists(shared):
                return Path(shared).resolve()
        static = static or next(iter(glob.glob(f"{folder}/libcaffe.a")), "")
    if static:
        raise static_library(static)
    return None


def static_library(file: str) -> Refused:
    return Refused("this Caffe has no libcaffe.so: it is linked statically, and a plugin needs the "
                   "shared library", "build Caffe with BUILD_SHARED_LIBS on", file)


def linked_libraries(file: str) -> list[str]:
    """The libcaffe that this file is linked to."""
    return re.findall(r"=> (\S*/libcaffe(?:-d)?\.so\S*)", output(["ldd", file]))


def find_include(root: str | None, library: Path) -> Path:
    """The headers nearest to the library; a checkout's are taken last, it may be any version."""
    folders = [str(parent / "include") for parent in list(library.parents)[:4]]
    for folder in [*folders, *INCLUDE_FOLDERS, *([f"{root}/include"] if root else [])]:
        if os.path.exists(f"{folder}/caffe/layer.hpp"):
            return Path(folder)
    raise Refused("the headers of Caffe are missing", f"{install('libcaffe-dev')} on Debian, or "
                  "set CAFFE_ROOT to the checkout that it was built from", str(library))


def is_cpu_only(library: Path) -> bool:
    return CUDA_SYMBOL not in symbols(library)


def symbols(library: Path) -> str:
    """What the library exports and needs, by nm."""
    return output(["nm", "-D", str(library)])


def output(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, errors="replace").stdout
    except FileNotFoundError:
        raise not_on_path(command[0]) from None
