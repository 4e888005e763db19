"""Nets written with caffe.NetSpec: by every route, in a real Caffe, with the loss they ask for."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from caffe_l1.route.layer import ROUTES
from caffe_l1.route.switch import switch
from caffe_worker import run_in
from environment import REPO, seeing

SHAPE = (3, 4)
CASES = [
    {},
    {"reduction": "MEAN"},
    {"reduction": "SUM", "loss_weight": 0.5},
    {"reduction": "VALID_MEAN", "ignore_label": -1, "weight": True},
    {"reduction": "WEIGHTED_MEAN", "ignore_nonfinite_target": True, "weight": True},
    {"reduction": "MEAN", "beta": 0.5},
    {"reduction": "NONE", "axis": 1, "include": {"phase": 0}},
    {"reduction": None, "ignore_label": None, "name": "mine", "propagate_down": [True, False]},
    {"reduction": "SUM", "weight": True, "propagate_down": [True, False, False]},
    {"reduction": "NONE", "weight": True, "loss_weight": 0.5},
]
OF_ROUTES = [(route, case) for route in ROUTES for case in CASES
             if route != "stock" or not {*case, *map(str, case.values())} & {
                 "VALID_MEAN", "WEIGHTED_MEAN", "beta"}]

WRITE = """
import json, sys
import caffe, numpy
from caffe import layers as L
from l1_loss_net_spec import l1_loss

def written(route, case):
    n = caffe.NetSpec()
    for name in ("x", "y", "w"):
        n[name] = L.Input(shape=dict(dim=[3, 4]))
    n.prediction = L.Scale(n.x, axis=0, num_axes=0, filler=dict(value=1))
    if case.pop("weight", False):
        case["weight"] = n.w
    if "axis" in case:
        case["axis"] = numpy.int64(case["axis"])
    n.loss = l1_loss(n.prediction, n.y, route=route, **case)
    return str(n.to_proto())

print(json.dumps([written(sys.argv[1], case) for case in json.loads(sys.argv[2])]))
"""


def in_caffe(python_path: list, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], env=seeing(*python_path), text=True,
                          capture_output=True)


@pytest.fixture(scope="module")
def nets(caffes) -> dict:
    """The text of each case's net and what its Caffe makes of it, by route."""
    found = {}
    for route, caffe in caffes.items():
        cases = [case for name, case in OF_ROUTES if name == route]
        done = in_caffe([*caffe.python_path, REPO / "python_layer"], "-c", WRITE, route,
                        json.dumps(cases))
        assert done.returncode == 0, done.stderr
        texts = json.loads(done.stdout)
        jobs = [{"net": text, "inputs": [inputs()]} for text in texts]
        outcomes = run_in(caffe.python_path, jobs, caffe.plugin)
        found.update({(route, str(case)): (text, passes[0])
                      for case, text, passes in zip(cases, texts, outcomes)})
    return found


def inputs() -> dict:
    generator = np.random.RandomState(0)
    x, y = (generator.randn(*SHAPE).astype(np.float32) for _ in range(2))
    y[0, 1] = -1
    return {"x": x, "y": y, "w": generator.choice([0, 0.5, 3], SHAPE).astype(np.float32)}


def smooth(size: float, beta: float) -> float:
    return size**2 / (2 * beta) if size < beta else size - beta / 2


def expected(case: dict) -> np.ndarray:
    """The loss, element by element in float64."""
    given = inputs()
    w = given["w"] if case.get("weight") else np.ones(SHAPE)
    losses, valid, weights = np.zeros(SHAPE), 0, 0.0
    for i, x in np.ndenumerate(given["x"]):
        if case.get("ignore_label") is not None and given["y"][i] == case["ignore_label"]:
            continue
        losses[i] = float(w[i]) * smooth(abs(float(x) - float(given["y"][i])), case.get("beta", 0))
        valid += w[i] != 0
        weights += float(w[i])
    divisor = {"MEAN": 12, "SUM": 1, "VALID_MEAN": valid, "WEIGHTED_MEAN": weights}
    if case.get("reduction") == "NONE":
        return losses.mean(1) if "axis" in case else losses
    return losses.sum() / divisor.get(case.get("reduction"), 3)


@pytest.mark.parametrize("route, case", OF_ROUTES, ids=str)
def test_a_net_of_every_route_computes_what_was_asked_for(route, case, nets):
    net, outcome = nets[route, str(case)]
    assert switch(net.encode(), route).changed == 0  # it is of that route
    assert f"loss_weight: {case.get('loss_weight', 1)}" in net
    assert ('name: "mine"' in net) == ("name" in case)
    loss = outcome["data"]["loss"]
    assert loss.shape == np.shape(expected(case))
    assert np.allclose(loss, expected(case), rtol=1e-6, atol=0)
    assert np.abs(outcome["diff"]["prediction"]).sum() > 0


@pytest.mark.parametrize("arguments, message", [
    ('reductoin="MEAN"', 'l1_loss: unknown option "reductoin"; allowed: reduction, axis, '),
    ('reduction="MAEN"', 'l1_loss: option "reduction" is "MAEN"; allowed: BATCHMEAN, MEAN, SUM, '),
    ('axis=0', 'l1_loss: option "axis" needs "reduction": "NONE", not "BATCHMEAN"'),
    ('ignore_label=10**400', 'l1_loss: option "ignore_label" is 1000'),
    ('ignore_label=float("nan")',
     'l1_loss: option "ignore_label" is NaN; allowed: a finite number'),
    ('beta=-1', 'l1_loss: option "beta" is -1; allowed: a number from 0 to 3.4'),
    ('route="native"', 'l1_loss: route is "native", and this pycaffe is of a Caffe without the '
     'native layer; fix: scripts/apply_patch.py puts it in, or take "python" or "plugin"'),
    ('loss_param=dict(normalization=1)',
     'l1_loss: "loss_param" would not be read; fix: give the options themselves, such as '
     'reduction="MEAN"'),
    ('route="plugin", python_param=dict(param_str="{}")',
     'l1_loss: "python_param" would not be read; fix: '),
    ('l1_loss_param=dict(reduction=1)', 'l1_loss: "l1_loss_param" would not be read; fix: '),
    ('route="cuda"', 'l1_loss: route is "cuda"; allowed: stock, python, plugin, native'),
    ('route="stock", ignore_label=0',
     'l1_loss: Caffe\'s own layers have no option "ignore_label"; fix: take another route'),
    ('route="stock", reduction="VALID_MEAN"', 'l1_loss: Caffe\'s own layers have no "reduction": '
     '"VALID_MEAN"; fix: write MEAN, the same without weights'),
    ('x, route="stock", propagate_down=[True, True, True]',
     'l1_loss: weights get no gradient; fix: propagate_down=[..., False]'),
    ('route="stock", propagate_down=[True]',
     'l1_loss: "propagate_down" is [True]; fix: give it once for each bottom'),
    ('route="stock", loss_param=dict(normalization=1)', 'l1_loss: "loss_param" would not be read'),
])
def test_what_is_wrong_is_said_at_once(arguments, message):
    script = ("import caffe\nfrom l1_loss_net_spec import l1_loss\nx = caffe.layers.Input()\n"
              f"try: l1_loss(x, x, {arguments})\nexcept ValueError as error: print(error)")
    done = in_caffe([REPO / "python_layer"], "-c", script)
    assert message in done.stdout, done.stderr
