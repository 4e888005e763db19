"""What iter_size 4 makes of each reduction: four quarters of a batch against the whole of it.

Caffe divides the sum of the quarters' gradients by iter_size, as NCCL divides the sum over the GPUs
by their number. So this is what several GPUs make of it, too, each with a batch of its own.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from caffe_l1.route.layer import ROUTES
from caffe_l1.route.switch import switch
from environment import seeing

N, FEATURES, OUTPUTS, PARTS, RATE = 16, 4, 2, 4, 0.1

# The blobs come one behind the other in the channels of a MemoryData layer, the only one that takes
# its data from memory and goes on to the next batch by itself.
NET = """
layer {{ name: "data" type: "MemoryData" top: "all" top: "label"
  memory_data_param {{ batch_size: {batch} channels: 8 height: 1 width: 1 }} }}
layer {{ name: "silence" type: "Silence" bottom: "label" }}
layer {{ name: "slice" type: "Slice" bottom: "all" top: "x" top: "target 4" top: "weight 4"
  slice_param {{ axis: 1 slice_point: 4 slice_point: 6 }} }}
layer {{ name: "target" type: "Flatten" bottom: "target 4" top: "target" }}
layer {{ name: "weight" type: "Flatten" bottom: "weight 4" top: "weight" }}
layer {{ name: "fc" type: "InnerProduct" bottom: "x" top: "prediction"
  inner_product_param {{ num_output: 2 weight_filler {{ type: "gaussian" }} }} }}
layer {{ name: "loss" type: "Python" bottom: "prediction" bottom: "target" {third} top: "loss"
  loss_weight: {loss_weight}
  python_param {{ module: "l1_loss_layer" layer: "L1LossLayer" param_str: '{options}' }} }}
{silence}
"""
SOLVER = """net: "{net}" iter_size: {iter_size} base_lr: {rate} lr_policy: "fixed" momentum: 0
max_iter: 1 display: 0 snapshot_after_train: false random_seed: 1701 solver_mode: CPU"""

RUN = """
import pickle, sys
import caffe, numpy as np
if sys.argv[2]:
    import l1_loss_plugin
    l1_loss_plugin.load(sys.argv[2])
with open(sys.argv[1], "rb") as file:
    solvers, data = pickle.load(file)
updates = []
for path, values in zip(solvers, data):
    solver = caffe.get_solver(path)
    solver.net.set_input_arrays(values, np.zeros(len(values), np.float32))
    before = solver.net.params["fc"][0].data.copy()
    solver.step(1)
    updates.append((before, before - solver.net.params["fc"][0].data))
with open(sys.argv[1], "wb") as file:
    pickle.dump(updates, file)
"""

IGNORE = {"ignore_label": -1}
# Options, whether there is a third bottom, whether targets are ignored or weighted evenly over the
# quarters, and the loss_weight that makes the quarters equal to the whole; None where none does.
CASES = {
    "BATCHMEAN": ({}, False, True, 1),
    "BATCHMEAN, masked and weighted": (IGNORE, True, False, 1),
    "MEAN": ({"reduction": "MEAN"}, False, True, 1),
    "MEAN, masked and weighted": ({"reduction": "MEAN", **IGNORE}, True, False, 1),
    "SUM": ({"reduction": "SUM"}, False, True, PARTS),
    "SUM, masked and weighted": ({"reduction": "SUM", **IGNORE}, True, False, PARTS),
    "NONE": ({"reduction": "NONE"}, False, True, PARTS),
    "NONE, per sample": ({"reduction": "NONE", "axis": 1}, True, False, PARTS),
    "NONE, axis 0": ({"reduction": "NONE", "axis": 0}, True, False, 1),
    "VALID_MEAN, as many everywhere": ({"reduction": "VALID_MEAN", **IGNORE}, False, True, 1),
    "WEIGHTED_MEAN, the same sum": ({"reduction": "WEIGHTED_MEAN"}, True, True, 1),
    "VALID_MEAN": ({"reduction": "VALID_MEAN", **IGNORE}, True, False, None),
    "WEIGHTED_MEAN": ({"reduction": "WEIGHTED_MEAN"}, True, False, None),
}


def says(route: str, name: str) -> bool:
    """Caffe's own layers have no masks, no count of elements and no sum of weights."""
    options = CASES[name][0]
    is_counted = options.get("reduction") in ("VALID_MEAN", "WEIGHTED_MEAN")
    return route != "stock" or not (is_counted or options.keys() & IGNORE.keys())


OF_ROUTES = [(route, name) for route in ROUTES for name in CASES if says(route, name)]


