"""The benchmark: that what it compares is the same loss, that it measures all, what it prints."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from unittest import mock

import pytest
from benchmarks import benchmark, table
from benchmarks.build import HARNESS
from caffe_l1.plugin import build, installed
from environment import REPO

FIGURES = REPO / "scripts" / "benchmarks" / "figures.json"
# A multiple of every batch that is a power of 2, so that 1 / batch and its multiples are exact.
COUNT = 1 << 22


@pytest.fixture(scope="module")
def worker(native_caffe, tmp_path_factory):
    """The command that measures the patched Caffe of the tests."""
    folder = tmp_path_factory.mktemp("bench")
    with mock.patch.dict(os.environ, CAFFE_ROOT=str(native_caffe.parent)):
        build.build_beside(installed.find(), HARNESS, folder / "harness.so")
    script = str(REPO / "scripts" / "benchmarks" / "worker.py")
    return ["env", f"PYTHONPATH={native_caffe}", sys.executable, script, "patched", str(folder)]


@pytest.mark.parametrize("kind, error", [("L1Loss", 1e-6), ("L1LossArticle", 1e-4)])
def test_the_articles_layer_computes_the_same(worker, kind, error):
    """In single precision throughout, which the sum of so many shows."""
    errors = benchmark.ask(worker, 1, "errors", kind, COUNT)
    assert errors["forward"] < error and errors["backward"] == 0


def test_memory_beside_the_blobs(worker):
    taken = benchmark.ask(worker, 1, "memory", 4 * COUNT)
    assert taken["native"] == pytest.approx(0, abs=0.2)
    assert taken["python"] == pytest.approx(0, abs=0.2)
    # The buffer of differences; the temporary arrays of numpy.
    assert taken["article"] == pytest.approx(4, abs=0.2)
    assert taken["numpy"] > 4


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_everything_is_timed_forward_and_backward(worker, dtype):
    seconds = benchmark.measure([worker], 1, dtype, 1024, repetitions=1)
    layers = {"native", "article", "euclidean", "limit"}
    assert set(seconds) >= (layers | {"python", "numpy", "stock"} if dtype == "float32" else layers)
    assert {name for name in seconds if name.startswith("native ")} == {
        "native " + option for option in ("weighted", "per sample", "ignore_label", "valid_mean",
                                          "ignore_nonfinite", "unreduced", "smooth")}
    for both in seconds.values():
        assert both["forward"] > 0 and both["backward"] > 0


def test_threads_are_for_what_has_threads_of_its_own(worker):
    seconds = benchmark.measure([worker], 2, "float32", 1 << 18, repetitions=1)
    assert set(seconds) == {"native", "limit"}


def make_row(threads=1, **seconds):
    return {"dtype": "float32", "threads": threads, "count": 1000000,
            "seconds": {name: dict(zip(("forward", "backward"), times))
                        for name, times in seconds.items()}}


def make_result(*rows):
    return {"date": "2001-02-03", "processor": "Z80", "rows": rows,
            "relative_errors_of_1e8_floats": {"forward": 2e-8, "backward": 0.0},
            "bytes_beside_the_blobs": {"native": 0.0, "article": 4.0, "python": 0.01, "numpy": 8.0}}


def test_ratios_are_times_over_the_native_layers():
    result = make_result(
        make_row(native=(1e-3, 2e-3), article=(3e-3, 9e-3), limit=(0.8e-3, 1e-3)),
        make_row(2, native=(5e-4, 1e-3), limit=(5e-4, 1e-3), torch=(2e-3, 3e-3)))
    lines = table.render(result).splitlines()
    forward, backward, on_two = (lines[lines.index(head) + 2].split() for head in (
        "forward, float32, 1 thread", "backward, float32, 1 thread", "forward, float32, 2 threads"))
    # elements, time, unit, bytes per element, GB/s, over the limit, the article's
    assert forward[:7] == ["1,000,000", "1.00", "ms", "8", "8.0", "1.25x", "3.0x"]
    assert backward[:7] == ["1,000,000", "2.00", "ms", "16", "8.0", "2.00x", "4.5x"]
    # without the columns of what has no threads
    assert on_two == ["1,000,000", "500.0", "us", "8", "16.0", "1.00x", "4.0x"]
    assert "| the article's layer | 3.0 ms (3.0x) | 9.0 ms (4.5x) |" in table.markdown(result)
    assert ("| 1,000,000 floats, 2 threads | forward | backward, both |\n|---|---|---|\n"
            "| native layer | 0.5 ms (1.0x) | 1.0 ms (1.0x) |") in table.markdown(result)


def test_the_tables_of_the_readmes_are_those_of_the_figures():
    made = table.markdown(json.loads(FIGURES.read_text()))
    assert made in (REPO / "scripts" / "README.md").read_text()
    short = speed_table("README.md")
    assert len(short) > 4 and set(short) <= set(made.splitlines())
    assert [numbers_of(row) for row in speed_table("README.zh-CN.md")] == list(
        map(numbers_of, short))


def speed_table(readme: str) -> list:
    """Those of its tables' rows that hold milliseconds, and the head of their table."""
    text = (REPO / readme).read_text(encoding="utf-8")
    [found] = [table for table in text.split("\n\n") if " ms (" in table]
    return found.splitlines()


def numbers_of(row: str) -> list:
    return re.findall(r"\d[\d,.]*", row)


@pytest.mark.parametrize("arguments, problem", [
    (["--torch", "/no/python"], "/no/python: No such file or directory"),
    (["--torch", "/bin/false"], "/bin/false cannot import torch; fix: "),
    (["--json", "/no/folder/b.json"], "/no/folder/b.json: no file can be written there"),
    (["--plot", "/tmp"], "/tmp: no file can be written there"),
    (["--counts", "0"], "at least 1"),
    (["--repetitions", "many"], "invalid positive value: 'many'"),
    (["--markdown", "/no/b.json"], "/no/b.json: No such file or directory"),
])
def test_what_cannot_be_is_said_before_anything_is_measured(arguments, problem):
    done = subprocess.run([sys.executable, str(REPO / "scripts" / "benchmark.py"), *arguments],
                          capture_output=True, text=True)
    assert done.returncode in (1, 2)
    assert problem in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr and "compiling" not in done.stderr
