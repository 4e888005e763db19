"""The mathematics and the layer once more, with numba, which l1_loss.py takes where it finds it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from environment import seeing

HERE = Path(__file__).resolve().parent
# scripts/test.sh unpacks numba there; everywhere else in the tests it is missing.
NUMBA = Path(os.environ.get("CAFFE_L1_WORK", "")) / "numba"
SAME_TESTS = ["test_math.py", "test_math_properties.py", "test_python_layer.py"]


def run_with_numba(*arguments: str) -> subprocess.CompletedProcess:
    if sys.version_info[:2] != (3, 9) or not (NUMBA / "numba").is_dir():
        pytest.skip(f"no numba in {NUMBA}; scripts/test.sh unpacks it there, for Python 3.9")
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False,
                          env=seeing(NUMBA, HERE.parent / "python_layer"))


def test_numba_is_taken_where_it_can_be_imported_and_only_there():
    import l1_loss
    assert l1_loss.fused is None
    found = run_with_numba("-c", "import l1_loss; print(l1_loss.fused.__name__)")
    assert found.stdout == "l1_loss_numba\n", found.stderr


@pytest.mark.parametrize("file", SAME_TESTS)
def test_all_tests_pass_with_numba(file):
    result = run_with_numba("-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / file))
    assert result.returncode == 0, result.stdout
    assert " passed" in result.stdout and "skipped" not in result.stdout
