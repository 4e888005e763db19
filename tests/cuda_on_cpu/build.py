"""Build programs of kernels for the CPU: a .cu file as it is, but for its launches."""

from __future__ import annotations

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
KIT = HERE.parent.parent / "caffe_patch"
CU = KIT / "src/caffe/layers/l1_loss_layer.cu"
CUDA_HEADERS = ["cublas_v2.h", "cuda.h", "cuda_runtime.h", "curand.h", "driver_types.h"]
FLAGS = ["-w", "-pthread", "-DNDEBUG"]
LIBRARIES = [f"-l{name}" for name in (
    "glog", "gflags", "protobuf", "boost_system", "boost_thread", "openblas", "pthread")]
THREAD_SANITIZER = ["-fsanitize=thread", "-O1"]


def run(command: list) -> None:
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout.decode("utf-8", "replace")[-3000:]


def as_cpp(cu: str) -> str:
    """Kernels as C++: kernel<<<grid, block>>>(arguments becomes a call."""
    return re.sub(r"(\w+(?:<[^<>]*>)?)\s*<<<(.*?)>>>\(", r"cuda_on_cpu::Launch(\2, \1, ", cu)


class Build:
    """A folder of objects: a tree of Caffe that make built with our kit, and the emulator."""

    PRECOMPILED = ["-O1", "-include", "precompiled.hpp"]

    def __init__(self, tree: Path, out: Path):
        self.tree, self.out = tree, out
        for name in CUDA_HEADERS:
            (out / name).write_text('#include "cuda_on_cpu.hpp"\n')
        self.includes = [f"-I{folder}" for folder in (
            HERE, out, KIT / "include", tree / "include", tree / ".build_release/src",
            tree / "src")]

    def compile(self, source: Path, *flags: str) -> Path:
        target = self.out / f"{source.name}.o"
        run(["g++", *FLAGS, *flags, *self.includes, "-c", source, "-o", target])
        return target

    def compile_all(self, jobs: list) -> list:
        """Each job is a source and its flags."""
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            return list(pool.map(lambda job: self.compile(*job), jobs))

    def kernels(self, cu: str, name: str, *flags: str) -> Path:
        source = self.out / f"{name}.cu.cpp"
        source.write_text(as_cpp(cu))
        return self.compile(source, *flags)

    def precompile(self) -> None:
        """What every mutant of the kernels includes."""
        header = self.out / "precompiled.hpp"
        header.write_text("".join(
            f"#include {name}\n" for name in re.findall("#include (.*)", CU.read_text())))
        run(["g++", *FLAGS, self.PRECOMPILED[0], *self.includes, "-x", "c++-header", header,
             "-o", f"{header}.gch"])

    def link(self, name: str, objects: list, *flags: str) -> Path:
        """What is missing is called by no test; a test that gets there ends at once."""
        program = self.out / name
        run(["g++", "-no-pie", "-Wl,--unresolved-symbols=ignore-all", *flags, *objects,
             *LIBRARIES, "-o", program])
        return program

    def layer(self) -> list:
        """The emulator, Caffe's blobs, and the layer without its kernels."""
        source = self.tree / "src/caffe"
        quick = [source / "common.cpp", source / "layer.cpp", source / "syncedmem.cpp",
                 source / "layers/loss_layer.cpp", source / "blob.cpp",
                 source / "util/math_functions.cpp", HERE / "caffe_gpu_math.cpp",
                 KIT / "src/caffe/layers/l1_loss_layer.cpp"]
        objects = self.compile_all([(HERE / "cuda_on_cpu.cpp", "-O2"),
                                    *((file, "-O0") for file in quick)])
        return [*objects, self.tree / ".build_release/src/caffe/proto/caffe.pb.o"]

    def gtests(self) -> list:
        source = self.tree / "src"
        objects = self.compile_all([(KIT / "src/caffe/test/test_l1_loss_layer.cpp", "-O0"),
                                    (source / "caffe/test/test_caffe_main.cpp", "-O0")])
        return [*objects, self.tree / ".build_release/src/gtest/gtest-all.o"]
