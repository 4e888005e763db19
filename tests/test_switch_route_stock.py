"""An L1 layer spread over Caffe's own layers by switch_route.py, and read back from them."""

from __future__ import annotations

import itertools

import pytest
from caffe_l1 import cli
from caffe_l1.route.layer import ROUTES
from caffe_l1.route.options import checks
from caffe_l1.route.options import stock as said
from caffe_l1.route.switch import switch
from caffe_l1.route.text_format import Problem, place


def switched(text: str, *routes: str) -> str:
    data = text.encode("latin-1")
    for route in routes:
        data = switch(data, route).data
    return data.decode("latin-1")


def l1(more: str = "", options: str = "", bottoms: str = "xy", top: str = "loss") -> str:
    lines = ['name: "l1"', 'type: "L1Loss"', *(f'bottom: "{name}"' for name in bottoms),
             f'top: "{top}"', *filter(None, [more]),
             *[f"l1_loss_param {{ {options} }}"] * bool(options)]
    return "layer {\n" + "".join(f"  {line}\n" for line in lines) + "}\n"


def chain(text: str) -> list:
    """What each layer computes, without the names."""
    found = []
    for layer in switched(text, "stock").split("layer {")[1:]:
        lines = [line.strip() for line in layer.splitlines()]
        kind = next(line for line in lines if line.startswith("type: ")).split('"')[1]
        block = [line.split("{")[1].strip(" }") for line in lines if "_param {" in line]
        weight = [line for line in lines if line.startswith("loss_weight")]
        found.append(" ".join([kind, *block, *weight]))
    return found


DIFFERENCE, ABSOLUTE = "Eltwise operation: SUM coeff: 1 coeff: -1", "AbsVal"
PRODUCT = "Eltwise operation: PROD"
CHAINS = {
    ("", "xy"): [DIFFERENCE, "Reduction operation: ASUM axis: 1",
                 "Reduction operation: MEAN loss_weight: 1"],
    ("reduction: MEAN", "xy"): [DIFFERENCE, ABSOLUTE, "Reduction operation: MEAN loss_weight: 1"],
    ("reduction: SUM", "xy"): [DIFFERENCE, "Reduction operation: ASUM loss_weight: 1"],
    ("reduction: NONE", "xy"): [DIFFERENCE, "AbsVal loss_weight: 0",
                                "Reduction operation: SUM loss_weight: 1"],
    ("reduction: NONE axis: 2", "xy"): [
        DIFFERENCE, ABSOLUTE, "Reduction operation: MEAN axis: 2 loss_weight: 0",
        "Reduction operation: SUM loss_weight: 1"],
    ("reduction: NONE axis: 0", "xy"): [
        DIFFERENCE, ABSOLUTE, "Reduction operation: MEAN axis: 0 loss_weight: 1"],
    ("", "xyw"): [DIFFERENCE, ABSOLUTE, PRODUCT, "Reduction operation: SUM axis: 1",
                  "Reduction operation: MEAN loss_weight: 1"],
    ("reduction: MEAN", "xyw"): [DIFFERENCE, ABSOLUTE, PRODUCT,
                                 "Reduction operation: MEAN loss_weight: 1"],
    ("reduction: SUM", "xyw"): [DIFFERENCE, ABSOLUTE, PRODUCT,
                                "Reduction operation: SUM loss_weight: 1"],
    ("reduction: NONE", "xyw"): [DIFFERENCE, ABSOLUTE, f"{PRODUCT} loss_weight: 0",
                                 "Reduction operation: SUM loss_weight: 1"],
    ("reduction: NONE axis: -1", "xyw"): [
        DIFFERENCE, ABSOLUTE, PRODUCT, "Reduction operation: MEAN axis: -1 loss_weight: 0",
        "Reduction operation: SUM loss_weight: 1"],
}


@pytest.mark.parametrize("options, bottoms", CHAINS)
def test_the_layers_of_each_reduction(options, bottoms):
    text = l1(options=options, bottoms=bottoms)
    assert [" ".join(sorted(layer.split())) for layer in chain(text)] == [
        " ".join(sorted(layer.split())) for layer in CHAINS[options, bottoms]]


