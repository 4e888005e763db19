"""However a net is spelled: all routes mean the same, and what was written once comes back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import l1_loss_checks
import pytest
from caffe_l1 import cli
from caffe_l1.patch.naming import Naming
from caffe_l1.patch.payload import message_text
from caffe_l1.patch.proto_edit import insert
from caffe_l1.patch.protoc import parse
from caffe_l1.patch.record import addition
from caffe_l1.route.layer import ROUTES as ALL_ROUTES
from caffe_l1.route.switch import switch
from google.protobuf import text_format
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from param_str_cases import ACCEPTED, REFUSED
from route_nets import REDUCTIONS, drawn_nets
from test_param_str import c_escaped

FUZZ = settings(deadline=None, max_examples=200, suppress_health_check=list(HealthCheck))
ROUTES = [route for route in ALL_ROUTES if route != "stock"]
DEFAULTS = l1_loss_checks.DEFAULTS._asdict()


@pytest.fixture(scope="session")
def caffe_pb2(caffe_source: Path, tmp_path_factory):
    """The messages of a Caffe that the kit patched, as the real protoc makes them."""
    folder = tmp_path_factory.mktemp("proto")
    (folder / "src/caffe/proto").mkdir(parents=True)
    data = (caffe_source / "src/caffe/proto/caffe.proto").read_bytes()
    ours = addition(Naming(), message_text(Naming()))
    patched = insert(data, ours, lambda text: parse(text, folder / "src/caffe/proto"))
    # A name of its own: the test's process may hold the messages of a stock Caffe already.
    (folder / "patched_caffe.proto").write_bytes(patched.replace(b"package caffe;",
                                                                b"package patched_caffe;"))
    subprocess.run(["protoc", "--python_out=.", "patched_caffe.proto"], cwd=folder, check=True)
    sys.path.insert(0, str(folder))
    import patched_caffe_pb2
    return patched_caffe_pb2


@FUZZ
@given(net=drawn_nets(), to=st.sampled_from(ROUTES),
       way=st.lists(st.sampled_from(ROUTES), max_size=5))
def test_what_was_written_once_comes_back_byte_for_byte(net, to, way):
    once = switch(net[1], to)
    assume(once.changed == once.layers)
    there = once.data
    for stop in [*way, to]:
        there = switch(there, stop).data
    assert there == once.data, there.decode("latin-1")


@FUZZ
@given(net=drawn_nets(), first=st.sampled_from(ROUTES), second=st.sampled_from(ROUTES))
def test_every_spelling_means_the_same_to_caffe(caffe_pb2, net, first, second):
    _, data, meanings = net
    there = switch(switch(data, first).data, second)
    check_route(there.data, second, meanings, caffe_pb2)
    assert rest(there.data, caffe_pb2) == rest(data, caffe_pb2)


@FUZZ
@given(net=drawn_nets(for_stock=True), to=st.sampled_from(ALL_ROUTES),
       way=st.lists(st.sampled_from(ALL_ROUTES), max_size=5))
def test_what_came_back_from_caffes_own_layers_once_too(net, to, way):
    once = switch(net[1], "stock").data
    for stop in ("python", to):
        once = there = switch(once, stop).data
    for stop in [*way, to]:
        there = switch(there, stop).data
    assert there == once, there.decode("latin-1")


@FUZZ
@given(net=drawn_nets(for_stock=True), to=st.sampled_from(ROUTES))
def test_caffes_own_layers_in_between_change_no_meaning(caffe_pb2, net, to):
    _, data, meanings = net
    stock = switch(data, "stock")
    assert stock.changed == stock.layers == len(meanings)
    assert not ours(protoc(stock.data, caffe_pb2))
    there = switch(stock.data, to).data
    check_route(there, to, meanings, caffe_pb2)
    assert rest(there, caffe_pb2) == rest(data, caffe_pb2)


@settings(FUZZ, max_examples=60)
@given(net=drawn_nets(), to=st.sampled_from(ROUTES))
def test_caffes_own_parser_reads_what_comes_out(caffe_pb2, net, to):
    assert len(ours(protoc(switch(net[1], to).data, caffe_pb2))) == len(net[2])


def protoc(data: bytes, caffe_pb2):
    """The net as protoc reads it: by the same C++ as Caffe."""
    folder = Path(caffe_pb2.__file__).parent
    done = subprocess.run(["protoc", "--encode=patched_caffe.NetParameter", "patched_caffe.proto"],
                          cwd=folder, input=data, capture_output=True)
    assert done.returncode == 0, done.stderr
    return caffe_pb2.NetParameter.FromString(done.stdout)


@pytest.mark.parametrize("opening", [
    'type: "Python" python_param { module: "l1_loss_layer" layer: "L1LossLayer"',
    'type: "L1Loss" python_param {'], ids=["python", "plugin"])
class TestParamStr:
    """switch_route reads what the layers read, and refuses the rest in their words."""

    def test_each_that_is_accepted_is_switched_with_its_meaning(self, opening, caffe_pb2):
        net = "\n".join(f"layer {{ {opening} param_str: '{c_escaped(text)}' }} }}"
                        for text, _ in ACCEPTED).encode()
        expected = [{**DEFAULTS, **meaning} for _, meaning in ACCEPTED]
        for route in ROUTES:
            layers = ours(protoc(switch(net, route).data, caffe_pb2))
            assert [options_of(layer, route) for layer in layers] == expected

    def test_each_that_is_refused_is_refused_in_one_line(self, opening, tmp_path, capfd):
        net = tmp_path / "net.prototxt"
        for text, words in REFUSED:
            before = f"layer {{ {opening} param_str: '{c_escaped(text)}' }} }}"
            net.write_text(before)
            where = f"{net}:1:{before.index('param_str') + 1}"
            for route in ROUTES:
                assert cli.main([str(net), "--to", route, "--in-place"], "switch_route.py",
                                ["switch-route"]) == 1
                assert capfd.readouterr() == ("", f"switch_route: {where}: {words}\n")
            assert net.read_text() == before


@FUZZ
@given(net=drawn_nets(), to=st.sampled_from(ROUTES))
def test_a_second_time_changes_nothing(net, to):
    once = switch(net[1], to)
    again = switch(once.data, to)
    assert again.data == once.data and again.changed == 0
    assert once.layers == again.layers == len(net[2])


def read(data: bytes, caffe_pb2):
    return text_format.Parse(data.decode("latin-1"), caffe_pb2.NetParameter())


def ours(net) -> list:
    return [layer for layer in net.layer
            if layer.type == "L1Loss" or layer.python_param.module == "l1_loss_layer"]


def check_route(data: bytes, route: str, meanings: list, caffe_pb2) -> None:
    """What protobuf itself, and the Python layer's own reader, read in the layers."""
    layers = ours(read(data, caffe_pb2))
    assert len(layers) == len(meanings)
    for layer, meaning in zip(layers, meanings):
        default = 0.0 if route == "python" else 1.0
        assert (list(layer.loss_weight) or [default]) == [meaning.loss_weight]
        assert layer.type == ("Python" if route == "python" else "L1Loss")
        assert layer.HasField("python_param") <= (route != "native")
        assert layer.HasField("l1_loss_param") <= (route == "native")
        if route == "python":
            assert layer.python_param.layer == "L1LossLayer"
        assert options_of(layer, route) == {**DEFAULTS, **meaning.options}


def options_of(layer, route: str) -> dict:
    if route == "native":
        found = {field.name: value for field, value in layer.l1_loss_param.ListFields()}
        if "reduction" in found:
            found["reduction"] = REDUCTIONS[found["reduction"]]
        return {**DEFAULTS, **found}
    return l1_loss_checks.read_options(layer.python_param.param_str)._asdict()


def rest(data: bytes, caffe_pb2) -> str:
    """The net without what differs between the routes."""
    net = read(data, caffe_pb2)
    for layer in ours(net):
        for name in ("type", "python_param", "l1_loss_param", "loss_weight"):
            layer.ClearField(name)
    return str(net)
