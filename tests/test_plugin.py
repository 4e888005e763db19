"""The native layer as a plugin of a stock Caffe that nobody rebuilt."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import l1_loss_plugin
import numpy as np
import pytest
from caffe_worker import run_in
from test_routes_agree import cases, grown, net, relative_error

REPO = Path(__file__).resolve().parent.parent
BUILD = [sys.executable, str(REPO / "scripts" / "build_plugin.py")]

NET = """
layer { name: "data" type: "DummyData" top: "x" top: "target" dummy_data_param {
  shape { dim: 16 dim: 4 } data_filler { type: "gaussian" }
  shape { dim: 16 dim: 1 } data_filler { type: "constant" value: 3 } } }
layer { name: "fc" type: "InnerProduct" bottom: "x" top: "prediction"
  inner_product_param { num_output: 1 } }
layer { name: "loss" type: "L1Loss" bottom: "prediction" bottom: "target" top: "loss"
  python_param { param_str: '{"reduction": "MEAN"}' } }
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 60 display: 10 snapshot: 0
snapshot_prefix: "net" snapshot_after_train: true random_seed: 1701 solver_mode: CPU
"""


def run(command: list, **kwargs) -> SimpleNamespace:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          **kwargs)
    return SimpleNamespace(code=done.returncode, output=done.stdout)


def in_stock_caffe(script: str, python_path: tuple = (), **environment: str) -> SimpleNamespace:
    """A Python program in a process of its own, since a plugin is never unloaded."""
    paths = os.pathsep.join(map(str, [*python_path, REPO / "python_layer"]))
    return run([sys.executable, "-c", script],
               env=dict(os.environ, PYTHONPATH=paths, GLOG_minloglevel="1", **environment))


@pytest.fixture(scope="session")
def plugin(work: Path) -> Path:
    path = work / "plugin.so"
    built = run([*BUILD, "-o", str(path)])
    assert built.code == 0, built.output
    assert re.search(r"built \S+plugin.so in [\d.]+ s", built.output)
    return path


@pytest.fixture
def training(tmp_path: Path) -> Path:
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    return tmp_path


def test_it_computes_what_the_python_layer_computes(plugin):
    outcome = {route: run_in([REPO / "python_layer"], [
        {"net": net(route, options, inputs), "inputs": [inputs, grown(inputs), inputs]}
        for options, inputs in cases()], str(plugin)) for route in ("python", "plugin")}
    for case, python, native in zip(cases(), outcome["python"], outcome["plugin"]):
        for a, b in zip(python, native):
            for name, kind in (("loss", "data"), ("x", "diff"), ("y", "diff")):
                assert np.isfinite(b[kind][name]).all()
                assert relative_error(a[kind][name], b[kind][name]) <= 1e-6, (case[0], name)


def test_loading_twice_is_fine(plugin):
    done = in_stock_caffe(f"""
import caffe, l1_loss_plugin
assert "L1Loss" not in caffe.layer_type_list()
print([l1_loss_plugin.load({str(plugin)!r}) for _ in range(2)])
print("L1Loss" in caffe.layer_type_list())
""")
    assert done.output.split("\n")[-3:] == ["[True, True]", "True", ""], done.output


def test_a_caffe_with_an_l1_loss_keeps_its_own(plugin, native_caffe):
    done = in_stock_caffe(f"""
import caffe, l1_loss_plugin
print(l1_loss_plugin.load({str(plugin)!r}))
""", (native_caffe,))
    assert done.code == 0 and done.output.endswith("False\n"), done.output
    assert "this Caffe has an L1Loss layer already" in done.output


def test_a_caffe_with_an_l1_loss_survives_a_preloaded_plugin(plugin, native_caffe):
    library = (native_caffe.parent / "build" / "lib").resolve()
    done = in_stock_caffe("import caffe; print(caffe.__file__, 'alive')", (native_caffe,),
                          LD_PRELOAD=str(plugin), LD_LIBRARY_PATH=str(library))
    assert done.code == 0 and f"{native_caffe}/caffe/__init__.py" in done.output, done.output
    assert "this Caffe has an L1Loss layer already; the plugin leaves it in place" in done.output


def test_a_caffe_with_an_l1_loss_gets_no_plugin(native_caffe, tmp_path):
    line = failure(["-o", str(tmp_path / "x.so")], CAFFE_ROOT=str(native_caffe.parent))
    assert "this Caffe has an L1Loss layer already, and needs no plugin; fix: " in line


def test_it_trains_in_pycaffe(plugin, training):
    done = in_stock_caffe(f"""
