"""A Makefile.config that fits this machine, for trees that have none."""

from ..common.cuda import CUDA_13_CXX
from ..common.machine import Machine

CONFIG = """\
# Written by apply_patch.py runtest --write-config for this machine; edit it as you like.
# What each switch means stands in Makefile.config.example.
{lines}
BUILD_DIR := build
DISTRIBUTE_DIR := distribute
TEST_GPUID := 0
Q ?= @
"""


def switches(machine: Machine) -> "dict[str, bool]":
    """What Caffe's Makefile and its CMake build with, unless told otherwise."""
    return {"USE_OPENCV": bool(machine.opencv), "USE_LEVELDB": machine.leveldb,
            "USE_LMDB": machine.lmdb, "USE_HDF5": machine.hdf5}


def makefile_config(machine: Machine) -> str:
    lines = cuda_lines(machine) + [f"{name} := {on:d}" for name, on in switches(machine).items()]
    lines += ["OPENCV_VERSION := 3"] if machine.opencv >= 3 else []
    lines += ["BLAS := " + machine.blas, *python_lines(machine)]
    include = ["$(PYTHON_INCLUDE)", "/usr/local/include", *machine.include]
    folders = ["$(PYTHON_LIB)", "/usr/local/lib", "/usr/lib", *machine.library_folders]
    lines += ["INCLUDE_DIRS := " + " ".join(include), "LIBRARY_DIRS := " + " ".join(folders)]
    return CONFIG.format(lines="\n".join(lines))


def cuda_lines(machine: Machine) -> "list[str]":
    if machine.cuda is None:
        return ["CPU_ONLY := 1"]
    lines = ["CUDA_DIR := " + machine.cuda,
             "CUDA_ARCH := " + " ".join(f"-gencode {gencode}" for gencode in machine.gencodes)]
    if machine.cuda_flags:
        lines += ["# fields that Caffe prints and this CUDA has no more, and the C++ of its Thrust",
                  "COMMON_FLAGS += " + " ".join(machine.cuda_flags), "NVCCFLAGS += " + CUDA_13_CXX]
    return lines


def python_lines(machine: Machine) -> "list[str]":
    python = machine.python
    if python is None:
        return ["# no numpy, Python.h or Boost.Python for this Python: make pycaffe will not work"]
    return ["PYTHON_INCLUDE := " + " ".join(python.include),
            "PYTHON_LIBRARIES := " + " ".join(python.libraries),
            "PYTHON_LIB := " + python.library_folder,
            "WITH_PYTHON_LAYER := 1"]


def cmake_options(machine: Machine) -> "list[str]":
    """The same choices for a fresh CMake folder; the tests need no Python."""
    left_out = dict.fromkeys(("BUILD_python", "BUILD_python_layer", "BUILD_docs"), False)
    chosen = {"CPU_ONLY": machine.cuda is None, **switches(machine), **left_out}
    options = [f"-D{name}={'ON' if on else 'OFF'}" for name, on in chosen.items()]
    blas = {"open": "Open", "atlas": "Atlas", "mkl": "MKL"}[machine.blas]
    if machine.cuda_flags:
        options += ["-DCMAKE_CXX_FLAGS=" + " ".join(machine.cuda_flags),
                    "-DCUDA_NVCC_FLAGS=" + CUDA_13_CXX]
    return [*options, "-DBLAS=" + blas, "-DCMAKE_BUILD_TYPE=Release"]
