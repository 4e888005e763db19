"""Find the Caffe that is installed: its library and its headers."""

import glob
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple, Sequence

from ..common.errors import Refused
from ..common.packages import install, not_on_path
from .ask import NoAnswer, ask

# Below CAFFE_ROOT, a checkout that is built by make or CMake, or a folder it was installed into.
BUILT_FOLDERS = ("build/lib", ".build_release/lib", "build/install/lib", "distribute/lib", "lib",
                 "lib64", "lib/*")
LIBRARY_FOLDERS = ("/usr/lib/*", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64")
INCLUDE_FOLDERS = ("/usr/include", "/usr/local/include")


class Caffe(NamedTuple):
    """An installed Caffe."""

    library: Path  # libcaffe.so, links followed
    include: Path  # the folder that holds caffe/layer.hpp
    cpu_only: bool
    has_l1_loss: bool

    def __str__(self) -> str:
        return f"{self.library} ({'CPU only' if self.cpu_only else 'with CUDA'})"


def find(python: str = sys.executable) -> Caffe:
    """The Caffe of CAFFE_ROOT, if that is built, else pycaffe's, else the system's."""
    root = os.environ.get("CAFFE_ROOT")
    library = find_library(root, pycaffe_core(root, python))
    exported = symbols(library)
    return Caffe(library, find_include(root, library),
                 cpu_only="caffe_gpu_memcpy" not in exported, has_l1_loss="L1LossLayer" in exported)


def pycaffe_core(root: "str | None", python: str) -> str:
    """The file of pycaffe's compiled core; empty where that Python cannot import it."""
    folder = f"{root}/python"
    built = root and glob.glob(f"{folder}/caffe/_caffe*.so")
    try:
        return ask(python, "import caffe, caffe._caffe; answer = caffe._caffe.__file__",
                   *([folder] if built else []))
    except NoAnswer:
        return ""


def find_library(root: "str | None", core: str) -> Path:
    """The shared library; a static one where it should be is an error that says so."""
    found = library_in([f"{root}/{folder}" for folder in BUILT_FOLDERS]) if root else None
    if not found and core:
        linked = re.findall(r"=> (\S*/libcaffe(?:-d)?\.so\S*)", output(["ldd", core]))
        if not linked:
            raise static_library(core)
        found = Path(linked[0]).resolve()
    found = found or library_in(LIBRARY_FOLDERS)
    if not found:
        raise Refused("no libcaffe.so is installed here",
                      f"{install('libcaffe-dev', 'python3-caffe')} on Debian 11, or set CAFFE_ROOT "
                      "to a checkout that is built")
    return found


def library_in(folders: Sequence[str]) -> "Path | None":
    for folder in folders:
        for shared in sorted(glob.glob(f"{folder}/libcaffe.so*")):
            if os.path.exists(shared):
                return Path(shared).resolve()
    for folder in folders:
        for static in glob.glob(f"{folder}/libcaffe.a"):
            raise static_library(static)
    return None


def static_library(file: str) -> Refused:
    return Refused("this Caffe has no libcaffe.so: it is linked statically, and a plugin needs the "
                   "shared library", "build Caffe with BUILD_SHARED_LIBS on", file)


def find_include(root: "str | None", library: Path) -> Path:
    """The headers nearest to the library; a checkout's are taken last, it may be any version."""
    folders = [str(parent / "include") for parent in list(library.parents)[:4]]
    for folder in [*folders, *INCLUDE_FOLDERS, *([f"{root}/include"] if root else [])]:
        if os.path.exists(f"{folder}/caffe/layer.hpp"):
            return Path(folder)
    raise Refused("the headers of Caffe are missing", f"{install('libcaffe-dev')} on Debian 11, or "
                  "set CAFFE_ROOT to the checkout that it was built from", str(library))


def symbols(library: Path) -> str:
    """What the library exports and needs, by nm."""
    return output(["nm", "-D", str(library)])


def output(command: Sequence[str]) -> str:
    return completed(command).stdout


def completed(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """A command that has ended; its stdout holds what it wrote to stderr too."""
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              universal_newlines=True, errors="replace")
    except FileNotFoundError:
        raise not_on_path(command[0]) from None
