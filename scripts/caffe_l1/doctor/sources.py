"""Whether this machine compiles a checkout: the sources that newer libraries break are tried."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Iterator

from ..common.errors import KitError, Refused
from ..common.machine import compiler, hdf5_includes
from ..common.tree import PROTO, CaffeTree
from ..plugin import build
from ..runtest.build import CONFIG, ask_make
from ..runtest.diagnose import diagnose
from .finding import LACKS, OK, Finding

# What is tried: Caffe's use of protobuf, and its include of the BLAS.
TRIED = {
    "Caffe's sources": "src/caffe/util/io.cpp",
    "BLAS": "include/caffe/util/mkl_alternate.hpp",
}


def sources(tree: CaffeTree) -> Iterator[Finding]:
    """Nothing where the tools are missing, which other findings say."""
    try:
        build.need_tools()
    except Refused:
        return
    with tempfile.TemporaryDirectory(prefix="l1-loss-doctor-") as scratch:
        try:
            messages(tree, Path(scratch))
            flags = compiler_flags(tree)
        except KitError as error:
            yield lacking("Caffe's sources", error)
            return
        for name, file in TRIED.items():
            if tree.path(file).is_file():
                yield compiled(name, file, tree, [f"-I{scratch}", *flags])


def messages(tree: CaffeTree, scratch: Path) -> None:
    """caffe.pb.h, as the build would make it."""
    folder = scratch / "caffe" / "proto"
    folder.mkdir(parents=True)
    proto = tree.path(PROTO)
    build.protoc(f"-I{proto.parent}", f"--cpp_out={folder}", proto.name)


def compiler_flags(tree: CaffeTree) -> list[str]:
    """Those of the checkout's own Makefile.config, else what a CPU-only build needs."""
    if tree.path(CONFIG).is_file() and tree.path("Makefile").is_file():
        return shlex.split(ask_make(tree.root, "$(COMMON_FLAGS)"))
    return ["-DCPU_ONLY", "-Iinclude", *(f"-I{folder}" for folder in hdf5_includes() if folder)]


def compiled(name: str, file: str, tree: CaffeTree, flags: list[str]) -> Finding:
    # The header of the BLAS calls glog's macros without including it.
    command = [*compiler(), "-fsyntax-only", "-w", "-include", "glog/logging.h", *flags,
               "-x", "c++", file]
    done = subprocess.run(command, cwd=str(tree.root), stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode == 0:
        return Finding(name, OK, f"{file} compiles")
    return lacking(name, diagnose(done.stdout.decode("utf-8", "replace"), "", file))


def lacking(name: str, error: KitError) -> Finding:
    where = ":".join(filter(None, [error.file, str(error.line or "")]))
    return Finding(name, LACKS, f"{where}: {error.problem}" if where else error.problem, error.fix)