import os, caffe, l1_loss_plugin
l1_loss_plugin.load({str(plugin)!r})
os.chdir({str(training)!r})
solver = caffe.get_solver("solver.prototxt")
solver.step(1)
before = float(solver.net.blobs["loss"].data)
solver.step(59)
print(before, float(solver.net.blobs["loss"].data))
""")
    before, after = map(float, done.output.split("\n")[-2].split())
    assert before > 2 and after < 0.5, done.output


def test_the_command_line_tool_trains_tests_and_times_with_it(plugin, training):
    def caffe(*arguments: str) -> SimpleNamespace:
        return run(["caffe", *arguments], cwd=training,
                   env=dict(os.environ, LD_PRELOAD=str(plugin), GLOG_minloglevel="0"))

    train = caffe("train", "-solver", "solver.prototxt")
    assert train.code == 0, train.output
    losses = [float(loss) for loss in re.findall(r"Iteration \d+.*, loss = (\S+)", train.output)]
    assert losses[0] > 2 and losses[-1] < 0.5, losses
    test = caffe("test", "-model", "net.prototxt", "-weights", "net_iter_60.caffemodel",
                 "-iterations", "5")
    assert test.code == 0 and float(re.findall(r"Loss: (\S+)", test.output)[-1]) < 0.5, test.output
    timing = caffe("time", "-model", "net.prototxt", "-iterations", "2")
    assert timing.code == 0 and re.search(r"loss\s+backward: ", timing.output), timing.output


def test_a_wrong_option_is_one_line_that_lists_the_allowed_ones(plugin, training):
    (training / "net.prototxt").write_text(NET.replace("reduction", "reductoin"))
    done = in_stock_caffe(f"""
import caffe, l1_loss_plugin
l1_loss_plugin.load({str(plugin)!r})
caffe.Net({str(training / "net.prototxt")!r}, caffe.TRAIN)
""")
    line = next(line for line in done.output.splitlines() if "L1Loss layer" in line)
    assert 'L1Loss layer "loss": ' in line and "reductoin" in line
    assert "allowed: reduction (BATCHMEAN, MEAN, SUM, VALID_MEAN, WEIGHTED_MEAN, NONE)" in line


# ---- What cannot be loaded is refused before it is ---------------------------

def refusal(path: Path) -> str:
    with pytest.raises(l1_loss_plugin.PluginError) as error:
        l1_loss_plugin.load(str(path))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_plugin(tmp_path):
    assert "none.so: no such file; fix: build" in refusal(tmp_path / "none.so")


def test_a_library_that_is_no_plugin(tmp_path):
    (tmp_path / "other.so").write_bytes(b"\x7fELF" + bytes(1000))
    assert "other.so: this is no L1Loss plugin; fix: " in refusal(tmp_path / "other.so")


def test_a_plugin_for_another_caffe(plugin, tmp_path):
    mark = l1_loss_plugin.MARK.search(plugin.read_bytes()).group(1)
    other = tmp_path / "other.so"
    other.write_bytes(plugin.read_bytes().replace(mark, b"0" * 64))
    assert "was built for another Caffe than" in refusal(other)


# ---- What cannot be built ----------------------------------------------------

def failure(arguments: list, **environment: str) -> str:
    done = run([*BUILD, *arguments], env=dict(os.environ, **environment))
    assert done.code == 1, done.output
    return done.output.splitlines()[-1]


def test_without_a_compiler(tmp_path):
    for tool in ("ldd", "nm", "protoc", "sh", "bash"):
        (tmp_path / tool).symlink_to(f"/usr/bin/{tool}" if Path(f"/usr/bin/{tool}").exists()
                                     else f"/bin/{tool}")
    line = failure(["-o", str(tmp_path / "x.so")], PATH=str(tmp_path))
    assert line == "g++ is not on PATH; fix: apt-get install g++"
    assert not (tmp_path / "x.so").exists()


def test_into_a_folder_that_is_not_there(tmp_path):
    line = failure(["-o", str(tmp_path / "none" / "x.so")])
    assert line.endswith("none: no such folder; fix: make it first, or name another with -o")


def test_with_a_protoc_that_does_not_fit(tmp_path):
    broken = tmp_path / "protoc"
    broken.write_text("#!/bin/sh\necho Unknown flag: --descriptor_set_in\nexit 1\n")
    broken.chmod(0o755)
    line = failure(["-o", str(tmp_path / "x.so")], PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert line.startswith("protoc failed: Unknown flag: --descriptor_set_in; fix: ")
