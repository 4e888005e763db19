"""The layer compiles without a warning in every standard of C++.

tests/compilers.md says what other compilers made of it.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
KIT = REPO / "caffe_patch"
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-sign-compare"]  # the last as Caffe has it
HEADERS = ["blob", "layer", "layers/loss_layer", "proto/caffe.pb", "util/math_functions"]


def compiled(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[:3000]


@pytest.mark.parametrize("standard, openmp", [
    ("c++11", []), ("c++14", ["-fopenmp"]), ("c++17", []), ("c++20", ["-fopenmp"])])
def test_no_warning_beside_the_headers_of_caffe(patched_tree, tmp_path, standard, openmp):
    tree = patched_tree.root
    theirs = [tree / "include", tree / ".build_release/src", tree / "src"]
    for source in ("layers/l1_loss_layer.cpp", "test/test_l1_loss_layer.cpp"):
        optimise = ["-O2"] if source.startswith("layers") else ["-fsyntax-only"]
        compiled(["g++", f"-std={standard}", *WARNINGS, *optimise, *openmp, "-DCPU_ONLY",
                  f"-I{KIT / 'include'}", *(f"-isystem{folder}" for folder in theirs),
                  "-c", str(KIT / "src/caffe" / source), "-o", str(tmp_path / "x.o")])


@pytest.mark.parametrize("flags", [["-O2"], ["-O3", "-march=native", "-fopenmp"],
                                   ["-DL1_LOSS_NO_VECTORS"]], ids=" ".join)
def test_the_cxx_of_1998_computes_the_same(tmp_path, flags):
    """Without Caffe, whose libraries need C++11 today: its headers are empty here."""
    for name in HEADERS:
        (tmp_path / f"caffe/{name}.hpp").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"caffe/{name}.hpp").touch()
    (tmp_path / "caffe/proto/caffe.pb.hpp").rename(tmp_path / "caffe/proto/caffe.pb.h")
    program = str(tmp_path / "compare")
    compiled(["g++", "-std=c++98", *WARNINGS, "-Wno-unused-parameter", *flags, "-DCPU_ONLY",
              f"-I{tmp_path}", f"-I{KIT}", f"-I{KIT / 'include'}",
              str(REPO / "tests" / "in_cxx98.cpp"), "-o", program])
    compiled([program])
