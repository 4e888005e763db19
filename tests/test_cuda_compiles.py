"""The GPU twin, and a Caffe of 2018, compile under the nvcc of this machine, where it has one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from caffe_l1.common import cuda
from caffe_l1.common.errors import Refused
from caffe_l1.common.machine import probe
from caffe_l1.runtest.make_config import cmake_options, makefile_config
from environment import REPO

NVCC = Path("/usr/local/cuda/bin/nvcc")
needs_nvcc = pytest.mark.parametrize("nvcc", [NVCC] if NVCC.exists() else [])
ARCHITECTURES = (75, 80, 86, 90)


@pytest.fixture(scope="module", params=[NVCC] if NVCC.exists() else [])
def compile_layer(request, patched_tree):
    """Compiles the layer with these flags; returns what nvcc says."""
    # cuBLAS's and cuRAND's headers, which Caffe's own include; scripts/test.sh fetches them
    headers = Path(os.environ["CAFFE_L1_WORK"]) / "cuda_include"
    assert (headers / "cublas_v2.h").exists() and (headers / "curand.h").exists()
    includes = [REPO / "caffe_patch/include", patched_tree.root / "include",
                patched_tree.root / ".build_release/src"]

    def compiled(*flags: object) -> str:
        done = subprocess.run(
            [str(request.param), "-O2", "-Wno-deprecated-gpu-targets", "-Werror", "all-warnings",
             *(f"-I{folder}" for folder in includes), f"-isystem={headers}", *map(str, flags),
             str(REPO / "caffe_patch/src/caffe/layers/l1_loss_layer.cu")],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout[-3000:]
        return done.stdout
    return compiled


def test_the_gpu_twin_compiles_and_spills_no_register(compile_layer, tmp_path):
    target = tmp_path / "l1_loss_layer.o"
    said = compile_layer("--resource-usage", "-c", "-o", target,
                         *(f"-gencode=arch=compute_{n},code=sm_{n}" for n in ARCHITECTURES))
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores", said)
    kernels, dtypes = 7, 2  # all but the one that finishes for the smooth loss too
    assert frames == [("0", "0")] * (kernels * dtypes * len(ARCHITECTURES)), said[-3000:]
    symbols = subprocess.run(["nm", "-C", str(target)], stdout=subprocess.PIPE, text=True).stdout
    for dtype in ("float", "double"):
        for method in ("Forward_gpu", "Backward_gpu"):
            assert f"caffe::L1LossLayer<{dtype}>::{method}(" in symbols


def test_a_compiler_has_no_products_and_sums_to_fuse(compile_layer, tmp_path):
    """So that devices compute the same bits, whichever their compilers would fuse."""
    arithmetic = []
    for fuses in ("true", "false"):
        target = tmp_path / f"{fuses}.ptx"
        compile_layer("-ptx", f"-arch=compute_{ARCHITECTURES[0]}", f"--fmad={fuses}", "-o", target)
        found = re.findall(r"\b(fma|mul|add|sub|div)(\.rn)?\.(f32|f64)\b", target.read_text())
        arithmetic.append(Counter((operation, dtype) for operation, _, dtype in found))
    assert arithmetic[0] == arithmetic[1] and arithmetic[0]["fma", "f64"] > 0


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """A function that puts such GPUs into this machine, as far as their driver's tool tells."""
    def put(*capabilities: str) -> None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text("#!/bin/sh\nprintf '%s\\n' {}\n".format(" ".join(capabilities)))
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return put


# What prints the fields that CUDA 13 lacks, and what includes Thrust.
SOURCES = ["src/caffe/common", "src/caffe/test/test_platform", "cuda/src/caffe/util/math_functions"]


@needs_nvcc
def test_caffe_compiles_as_the_written_config_says(nvcc, caffe_source, work, monkeypatch, gpus):
    gpus("8.0")
    root = work / "cuda"
    shutil.rmtree(str(root), ignore_errors=True)
    shutil.copytree(str(caffe_source), str(root), symlinks=True)
    (root / "Makefile.config").write_text(makefile_config(probe()))
    monkeypatch.setenv("CPATH", os.path.join(os.environ["CAFFE_L1_WORK"], "cuda_include"))
    done = subprocess.run(["make", f"-j{os.cpu_count()}", "Q=",
                           *(f".build_release/{source}.o" for source in SOURCES)], cwd=str(root),
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "-gencode arch=compute_80,code=sm_80" in done.stdout


@needs_nvcc
def test_the_flags_are_of_the_fields_that_this_cuda_lacks(nvcc, gpus):
    gpus("8.0")
    has = (nvcc.parent.parent / "include" / "driver_types.h").read_text()
    lacking = [flag for flag in ("clockRate", "deviceOverlap", "kernelExecTimeoutEnabled")
               if f" {flag};" not in has]
    assert [flag[2:].split("=")[0] for flag in probe().cuda_flags] == lacking
    assert any("CMAKE_CXX_FLAGS" in option for option in cmake_options(probe())) == bool(lacking)
    readme = (REPO / "caffe_patch" / "README.md").read_text()
    [shown] = re.findall(r"^```make\n(COMMON_FLAGS.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert not lacking or set(shown.splitlines()) <= set(makefile_config(probe()).splitlines())


@needs_nvcc
def test_a_gpu_that_nvcc_is_too_new_or_too_old_for(nvcc, gpus):
    gpus("3.0", "7.5", "99.9")
    newest = max(cuda.known_architectures(str(nvcc.parent.parent)), key=int)
    assert probe().gencodes == ["arch=compute_75,code=sm_75",
                                f"arch=compute_{newest},code=compute_{newest}"]
    gpus("3.0")
    with pytest.raises(Refused, match="bin/nvcc: it has nothing below compute_75, and the GPU here "
                                      "is sm_30; fix: put the nvcc of an older CUDA first on PATH"):
        probe()


@pytest.mark.parametrize("gpus, known, chosen", [
    (["61"], [], ["arch=compute_61,code=sm_61"]),
    (["61", "75"], ["75", "80"], ["arch=compute_75,code=sm_75"]),
    (["88", "120"], ["80", "90", "100"],
     ["arch=compute_80,code=compute_80", "arch=compute_100,code=compute_100"])])
def test_the_architectures_that_are_chosen(gpus, known, chosen):
    """An nvcc before CUDA 11 does not list what it knows."""
    assert list(cuda.choose(gpus, known)) == chosen
