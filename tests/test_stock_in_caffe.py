"""What the documents say of the stock route, in a stock Caffe with nothing of ours on the path."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import oracle
import pytest
from caffe_l1.route.switch import switch
from caffe_worker import run_in
from environment import REPO, seeing
from l1_nets import LOSS_WEIGHT, grown, layer, net, relative_error

CASES = [{"reduction": "BATCHMEAN"}, {"reduction": "MEAN"}, {"reduction": "SUM"},
         {"reduction": "NONE"}, {"reduction": "NONE", "axis": 0}, {"reduction": "NONE", "axis": 1},
         {"reduction": "NONE", "axis": -1}]


def inputs(is_weighted: bool) -> dict:
    """With weights of both signs, and pairs that are equal."""
    generator = np.random.RandomState(4)
    x, y, w = (generator.randn(2, 3, 4).astype(np.float32) for _ in range(3))
    x[0, 0] = y[0, 0]
    return {"x_in": x, "y_in": y, **({"w": w} if is_weighted else {})}


@pytest.mark.parametrize("is_weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("options", CASES, ids=str)
def test_loss_and_gradients_also_after_the_batch_has_grown(options, is_weighted):
    small = inputs(is_weighted)
    passes = [small, grown(small), small]
    results = run_in([], [{"net": net("stock", options, small), "inputs": passes}])[0]
    for given, result in zip(passes, results):
        arrays = (given["x_in"], given["y_in"], given.get("w"))
        dx, dy = oracle.l1_loss_grad(*arrays, top_diff=LOSS_WEIGHT, **options)
        assert relative_error(result["data"]["loss"], oracle.l1_loss(*arrays, **options)) <= 1e-6
        assert relative_error(result["diff"]["x"], dx) <= 1e-6
        assert relative_error(result["diff"]["y"], dy) <= 1e-6
        assert not result["diff"].get("w", np.zeros(1)).any()


def test_weights_from_a_layer_that_learns_get_no_gradient():
    """The layer below would write its own gradient, were it asked."""
    scale = ('layer { name: "learned" type: "Scale" bottom: "w" top: "learned" '
             "scale_param { axis: 0 num_axes: 0 filler { value: 1 } } }")
    fixed = net("stock", {"reduction": "SUM"}, inputs(True))
    fixed = fixed.replace('bottom: "w"', 'bottom: "learned"')
    learned = fixed.replace('layer { name: "x" ', scale + '\nlayer { name: "x" ')
    [result] = run_in([], [{"net": learned, "inputs": [inputs(True)]}])[0]
    assert not result["diff"]["learned"].any() and result["diff"]["x"].any()


def test_nan_in_a_prediction_is_in_the_loss_but_not_in_the_gradient():
    given = inputs(False)
    given["x_in"][1, 2, 3] = np.nan
    for reduction in ("MEAN", "SUM", "BATCHMEAN"):
        job = {"net": net("stock", {"reduction": reduction}, given), "inputs": [given]}
        [result] = run_in([], [job])[0]
        assert np.isnan(result["data"]["loss"]) and result["diff"]["x"][1, 2, 3] == 0


def in_caffe(text: str, more: str, tmp_path) -> subprocess.CompletedProcess:
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    script = f"import caffe, sys\nnet = caffe.Net(sys.argv[1], caffe.TRAIN)\n{more}"
    return subprocess.run([sys.executable, "-c", script, str(path)], cwd=str(tmp_path), text=True,
                          capture_output=True, env=seeing(GLOG_minloglevel="2"))


@pytest.mark.parametrize("options, shapes, words", [
    ({}, "x: 3 y: 3", "axis 1 out of range for 1-D Blob"),
    ({"reduction": "MEAN"}, "x: 3,2 y: 3,2,1", "bottom[0]->shape() == bottom[i]->shape()"),
    ({"reduction": "MEAN"}, "x: 3,2 y: 3,2 w: 3", "bottom[0]->shape() == bottom[i]->shape()"),
])
def test_what_the_net_does_not_say_caffe_itself_refuses(options, shapes, words, tmp_path):
    """Aloud, and never by another loss."""
    given = dict(pair.split(": ") for pair in shapes.replace(" y", "|y").replace(" w", "|w")
                 .split("|"))
    inputs = [f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
              f'{" ".join("dim: " + n for n in shape.split(","))} }} }} }}'
              for name, shape in given.items()]
    done = in_caffe("\n".join([*inputs, layer("stock", options, "w" in given)]), "", tmp_path)
    assert done.returncode != 0 and words in done.stderr


def test_a_snapshot_in_hdf5(tmp_path):
    """Caffe makes a group of each layer's name, and HDF5 takes a slash for a path."""
    text = (REPO / "prototxt" / "plain_stock.prototxt").read_text()
    assert in_caffe(text, "net.save_hdf5('net.h5')", tmp_path).returncode == 0
    slashed = text.replace("loss_l1_", "loss/l1/")
    assert in_caffe(slashed, "net.save_hdf5('net.h5')", tmp_path).returncode != 0


def test_the_solver_of_a_plain_net_needs_nothing_of_ours(tmp_path):
    """caffe train, on the command line."""
    plain = (REPO / "prototxt" / "plain_native.prototxt").read_bytes()
    (tmp_path / "net.prototxt").write_bytes(switch(plain, "stock").data)
    (tmp_path / "solver.prototxt").write_text(
        (REPO / "prototxt" / "solver.prototxt").read_text())
    done = subprocess.run(["caffe", "train", "-solver", "solver.prototxt"], cwd=str(tmp_path),
                          env=seeing(GLOG_minloglevel="0"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Optimization Done." in done.stderr
