"""Nets with L1 layers, spelled in all the ways that text format and JSON allow: for hypothesis.

drawn_nets() gives (route, text, layers): layers says what each L1 layer of the text means, in the
order of the text, independent of any parser: its options and its loss_weight. With for_stock they
are such that Caffe's own layers can say them.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from hypothesis import strategies as st

REDUCTIONS = ["BATCHMEAN", "MEAN", "SUM", "VALID_MEAN", "WEIGHTED_MEAN", "NONE"]
SAID_BY_STOCK = ["BATCHMEAN", "MEAN", "SUM", "NONE"]
BLANKS = [" ", " ", "  ", "\t", "\n", "\n  ", "\r\n", "\n\n\t", " # } '\"\n", "\n  # \xe9 {\n  "]
NUMBERS = [("-1", "-1", -1.0), ("255", "255", 255.0), ("2.50", "2.50", 2.5), ("1e2", "1e2", 100.0),
           (".5", "0.5", 0.5), ("3.", "3.0", 3.0), ("4f", "4", 4.0), ("-7.5f", "-7.5", -7.5)]
BETAS = [number for number in NUMBERS if number[2] > 0] + [("0", "0", 0.0), ("1e-9", "1e-9", 1e-9)]
OTHERS = [
    'layer { name: "layer { type: \'L1Loss\' }" type: "Power" bottom: "x" top: "p" }',
    'layer { name: "o" type: "Python" python_param { module: "mine" layer: "L1LossLayer" } }',
    "layer { name: 'r' type: 'ReLU' }", "# layer { type: \"L1Loss\" }\n", "name: 'L1Loss'",
    "input: 'x' input_dim: 1", "# switch_route keeps the best spelling\n",
]
EXTRAS = ["include { phase: TRAIN }", "propagate_down: true propagate_down: false",
          "exclude { stage: '{' }", "phase: TRAIN", "# of this layer\n"]


class Meaning(NamedTuple):
    options: dict
    loss_weight: float


def options_of(draw, for_stock: bool) -> tuple:
    """What they mean, and each as text format and JSON spell it."""
    meaning, text, spelled = {}, [], []
    beyond_stock = [] if for_stock else ["ignore_label", "beta"]
    names = draw(st.permutations(["reduction", "axis", "nonfinite", *beyond_stock]))
    names = names[:draw(st.integers(0, 5))]
    if "axis" in names and "reduction" not in names:  # axis is for NONE alone
        names.append("reduction")
    for name in names:
        if name == "reduction":
            value = "NONE" if "axis" in names else draw(st.sampled_from(
                SAID_BY_STOCK if for_stock else REDUCTIONS))
            number = draw(st.booleans()) and draw(st.booleans())
            shown = str(REDUCTIONS.index(value)) if number else value
            add = ("reduction", value, shown, json.dumps(value))
        elif name == "axis":
            value = draw(st.integers(-3, 9))
            octal = f"0{value}" if 0 < value < 8 and draw(st.booleans()) else str(value)
            add = ("axis", value, octal, str(value))
        elif name in ("ignore_label", "beta"):
            numbers = NUMBERS if name == "ignore_label" else BETAS
            shown, of_json, value = draw(st.sampled_from(numbers))
            add = (name, value, shown, of_json)
        else:
            value = not for_stock and draw(st.booleans())
            shown = draw(st.sampled_from(["true", "t", "1"] if value else ["false", "f", "0"]))
            add = ("ignore_nonfinite_target", value, shown, json.dumps(value))
        meaning[add[0]] = add[1]
        text.append((add[0], add[2]))
        spelled.append((add[0], add[3]))
    return meaning, text, spelled


def blank(draw) -> str:
    return draw(st.sampled_from(BLANKS))


def gap(draw, part: str) -> str:
    """Behind a field: blanks, perhaps with a comma or a semicolon."""
    if part.startswith("#"):
        return blank(draw)
    return draw(st.sampled_from(["", "", "", ",", ";", " ;"])) + blank(draw)


def quoted(draw, text: str) -> str:
    """As a string literal, or as two, with either quote and some escapes."""
    cut = draw(st.integers(0, len(text))) if draw(st.integers(0, 3)) == 0 else 0
    parts = [text[:cut], text[cut:]] if cut else [text]
    return blank(draw).join(literal(draw, part) for part in parts)


def literal(draw, text: str) -> str:
    quote = draw(st.sampled_from("'\""))
    found = text.replace("\\", "\\\\").replace(quote, "\\" + quote).replace("\n", "\\n")
    if draw(st.integers(0, 4)) == 0 and found[:1].isalpha():
        escaped = draw(st.sampled_from(["\\%03o", "\\x%02x"])) % ord(found[0])
        # The hexadecimal one takes two digits at most in C++, and all that follow in Python.
        if not (escaped.startswith("\\x") and found[1:2] in "0123456789abcdefABCDEF"):
            found = escaped + found[1:]
    return quote + found + quote


def scalar(draw, name: str, value: str) -> str:
    return name + draw(st.sampled_from([":", ": ", " : ", ":\n    "])) + value


def message(draw, name: str, fields: list) -> str:
    opening, closing = draw(st.sampled_from(["{}", "{}", "{}", "<>"]))
    begin = draw(st.sampled_from(["", " ", ": ", ":", "  "]))
    inside = "".join(blank(draw) + field + gap(draw, field) for field in fields)
    return name + begin + opening + inside + blank(draw) + closing


def json_object(draw, spelled: list) -> str:
    """The options as JSON, in protobuf's two spellings, perhaps with a null."""
    space = draw(st.sampled_from(["", " ", "\n "]))
    camel = {"ignore_label": "ignoreLabel", "ignore_nonfinite_target": "ignoreNonfiniteTarget"}
    pairs = [(camel.get(n, n) if draw(st.integers(0, 3)) == 0 else n, v) for n, v in spelled]
    if draw(st.integers(0, 4)) == 0 and "axis" not in dict(spelled):
        pairs.append(("axis", "null"))
    comma = "," + draw(st.sampled_from(["", " "]))
    return "{" + comma.join(f'"{n}":{space}{v}' for n, v in pairs) + "}"


