"""A net that was switched gives the same loss and gradients, in the real Caffe of each route."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from caffe_l1.route.layer import ROUTES
from caffe_l1.route.switch import switch
from environment import REPO, seeing

FILES = {path.stem: path.read_bytes() for path in sorted((REPO / "prototxt").glob("*.prototxt"))
         if path.stem not in ("deploy", "solver")}
DATA = FILES["weighted_native"].decode().rsplit("layer {", 1)[0]
BOTTOMS = "bottom: 'prediction' bottom: 'target' top: 'loss'"
# The loss layer as people write it: defaults, odd spellings, and a top that is no loss itself.
BY_HAND = {
    "native, loss_weight by default": f"layer {{ name: 'l' type: 'L1Loss' {BOTTOMS} }}",
    "native, unreduced and trained": f"""layer {{
  name: "l"  type: "L1" "Loss"  {BOTTOMS}
  l1_loss_param < reduction: NONE; axis: 01, >  # one per sample
}}""",
    "native, by loss_param": f"""layer {{
  name: "l" type: "L1Loss" {BOTTOMS}
  loss_param {{ normalization: FULL }}
  include {{ phase: TRAIN }}
}}""",
    "native, by the older normalize": f"layer {{ name: 'l' type: 'L1Loss' {BOTTOMS} "
                                      "loss_param { normalize: true ignore_label: 1 } }",
    "python, no loss": f"""layer {{
  name: "l" type: "Python" {BOTTOMS}
  python_param {{ module: 'l1_loss_layer' layer: 'L1LossLayer' }}
}}""",
    "python, unreduced, for another layer": f"""layer {{
  name: "l" type: 'Python' {BOTTOMS.replace('loss', 'each')} # no loss itself
  python_param: <
    module: 'l1_loss' '_layer', layer: "L1LossLayer";
    # the JSON in two parts
    param_str: "{{\\"reduction\\":" # first
               ' "NONE"}}'
  >
}}
layer {{ name: "sum" type: "Reduction" bottom: "each" top: "loss" loss_weight: 0.3 }}""",
    "plugin, weighted": f"""layer {{ name: "l" type: 'L1Loss' {BOTTOMS}
  bottom: "weight" propagate_down: true propagate_down: true propagate_down: false
  python_param {{ param_str: '{{"reduction": "WEIGHTED_MEAN", "ignoreLabel": 1.5}}' }}
  loss_weight: [0.25]
}}""",
    "plugin, weighted, the sum": f"""layer {{ name: "l" type: "L1Loss" {BOTTOMS} bottom: "weight"
  python_param {{ param_str: '{{"reduction": "SUM"}}' }} loss_weight: 0.25 }}""",
    "native, weighted, unreduced and trained": f"""layer {{ name: "l" type: "L1Loss" {BOTTOMS}
  bottom: "weight" loss_weight: 0.5 l1_loss_param {{ reduction: NONE }} }}""",
    "native, smooth": f"""layer {{ name: 'l' type: 'L1Loss' {BOTTOMS}
  l1_loss_param {{ reduction: MEAN beta: .5f }} }}""",
    "plugin, without options": f"layer {{ name: 'l' type: 'L1Loss' {BOTTOMS} python_param {{ }} }}",
}
NETS = {**FILES, **{name: (DATA + text).encode() for name, text in BY_HAND.items()}}

RUN = """
import pickle, sys
import caffe
if sys.argv[2]:
    import l1_loss_plugin
    l1_loss_plugin.load(sys.argv[2])
caffe.set_mode_cpu()
found = {}
with open(sys.argv[1], "rb") as file:
    names = pickle.load(file)
for name, path in names.items():
    caffe.set_random_seed(1701)
    net = caffe.Net(path, caffe.TRAIN)
    net.forward()
    net.backward()
    found[name] = {"loss": net.blobs["loss"].data.copy()}
    for layer, blobs in net.params.items():
        for number, blob in enumerate(blobs):
            found[name]["%s %d" % (layer, number)] = blob.diff.copy()
with open(sys.argv[1], "wb") as file:
    pickle.dump(found, file)
"""


def said_by_stock(net: bytes) -> bool:
    """Whether it has no masks, no beta, no count of weights, and the weights of each element."""
    others = (b"VALID", b"WEIGHTED", b"ignore", b"beta", b"normalize: true")
    return not any(word in net for word in others)


@pytest.fixture(scope="module")
def results(caffes, tmp_path_factory) -> dict:
    """Every net's loss and gradients, by route."""
    found = {}
    for route, caffe in caffes.items():
        folder = tmp_path_factory.mktemp(route)
        paths = {}
        for number, (name, net) in enumerate(NETS.items()):
            if route == "stock" and not said_by_stock(net):
                continue
            paths[name] = str(folder / f"{number}.prototxt")
            Path(paths[name]).write_bytes(switch(net, route).data)
        job = folder / "job"
        job.write_bytes(pickle.dumps(paths))
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(job), caffe.plugin], capture_output=True, text=True,
            env=seeing(*caffe.python_path))
        assert done.returncode == 0, done.stderr[-3000:]
        found[route] = pickle.loads(job.read_bytes())
    return found


@pytest.mark.parametrize("name", NETS)
def test_all_routes_give_the_same_loss_and_gradients(name, results):
    python, *others = (results[route][name] for route in ("python", *ROUTES)
                       if name in results[route])
    assert len(others) == 3 + said_by_stock(NETS[name]) and len(python) > 1
    assert all(set(other) == set(python) for other in others)
    for what in python:
        scale = max(np.abs(python[what]).max(), 1e-30)
        assert np.isfinite(python[what]).all()
        for other in others:
            assert other[what].shape == python[what].shape
            assert np.abs(other[what] - python[what]).max() / scale <= 1e-6, what


@pytest.mark.parametrize("name", NETS)
def test_what_learns_and_what_does_not(name, results):
    gradients = [np.abs(value).sum() for what, value in results["native"][name].items()
                 if what != "loss"]
    assert any(gradients) == (name != "python, no loss")
    assert np.abs(results["native"][name]["loss"]).sum() > 0
