"""A Makefile.config that fits this machine, for trees that have none."""

from __future__ import annotations

from ..common.machine import Machine

HEAD = """\
# Written by apply_patch.py runtest --write-config for this machine; edit it as you like.
# What each switch means stands in Makefile.config.example.
"""
TAIL = """\
BUILD_DIR := build
DISTRIBUTE_DIR := distribute
TEST_GPUID := 0
Q ?= @
"""


def makefile_config(machine: Machine) -> str:
    lines = cuda_lines(machine) + io_lines(machine) + ["BLAS := " + machine.blas]
    lines += python_lines(machine)
    include = ["$(PYTHON_INCLUDE)", "/usr/local/include", *machine.include]
    folders = ["$(PYTHON_LIB)", "/usr/local/lib", "/usr/lib", *machine.library_folders]
    lines.append("INCLUDE_DIRS := " + words(include))
    lines.append("LIBRARY_DIRS := " + words(folders))
    return HEAD + "\n".join(lines) + "\n" + TAIL


def words(parts: list[str]) -> str:
    return " ".join(part for part in parts if part)


def cuda_lines(machine: Machine) -> list[str]:
    if machine.cuda is None:
        return ["CPU_ONLY := 1"]
    arch = [f"-gencode arch=compute_{n},code=sm_{n}" for n in machine.cuda_arch]
    return ["CUDA_DIR := " + machine.cuda, "CUDA_ARCH := " + " ".join(arch)]


def io_lines(machine: Machine) -> list[str]:
    """Caffe's Makefile asks for all of them unless told otherwise."""
    switches = [
        ("USE_OPENCV", bool(machine.opencv)),
        ("USE_LEVELDB", machine.leveldb),
        ("USE_LMDB", machine.lmdb),
        ("USE_HDF5", machine.hdf5),
    ]
    lines = [f"{name} := {on:d}" for name, on in switches]
    return lines + (["OPENCV_VERSION := 3"] if machine.opencv >= 3 else [])


def python_lines(machine: Machine) -> list[str]:
    python = machine.python
    if python is None:
        return ["# no numpy, Python.h or Boost.Python for this Python: make pycaffe will not work"]
    return [
        "PYTHON_INCLUDE := " + words(python.include),
        "PYTHON_LIBRARIES := " + words(python.libraries),
        "PYTHON_LIB := " + python.library_folder,
        "WITH_PYTHON_LAYER := 1",
    ]


def cmake_options(machine: Machine) -> list[str]:
    """The same choices for a fresh CMake folder; the tests need no Python."""
    switches = {
        "CPU_ONLY": machine.cuda is None,
        "USE_OPENCV": bool(machine.opencv),
        "USE_LEVELDB": machine.leveldb,
        "USE_LMDB": machine.lmdb,
        "USE_HDF5": machine.hdf5,
        "BUILD_python": False,
        "BUILD_python_layer": False,
        "BUILD_docs": False,
    }
    options = ["-D{}={}".format(name, "ON" if on else "OFF") for name, on in switches.items()]
    names = {"open": "Open", "atlas": "Atlas", "mkl": "MKL"}
    return options + ["-DBLAS=" + names[machine.blas], "-DCMAKE_BUILD_TYPE=Release"]