def test_the_names_the_rules_and_propagate_down():
    rules = "propagate_down: true\n  propagate_down: false\n  propagate_down: false\n" \
            "  include {\n    phase: TRAIN\n  }\n  loss_weight: 0.5"
    assert switched(l1(rules, "reduction: SUM", "xyw"), "stock") == """\
layer {
  name: "loss_l1_difference"
  type: "Eltwise"
  bottom: "x"
  bottom: "y"
  top: "loss_l1_difference"
  propagate_down: true
  propagate_down: false
  include {
    phase: TRAIN
  }
  eltwise_param { operation: SUM coeff: 1 coeff: -1 }
}
layer {
  name: "loss_l1_absolute"
  type: "AbsVal"
  bottom: "loss_l1_difference"
  top: "loss_l1_absolute"
  include {
    phase: TRAIN
  }
}
layer {
  name: "loss_l1_weighted"
  type: "Eltwise"
  bottom: "loss_l1_absolute"
  bottom: "w"
  top: "loss_l1_weighted"
  propagate_down: true
  propagate_down: false
  include {
    phase: TRAIN
  }
  eltwise_param { operation: PROD }
}
layer {
  name: "l1"
  type: "Reduction"
  bottom: "loss_l1_weighted"
  top: "loss"
  propagate_down: true
  include {
    phase: TRAIN
  }
  loss_weight: 0.5
  reduction_param { operation: SUM }
}
"""


# ---- There and back ------------------------------------------------------------

