"""Random L1 layers: options, shapes, batches and inputs, from a seed.

A case is what a user may ask for and a route must get right: shapes with zeros in them, weights of
both signs, numbers from denormal to almost the largest, batches that shrink and grow from none,
NaN and infinity in predictions and targets, a top that other layers read too.
"""

from __future__ import annotations

import random
from typing import NamedTuple

import numpy as np
from l1_nets import REDUCTIONS, input_layer, layer, net, stock_can_say

READERS = {
    "Silence": 'layer { name: "reader" type: "Silence" bottom: "loss" }',
    "Power": 'layer { name: "reader" type: "Power" bottom: "loss" top: "monitor" }',
}
# Products of three of them stay far below the largest double, differences below the largest float.
MAGNITUDES = [1, 1, 1, 1e-42, 1e-38, 1e-30, 1e-6, 1e6, 1e30, 1.5e38]
# Far from 0, where (x - y) / beta and its square would be no full float, and weights magnify that.
BETAS = [1e-10, 1e-6, 0.3, 1, 1e6, 1e30]
LABELS = [0.0, -1.0, 255.0, 0.1, 1e-42]


RENAMED = {"x": "x_in", "y": "y_in"}


class Case(NamedTuple):
    options: dict
    passes: list  # the inputs of each pass: x, y and perhaps w
    reader: str  # the text of a layer that reads the loss too, or nothing

    def job(self, route: str) -> dict:
        """For caffe_worker: a net that asks for both gradients, but never for that of weights.

        A blob that never held anything may not be touched, and most layers do. So nothing but
        Input stands before ours; only, Caffe does not ask a Python layer with weights which
        gradients it can be forced to compute, so there layers that learn do, where there is data.
        """
        forced = route != "stock" and (route != "python" or "w" not in self.passes[0])
        if not forced and any(inputs["x"].size for inputs in self.passes):
            passes = [{RENAMED.get(name, name): array for name, array in inputs.items()}
                      for inputs in self.passes_with(route)]
            return {"net": net(route, self.options, passes[0]) + self.reader, "inputs": passes}
        inputs = [input_layer(name, array.shape) for name, array in self.passes[0].items()]
        text = layer(route, self.options, "w" in self.passes[0])
        return {"net": "\n".join([f"force_backward: {str(forced).lower()}", *inputs, text,
                                  self.reader]), "inputs": self.passes}

    def passes_with(self, route: str) -> list:
        """Those that the job of a route has."""
        if route == "stock":  # Caffe's own layers touch the memory of a blob that never had any
            return [inputs for inputs in self.passes if inputs["x"].size]
        if route != "python" or "w" not in self.passes[0]:
            return self.passes
        return [inputs for inputs in self.passes if inputs["x"].size] or self.passes

    def stock_can_say(self) -> bool:
        """Whether Caffe's own layers can, and do not sum in float what it cannot hold."""
        shapes = [[inputs[name].shape if name in inputs else None for name in "xyw"]
                  for inputs in self.passes]
        sizes = [np.abs(inputs[name].astype(np.float64)).max(initial=0, where=np.isfinite(
            inputs[name])) for inputs in self.passes for name in "xyw" if name in inputs]
        return (any(inputs["x"].size for inputs in self.passes) and max(sizes) < 1e30 and all(
            stock_can_say(self.options, *of_pass) for of_pass in shapes))


def random_case(seed: str) -> Case:
    draw = random.Random(seed)
    options = random_options(draw)
    shape = random_shape(draw)
    if "axis" in options:
        options["axis"] = draw.randrange(-len(shape), len(shape))
    target_shape, weight_shape = like(draw, shape), random_weight_shape(draw, shape)
    batches = [draw.choice([0, 1, 2, 3, 5, 8, shape[0]]) for _ in range(3)]
    scales = [draw.choice(MAGNITUDES) for _ in range(3)]
    if options.get("beta"):
        scales[:2] = [options["beta"] * draw.choice([1e-3, 0.3, 1, 3, 1e3]) for _ in range(2)]
        scales[2] = min(scales[2], 1e30)  # lambda w / Z stays a float too
    passes = [random_inputs(draw, options, (batch, *shape[1:]), (batch, *target_shape[1:]),
                            weight_shape and (batch if weight_shape[0] == shape[0] != 1 else 1,
                                              *weight_shape[1:]), scales)
              for batch in batches]
    # Caffe's Split, which it puts between, loses the loss_weight of a top that grows.
    may_be_read = options.get("reduction") != "NONE"
    reader = READERS.get(draw.choice(["", "", "Silence", "Power"]), "") if may_be_read else ""
    return Case(options, passes, reader)


