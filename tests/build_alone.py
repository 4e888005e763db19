"""Build the layer and its gtest with the few sources of a tree that they need, not all of Caffe."""

from __future__ import annotations

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FLAGS = ["-std=c++11", "-O0", "-w", "-fPIC", "-pthread", "-DCPU_ONLY", "-I/usr/include/hdf5/serial"]
LIBRARIES = [
    f"-l{name}"
    for name in ("glog", "gflags", "protobuf", "boost_system", "boost_thread", "openblas", "m")
]
NEEDED = [
    "src/caffe/blob.cpp",
    "src/caffe/common.cpp",
    "src/caffe/syncedmem.cpp",
    "src/caffe/layer.cpp",
    "src/caffe/util/math_functions.cpp",
    "src/caffe/layers/loss_layer.cpp",
    "src/caffe/test/test_caffe_main.cpp",
    "src/gtest/gtest-all.cpp",
]
MAX_OF_2015 = """
namespace std { inline double max(float a, double b) { return a > b ? a : b; } }
"""
PASSED = re.compile(r"^\[  PASSED  \] (\d+) tests\.$", re.MULTILINE)


def build_alone(root: Path, stem: str, out: Path, more: tuple = (), partly: bool = False) -> Path:
    """A test program of our layer in this tree, and of the other sources named.

    With partly, of those that the tree has, and what they would call elsewhere may be missing: a
    test that gets there ends at once. Trees of 2015 use std::max as compilers of then let them.
    """
    proto = out / "caffe/proto"
    proto.mkdir(parents=True)
    folder = root / "src/caffe/proto"
    command = ["protoc", f"--proto_path={folder}", f"--cpp_out={proto}", folder / "caffe.proto"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    ours = [f"src/caffe/layers/{stem}_layer.cpp", f"src/caffe/test/test_{stem}_layer.cpp"]
    sources = [root / name for name in (*NEEDED, *ours, *more)] + [proto / "caffe.pb.cc"]
    flags = FLAGS
    if partly:
        factory = root / "src/caffe/layer_factory.cpp"
        registers = [factory] if b"::LayerRegisterer(" in factory.read_bytes() else []
        sources = [source for source in sources if source.exists()] + registers
        (out / "max.hpp").write_text(MAX_OF_2015)
        flags = [*FLAGS, "-include", str(out / "max.hpp")]
    includes = [f"-I{out}", f"-I{root / 'include'}", f"-I{root / 'src'}"]

    def compile_one(source: Path) -> Path:
        target = out / (source.name + ".o")
        run(["g++", *flags, *includes, "-c", source, "-o", target])
        return target

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        objects = list(pool.map(compile_one, sources))
    missing = ["-no-pie", "-Wl,--unresolved-symbols=ignore-all"] if partly else []
    run(["g++", "-pthread", *objects, *missing, *LIBRARIES, "-o", out / "tests"])
    return out / "tests"


def run(command: list) -> str:
    done = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    text = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, text[-3000:]
    return text
