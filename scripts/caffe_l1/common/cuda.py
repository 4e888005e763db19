"""The CUDA toolkit of this machine, and what a Caffe of 2018 needs to compile with it."""

import os
import re
import shutil
from pathlib import Path
from typing import Iterable, Iterator

from .errors import Refused
from .process import output

ANYWHERE = Path("/")

# Fields of cudaDeviceProp that Caffe prints and CUDA 13 has no more, and one to print in its
# place: what CUDA names for it, or a field that is 0 on Linux.
FIELDS = {"clockRate": "tccDriver", "deviceOverlap": "asyncEngineCount",
          "kernelExecTimeoutEnabled": "tccDriver"}
CUDA_13_CXX = "-std=c++17"  # which its Thrust needs; GCC 10, for one, has an older default


def find_cuda() -> "str | None":
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    return os.path.dirname(os.path.dirname(os.path.realpath(nvcc))) if nvcc else None


def cuda_architectures() -> "list[str]":
    """The compute capabilities of the GPUs here, 61 for 6.1; none without a driver."""
    text = output(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"],
                  ANYWHERE)
    found = {line.strip().replace(".", "") for line in text.splitlines()}
    return sorted((number for number in found if number.isdigit()), key=int)


def gencodes(cuda: str, gpus: "list[str]") -> "list[str]":
    """What follows nvcc's -gencode, for each of these GPUs that it still, or already, knows."""
    known = known_architectures(cuda)
    chosen = list(dict.fromkeys(choose(gpus, known)))
    if gpus and not chosen:
        raise Refused(f"it has nothing below compute_{min(known, key=int)}, and the GPU here is "
                      f"{' and '.join('sm_' + gpu for gpu in gpus)}",
                      "put the nvcc of an older CUDA first on PATH", f"{cuda}/bin/nvcc")
    return chosen


def known_architectures(cuda: str) -> "list[str]":
    """None where nvcc is older than the option, of CUDA 11."""
    return re.findall(r"compute_(\d+)\b", output([f"{cuda}/bin/nvcc", "--list-gpu-arch"], ANYWHERE))


def choose(gpus: Iterable[str], known: "list[str]") -> Iterator[str]:
    """The driver translates what is compiled for an older GPU, so that serves a newer one."""
    for gpu in gpus:
        older = [arch for arch in known if int(arch) < int(gpu)]
        if gpu in known or not known:
            yield f"arch=compute_{gpu},code=sm_{gpu}"
        elif older:
            newest = max(older, key=int)
            yield f"arch=compute_{newest},code=compute_{newest}"


def flags_for_fields(cuda: str) -> "list[str]":
    """What gives Caffe's sources another field for each that this CUDA lacks."""
    headers = output([f"{cuda}/bin/nvcc", "-x", "cu", "-E", os.devnull], ANYWHERE)
    if "cudaDeviceProp" not in headers:
        return []
    lacking = [name for name in FIELDS if not re.search(rf"\b{name}\b", headers)]
    return [f"-D{name}={FIELDS[name]}" for name in lacking]

