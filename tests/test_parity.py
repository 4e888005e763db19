"""Losses and gradients in nets of a real Caffe equal those of PyTorch, Keras, TensorFlow and optax.

Their answers come as a file that parity_reference.py wrote, in $CAFFE_L1_PARITY or, by
scripts/test.sh, in $CAFFE_L1_WORK/parity.npz. The table of errors is in the summary of the run.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from caffe_worker import run_in
from environment import REPO
from l1_nets import net, stock_can_say

PYTHON_LAYER = REPO / "python_layer"
ROWS = ["BATCHMEAN", "MEAN", "SUM", "VALID_MEAN", "WEIGHTED_MEAN", "NONE", "NONE, axis -1",
        "NONE, axis k"]
SMOOTH = ["PyTorch smooth_l1_loss(beta)", "PyTorch huber_loss(delta)", "Keras Huber(delta)",
          "TensorFlow huber_loss(delta)", "optax huber_loss(delta)",
          "Fast R-CNN SmoothL1Loss { sigma }"]
TOLERANCE = 1e-6


@pytest.fixture(scope="session")
def reference():
    """Return about, from the file, whose cases have their arrays among them."""
    folder = os.environ.get("CAFFE_L1_WORK", "")
    path = Path(os.environ.get("CAFFE_L1_PARITY", Path(folder) / "parity.npz"))
    if not path.is_file():
        pytest.skip(f"no {path}; scripts/test.sh writes it, with tests/parity_reference.py")
    with np.load(str(path)) as file:
        about = json.loads(str(file["about"]))
        for name in file.files:
            if name != "about":
                number, array = name.split()
                about["cases"][int(number)][array] = file[name]
    return about


def table(route, errors):
    """The largest relative errors, by reduction and package, and then with beta."""
    packages = sorted({package for _, package in errors if package not in SMOOTH})
    yield f"parity of the {route} layer: largest relative error of loss / gradient, nets"
    yield f"{'':14}" + "".join(f"{name:>28}" for name in packages)
    for row in ROWS:
        yield f"{row:14}" + "".join(f"{cell(errors[row, name]):>28}" for name in packages)
    for name in SMOOTH:
        yield f"{name + ', any row:':42}" + f"{cell(errors['beta', name]):>28}"


def cell(errors):
    if not errors:
        return "-"
    loss, gradient = np.max(errors, axis=0)
    return f"{loss:.1e} / {gradient:.1e}, {len(errors)}"


def package_of(case):
    """Without its version where it is smooth, as in SMOOTH."""
    return re.sub(r" \d+(\.\d+)+", "", case["package"]) if row_of(case["options"]) == "beta" else (
        case["package"])


def row_of(options):
    if "beta" in options:
        return "beta"
    if "axis" not in options:
        return options["reduction"]
    return "NONE, axis -1" if options["axis"] == -1 else "NONE, axis k"


# In their gradients delta is added and subtracted, which leaves of small ones few digits.
CANCELS = ["TensorFlow huber_loss(delta)", "optax huber_loss(delta)"]


def relative_error(actual, expected, to_largest=False):
    """Return the largest error of an element relative to that element, or to the largest one.

    What is 0 must be 0.
    """
    assert actual.shape == expected.shape
    if not np.isfinite(actual).all():
        return math.inf
    error = np.abs(actual.astype(np.float64) - expected)
    scale = np.abs(expected.astype(np.float64))
    scale = scale.max() if to_largest else scale
    return float(np.where(error == 0, 0, error / np.where(scale == 0, 1e-300, scale)).max())


def job_of(route, case):
    inputs = {name: case[key] for name, key in (("x_in", "x"), ("y_in", "y"), ("w", "w"))
              if key in case}
    return {"net": net(route, case["options"], inputs), "inputs": [inputs]}


@pytest.fixture(scope="session", params=["python", "native"])
def route(request):
    """Return the name of the route and the PYTHONPATH of a Caffe that has it."""
    native = [request.getfixturevalue("native_caffe")] if request.param == "native" else []
    return request.param, [*native, PYTHON_LAYER]


def test_losses_and_gradients_equal_those_of_the_packages(reference, route, say):
    assert len(reference["cases"]) > 2000
    compare(*route, reference["cases"], say)


def test_those_of_caffes_own_layers_too(reference, say):
    """Where they can say it at all; no module of ours is on the path."""
    cases = [case for case in reference["cases"] if stock_can_say(
        case["options"], *(case[name].shape if name in case else None for name in "xyw"))]
    assert {row_of(case["options"]) for case in cases} == set(ROWS) - {
        "VALID_MEAN", "WEIGHTED_MEAN"}
    assert {"w" in case for case in cases} == {True, False}
    compare("stock", [], cases, say)


def compare(route, python_path, cases, say):
    errors = defaultdict(list)
    answers = run_in(python_path, [job_of(route, case) for case in cases])
    assert len(answers) == len(cases)
    for case, (answer,) in zip(cases, answers):
        loss = relative_error(answer["data"]["loss"], case["loss"])
        gradient = max(relative_error(answer["diff"][name], case[f"d{name}"],
                                      package_of(case) in CANCELS) for name in ("x", "y"))
        errors[row_of(case["options"]), package_of(case)].append((loss, gradient))
        assert max(loss, gradient) <= TOLERANCE, (loss, gradient, case)
    say("\n".join(table(route, errors)))


def test_every_row_is_compared_with_every_package_that_has_it(reference):
    seen = {(row_of(case["options"]), case["package"].split()[0]) for case in reference["cases"]}
    missing = {(row, package) for row in ROWS for package in ("PyTorch", "Keras", "TensorFlow")}
    assert missing - seen == {("NONE, axis k", "Keras")} - seen
    assert {package_of(case) for case in reference["cases"] if "beta" in case["options"]} == set(
        SMOOTH)
    axes = {case["x"].ndim for case in reference["cases"]}
    assert axes == {1, 2, 3, 4, 5}
    assert {"ignore_label", "ignore_nonfinite_target"} <= {
        name for case in reference["cases"] for name in case["options"]}


# Where an original does what nobody expects, and what we do

X = np.float32([[4, 8, 12], [8, 1, 3]])
Y = np.float32([[1, 9, 2], [-5, -2, 6]])


@pytest.fixture(scope="session")
def loss_of(route):
    """Return what the layer makes of inputs: the arrays of the net by name, data and diff."""
    def compute(options, *arrays):
        inputs = dict(zip(("x_in", "y_in", "w"), arrays))
        job = {"net": net(route[0], options, inputs), "inputs": [inputs]}
        return run_in(route[1], [job])[0][0]

    return compute


def test_keras_divides_by_the_weights_before_they_are_broadcast(reference, loss_of):
    weight = np.float32([[1], [3]])
    assert reference["traps"]["keras mean_with_sample_weight"] == (14 + 3 * 19) / (1 + 3)
    ours = loss_of({"reduction": "WEIGHTED_MEAN"}, X, Y, weight)["data"]["loss"]
    np.testing.assert_allclose(ours, (14 + 3 * 19) / (3 * 1 + 3 * 3), rtol=TOLERANCE)


def test_keras_sums_the_means_over_the_last_axis(reference, loss_of):
    assert reference["traps"]["keras sum"] == 11
    assert loss_of({"reduction": "SUM"}, X, Y)["data"]["loss"] == 33


def test_pytorch_broadcasts_shapes_that_differ(reference, loss_of):
    """(2, 1) against (2,) is four pairs there, with a warning, and two here."""
    x, y = X[:, :1], Y[:, 0]
    assert reference["traps"]["torch broadcast"] == (3 + 9 + 7 + 13) / 4
    assert "different to the input size" in reference["traps"]["torch broadcast warning"]
    assert loss_of({"reduction": "MEAN"}, x, y)["data"]["loss"] == (3 + 13) / 2


def test_pytorch_hides_nan_from_its_gradient(reference, loss_of):
    assert reference["traps"]["torch gradient at nan"] == [0, 1]
    answer = loss_of({"reduction": "SUM"}, np.float32([np.nan, 1]), np.float32([0, 0]))
    assert np.isnan(answer["data"]["loss"])
    np.testing.assert_allclose(answer["diff"]["x"], [np.nan, 3.7], rtol=TOLERANCE)
