"""Nets with one L1 layer, spelled for each route, and inputs for them."""

from __future__ import annotations

import itertools
import json

import numpy as np
from caffe_l1.route.switch import switch

X_SHAPES = [(6,), (4, 5), (3, 4, 2), (2, 3, 2, 2), (2, 1, 3, 2, 2), (2, 2, 1, 3, 1, 2, 2, 2)]
REDUCTIONS = ["BATCHMEAN", "MEAN", "SUM", "VALID_MEAN", "WEIGHTED_MEAN", "NONE"]
MASKS = [{}, {"ignore_label": -1}, {"ignore_nonfinite_target": True},
         {"ignore_label": -1, "ignore_nonfinite_target": True},
         {"beta": 1.5}, {"beta": 0.5, "ignore_label": -1, "ignore_nonfinite_target": True}]
LOSS_WEIGHT = 3.7


def text_format(options: dict) -> str:
    """The options as the text of l1_loss_param."""
    words = {True: "true", False: "false"}
    return " ".join(f"{name}: {words.get(value, value) if isinstance(value, bool) else value}"
                    for name, value in options.items())


def layer(route: str, options: dict, weighted: bool) -> str:
    """One L1 layer, in the spelling of the route; by the stock route what becomes of one."""
    if route == "stock":
        return switch(layer("native", options, weighted).encode(), "stock").data.decode()
    spelling = {
        "python": 'type: "Python" python_param { module: "l1_loss_layer" layer: "L1LossLayer" '
                  f"param_str: '{json.dumps(options)}' }}",
        "native": f'type: "L1Loss" l1_loss_param {{ {text_format(options)} }}',
        "plugin": f"type: \"L1Loss\" python_param {{ param_str: '{json.dumps(options)}' }}",
    }[route]
    bottoms = ["x", "y"] + ["w"] * weighted
    return f"""layer {{ name: "loss" {spelling} top: "loss" loss_weight: {LOSS_WEIGHT}
      {" ".join(f'bottom: "{name}"' for name in bottoms)}
}}"""


def stock_can_say(options: dict, x: tuple, y: tuple, w: tuple | None) -> bool:
    """Whether Caffe's own layers can, for shapes like these."""
    reduction = options.get("reduction", "BATCHMEAN")
    return (reduction in ("BATCHMEAN", "MEAN", "SUM", "NONE") and "ignore_label" not in options
            and not options.get("ignore_nonfinite_target") and not options.get("beta")
            and x == y and w in (None, x)
            and (reduction, len(x)) != ("BATCHMEAN", 1) and options.get("axis") != -len(x))


def input_layer(name: str, shape: tuple) -> str:
    lengths = " ".join(f"dim: {length}" for length in shape)
    return (f'layer {{ name: "{name}" type: "Input" top: "{name}" '
            f"input_param {{ shape {{ {lengths} }} }} }}")


def net(route: str, options: dict, inputs: dict) -> str:
    """A net that asks for both gradients: x and y come from layers that learn."""
    layers = [input_layer(name, array.shape) for name, array in inputs.items()]
    for name in ("x", "y"):
        layers.append(f'layer {{ name: "{name}" type: "Scale" bottom: "{name}_in" top: "{name}" '
                      "scale_param { axis: 0 num_axes: 0 filler { value: 1 } } }")
    return "\n".join(layers + [layer(route, options, "w" in inputs)])


def random_inputs(seed: int, shape: tuple, mask: dict, w_shape: tuple | None) -> dict:
    generator = np.random.RandomState(seed)
    x, y = (generator.randn(*shape).astype(np.float32) for _ in range(2))
    flat = y.reshape(-1)
    if "ignore_label" in mask:
        flat[::3] = mask["ignore_label"]
    if "ignore_nonfinite_target" in mask:
        flat[1::5] = [np.nan, np.inf, -np.inf][seed % 3]
    inputs = {"x_in": x, "y_in": y}
    if w_shape is not None:
        inputs["w"] = generator.choice([0, 0.5, 1, 3], w_shape).astype(np.float32)
    return inputs


def cases() -> list:
    """(options, inputs) over all reductions, masks, numbers of axes and ways to weight."""
    result = []
    for seed, (reduction, mask, shape) in enumerate(
            itertools.product(REDUCTIONS, MASKS, X_SHAPES)):
        options = dict(mask, reduction=reduction)
        if reduction == "NONE" and seed % 2:
            options["axis"] = seed % len(shape) - (len(shape) if seed % 3 else 0)
        w_shapes = [None, shape, shape[:1], tuple(n if i % 2 else 1 for i, n in enumerate(shape))]
        result.append((options, random_inputs(seed, shape, mask, w_shapes[seed % 4])))
    return result


def grown(inputs: dict) -> dict:
    """The same with three times the batch."""
    return {name: np.concatenate([array] * 3) if array.shape[0] > 1 or name != "w" else array
            for name, array in inputs.items()}


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    assert actual.shape == expected.shape
    scale = max(np.abs(expected).max(initial=0), 1e-30)
    return float(np.abs(actual - expected).max(initial=0) / scale)
