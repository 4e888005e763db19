"""The native layer, built into a real Caffe by the patch script."""

from __future__ import annotations

import re
import subprocess
import sys

from environment import REPO

SOURCES = sorted(path for path in (REPO / "caffe_patch").rglob("*")
                 if path.suffix in (".hpp", ".cpp", ".cu"))


def test_runtest_prints_gtests_own_last_line_and_counts_only_our_tests(patched_tree):
    output = patched_tree.runtest
    tests = len(re.findall(r"^TYPED_TEST\(", SOURCES[-1].read_text(), re.MULTILINE))
    assert SOURCES[-1].name == "test_l1_loss_layer.cpp" and tests > 30
    # float and double, on the CPU
    assert f"[  PASSED  ] {2 * tests} tests." in output


def test_caffes_own_linter_finds_nothing(caffe_source):
    scripts = sorted((REPO / "scripts").rglob("*.[ch]pp"))
    assert len(SOURCES) == 5 and scripts
    lint = subprocess.run(
        [sys.executable, str(caffe_source / "scripts" / "cpp_lint.py"),
         *map(str, SOURCES + scripts)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert lint.returncode == 0, lint.stdout
    assert "Total errors found: 0" in lint.stdout


def test_the_twins_define_the_same_methods():
    """What Forward_cpu and Backward_cpu do has a Forward_gpu and Backward_gpu."""
    def methods(suffix: str) -> set:
        source = (REPO / "caffe_patch/src/caffe/layers" / f"l1_loss_layer.{suffix}").read_text()
        return set(re.findall(r"L1LossLayer<Dtype>::(\w+)_[cg]pu\(", source))

    assert methods("cpp") == methods("cu") == {
        "Forward", "ForwardReduced", "ForwardUnreduced", "Backward"}
