"""From EuclideanLoss to L1: what the READMEs say of the learning rate, on an autoencoder."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from environment import REPO, seeing

SIDE, BATCH, BATCHES, ITERATIONS = 28, 100, 20, 50
NET = """
layer { name: "data" type: "Input" top: "x" input_param { shape { dim: 100 dim: 784 } } }
layer { name: "encode" type: "InnerProduct" bottom: "x" top: "code"
  inner_product_param { num_output: 64 weight_filler { type: "xavier" } } }
layer { name: "sigmoid" type: "Sigmoid" bottom: "code" top: "code" }
layer { name: "decode" type: "InnerProduct" bottom: "code" top: "y"
  inner_product_param { num_output: 784 weight_filler { type: "xavier" } } }
"""
EUCLIDEAN = 'layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "x" top: "loss" }'
L1 = """layer { name: "loss" type: "Python" bottom: "y" bottom: "x" top: "loss" loss_weight: 1
  python_param { module: "l1_loss_layer" layer: "L1LossLayer"
                 param_str: '{"reduction": "%s"}' } }"""
SOLVER = """base_lr: 0.001 lr_policy: "fixed" momentum: 0.9 max_iter: 50 display: 0
snapshot_after_train: false random_seed: 1701 solver_mode: CPU net: "%s" """
TRAIN = """
import json, sys
import caffe, numpy
batches = numpy.load(sys.argv[2])
solver = caffe.get_solver(sys.argv[1])
blobs = solver.net.blobs
def error():
    total = 0.0
    for batch in batches:
        blobs["x"].data[...] = batch
        solver.net.forward()
        total += abs(blobs["y"].data - batch).mean()
    return total / len(batches)
first = error()
for step in range(int(sys.argv[3])):
    blobs["x"].data[...] = batches[step % len(batches)]
    solver.step(1)
print(json.dumps(float(1 - error() / first)))
"""
SAID = {"README.md": r"falls by (\d+) %\s+with\s+EuclideanLoss,\s+by (\d+) %\s+with\s+BATCHMEAN\s+"
                     r"and\s+by (\d+) %\s+with\s+MEAN",
        "README.zh-CN.md": r"EuclideanLoss 下降 (\d+) %，用 BATCHMEAN 下降 (\d+) %，"
                           r"用 MEAN 只下降 (\d+) %"}


@pytest.fixture(scope="module")
def fall(tmp_path_factory) -> list:
    """By what part the mean absolute error falls, with EuclideanLoss, BATCHMEAN and MEAN."""
    import numpy as np
    misc = pytest.importorskip("scipy.misc")
    if not hasattr(misc, "face"):
        pytest.skip("this scipy has no photograph any more; leave CAFFE_ROOT unset")
    folder = tmp_path_factory.mktemp("euclidean")
    photograph = misc.face(gray=True).astype(np.float32) / 255
    random = np.random.RandomState(1701)
    rows, columns = (random.randint(0, length - SIDE, BATCH * BATCHES)
                     for length in photograph.shape)
    patches = np.array([photograph[row:row + SIDE, column:column + SIDE].ravel()
                        for row, column in zip(rows, columns)])
    np.save(folder / "patches.npy", patches.reshape(BATCHES, BATCH, -1))
    return [trained(folder, loss) for loss in (EUCLIDEAN, L1 % "BATCHMEAN", L1 % "MEAN")]


def trained(folder: Path, loss: str) -> float:
    net, solver = folder / "net.prototxt", folder / "solver.prototxt"
    net.write_text(NET + loss)
    solver.write_text(SOLVER % net)
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, str(solver), str(folder / "patches.npy"), str(ITERATIONS)],
        env=seeing(REPO / "python_layer", GLOG_minloglevel="2"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("readme", SAID)
def test_the_readme_says_how_far_each_reduction_gets_with_the_same_learning_rate(readme, fall):
    [said] = re.findall(SAID[readme], (REPO / readme).read_text(encoding="utf-8"))
    # Of the last digit another BLAS may make another one.
    assert [100 * part for part in fall] == pytest.approx(list(map(int, said)), abs=1.5)
