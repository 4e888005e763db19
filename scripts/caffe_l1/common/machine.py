"""What this machine has of the libraries Caffe can use, asked of the compiler itself."""

import os
import subprocess
import sys
import sysconfig
from typing import NamedTuple, Sequence

from .cuda import cuda_architectures, find_cuda, flags_for_fields, gencodes


class Python(NamedTuple):
    include: "list[str]"
    libraries: "list[str]"  # boost_python39 python3.9
    library_folder: str


class Machine(NamedTuple):
    cuda: "str | None"  # folder of CUDA, None without nvcc or without a GPU
    opencv: int  # major version, 0 without
    leveldb: bool
    lmdb: bool
    hdf5: bool
    blas: str  # open, atlas, mkl
    include: Sequence[str] = ()
    library_folders: Sequence[str] = ()
    python: "Python | None" = None
    gencodes: Sequence[str] = ()  # arch=compute_75,code=sm_75
    cuda_flags: Sequence[str] = ()


def probe() -> Machine:
    multiarch = sysconfig.get_config_var("MULTIARCH") or "x86_64-linux-gnu"
    hdf5_folders = ["", f"/usr/lib/{multiarch}/hdf5/serial"]
    hdf5_include = next((p for p in hdf5_includes() if has_header("hdf5.h", p)), None)
    hdf5_folder = next((p for p in hdf5_folders if has_library(["hdf5_hl", "hdf5"], p)), None)
    gpus = cuda_architectures()
    cuda = find_cuda() if gpus else None  # a compiler without a GPU runs no tests
    return Machine(
        cuda=cuda,
        opencv=opencv_version(),
        leveldb=has_header("leveldb/db.h") and has_library(["leveldb", "snappy"]),
        lmdb=has_header("lmdb.h") and has_library(["lmdb"]),
        hdf5=hdf5_include is not None and hdf5_folder is not None,
        blas=find_blas(),
        include=[hdf5_include] if hdf5_include else [],
        library_folders=[hdf5_folder] if hdf5_folder else [],
        python=find_python(),
        gencodes=gencodes(cuda, gpus) if cuda else [],
        cuda_flags=flags_for_fields(cuda) if cuda else [],
    )


def compiler() -> "list[str]":
    """The start of a command; a shell reads CXX, as it does for make."""
    return ["/bin/sh", "-c", '{} "$@"'.format(os.environ.get("CXX") or "g++"), "sh"]


def compiles(arguments: "list[str]", source: str) -> bool:
    command = [*compiler(), "-x", "c++", "-", *arguments, "-o", os.devnull]
    done = subprocess.run(command, input=source.encode(),
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return done.returncode == 0


def has_header(header: str, folder: str = "") -> bool:
    where = ["-I" + folder] if folder else []
    return compiles(["-E", *where], f"#include <{header}>\n")


def has_library(names: "list[str]", folder: str = "") -> bool:
    where = ["-L" + folder] if folder else []
    return compiles([*where, *("-l" + name for name in names)], "int main() { return 0; }\n")


def hdf5_includes() -> "list[str]":
    return ["", "/usr/include/hdf5/serial"]


def opencv_version() -> int:
    if has_header("opencv2/core/core.hpp") and has_library(["opencv_core"]):
        return 3 if has_library(["opencv_imgcodecs"]) else 2
    return 0


def find_blas() -> str:
    if has_library(["openblas"]):
        return "open"
    if os.path.isdir("/opt/intel/mkl"):
        return "mkl"
    return "atlas" if has_library(["cblas", "atlas"]) else "open"


def find_python() -> "Python | None":
    """This Python, if its headers, numpy's and Boost.Python for it are there."""
    try:
        import numpy
    except ImportError:
        return None
    include = [sysconfig.get_paths()["include"], numpy.get_include()]
    major, minor = sys.version_info[:2]
    library = f"python{major}.{minor}{getattr(sys, 'abiflags', '')}"
    folder = sysconfig.get_config_var("LIBDIR") or "/usr/lib"
    endings = [f"{major}{minor}", f"-py{major}{minor}", str(major), ""]
    boosts = ["boost_python" + ending for ending in endings]
    boost = next((name for name in boosts if has_library([name])), None)
    if boost and has_header("Python.h", include[0]) and has_library([library], folder):
        return Python(include, [boost, library], folder)
    return None