DOWN = "propagate_down: false\n  propagate_down: true"
LAYOUTS = {
    "house style": l1("loss_weight: 2"),
    "two phases": l1("include { phase: TRAIN }\n  loss_weight: 2")
                  + l1("include { phase: TEST }\n  loss_weight: 2"),
    "comments": '# above\nlayer { # of it\n  type: "L1Loss" # it\n  bottom: "x"  # predicted\n'
                '  # true:\n  bottom: "y"  # measured\n  top: "loss"\n  loss_weight: 1\n  '
                "l1_loss_param {\n    # options\n    reduction: MEAN\n  }\n}  # behind\n# below\n",
    "on one line": "layer { type: 'L1Loss' bottom: 'x' bottom: 'y' top: 'loss' loss_weight: 1 }",
    "on one line, weighted, between others":
        "name: 'n' layer { type: 'A' };layer{type:'L1Loss' bottom:'x',bottom:'y';bottom:'w' "
        "top:'loss' loss_weight:1e0 l1_loss_param { reduction: NONE }};layer { type: 'B' }",
    "nothing behind the block": "layer { bottom: 'x' bottom: 'y' top: 'loss' loss_weight: 1 "
                                "l1_loss_param { reduction: NONE } type: 'L1Loss' }",
    "trained downwards": l1(f"{DOWN}\n  loss_weight: 1", "reduction: MEAN"),
    "trained downwards, weighted": l1(f"{DOWN}  # no further\n  propagate_down: false\n"
                                      "  loss_weight: 1", "reduction: NONE axis: 1", "xyw"),
    "unreduced, weighted, trained": l1(f"{DOWN}\n  propagate_down: false\n  loss_weight: 1",
                                       "reduction: NONE", "xyw"),
    "unreduced for others": l1("loss_weight: 0.0", "reduction: NONE", "xyw")
        + 'layer { name: "r" type: "Reduction" bottom: "loss" top: "r" loss_weight: 3 }\n',
    "unreduced and trained": l1("loss_weight: [2.5]", "reduction: NONE"),
    "in a solver": "net_param {\n" + l1("loss_weight: 1", "reduction: SUM").replace("\n", "\n  ")
                   + "}",
    "a name that needs escapes": l1("loss_weight: 1", top='a\\"\xe9/b'),
    "lines that end as elsewhere": l1("loss_weight: 1", "reduction: SUM").replace("\n", "\r\n"),
    "loss_param of the same": l1("loss_weight: 1\n  loss_param { normalization: FULL }",
                                 "reduction: MEAN"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layer_comes_back_byte_for_byte(name):
    text = LAYOUTS[name]
    assert switched(text, "stock", "native") == text
    stock = switched(text, "stock")
    for way in itertools.permutations(["python", "plugin", "native"]):
        assert switched(stock, *way, "stock") == stock
    assert switched(text, "python", "stock", "python") == switched(text, "python")


@pytest.mark.parametrize("before, after", [
    ("layer { bottom: 'x' type: 'L1Loss', bottom: 'y'; top: 'loss' loss_weight: 1 }",
     "layer { bottom: 'x' bottom: 'y' type: 'L1Loss',  top: 'loss' loss_weight: 1 }"),
    (l1("loss_weight: 1", "reduction: BATCHMEAN"), l1("loss_weight: 1")),
    (l1("loss_weight: 1", "ignore_nonfinite_target: false axis: 1 reduction: NONE"),
     l1("loss_weight: 1", "reduction: NONE axis: 1")),
    (l1("", "reduction: MEAN"), l1("loss_weight: 1", "reduction: MEAN")),
])
def test_what_comes_back_in_other_words(before, after):
    """Bottoms that are apart, and options that say a default."""
    assert switched(before, "stock", "native") == after
    assert switched(after, "stock", "native") == after


def test_a_python_layer_without_a_loss_weight_has_none():
    python = switched(l1("loss_weight: 1", "reduction: MEAN"), "python").replace(
        "  loss_weight: 1\n", "")
    assert "loss_weight: 0\n" in switched(python, "stock")
    assert "total" not in switched(python.replace("MEAN", "NONE"), "stock")


def test_as_protobuf_prints_it():
    from caffe.proto import caffe_pb2
    from google.protobuf import text_format
    for options, bottoms in CHAINS:
        text = l1("loss_weight: 2", options, bottoms)
        printed = str(text_format.Parse(switched(text, "stock"), caffe_pb2.NetParameter()))
        assert printed != switched(text, "stock")
        assert switched(printed, "plugin", "stock", "plugin") == switched(printed, "plugin")
        native = switched(printed, "native")
        assert native.count("layer {") == 1
        assert options.replace("axis: 0", "axis: 0") in native.replace("\n", " ")


# ---- What is refused: line, column, problem --------------------------------------

def shaped(x: str, y: str, w: str, options: str) -> str:
    """A net that says the shapes of its blobs."""
    dims = [" ".join(f"dim: {n}" for n in shape.split(",")) for shape in (x, y, w)]
    shapes = " ".join(f"shape {{ {of_one} }}" for of_one in dims)
    return (f"layer {{ type: 'Input' top: 'x' top: 'y' top: 'w' input_param {{ {shapes} }} }}\n"
            f"layer {{ type: 'L1Loss' bottom: 'x' bottom: 'y' bottom: 'w' top: 'loss' {options} }}")


ONE = "layer { type: 'L1Loss' bottom: 'x' bottom: 'y' top: 'loss' %s}"
SAYS_NOT = "Caffe's own layers have no "


@pytest.mark.parametrize("name", sorted({*checks.Options._fields} - {"reduction", "axis"}))
def test_an_option_that_nobody_taught_it_is_refused(name):
    with pytest.raises(ValueError, match=f'{SAYS_NOT}option "{name}"; fix: take another route'):
        said.check(checks.DEFAULTS._replace(**{name: 7}), False)


REFUSED = {
    ONE % "l1_loss_param { ignore_label: 0 } ":
        (1, 60, SAYS_NOT + 'option "ignore_label"; fix: take another route'),
    ONE % "loss_param { ignore_label: 255 } ":
        (1, 8, SAYS_NOT + 'option "ignore_label"; fix: take another route'),
    ONE % "l1_loss_param { beta: 0.5 } ":
        (1, 60, SAYS_NOT + 'option "beta"; fix: take another route'),
    ONE % "l1_loss_param { ignore_nonfinite_target: true } ":
        (1, 60, SAYS_NOT + 'option "ignore_nonfinite_target"; fix: take another route'),
    ONE % "l1_loss_param { reduction: VALID_MEAN } ":
        (1, 60, SAYS_NOT + '"reduction": "VALID_MEAN"; fix: write MEAN, the same without weights'),
    ONE.replace("top", "bottom: 'w' top") % "l1_loss_param { reduction: WEIGHTED_MEAN } ":
        (1, 72, SAYS_NOT + '"reduction": "WEIGHTED_MEAN"; fix: take another route'),
    shaped("2,3", "2,3", "2", ""):
        (2, 48, SAYS_NOT + "weights (2,) that are broadcast to (2, 3); fix: take another route"),
    shaped("2,3,1", "2,3", "2,3,1", ""): (
        2, 36, SAYS_NOT + "loss of targets (2, 3) and predictions (2, 3, 1); fix: reshape the tar"),
    shaped("2", "2", "2", ""): (2, 24, SAYS_NOT + '"reduction": "BATCHMEAN" of one axis; fix: '
                                "write MEAN, the same there"),
    shaped("2,3", "2,3", "2,3", "l1_loss_param { reduction: NONE axis: -2 }"): (
        2, 24, SAYS_NOT + '"axis": -2 of 2 axes; fix: write axis: 0, the same there'),
    "layer { type: 'L1Loss' bottom: 'x' top: 'l' }": (
        1, 1, "this layer needs two or three bottoms and a top; fix: give it them"),
    "layer { type: 'L1Loss' bottom: 'x' bottom: 'y' }": (
        1, 1, "this layer needs two or three bottoms and a top; fix: give it them"),
    "layer { type: 'L1Loss' bottom: ['x', 'y'] top: 'l' }": (
        1, 24, '"bottom" is a list, which cannot be spread over several layers; fix: write "botto'),
    "layer: [" + (ONE % "")[6:] + "]": (1, 1, '"layer" is a list, which cannot be spread over '),
    ONE % "propagate_down: true ": (
        1, 60, '"propagate_down" is not given once for each bottom; fix: do that'),
    ONE.replace("top", "bottom: 'w' top") % ("propagate_down: true " * 3):
        (1, 114, "weights get no gradient; fix: propagate_down: false"),
    "layer { type: 'ReLU' top: 'loss_l1_total' }\n" + ONE % "": (
        1, 1, 'the blob "loss_l1_total" is there already; fix: rename it'),
    ONE % "top: 'l' ": (1, 60, '"top" is given twice in this layer; fix: remove one'),
}


def refusal(text: str, to: str, capfd, folder) -> str:
    """The one line that the command prints, which leaves the file alone."""
    net = folder / "net.prototxt"
    net.write_text(text, encoding="latin-1")
    arguments = [str(net), "--to", to, "--in-place"]
    assert cli.main(arguments, "switch_route.py", ["switch-route"]) == 1
    output = capfd.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    assert net.read_text(encoding="latin-1") == text
    return output.err.replace(str(folder), "")


@pytest.mark.parametrize("text", REFUSED)
def test_what_caffes_own_layers_cannot_say(text, capfd, tmp_path):
    line, column, words = REFUSED[text]
    said = refusal(text, "stock", capfd, tmp_path)
    assert said.startswith(f"switch_route: /net.prototxt:{line}:{column}: {words}"), said


def test_shapes_that_are_equal_or_unknown_are_no_obstacle():
    for text in (shaped("2,3", "2,3", "2,3", ""), shaped("2", "2", "2", "l1_loss_param { "
                 "reduction: MEAN }"), l1(bottoms="xyw")):
        assert "PROD" in switched(text, "stock")


# ---- A stock spelling that somebody edited ----------------------------------------

STOCK = {name: switched(l1("loss_weight: 2", options, bottoms), "stock") for name, options, bottoms
         in [("batchmean", "", "xy"), ("mean", "reduction: MEAN", "xy"),
             ("sum", "reduction: SUM", "xy"), ("none", "reduction: NONE", "xy"),
             ("weighted", "reduction: MEAN", "xyw"), ("each", "reduction: NONE", "xyw")]}
EDITED = [
    ("sum", "coeff: -1", "coeff: 1"), ("sum", "coeff: -1", "coeff: -2"),
    ("sum", "ASUM", "SUM"), ("sum", "ASUM", "SUMSQ"), ("sum", "ASUM }", "ASUM coeff: 0.5 }"),
    ("sum", "operation: SUM", "operation: MAX"), ("sum", 'bottom: "y"\n', ""),
    ("sum", "ASUM }", "ASUM axis: 1 }"), ("mean", "AbsVal", "ReLU"),
    ("mean", 'top: "loss_l1_absolute"', 'top: "abs"'), ("mean", 'top: "loss"', 'top: "other"'),
    ("mean", "operation: MEAN", "operation: MEAN axis: 1.5"),
    ("mean", 'type: "AbsVal"', 'type: "AbsVal"\n  loss_weight: 1'),
    ("mean", 'type: "AbsVal"', 'type: "AbsVal"\n  include { phase: TRAIN }'),
    ("mean", 'name: "loss_l1_absolute"', 'name: "mine"'),
    ("batchmean", "ASUM axis: 1", "ASUM axis: 2"), ("batchmean", "MEAN", "SUM"),
    ("none", "operation: SUM }\n}\n", "operation: MEAN }\n}\n"),
    ("none", "loss_weight: 0", "loss_weight: 1"),
    ("weighted", "PROD", "SUM"), ("weighted", "propagate_down: false", "propagate_down: true"),
    ("weighted", "  propagate_down: true\n  propagate_down: false\n", ""),
    ("each", "  propagate_down: true\n  propagate_down: false\n", ""),
    ("each", 'bottom: "w"', 'bottom: "w" bottom: "v"'),
]


@pytest.mark.parametrize("name, old, new", EDITED)
def test_what_is_no_l1_any_more(name, old, new, capfd, tmp_path):
    head, found, tail = STOCK[name].rpartition(old)
    assert found
    for to in ROUTES:
        said = refusal(head + new + tail, to, capfd, tmp_path)
        assert ('the stock layers of "loss" are not an L1 loss as this script writes it; fix: undo '
                in said) or 'option "axis" is 1.5' in said, said


def test_a_helper_that_another_layer_reads_too(capfd, tmp_path):
    reader = "layer { type: 'Silence' bottom: 'loss_l1_difference' }\n"
    assert ":17:25: \"loss_l1_difference\" is read by another layer too" in refusal(
        STOCK["sum"] + reader, "python", capfd, tmp_path)


def test_a_comment_in_a_helper_is_not_lost(capfd, tmp_path):
    text = STOCK["mean"].replace('type: "AbsVal"', 'type: "AbsVal"  # why')
    assert ":11:19: this comment is in a layer that is no part of other routes; fix: move it" in \
        refusal(text, "native", capfd, tmp_path)


def test_a_users_own_eltwise(capfd, tmp_path):
    """Under other names nobody can tell it from an L1 loss that we wrote."""
    text = STOCK["sum"].replace("loss_l1_difference", "difference")
    said = refusal(text, "python", capfd, tmp_path)
    assert "no L1 layer; fix: " in said and "by its name, such as loss_l1_difference" in said
    beside = text.replace('"loss"', '"own"') + l1("loss_weight: 1", "reduction: SUM")
    assert switched(beside, "stock", "native") == beside
    claimed = STOCK["sum"].replace('top: "loss"', 'top: "own"')
    assert 'the stock layers of "loss" are not an L1 loss' in refusal(
        claimed, "python", capfd, tmp_path)


def test_helpers_need_not_stand_together():
    """Here in front of the data and behind another layer."""
    text = STOCK["mean"]
    first, second, last = ["layer {" + part for part in text.split("layer {")[1:]]
    other = "# other\nlayer { type: 'ReLU' bottom: 'x' top: 'z' }\n"
    moved = first + other + second + other + last
    assert switched(moved, "native") == other + other + l1("loss_weight: 2", "reduction: MEAN")


def test_loss_param_that_says_something_else():
    text = STOCK["sum"].replace('top: "loss"', 'top: "loss"\n  loss_param { normalization: FULL }')
    assert "L1LossLayer" in switched(text, "python")
    with pytest.raises(Problem, match='but loss_param says "MEAN"') as error:
        switched(text, "native")
    assert place(text.encode(), error.value.offset or 0)[0] == 16
