"""The first error in a build's log, and the Debian package that is most likely missing."""

from __future__ import annotations

import re

from ..common.errors import BuildFailed

COMPILER = re.compile(
    r"^(?P<file>[^\s:][^:\n]*):(?P<line>\d+):(?:\d+:)? (?:fatal )?error: (?P<text>.*)$"
)
PROTOC = re.compile(r"^(?P<file>\S+\.proto):(?P<line>\d+):\d+: (?!warning)(?P<text>.*)$")
NVCC = re.compile(r"^(?P<file>[^\s(]+)\((?P<line>\d+)\): error: (?P<text>.*)$")
OTHERS = [
    re.compile(r"(?P<text>cannot find -l\S+)"),
    re.compile(r"(?P<text>undefined reference to .*)$"),
    re.compile(r"^(?P<text>CMake Error.*)$"),
    re.compile(r"^.*?(?P<text>Could NOT find .*)$"),
    re.compile(r"^make.*?: \*\*\* (?P<text>.*)$"),
    re.compile(r"(?P<text>(?:\S*/)?\w+: (?:command )?not found)"),
]

# What the compiler or the linker misses, and where Debian keeps it.
PACKAGES = {
    r"boost[/_]python|boost_python": "libboost-python-dev",
    r"boost": "libboost-system-dev libboost-thread-dev libboost-filesystem-dev",
    r"gflags": "libgflags-dev",
    r"glog|google-glog": "libgoogle-glog-dev",
    r"hdf5|HDF5": "libhdf5-dev (and /usr/include/hdf5/serial in INCLUDE_DIRS)",
    r"cblas|openblas|OpenBLAS|Atlas|atlas": "libopenblas-dev (and BLAS := open)",
    r"google/protobuf|-lprotobuf|Protobuf": "libprotobuf-dev protobuf-compiler",
    r"opencv|OpenCV": "libopencv-dev (or USE_OPENCV := 0)",
    r"leveldb|LevelDB": "libleveldb-dev (or USE_LEVELDB := 0)",
    r"snappy|Snappy": "libsnappy-dev (or USE_LEVELDB := 0)",
    r"lmdb|LMDB": "liblmdb-dev (or USE_LMDB := 0)",
    r"Python\.h|-lpython": "python3-dev (and PYTHON_INCLUDE in Makefile.config)",
    r"numpy/": "python3-numpy (and PYTHON_INCLUDE in Makefile.config)",
    r"cuda|nvcc|cublas|curand": "nvidia-cuda-toolkit (or CPU_ONLY := 1)",
    r"protoc: (?:command )?not found": "protobuf-compiler",
    r"g\+\+: (?:command )?not found": "g++",
}
# What Caffe's own sources say that is an error by now, and the mend at the line that is named.
OUTDATED = {
    r"no matching function.* to .*CodedInputStream::SetTotalBytesLimit\(": (
        "SetTotalBytesLimit takes one argument in this protobuf",
        "remove the second argument, 536870912, there",
    ),
}
MISSING = re.compile(r"No such file or directory|cannot find -l|Could NOT find|not found")


def diagnose(log: str, log_file: str, what: str) -> BuildFailed:
    """The error to show for this failed build."""
    for pattern in (COMPILER, NVCC, PROTOC):
        found = first_match(pattern, log)
        if found:
            text = found.group("text")
            file, line = found.group("file"), int(found.group("line"))
            for outdated, (problem, fix) in OUTDATED.items():
                if re.search(outdated, text):
                    return BuildFailed(problem, fix, file, line)
            return BuildFailed("error: " + text, hint(text, log_file), file, line)
    for pattern in OTHERS:
        found = first_match(pattern, log)
        if found:
            problem = what + ": " + found.group("text")
            return BuildFailed(problem, hint(found.string, log_file))
    return BuildFailed(f"{what} failed", "see " + log_file)


def first_match(pattern: re.Pattern[str], log: str) -> re.Match[str] | None:
    for line in log.splitlines():
        found = pattern.search(line)
        if found:
            return found
    return None


def hint(text: str, log_file: str) -> str:
    """What to install, where the log is; without a log, what to install or nothing."""
    if MISSING.search(text):
        for pattern, package in PACKAGES.items():
            if re.search(pattern, text):
                where = f"; the log is {log_file}" if log_file else ""
                return f"sudo apt-get install {package}{where}"
    return f"see {log_file}" if log_file else ""
