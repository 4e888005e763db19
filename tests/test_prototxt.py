"""Every net in the repository loads in a real Caffe and learns; the routes differ in one layer."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from caffe_l1.route.layer import ROUTES
from environment import REPO, seeing

NETS = sorted(path for path in REPO.rglob("*.prototxt")
              if path.relative_to(REPO).parts[0] != "build" and path.stem != "solver")
TRAINED = [path for path in NETS if path.stem != "deploy"]
BOTH = sorted({path.stem.rsplit("_", 1)[0] for path in TRAINED})

TRAIN = """
import json, sys, tempfile
import caffe
if sys.argv[1]:
    import l1_loss_plugin
    l1_loss_plugin.load(sys.argv[1])
losses = {}
for net in sys.argv[2:]:
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as solver:
        solver.write('net: "%s" base_lr: 0.02 lr_policy: "fixed" max_iter: 100 display: 0 '
                     'snapshot_after_train: false random_seed: 1701 solver_mode: CPU' % net)
        solver.flush()
        trained = caffe.get_solver(solver.name)
    def mean_of(steps):
        sums = 0.0
        for _ in range(steps):
            trained.step(1)
            sums += float(trained.net.blobs["loss"].data)
        return sums / steps
    first = mean_of(5)
    trained.step(90)
    losses[net] = [first, mean_of(5)]
print(json.dumps(losses))
"""


def trained(nets: list, python_path: list, plugin: str = "") -> dict:
    """The loss of each net in its first and in its last five of 100 steps."""
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, plugin, *map(str, nets)], text=True,
        capture_output=True, env=seeing(*python_path, GLOG_minloglevel="2"))
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def of_route(route: str) -> list:
    return [path for path in TRAINED if path.stem.endswith(f"_{route}")]


def check_learning(losses: dict, nets: list) -> None:
    assert len(nets) > 0 and set(losses) == set(map(str, nets))
    for net, (first, last) in losses.items():
        assert 0 < last < 0.8 * first, (net, first, last)  # not NaN either


def test_every_net_belongs_to_a_route():
    assert len(TRAINED) == sum(len(of_route(route)) for route in ROUTES)
    assert [path.name for path in NETS if path not in TRAINED] == ["deploy.prototxt"]


def test_the_stock_nets_learn_in_a_stock_caffe():
    check_learning(trained(of_route("stock"), []), of_route("stock"))


def test_the_python_nets_learn_in_a_stock_caffe():
    check_learning(trained(of_route("python"), [REPO / "python_layer"]), of_route("python"))


def test_the_native_nets_learn_in_a_patched_caffe(native_caffe):
    check_learning(trained(of_route("native"), [native_caffe]), of_route("native"))


def test_the_plugin_nets_learn_in_a_stock_caffe(plugin):
    check_learning(trained(of_route("plugin"), [REPO / "python_layer"], str(plugin)),
                   of_route("plugin"))


def test_the_deploy_net_loads_and_answers():
    import caffe
    import numpy as np
    net = caffe.Net(str(REPO / "prototxt" / "deploy.prototxt"), caffe.TEST)
    net.blobs["x"].data[...] = 1
    assert net.forward()["prediction"].shape == (1, 2)
    assert np.isfinite(net.blobs["prediction"].data).all()


SHOW = """
import json, sys
from caffe.proto import caffe_pb2
from google.protobuf import text_format
for path in sys.argv[1:]:
    net = text_format.Parse(open(path).read(), caffe_pb2.NetParameter())
    print(json.dumps([str(layer) for layer in net.layer]))
"""


@pytest.mark.parametrize("name", BOTH)
def test_the_routes_of_a_net_differ_in_one_layer(name, native_caffe):
    paths = [path for path in TRAINED if path.stem.rsplit("_", 1)[0] == name
             and not path.stem.endswith("_stock")]  # which has several; test_switch_route has them
    assert len(paths) >= 2
    done = subprocess.run([sys.executable, "-c", SHOW, *map(str, paths)], text=True,
                          stdout=subprocess.PIPE, check=True,
                          env=seeing(native_caffe))
    nets = [json.loads(line) for line in done.stdout.splitlines()]
    for net in nets[1:]:
        assert len(net) == len(nets[0])
        different = [i for i, (a, b) in enumerate(zip(net, nets[0])) if a != b]
        assert len(different) == 1 and 'type: "Python"' in nets[-1][different[0]]