def block(draw, route: str, text: list, spelled: list) -> list:
    if route == "native":
        if not text and draw(st.booleans()):
            return []
        return [message(draw, "l1_loss_param", [scalar(draw, n, v) for n, v in text])]
    fields = []
    if route == "python":
        fields = [scalar(draw, "module", quoted(draw, "l1_loss_layer")),
                  scalar(draw, "layer", quoted(draw, "L1LossLayer"))]
        if draw(st.integers(0, 5)) == 0:
            fields.append("share_in_parallel: true")
    if spelled or draw(st.booleans()):
        given = json_object(draw, spelled) if spelled else draw(st.sampled_from(["", "{}", " "]))
        fields.append(scalar(draw, "param_str", quoted(draw, given)))
    elif route == "plugin" and draw(st.booleans()):
        return []
    return [message(draw, "python_param", draw(st.permutations(fields)))]


def house_style(route: str, text: list, spelled: list, weight: list, ends: list) -> str:
    """As the nets in prototxt/ are written."""
    given = "{" + ", ".join(f'"{n}": {v}' for n, v in spelled) + "}"
    lines = {
        "native": ["l1_loss_param { " + " ".join(f"{n}: {v}" for n, v in text) + " }"],
        "plugin": [f"python_param {{ param_str: '{given}' }}"],
        "python": ["python_param {", '  module: "l1_loss_layer"', '  layer: "L1LossLayer"',
                   f"  param_str: '{given}'", "}"],
    }[route]
    kind = "Python" if route == "python" else "L1Loss"
    lines = ['name: "loss"', f'type: "{kind}"', *ends, *weight, *lines]
    return "layer {\n" + "".join(f"  {line}\n" for line in lines) + "}"


def l1_layer(draw, route: str, for_stock: bool, number: int) -> tuple:
    meaning, text, spelled = options_of(draw, for_stock)
    bottoms = ["bottom: 'x'", "bottom: 'y'", "bottom: 'w'"][:draw(st.integers(2, 3))]
    ends = [*bottoms, f"top: 'loss{number}'"]
    weight = draw(st.sampled_from([[], [], ["loss_weight: 1"], ["loss_weight: 0"],
                                   ["loss_weight:0.5"], ["loss_weight: [2]"]]))
    default = 0.0 if route == "python" else 1.0
    value = float(weight[0].split(":")[1].strip(" []")) if weight else default
    if draw(st.integers(0, 3)) == 0:
        return house_style(route, text, spelled, weight, ends), Meaning(meaning, value)
    kind = scalar(draw, "type", quoted(draw, "Python" if route == "python" else "L1Loss"))
    extras = draw(st.lists(st.sampled_from(EXTRAS), max_size=2, unique=True))
    if any("propagate_down" in extra for extra in extras):
        ends = ends[:2] + ends[-1:]
    if draw(st.booleans()):  # one behind the other
        ends = ["".join(end + gap(draw, end) for end in ends[:-2]) + ends[-2], ends[-1]]
    fields = ['name: "loss"', kind, *ends, *weight, *extras]
    fields += block(draw, route, text, spelled)
    return message(draw, "layer", draw(st.permutations(fields))), Meaning(meaning, value)


@st.composite
def drawn_nets(draw, routes=("python", "plugin", "native"), for_stock=False):
    route = draw(st.sampled_from(routes))
    layers = [l1_layer(draw, route, for_stock, number)
              for number in range(draw(st.integers(1, 3)))]
    parts = []
    for text, _ in layers:
        parts += [*draw(st.lists(st.sampled_from(OTHERS), max_size=2)), text]
    name = [part for part in parts if part.startswith("name:")]
    parts = [part for part in parts if part not in name] + name[:1]
    data = (blank(draw) + "".join(part + gap(draw, part) for part in parts)).encode("latin-1")
    if draw(st.integers(0, 3)) == 0:
        data = data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    if draw(st.booleans()):
        data = data.rstrip()
    return route, data, [meaning for _, meaning in layers]