def random_options(draw: random.Random) -> dict:
    options: dict = {}
    if draw.random() < 0.9:
        options["reduction"] = draw.choice(REDUCTIONS)
    if options.get("reduction") == "NONE" and draw.random() < 0.6:
        options["axis"] = 0
    if draw.random() < 0.4:
        options["ignore_label"] = draw.choice(LABELS)
    if draw.random() < 0.4:
        options["ignore_nonfinite_target"] = draw.random() < 0.8
    if draw.random() < 0.4:
        options["beta"] = draw.choice([0, *BETAS])
    return options


def random_shape(draw: random.Random) -> tuple:
    """Small ones of many axes, and a few that are longer than the layers' blocks."""
    if draw.random() < 0.1:
        return (draw.choice([2, 3]), draw.choice([341, 700, 1024, 1367, 2048]))
    axes = draw.choice([1, 1, 2, 2, 3, 4, 5, 8])
    return (draw.choice([2, 3, 4, 7]),
            *[draw.choice([1, 1, 2, 3, 4, 5, 17] if axes < 6 else [1, 1, 2, 3]) if
              draw.random() < 0.95 else 0 for _ in range(axes - 1)])


def like(draw: random.Random, shape: tuple) -> tuple:
    """The shape, or one of the same order in memory: neighbours merged, ones put in and out."""
    result = list(shape)
    for _ in range(draw.choice([0, 0, 1, 2])):
        if len(result) > 2 and draw.random() < 0.5:
            i = draw.randrange(1, len(result) - 1)
            result[i:i + 2] = [result[i] * result[i + 1]]
    if draw.random() < 0.3 and len(result) < 8:
        result.insert(draw.randint(1, len(result)), 1)
    return tuple(result)


def random_weight_shape(draw: random.Random, shape: tuple) -> tuple | None:
    if draw.random() < 0.4:
        return None
    kept = shape[:draw.randint(1, len(shape))]
    return tuple(n if draw.random() < 0.7 else 1 for n in kept)


def random_inputs(draw: random.Random, options: dict, shape: tuple, target_shape: tuple,
                  weight_shape: tuple | None, scales: list) -> dict:
    generator = np.random.RandomState(draw.randrange(2**32))
    x = (scales[0] * generator.uniform(-1, 1, shape)).astype(np.float32)
    y = (scales[1] * generator.uniform(-1, 1, target_shape)).astype(np.float32)
    spoil(draw, generator, x, y, options)
    inputs = {"x": x, "y": y}
    if weight_shape is not None:
        inputs["w"] = random_weights(draw, generator, weight_shape, scales[2])
    return inputs


def spoil(draw: random.Random, generator: np.random.RandomState, x: np.ndarray, y: np.ndarray,
          options: dict) -> None:
    """Put in equal pairs, labels, and now and then NaN and infinity."""
    flat_x, flat_y = x.reshape(-1), y.reshape(-1)

    def some(share: float) -> np.ndarray:
        return generator.uniform(size=flat_x.size) < share

    equal = some(0.1)
    flat_x[equal] = flat_y[equal]
    if "ignore_label" in options:
        flat_y[some(draw.choice([0.2, 0.2, 1]))] = np.float32(options["ignore_label"])
    if options.get("ignore_nonfinite_target"):
        flat_y[some(draw.choice([0.2, 0.2, 1]))] = draw.choice([np.nan, np.inf, -np.inf])
    if draw.random() < 0.1:
        flat_x[some(0.05)] = draw.choice([np.nan, np.inf, -np.inf])


def random_weights(draw: random.Random, generator: np.random.RandomState, shape: tuple,
                   scale: float) -> np.ndarray:
    weights = generator.uniform(0.1, 1, shape)
    if draw.random() < 0.3:
        weights *= generator.choice([-1, 1], shape)
    if draw.random() < 0.5:
        weights *= generator.choice([0, 1], shape)
    if draw.random() < 0.1:
        weights *= 0
    return (scale * weights).astype(np.float32)

