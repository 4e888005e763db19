"""The Python layer and the native layer compute the same, on the same nets of a patched Caffe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from caffe_worker import run_in
from environment import REPO
from l1_nets import MASKS, REDUCTIONS, X_SHAPES, cases, grown, net, relative_error


@pytest.fixture(scope="session")
def results(native_caffe: Path) -> dict:
    """What each route makes of every case, at its batch size, thrice that, and at the first."""
    python_path = [native_caffe, REPO / "python_layer"]
    return {route: run_in(python_path, [
        {"net": net(route, options, inputs), "inputs": [inputs, grown(inputs), inputs]}
        for options, inputs in cases()]) for route in ("python", "native")}


@pytest.mark.parametrize("name, kind", [("loss", "data"), ("x", "diff"), ("y", "diff")])
def test_python_and_native_layer_agree(results, name, kind):
    worst = 0.0
    for case, python, native in zip(cases(), results["python"], results["native"]):
        for step, (a, b) in enumerate(zip(python, native)):
            assert np.isfinite(b[kind][name]).all(), (case, step)
            error = relative_error(a[kind][name], b[kind][name])
            assert error <= 1e-6, (case[0], step, a[kind][name], b[kind][name])
            worst = max(worst, error)
    print(f"{name} {kind}: {len(cases())} nets, 3 passes each, largest relative error {worst:.1e}")


def test_the_cases_are_not_trivial(results):
    losses = [np.abs(passes[0]["data"]["loss"]).sum() for passes in results["native"]]
    assert len(losses) == len(REDUCTIONS) * len(MASKS) * len(X_SHAPES)
    assert np.mean(np.array(losses) > 0.01) > 0.9
