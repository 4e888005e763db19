"""What the tests of the patch script share: small Caffe checkouts, and looking at them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

from caffe_l1 import cli
from environment import REPO

SCRIPT = REPO / "scripts" / "apply_patch.py"
CAFFE = Path(os.environ.get("CAFFE_ROOT", "/usr/src/caffe"))
STATE = ".l1loss-kit"
PROTO = "src/caffe/proto/caffe.proto"
SOURCES = [
    "include/caffe/layers/l1_loss_layer.hpp",
    "include/caffe/util/l1_loss_simd.hpp",
    "src/caffe/layers/l1_loss_layer.cu",
    "src/caffe/layers/l1_loss_layer.cpp",
    "src/caffe/test/test_l1_loss_layer.cpp",
]
TARGETS = [PROTO, *SOURCES]
SOURCES_READ = [
    PROTO,
    "include/caffe/blob.hpp",
    "src/caffe/blob.cpp",
    "include/caffe/layer.hpp",
    "include/caffe/layer_factory.hpp",
    "include/caffe/layers/loss_layer.hpp",
    "include/caffe/util/math_functions.hpp",
    "src/caffe/net.cpp",
    "src/caffe/layers/euclidean_loss_layer.cpp",
    "src/caffe/test/test_euclidean_loss_layer.cpp",
]


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        return json.loads(self.out)


class Buffered(io.TextIOWrapper):
    """A stream with a .buffer, as the real ones have."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), "utf-8", "surrogateescape", write_through=True)

    def text(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode("utf-8", "surrogateescape")


def kit(*arguments: object) -> Result:
    """Run the script in this process, as a user types it."""
    out, err = Buffered(), Buffered()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = cli.main([*map(str, arguments)], SCRIPT.name, cli.OF_A_CHECKOUT)
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Result(code, out.text(), err.text())


def kit_process(*arguments: object, **options: object) -> Result:
    """Run the script in a process of its own."""
    command = [sys.executable, str(SCRIPT), *map(os.fspath, map(_text, arguments))]
    done = subprocess.run(command, capture_output=True, **options)
    return Result(
        done.returncode,
        done.stdout.decode("utf-8", "surrogateescape"),
        done.stderr.decode("utf-8", "surrogateescape"),
    )


def _text(argument: object) -> object:
    return argument if isinstance(argument, (str, bytes, os.PathLike)) else str(argument)


BUILT = shutil.ignore_patterns("_caffe.so", "*.pb.h", "*.pb.cc", "*_pb2.py", "__pycache__")


def make_checkout(folder: Path) -> Path:
    """Caffe's sources as a checkout has them, without examples, models and documents."""
    for name in ("include", "src", "cmake", "python", "tools", "examples/cpp_classification"):
        shutil.copytree(str(CAFFE / name), str(folder / name), ignore=BUILT)
    for name in ("Makefile", "Makefile.config.example", "CMakeLists.txt", ".gitignore"):
        shutil.copy2(str(CAFFE / name), str(folder / name))
    return folder


def make_small_checkout(root: Path) -> None:
    """What the script reads of a checkout, so that a copy of it is made quickly."""
    for name in SOURCES_READ:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(str(CAFFE / name), str(root / name))


def snapshot(root: Path) -> dict:
    """Everything a user can see in a tree: bytes, modes and times, but for the kit's folder."""
    seen = {}
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if relative.parts[0] == STATE or path.is_dir():
            continue
        status = os.lstat(str(path))
        mode = stat.S_IMODE(status.st_mode)
        seen[relative.as_posix()] = (digest(path), mode, status.st_mtime_ns)
    return seen


def contents(root: Path) -> dict:
    """Bytes and modes only."""
    return {path: entry[:2] for path, entry in snapshot(root).items()}


def digest(path: Path) -> str:
    if path.is_symlink():
        return "-> " + os.readlink(str(path))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def edit(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert data.count(old) >= 1, (path, old)
    path.write_bytes(data.replace(old, new, 1))
