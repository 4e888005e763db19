"""switch_route.py: what it writes, and that it writes nothing where it refuses."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from caffe_l1 import cli
from caffe_l1.route import files
from caffe_l1.route.layer import ROUTES
from caffe_l1.route.switch import switch
from caffe_l1.route.text_format import Problem, place
from environment import REPO

NETS = [net for net in sorted((REPO / "prototxt").glob("*.prototxt")) if net.stem != "solver"]
WITH_LOSS = [path for path in NETS if path.stem != "deploy"]
SAID_BY_STOCK = {path.stem.rsplit("_", 1)[0] for path in WITH_LOSS if path.stem.endswith("_stock")}
OF_ONE_LAYER = [route for route in ROUTES if route != "stock"]


def switch_net(arguments: list[str]) -> int:
    return cli.main(arguments, "switch_route.py", ["switch-route"])


def switched(text, *routes: str) -> bytes:
    data = text if isinstance(text, bytes) else text.encode()
    for route in routes:
        data = switch(data, route).data
    return data


def layer(content: str, kind: str = "L1Loss") -> str:
    return f"""layer {{
  name: "loss"
  type: "{kind}"
  bottom: "x"
  bottom: "y"
  top: "loss"
{content}}}
"""


# ---- The nets of this repository ---------------------------------------------

@pytest.mark.parametrize("path", WITH_LOSS, ids=lambda path: path.stem)
@pytest.mark.parametrize("way", itertools.permutations(ROUTES), ids="-".join)
def test_a_net_through_all_routes_is_the_same_file(path, way):
    name, start = path.stem.rsplit("_", 1)
    net = path.read_bytes()
    if name not in SAID_BY_STOCK:
        with pytest.raises(Problem, match="Caffe's own layers have no "):
            switched(net, "stock")
        way = [route for route in way if route != "stock"]
    assert switched(net, *way, start) == net


def body(data: bytes) -> list:
    """Without the line that says which route it is and what that needs."""
    lines = [line for line in data.split(b"\n") if not line.startswith(b"# By ")]
    assert len(lines) == data.count(b"\n")
    return lines


@pytest.mark.parametrize("path", WITH_LOSS, ids=lambda path: path.stem)
def test_a_net_becomes_the_net_that_was_written_by_hand(path):
    name = path.stem.rsplit("_", 1)[0]
    for other in WITH_LOSS:
        if other.stem.rsplit("_", 1)[0] == name:
            route = other.stem.rsplit("_", 1)[1]
            assert body(switched(path.read_bytes(), route)) == body(other.read_bytes())


# ---- A table: before, route, after -------------------------------------------

PYTHON = """  loss_weight: 1
  python_param {
    module: "l1_loss_layer"
    layer: "L1LossLayer"
"""
BLOCK = 'python_param { module: "l1_loss_layer" layer: "L1LossLayer" }'
INLINE = ("layer { type: 'Python' loss_weight: 1 python_param "
          "{ module: \"l1_loss_layer\" layer: \"L1LossLayer\" ")
TABLE = {
    "native without loss_weight, which is 1 there": (
        layer("  l1_loss_param { reduction: SUM }\n"), "python",
        layer(PYTHON + "    param_str: '{\"reduction\": \"SUM\"}'\n  }\n", "Python")),
    "native without anything": (layer(""), "python", layer(PYTHON + "  }\n", "Python")),
    "python without loss_weight has none": (
        layer('  python_param {\n    module: "l1_loss_layer"\n    layer: "L1LossLayer"\n'
              "    param_str: '{\"reduction\": \"NONE\", \"axis\": -1}'\n  }\n", "Python"),
        "native",
        layer("  loss_weight: 0\n  l1_loss_param { reduction: NONE axis: -1 }\n")),
    "on one line": (
        "layer { type: 'L1Loss' l1_loss_param { reduction: MEAN } }", "python",
        INLINE + "param_str: '{\"reduction\": \"MEAN\"}' } }"),
    "on one line, without anything": (
        "layer{type:'L1Loss'}", "python", "layer{type:'Python' loss_weight: 1 python_param "
        '{ module: "l1_loss_layer" layer: "L1LossLayer" }}'),
    "on one line, with a loss_weight that is no default": (
        INLINE.replace("1", "5", 1) + "} }", "native",
        "layer { type: 'L1Loss' loss_weight: 5 }"),
    "on one line, with the loss_weight that is the default": (
        INLINE + "} }", "native", "layer { type: 'L1Loss' loss_weight: 1 }"),
    "a comment among the options": (
        layer("  l1_loss_param {\n    # holes\n    reduction: VALID_MEAN ignore_label: -1\n  }\n"),
        "plugin",
        layer("  loss_weight: 1\n  python_param {\n    # holes\n    param_str: "
              "'{\"reduction\": \"VALID_MEAN\", \"ignore_label\": -1}'\n  }\n")),
    "a comment and no options": (
        layer("  l1_loss_param {\n    # all as by default\n  }\n"), "plugin",
        layer("  loss_weight: 1\n  python_param {\n    # all as by default\n  }\n")),
    "options that take several lines": (
        layer("  l1_loss_param {\n    reduction: MEAN\n  }\n"), "plugin",
        layer("  loss_weight: 1\n  python_param { param_str: '{\"reduction\": \"MEAN\"}' }\n")),
    "numbers and words that JSON has not": (
        "layer { type: 'L1Loss' l1_loss_param { reduction: 5 axis: - 0x1 ignore_label: .5 "
        "ignore_nonfinite_target: t beta: 010 } }", "plugin",
        "layer { type: 'L1Loss' loss_weight: 1 python_param { param_str: "
        "'{\"reduction\": \"NONE\", \"axis\": -1, \"ignore_label\": 0.5, "
        "\"ignore_nonfinite_target\": true, \"beta\": 8}' } }"),
    "what loss_param says": (
        layer("  loss_weight: 1\n  loss_param { normalization: FULL ignore_label: 3 }\n"), "python",
        layer("  loss_weight: 1\n  loss_param { normalization: FULL ignore_label: 3 }\n"
              '  python_param {\n    module: "l1_loss_layer"\n    layer: "L1LossLayer"\n'
              "    param_str: '{\"reduction\": \"MEAN\", \"ignore_label\": 3}'\n  }\n", "Python")),
    "a solver that holds its net": (
        "train_net_param { layer { type: 'L1Loss' l1_loss_param { axis: 0 reduction: NONE } } }",
        "plugin", "train_net_param { layer { type: 'L1Loss' loss_weight: 1 python_param "
        "{ param_str: '{\"axis\": 0, \"reduction\": \"NONE\"}' } } }"),
    "tabs": (
        "net_param {\n\tlayer {\n\t\ttype: \"L1Loss\"\n\t}\n}", "python",
        "net_param {\n\tlayer {\n\t\ttype: \"Python\"\n\t\tloss_weight: 1\n\t\tpython_param {\n"
        "\t\t\tmodule: \"l1_loss_layer\"\n\t\t\tlayer: \"L1LossLayer\"\n\t\t}\n\t}\n}"),
    "three in one list": (
        "layer: [{type: 'L1Loss' l1_loss_param {reduction: SUM}}, {type: 'ReLU'}, {}]", "plugin",
        "layer: [{type: 'L1Loss' loss_weight: 1 python_param { param_str: "
        "'{\"reduction\": \"SUM\"}' }}, {type: 'ReLU'}, {}]"),
    "a block of its own indentation, in the middle of a line, behind other blanks": (
        "layer {\n  type: 'Python'\n  loss_weight: 1\n    python_param {\n"
        "      module: 'l1_loss_layer' layer: 'L1LossLayer' }\n}\n"
        "layer { loss_weight: 2 " + BLOCK + " type: 'Python' }\n"
        "layer { type: 'Python'  " + BLOCK + " }", "native",
        "layer {\n  type: 'L1Loss'\n  loss_weight: 1\n    l1_loss_param { }\n}\n"
        "layer { loss_weight: 2 l1_loss_param { } type: 'L1Loss' }\n"
        "layer { type: 'L1Loss'  loss_weight: 0 }"),
    "indented as the line in front of it": (
        'layer { name: "l"\n   type: "L1Loss"\n      top: "x"\n}', "python",
        'layer { name: "l"\n   type: "Python"\n      top: "x"\n      loss_weight: 1\n'
        '      python_param {\n            module: "l1_loss_layer"\n'
        '            layer: "L1LossLayer"\n      }\n}'),
    "a comment in a block that begins in a line": (
        "layer { type: 'L1Loss' l1_loss_param { # all\n} }", "plugin",
        "layer { type: 'L1Loss' loss_weight: 1 python_param {\n  # all\n} }"),
    "numbers at their limits": (
        "layer { type: 'L1Loss' l1_loss_param { reduction: NONE axis: -2147483648 "
        "ignore_label: 1e300 } }", "plugin",
        "layer { type: 'L1Loss' loss_weight: 1 python_param { param_str: "
        "'{\"reduction\": \"NONE\", \"axis\": -2147483648, \"ignore_label\": 1e+300}' } }"),
    "in the order of the net, whatever loss_param says": (
        "layer { type: 'L1Loss' loss_param { normalization: FULL } "
        "l1_loss_param { ignore_label: 3 reduction: MEAN } }", "plugin",
        "layer { type: 'L1Loss' loss_param { normalization: FULL } loss_weight: 1 "
        "python_param { param_str: '{\"ignore_label\": 3, \"reduction\": \"MEAN\"}' } }"),
    "behind a semicolon": (
        layer("  phase: TRAIN ;\n"), "python",
        layer("  phase: TRAIN ;\n" + PYTHON + "  }\n", "Python")),
}


@pytest.mark.parametrize("name", TABLE)
def test_what_becomes_of_a_layer(name):
    before, route, after = TABLE[name]
    assert switched(before, route).decode() == after
    for way in itertools.permutations(OF_ONE_LAYER):
        assert switched(after, *way, route).decode() == after


@pytest.mark.parametrize("loss_param, reduction", [
    ("normalization: FULL", "MEAN"), ("normalization: VALID", "VALID_MEAN"),
    ("normalization: BATCH_SIZE", "BATCHMEAN"), ("normalization: NONE", "SUM"),
    ("normalization: 0", "MEAN"), ("normalization: 1", "VALID_MEAN"),
    ("normalization: 2", "BATCHMEAN"), ("normalization: 3", "SUM"),
    ("normalize: true", "VALID_MEAN"), ("normalize: false", "BATCHMEAN"),
    ("normalize: true normalization: FULL", "MEAN"), ("", None)])
def test_what_loss_param_means(loss_param, reduction):
    """As the native layer reads it; that the numbers are protobuf's own, says caffe.proto."""
    before = f"layer {{ type: 'L1Loss' loss_param {{ {loss_param} }} }}"
    after = switched(before, "python").decode()
    assert (f'{{"reduction": "{reduction}"}}' in after) == bool(reduction)
    assert ("param_str" in after) == bool(reduction)
    assert f"loss_param {{ {loss_param} }}" in switched(after, "plugin", "native").decode()


def test_a_native_layer_without_options_is_a_plugins_as_well():
    assert switched(layer(""), "plugin").decode() == layer("")


LEFT_ALONE = """# layer { type: "L1Loss" l1_loss_param { reduction: MEAN } }
layer { name: "layer { type: 'L1Loss' }" type: "Python" bottom: "x"
  python_param { module: "other" layer: "L1LossLayer" param_str: "{}" } }
layer { name: "l" type: "Python" python_param { module: "l1_loss_layer" layer: "Mine" } }
layer { name: "p" type: "Power" power_param { scale: 2 } }
layers { name: "old" type: POWER }
"""


@pytest.mark.parametrize("start, to", itertools.permutations(ROUTES, 2))
def test_what_is_no_l1_layer_is_left_alone(start, to):
    l1 = switched(layer("  l1_loss_param { reduction: MEAN }\n"), start).decode()
    expected = switched(l1, to).decode()
    before = LEFT_ALONE + l1 + LEFT_ALONE + l1
    assert switched(before, to).decode() == LEFT_ALONE + expected + LEFT_ALONE + expected


def test_bytes_that_are_no_text_stay():
    before = b"\xef\xbb\xbf# \xe9t\xe9 \xff\r\nlayer {\r\n  type: \"L1Loss\" # \xe9\r\n}"
    python = switched(before, "python")
    assert python.startswith(before[: before.index(b'"L1Loss"')] + b'"Python" # \xe9\r\n')
    assert b"\n" not in python.replace(b"\r\n", b"") and python.endswith(b"\r\n}")
    assert switched(python, "plugin", "native", "python") == python


def test_lines_end_as_those_around_them():
    dos = layer("  l1_loss_param { # all\n  }\n").replace("\n", "\r\n").encode()
    for net in (dos, dos.replace(b"\r\n  l1_", b" l1_")):
        mixed = switched(b"# unix\n" + net, "python")
        assert mixed.count(b"\n") == mixed.count(b"\r\n") + 1
    assert b"\r" not in switched(dos.replace(b"\r", b""), "python")


def test_a_comment_that_1_0_0_left_is_one_like_any_other():
    left = """  # switch_route keeps the native spelling: type: "L1Loss" l1_loss_param {\\n}
  loss_weight: 1
"""
    plugin = layer(left + "  python_param { param_str: '{\"reduction\": \"MEAN\"}' }\n")
    native = layer(left + "  l1_loss_param { reduction: MEAN }\n")
    assert switched(plugin, "native").decode() == native
    assert switched(native, "plugin").decode() == plugin


# ---- What is refused: line, column, problem ----------------------------------

REFUSED = {
    "layer {\n  name: 'a\n}": (2, 9, "the string does not end on its line; fix: close the quote"),
    "layer {\n  name: 'a'\n": (3, 1, "expected '}', found the end of the file; fix: "),
    "layer {\n} }": (2, 3, "expected the name of a field, found '}'; fix: "),
    "layer {\n  a 1 }": (2, 5, "expected ':' or '{', found '1'; fix: "),
    "layer {\n  \u00e9: ( }": (2, 3, "'\u00e9' is not valid here; fix: "),
    "layer { # \u00e9\n b: '\u00e9\u00e9' ( }": (2, 10, "'(' is not valid here; fix: "),
    "layer { b: }": (1, 12, "expected a value, found '}'; fix: "),
    "layer { b: '\\x' }": (1, 13, "this escape is not valid in a string; fix: "),
    "a { " * 101: (1, 403, "more than 100 levels of brackets; fix: "),
    "": (1, 1, "no L1 layer; fix: give a net that has a layer of type L1Loss, or of type "),
    "layer { type: 'ReLU' }": (1, 1, "no L1 layer; fix: "),
    "\nlayers { type: POWER }": (2, 1, "no L1 layer, and the old layers { } cannot be one; "),
    "layer { type: 'L1Loss'\n type: 'L1Loss' }": (2, 2, '"type" is given twice in this layer; '),
    "layer { type: 'L1Loss' l1_loss_param { } python_param { } }": (
        1, 42, "this layer has both python_param and l1_loss_param; fix: remove one"),
    "layer { type: 'L1Loss' l1_loss_param { reductoin: SUM } }": (
        1, 40, 'unknown field "reductoin" in l1_loss_param; allowed: reduction, axis, ignore'),
    "layer { type: 'L1Loss' l1_loss_param { reduction: MAEN } }": (
        1, 40, 'option "reduction" is "MAEN"; allowed: BATCHMEAN, MEAN, SUM, VALID_MEAN, WEIGHTE'),
    "layer { type: 'L1Loss' l1_loss_param { ignore_label: inf } }": (
        1, 40, 'option "ignore_label" is inf; allowed: a finite number'),
    "layer { type: 'L1Loss' l1_loss_param { beta: -1 } }": (
        1, 40, 'option "beta" is -1; allowed: a number from 0 to 3.4028234663852886e+38'),
    "layer { type: 'L1Loss' l1_loss_param { beta: nan } }": (
        1, 40, 'option "beta" is nan; allowed: a number from 0 to 3.4028234663852886e+38'),
    "layer { type: 'L1Loss' l1_loss_param { axis: 1.5 } }": (
        1, 40, 'option "axis" is 1.5; allowed: an integer'),
    "layer { type: 'L1Loss' l1_loss_param { ignore_nonfinite_target: true axis: 1 } }": (
        1, 70, 'option "axis" needs "reduction": "NONE", not "BATCHMEAN"'),
    "layer { type: 'L1Loss' loss_param { normalization: FULL }\n l1_loss_param { axis: 1 } }": (
        2, 18, 'option "axis" needs "reduction": "NONE", not "MEAN"'),
    "layer { type: ['L1Loss'] }": (1, 9, '"type" is a list; fix: give it one value'),
    "layer { type: L1Loss }": (1, 9, '"type" is not a string; fix: put it in quotes'),
    "layer { type: 'L1Loss' l1_loss_param { reduction: 'MEAN' } }": (
        1, 40, '"reduction" is not a word or a number; fix: remove its quotes or brackets'),
    "layer { type: 'L1Loss' l1_loss_param { [a.b/c]: 3 } }": (
        1, 40, 'unknown field "[a.b/c]" in l1_loss_param; allowed: reduction, axis, ignore'),
    "layer { type: 'L1Loss' l1_loss_param { axis: [1 2] } }": (1, 49, "expected ']', found '2'; "),
    "layer { type: 'L1Loss' l1_loss_param: 3 }": (
        1, 24, '"l1_loss_param" has no brackets; fix: '),
    "layer { type: 'L1Loss' loss_param { ignore_label: none } }": (
        1, 24, 'option "ignore_label" is "none"; allowed: a finite number'),
    "layer { type: 'L1Loss' loss_param { normalization: MEAN } }": (
        1, 24, "normalization is MEAN; allowed: FULL, VALID, BATCH_SIZE, NONE"),
    "layer { type: 'L1Loss' loss_param { normalization: FULL } "
    "python_param { param_str: '{\"reduction\": \"SUM\"}' } }": (
        1, 59, 'option "reduction" is "SUM", but loss_param says "MEAN", which L1Loss reads and '),
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_refused(text):
    line, column, message = REFUSED[text]
    with pytest.raises(Problem) as error:
        switch(text.encode(), "python")
    assert place(text.encode(), error.value.offset or 0) == (line, column)
    assert str(error.value).startswith(message), str(error.value)


@pytest.mark.parametrize("given, loss_param, problem", [
    ("reduction: SUM", "normalization: FULL", 'but loss_param says "MEAN"'),
    ("", "normalization: FULL", 'but loss_param says "MEAN"'),
    ("", "ignore_label: 255", 'but loss_param says 255'),
    ("ignore_label: 254", "ignore_label: 255", 'but loss_param says 255')])
def test_a_python_layer_whose_loss_param_would_begin_to_count(given, loss_param, problem):
    text = switched(layer(f"  l1_loss_param {{ {given} }}\n"), "python").replace(
        b"  loss_weight", f"  loss_param {{ {loss_param} }}\n  loss_weight".encode())
    for route in ("native", "plugin"):
        with pytest.raises(Problem, match=problem):
            switch(text, route)


def test_a_python_layer_whose_loss_param_says_the_same():
    text = switched(layer("  l1_loss_param { ignore_label: 255.0 }\n"), "python").replace(
        b"  loss_weight", b"  loss_param { ignore_label: 255 normalize: false }\n  loss_weight")
    assert b"l1_loss_param { ignore_label: 255 }" in switched(text, "native")


# ---- What is deep or long ----------------------------------------------------

def test_a_message_is_short_whatever_is_in_the_net():
    with pytest.raises(Problem) as error:
        switch(b"layer { name: 'a' %s }" % (b"x" * 10000), "python")
    assert len(str(error.value)) < 250


@pytest.mark.parametrize("content", [b"x" * 10000000, b"\\n" * 2000000], ids=["plain", "escapes"])
def test_a_long_string_takes_memory_for_its_bytes_alone(net, content):
    net.write_bytes(net.read_bytes() + b"layer { name: '%s' }\n" % content)
    done = limited("ulimit -v 500000", "net.prototxt", "--to", "plugin", "--in-place")
    assert done.returncode == 0, done.stderr[-300:]
    assert content in net.read_bytes()


def test_a_long_name_takes_time_for_its_bytes_alone(net):
    """By seconds of the processor: a copy of all for each part would take five times as many."""
    net.write_bytes(net.read_bytes() + b"[a%s]: 1\n" % (b".a" * 1000000))
    done = limited("ulimit -t 25", "net.prototxt", "--to", "plugin")
    assert done.returncode == 0, done.stderr[-300:]


def limited(limit: str, *arguments: str) -> subprocess.CompletedProcess:
    """The script, with no more kilobytes or seconds than that."""
    script = str(REPO / "scripts" / "switch_route.py")
    return subprocess.run(["bash", "-c", f'{limit} && exec "$@"', "bash", sys.executable, script,
                           *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


# ---- The command line --------------------------------------------------------

@pytest.fixture
def net(tmp_path, monkeypatch) -> Path:
    (tmp_path / "nets").mkdir()
    monkeypatch.chdir(tmp_path / "nets")
    path = tmp_path / "nets" / "net.prototxt"
    path.write_bytes((REPO / "prototxt" / "plain_native.prototxt").read_bytes())
    path.chmod(0o640)
    os.utime(str(path), (1, 1))
    return path


def state(folder: Path) -> dict:
    return {p.name: (p.read_bytes(), p.lstat().st_mtime_ns, p.lstat().st_mode, p.is_symlink())
            for p in folder.iterdir() if p.is_file()}


def test_it_prints_a_diff_that_patch_reads_and_writes_nothing(net, capfdbinary):
    before = state(net.parent)
    assert switch_net(["net.prototxt", "--to", "python"]) == 0
    assert state(net.parent) == before
    output = capfdbinary.readouterr()
    assert output.err == (b"switch_route: net.prototxt: 1 of 1 L1 layer switched to python, not "
                          b"written: add --in-place to write the file\n")
    subprocess.run(["git", "apply", "-p1", "-"], input=output.out, check=True)
    assert net.read_bytes() == switched(before["net.prototxt"][0], "python")


def test_a_diff_of_a_file_without_a_last_line_end(net, capfdbinary):
    net.write_bytes(b"# \xe9\r\nlayer { type: 'L1Loss' }")
    assert switch_net(["net.prototxt", "--to", "python"]) == 0
    subprocess.run(["git", "apply", "-p1", "-"], input=capfdbinary.readouterr().out, check=True)
    assert net.read_bytes().startswith(b"# \xe9\r\nlayer { type: 'Python' loss_weight: 1")
    assert not net.read_bytes().endswith(b"\n")


def test_in_place_keeps_the_mode_and_leaves_no_other_file(net, capfdbinary):
    expected = switched(net.read_bytes(), "plugin")
    assert switch_net(["net.prototxt", "--to", "plugin", "--in-place"]) == 0
    assert os.listdir(str(net.parent)) == ["net.prototxt"]
    assert net.read_bytes() == expected and net.stat().st_mode & 0o7777 == 0o640
    output = capfdbinary.readouterr()
    assert output.err.endswith(b"switched to plugin, written\n")
    assert b"+  python_param" in output.out


def test_in_place_through_a_symbolic_link(net):
    link = net.parent / "link"
    link.symlink_to("net.prototxt")
    assert switch_net([str(link), "--to", "plugin", "--in-place"]) == 0
    assert link.is_symlink() and b"python_param" in net.read_bytes()


def test_an_edit_in_the_same_moment_is_not_lost(net):
    old = net.read_bytes()
    net.write_bytes(b"edited")
    with pytest.raises(Problem, match="was changed by another program just now"):
        files.write(net, old, switched(old, "plugin"))
    assert net.read_bytes() == b"edited" and os.listdir(str(net.parent)) == ["net.prototxt"]


def test_what_is_so_already_is_not_touched(net, capfdbinary):
    before = state(net.parent)
    assert switch_net(["net.prototxt", "--to", "native", "--in-place"]) == 0
    assert state(net.parent) == before
    output = capfdbinary.readouterr()
    assert output.out == b""
    assert output.err == b"switch_route: net.prototxt: already native, nothing to do\n"


def failure(capfd, *arguments: str) -> str:
    assert switch_net([*arguments, "--to", "python", "--in-place"]) == 1
    output = capfd.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    return output.err


def test_a_file_that_is_not_there(net, capfd):
    assert failure(capfd, "none.prototxt") == (
        "switch_route: none.prototxt: no such file or directory; fix: give the path of a file that "
        "you can read\n")


def test_a_folder_and_a_pipe(net, capfd):
    assert failure(capfd, ".").startswith("switch_route: .: is a folder; fix: ")
    os.mkfifo("pipe")
    assert failure(capfd, "pipe").startswith("switch_route: pipe: is not a regular file; fix: ")


def test_a_net_that_does_not_parse(net, capfd):
    net.write_text("layer {\n  name: (\n}")
    before = state(net.parent)
    assert failure(capfd, "net.prototxt") == (
        "switch_route: net.prototxt:2:9: '(' is not valid here; fix: remove it, or put it in "
        "quotes\n")
    assert state(net.parent) == before


def test_a_net_without_an_l1_layer(net, capfd):
    line = failure(capfd, str(REPO / "prototxt" / "deploy.prototxt"))
    assert "deploy.prototxt:1:1: no L1 layer; fix: give a net that has" in line


def test_output_that_cannot_be_written_is_no_failure(net):
    script = str(REPO / "scripts" / "switch_route.py")
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, script, "net.prototxt", "--to", "plugin",
                               "--in-place"], stdout=full, stderr=full)
    assert done.returncode == 0 and b"python_param" in net.read_bytes()


def test_wrong_usage():
    for arguments in ([], ["a"], ["a", "--to", "cuda"]):
        with pytest.raises(SystemExit) as error:
            switch_net(arguments)
        assert error.value.code == 2


IN_PLACE = [sys.executable, str(REPO / "scripts" / "switch_route.py"), "net.prototxt", "--to",
            "python", "--in-place"]


def inject(net: Path, calls: str, what: str) -> subprocess.CompletedProcess:
    """The kernel itself says no, by strace, to the first such call for the file beside the net."""
    trace = net.parent.parent / "trace"

    def traced(*options: str) -> subprocess.CompletedProcess:
        return subprocess.run(["strace", "-y", "-o", str(trace), *options, *IN_PLACE],
                              env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
                              capture_output=True, text=True)

    old = net.read_bytes()
    assert traced("-e", f"trace={calls}").returncode == 0
    lines = [line for line in trace.read_text().splitlines() if "(" in line]
    net.write_bytes(old)
    os.utime(str(net), (1, 1))
    first = next(line for line in lines if ".part" in line)
    name = first.partition("(")[0]
    number = [line for line in lines if line.startswith(name + "(")].index(first) + 1
    done = traced("-e", f"trace={name}", "-e", f"inject={name}:{what}:when={number}")
    lines = trace.read_text().splitlines()
    hit = [line for line in lines if "INJECTED" in line] or lines[-2:]  # of a kill, the last lines
    assert any(".part" in line for line in hit)
    return done


@pytest.mark.parametrize("calls, error", [
    ("openat", "EACCES"), ("openat", "EROFS"), ("write", "ENOSPC"), ("fsync", "EIO"),
    ("rename,renameat,renameat2", "EROFS")])
def test_a_write_that_fails_changes_nothing(net, calls, error):
    """As in a folder of another user, or on a full disk."""
    before = state(net.parent)
    done = inject(net, calls, f"error={error}")
    assert done.returncode == 1 and done.stdout == "", done.stderr
    assert "net.prototxt: cannot write the file, nothing was changed: " in done.stderr
    assert done.stderr.count("\n") == 1 and "; fix: check that you may write to " in done.stderr
    assert state(net.parent) == before


@pytest.mark.parametrize("call", ["openat", "write", "fsync", "rename,renameat,renameat2"])
def test_a_kill_leaves_the_old_net_or_the_new_one(net, call):
    old = net.read_bytes()
    assert inject(net, call, "signal=KILL").returncode != 0
    assert net.read_bytes() in (old, switched(old, "python"))
    subprocess.run(IN_PLACE, check=True, capture_output=True)
    assert net.read_bytes() == switched(old, "python")
    assert os.listdir(str(net.parent)) == ["net.prototxt"]
