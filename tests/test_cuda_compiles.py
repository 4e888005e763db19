"""The GPU twin compiles under nvcc against Caffe's real headers, on a machine that has nvcc."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from environment import REPO

NVCC = Path("/usr/local/cuda/bin/nvcc")


@pytest.mark.parametrize("nvcc", [NVCC] if NVCC.exists() else [])
def test_the_gpu_twin_compiles(nvcc, patched_tree, tmp_path):
    # cuBLAS's and cuRAND's headers, which Caffe's own include; scripts/test.sh fetches them
    headers = Path(os.environ["CAFFE_L1_WORK"]) / "cuda_include"
    assert (headers / "cublas_v2.h").exists() and (headers / "curand.h").exists()
    includes = [patched_tree.root / "include", patched_tree.root / ".build_release" / "src",
                headers]
    done = subprocess.run(
        [str(nvcc), "-O2", "-Wno-deprecated-gpu-targets", "-Werror", "all-warnings",
         *(f"-I{folder}" for folder in includes[:2]), f"-isystem={headers}",
         "-c", str(REPO / "caffe_patch/src/caffe/layers/l1_loss_layer.cu"),
         "-o", str(tmp_path / "l1_loss_layer.o")],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    symbols = subprocess.run(["nm", "-C", str(tmp_path / "l1_loss_layer.o")],
                             stdout=subprocess.PIPE, text=True).stdout
    for dtype in ("float", "double"):
        for method in ("Forward_gpu", "Backward_gpu"):
            assert f"caffe::L1LossLayer<{dtype}>::{method}(" in symbols