def values(even: bool) -> np.ndarray:
    """Features, targets and weights; ignored targets and large weights in the first quarter."""
    generator = np.random.RandomState(3)
    found = generator.randn(N, 8).astype(np.float32)
    found[:, 6:] = [0.5, 2] if even else generator.choice([0, 0.5, 3], (N, OUTPUTS))
    found[:: N // PARTS] = np.where(np.arange(8) == 5, -1, found[:: N // PARTS])
    if not even:
        found[1:4, 4:6] = -1
        found[:4, 6:] = 7
    return found.reshape(N, 8, 1, 1)


def job(folder: Path, route: str, name: str, iter_size: int, loss_weight: float) -> str:
    options, weighted, _, _ = CASES[name]
    net = NET.format(
        batch=N // iter_size, options=json.dumps(options), loss_weight=loss_weight,
        third='bottom: "weight"' if weighted else "",
        silence="" if weighted else 'layer { name: "s" type: "Silence" bottom: "weight" }')
    path = folder / f"{len(list(folder.iterdir()))}.prototxt"
    path.write_bytes(switch(net.encode(), route).data)
    solver = path.with_suffix(".solver")
    solver.write_text(SOLVER.format(net=path, iter_size=iter_size, rate=RATE))
    return str(solver)


@pytest.fixture(scope="module")
def updates(caffes, tmp_path_factory) -> dict:
    """By route and case: what one step takes from the weights, for the whole and the quarters."""
    found = {}
    for route, caffe in caffes.items():
        folder = tmp_path_factory.mktemp(route)
        solvers, data = [], []
        names = [name for of, name in OF_ROUTES if of == route]
        for name in names:
            _, _, even, weight = CASES[name]
            solvers += [job(folder, route, name, 1, 1), job(folder, route, name, PARTS, 1),
                        job(folder, route, name, PARTS, weight or 1)]
            data += [values(even)] * 3
        pickled = folder / "job"
        pickled.write_bytes(pickle.dumps((solvers, data)))
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(pickled), caffe.plugin], capture_output=True, text=True,
            env=seeing(*caffe.python_path))
        assert done.returncode == 0, done.stderr[-3000:]
        results = pickle.loads(pickled.read_bytes())
        for number, name in enumerate(names):
            found[route, name] = results[3 * number : 3 * number + 3]
    return found


def gradient(name: str, weights: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Of one batch's loss with respect to the weights, element by element in float64."""
    options, weighted, _, _ = CASES[name]
    found, valid, total = np.zeros(weights.shape), 0, 0.0
    for row in rows.reshape(-1, 8).astype(np.float64):
        for k in range(OUTPUTS):
            target, w = row[FEATURES + k], row[6 + k] if weighted else 1.0
            if target == options.get("ignore_label"):
                continue
            valid, total = valid + (w != 0), total + w
            prediction = sum(row[i] * float(weights[k, i]) for i in range(FEATURES))
            for i in range(FEATURES):
                found[k, i] += w * np.sign(prediction - target) * row[i]
    reduction = options.get("reduction", "BATCHMEAN")
    if reduction == "NONE":
        reduction = {None: "SUM", 1: "SUM of samples", 0: "MEAN"}[options.get("axis")]
    divisors = {"BATCHMEAN": len(rows), "MEAN": len(rows) * OUTPUTS, "SUM": 1, "VALID_MEAN": valid,
                "WEIGHTED_MEAN": total, "SUM of samples": OUTPUTS}
    return found / divisors[reduction]


def differ(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max() / np.abs(other).max())


@pytest.mark.parametrize("route, name", OF_ROUTES)
def test_the_steps_are_those_of_the_formula(route, name, updates):
    data = values(CASES[name][2])
    for (before, update), parts in zip(updates[route, name][:2], (1, PARTS)):
        quarters = [gradient(name, before, rows) for rows in np.split(data, parts)]
        assert differ(update, RATE * sum(quarters) / parts) < 1e-5


@pytest.mark.parametrize("route, name", [(r, name) for r, name in OF_ROUTES if CASES[name][3]])
def test_four_quarters_make_a_whole(route, name, updates):
    (_, whole), (_, quarters), (_, scaled) = updates[route, name]
    assert differ(scaled, whole) < 1e-5
    # A reduction that sums loses the factor iter_size where loss_weight does not give it back.
    assert differ(CASES[name][3] * quarters, whole) < 1e-5


@pytest.mark.parametrize("route, name", [
    (r, name) for r, name in OF_ROUTES if CASES[name][3] is None])
def test_a_mean_of_means_over_unlike_quarters_is_another_mean(route, name, updates):
    (_, whole), (_, quarters), _ = updates[route, name]
    factor = float((quarters * whole).sum() / (quarters * quarters).sum())
    assert differ(quarters, whole) > 0.1
    assert differ(factor * quarters, whole) > 0.1  # no loss_weight helps


TWO_SOLVERS = """
import sys
import caffe
if len(sys.argv) > 3:
    import l1_loss_plugin
    l1_loss_plugin.load(sys.argv[3])
caffe.set_solver_count(2)
caffe.set_multiprocess(sys.argv[2] == "train.py")
caffe.Net(sys.argv[1], caffe.TRAIN)
print("made")
"""


@pytest.mark.parametrize("route, of, makes", [
    ("stock", "caffe train", True), ("python", "caffe train", False),
    ("python", "train.py", True), ("plugin", "caffe train", True),
    ("native", "caffe train", True)])
def test_which_route_caffe_lets_several_gpus_train(route, of, makes, caffes, tmp_path):
    """As the README says: the command line tool refuses Python layers where there are several."""
    caffe = caffes[route]
    solver = job(tmp_path, route, "MEAN", 1, 1)
    done = subprocess.run(
        [sys.executable, "-c", TWO_SOLVERS, solver.replace(".solver", ".prototxt"), of,
         *[caffe.plugin] * bool(caffe.plugin)], capture_output=True, text=True,
        env=seeing(*caffe.python_path))
    assert (done.returncode == 0 and "made" in done.stdout) == makes, done.stderr
    assert ("PythonLayer does not support CLI Multi-GPU, use train.py" in done.stderr) != makes
