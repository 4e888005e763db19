"""What l1_loss.py does with whole arrays, each in one loop that numba compiles.

l1_loss.py takes these where numba can be imported. x, y and weight, which may be None, are
C-contiguous, of one size and of one dtype. The first call compiles, which takes a second or two.
"""

import numba
import numpy as np

# A sum may be taken in any order, so that it can be vectorised; NaN and Inf remain what they are.
_sum = numba.njit(nogil=True, fastmath={"reassoc", "contract"})
_loop = numba.njit(nogil=True)


def sum_losses(x, y, weight, label, nonfinite):
    """Return the sum of weight * |x - y| in double; see write_gradients for what is ignored."""
    return _sum_losses(x.reshape(-1), y.reshape(-1), *_given(x, weight) + (label, nonfinite))


def write_gradients(dx, dy, x, y, weight, scale, label, nonfinite):
    """Write scale * weight * sign(x - y) into dx, and its negative into dy, where not None.

    Both are 0 where y equals label (NaN equals nothing) or, with nonfinite, is NaN or infinite.
    """
    dx, has_dx = _given(x, dx)
    dy, has_dy = _given(x, dy)
    weight, has_weight = _given(x, weight)
    _write_gradients(dx, has_dx, dy, has_dy, x.reshape(-1), y.reshape(-1), weight, has_weight,
                     scale, label, nonfinite)


def _given(x, array):
    """Return an array as numba takes it, which knows no None of an array's type, and if it is."""
    return (x if array is None else array).reshape(-1), array is not None


@_loop
def _is_ignored(y, label, nonfinite):
    return y == label or (nonfinite and not y - y == 0)


@_sum
def _sum_losses(x, y, weight, has_weight, label, nonfinite):
    label = x.dtype.type(label)
    total = 0.0
    for i in range(x.size):
        e = abs(x[i] - y[i])
        if has_weight:
            e *= weight[i]
        total += 0.0 if _is_ignored(y[i], label, nonfinite) else np.float64(e)
    return total


@_loop
def _write_gradients(dx, has_dx, dy, has_dy, x, y, weight, has_weight, scale, label, nonfinite):
    scale, label = x.dtype.type(scale), x.dtype.type(label)
    for i in range(x.size):
        difference = x[i] - y[i]
        # The difference itself is the sign of 0 and of NaN.
        gradient = difference
        if abs(difference) > 0:
            gradient = -scale if difference < 0 else scale
        if has_weight:
            gradient *= weight[i]
        if _is_ignored(y[i], label, nonfinite):
            gradient = x.dtype.type(0)
        if has_dx:
            dx[i] = gradient
        if has_dy:
            dy[i] = -gradient
