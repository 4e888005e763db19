"""The mathematics under Python 2.7 and the numpy it has, as in most installed pycaffes.

Python 3 computes what to expect, by the loops of oracle.py, and Python 2.7 compares.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import oracle
import pytest
from environment import REPO
from l1_loss_checks import DEFAULTS
from param_str_cases import CASES

FOLDER = REPO / "python_layer"
# scripts/test.sh unpacks numpy 1.16.6 there.
NUMPY = Path(os.environ.get("CAFFE_L1_WORK", "")) / "python27"

COMPARE = """
import io, json, sys, warnings
warnings.simplefilter("error")
sys.path[:0] = sys.argv[1:3]
import numpy as np
import l1_loss
assert sys.version_info[:2] == (2, 7) and np.__version__ == "1.16.6"
l1_loss.BLOCK = int(sys.argv[3])

def array(value):
    return np.array(value, np.float32) if isinstance(value, list) else value

done = 0
for case in json.load(sys.stdin):
    inputs = {k: array(v) for k, v in case["inputs"].items()}
    close = lambda a, b: np.testing.assert_allclose(a, b, 1e-6, 1e-12, err_msg=repr(case))
    close(l1_loss.l1_loss(**inputs), case["loss"])
    gradients = l1_loss.l1_loss_grad(top_diff=array(case["top_diff"]), **inputs)
    for actual, expected in zip(gradients, case["gradients"]):
        close(actual, expected)
    done += 1
print(done)
"""


READ = """
import json, sys
sys.path[:0] = sys.argv[1:3]
import l1_loss_checks

def read(param_str):
    try:
        return l1_loss_checks.read_options(param_str)._asdict()
    except ValueError as error:
        return error.args[0]

# As unicode, and as bytes, which pycaffe gives.
texts = json.load(sys.stdin)
json.dump([[read(text), read(text.encode("utf-8"))] for text in texts], sys.stdout)
"""


def make_cases():
    rng = np.random.RandomState(27)
    shapes = [(3,), (2, 3), (2, 1, 4), (3, 2, 2, 2)]
    masks = [{}, {"ignore_label": 1}, {"ignore_nonfinite_target": True}, {"ignore_label": 1e300},
             {"beta": 1.5}]
    for shape in shapes:
        for weights in (None, (), shape[:1], (1, *shape[1:]), shape):
            for reduction in ("BATCHMEAN", "MEAN", "SUM", "VALID_MEAN", "WEIGHTED_MEAN", "NONE"):
                for mask in masks:
                    y = rng.randint(-2, 3, shape).astype(np.float32)
                    if "ignore_nonfinite_target" in mask:
                        y.flat[0] = np.nan
                        y.flat[-1] = np.inf
                    inputs = {"x": rng.randint(-2, 3, shape).astype(np.float32), "y": y}
                    if weights is not None:
                        inputs["weight"] = rng.choice([0, 0.5, 3], weights).astype(np.float32)
                    if mask.get("ignore_label") == 1e300:
                        inputs["x"].flat[-1] = np.nan
                    axis = int(rng.randint(-len(shape), len(shape)))
                    more = {"axis": axis} if reduction == "NONE" and rng.randint(2) else {}
                    yield {**inputs, **mask, **more, "reduction": reduction}


def with_expectations(inputs):
    loss = oracle.l1_loss(**inputs)
    top_diff = 3.7 * np.arange(1, np.size(loss) + 1).reshape(np.shape(loss))
    gradients = oracle.l1_loss_grad(top_diff=top_diff, **inputs)
    plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in inputs.items()}
    return {
        "inputs": plain,
        "loss": np.asarray(loss).tolist(),
        "top_diff": top_diff.tolist(),
        "gradients": [g.tolist() for g in gradients],
    }


def need_numpy():
    if not (NUMPY / "numpy").is_dir():
        pytest.skip(f"no numpy 1.16.6 for Python 2.7 in {NUMPY}; scripts/test.sh unpacks it there")


@pytest.mark.parametrize("block", ["131072", "3"])
def test_python_27_computes_the_same(block, python27):
    need_numpy()
    cases = [with_expectations(inputs) for inputs in make_cases()]
    command = [python27, "-c", COMPARE, str(FOLDER), str(NUMPY), block]
    result = subprocess.run(
        command, input=json.dumps(cases), text=True, capture_output=True, check=False,
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) == len(cases) == 600


def test_python_27_reads_a_param_str_as_listed(python27):
    need_numpy()
    result = subprocess.run(
        [python27, "-c", READ, str(FOLDER), str(NUMPY)], text=True, capture_output=True,
        input=json.dumps([param_str for param_str, _ in CASES]), check=False,
    )
    assert result.returncode == 0, result.stderr
    for (param_str, expected), found in zip(CASES, json.loads(result.stdout)):
        if isinstance(expected, dict):
            expected = DEFAULTS._replace(**expected)._asdict()
        assert found == [expected, expected], param_str


def test_every_module_is_python_27(python27):
    files = [str(path) for path in sorted(FOLDER.glob("l1_loss*.py"))]
    assert str(FOLDER / "l1_loss_layer.py") in files
    subprocess.run([python27, "-c", "import sys\nfor name in sys.argv[1:]:\n"
                    " compile(open(name).read(), name, 'exec')", *files], check=True)
