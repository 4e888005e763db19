"""The L1 loss as loops over single numbers in double: slow, obvious, and not the code under test.

Written from the definition, with nothing of python_layer/: what a test expects comes from here.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np


def _elements(x: Any, y: Any, weight: Any, ignore_label: Any, ignore_nonfinite_target: bool):
    """Yield (index, x - y, weight, whether ignored) of every element of x, in double."""
    x = np.asarray(x)
    targets = np.asarray(y).reshape(-1).tolist()
    indices = itertools.product(*[range(n) for n in x.shape])
    for index, prediction, target in zip(indices, x.reshape(-1).tolist(), targets):
        w = 1.0
        if weight is not None:
            shape = np.shape(weight)
            position = tuple(
                (index[i] if n > 1 else 0) if i < x.ndim else 0 for i, n in enumerate(shape)
            )
            w = float(np.asarray(weight)[position])
        ignored = ignore_nonfinite_target and not math.isfinite(target)
        if ignore_label is not None and target == float(np.asarray(y).dtype.type(ignore_label)):
            ignored = True
        yield index, float(prediction) - float(target), w, ignored


def _divisor(elements: list, shape: tuple, reduction: str, axis: int | None) -> float:
    if reduction == "BATCHMEAN":
        return shape[0]
    if reduction == "MEAN":
        return len(elements)
    if reduction == "VALID_MEAN":
        return sum(1 for _, _, w, ignored in elements if not ignored and w != 0)
    if reduction == "WEIGHTED_MEAN":
        return math.fsum(w for _, _, w, ignored in elements if not ignored)
    if reduction == "NONE" and axis is not None:
        return int(np.prod(shape[axis:]))
    return 1


def divisor(x, y, weight=None, reduction="BATCHMEAN", axis=None, ignore_label=None,
            ignore_nonfinite_target=False, beta=0.0):
    """Return Z."""
    elements = list(_elements(x, y, weight, ignore_label, ignore_nonfinite_target))
    return _divisor(elements, np.shape(x), reduction, axis)


def _beta(x: Any, beta: float) -> float:
    """As the loss of x is computed: in float, or in double."""
    return float(np.float32(beta)) if np.result_type(np.float32, x) == np.float32 else beta


def _size(difference: float, beta: float) -> float:
    """|x - y|, smooth below beta."""
    size = abs(difference)
    return size / beta * size / 2 if size < beta else size - beta / 2


def _top_shape(shape: tuple, reduction: str, axis: int | None) -> tuple:
    if reduction != "NONE":
        return ()
    return shape if axis is None else shape[:axis]


def l1_loss(x, y, weight=None, reduction="BATCHMEAN", axis=None, ignore_label=None,
            ignore_nonfinite_target=False, beta=0.0):
    """Return the loss: a number, or an array with NONE."""
    shape = np.shape(x)
    elements = list(_elements(x, y, weight, ignore_label, ignore_nonfinite_target))
    z = _divisor(elements, shape, reduction, axis)
    top, beta = np.zeros(_top_shape(shape, reduction, axis)), _beta(x, beta)
    if z == 0:
        return top[()]
    for index, difference, w, ignored in elements:
        if not ignored:
            top[index[: top.ndim]] += w * _size(difference, beta) / z
    return top[()]


def _sign(value: float, beta: float) -> float:
    if math.isnan(value):
        return value
    if abs(value) < beta:
        return value / beta
    return 1.0 if value > 0 else -1.0 if value < 0 else 0.0


def l1_loss_grad(x, y, weight=None, reduction="BATCHMEAN", axis=None, ignore_label=None,
                 ignore_nonfinite_target=False, beta=0.0, top_diff=1.0):
    """Return the gradients (dx, dy), in the shapes of x and y."""
    shape = np.shape(x)
    elements = list(_elements(x, y, weight, ignore_label, ignore_nonfinite_target))
    z = _divisor(elements, shape, reduction, axis)
    top_diff = np.broadcast_to(top_diff, _top_shape(shape, reduction, axis))
    dx, beta = np.zeros(shape), _beta(x, beta)
    for index, difference, w, ignored in elements:
        if z != 0 and not ignored:
            slope = _sign(difference, beta)
            dx[index] = float(top_diff[index[: top_diff.ndim]]) * w * slope / z
    return dx, -dx.reshape(np.shape(y))
