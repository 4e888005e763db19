"""What Debian calls the package that is missing, and the one command that installs it."""

import re
import shutil
import sys

from .errors import Refused

# What a compiler, a linker, CMake or a shell misses; the packages that hold it; and what a build of
# Caffe needs besides, or could do without it.
PACKAGES = [
    (r"boost[/_]python|boost_python", "libboost-python-dev", ""),
    (r"boost", "libboost-system-dev libboost-thread-dev libboost-filesystem-dev", ""),
    (r"gflags", "libgflags-dev", ""),
    (r"glog|google-glog", "libgoogle-glog-dev", ""),
    (r"hdf5|HDF5", "libhdf5-dev", "and /usr/include/hdf5/serial in INCLUDE_DIRS"),
    (r"cblas|openblas|OpenBLAS|Atlas|atlas", "libopenblas-dev", "and BLAS := open"),
    (r"google/protobuf|-lprotobuf|Protobuf", "libprotobuf-dev protobuf-compiler", ""),
    (r"opencv|OpenCV", "libopencv-dev", "or USE_OPENCV := 0"),
    (r"leveldb|LevelDB", "libleveldb-dev", "or USE_LEVELDB := 0"),
    (r"snappy|Snappy", "libsnappy-dev", "or USE_LEVELDB := 0"),
    (r"lmdb|LMDB", "liblmdb-dev", "or USE_LMDB := 0"),
    (r"Python\.h|-lpython", "python3-dev", "and PYTHON_INCLUDE in Makefile.config"),
    (r"numpy/", "python3-numpy", "and PYTHON_INCLUDE in Makefile.config"),
    (r"cuda|nvcc|cublas|curand", "nvidia-cuda-toolkit", "or CPU_ONLY := 1"),
    (r"\bprotoc: (?:command )?not found", "protobuf-compiler", ""),
    (r"\b(?:ldd|nm|readelf): (?:command )?not found", "binutils libc-bin", ""),
]


def install(*packages: str) -> str:
    return f"sudo apt-get install {' '.join(packages)}"


def install_protobuf(python: str = sys.executable) -> str:
    return f"{install('python3-protobuf')}, or {python} -m pip install protobuf"


def packages_for(missing: str) -> "tuple[str, str]":
    """Those that hold what this line of a log misses, and a note; empty where nobody knows."""
    known = ((packages, note) for name, packages, note in PACKAGES if re.search(name, missing))
    return next(known, ("", ""))


def not_on_path(program: str) -> Refused:
    packages, _ = packages_for(f"{program}: not found")
    return Refused(f"{program} is not on PATH", install(packages or program))


def need(*programs: str) -> None:
    for program in programs:
        if not shutil.which(program):
            raise not_on_path(program)
