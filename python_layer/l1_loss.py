"""The L1 loss (mean absolute error) and its gradients, in numpy alone.

    e = w * |x - y|        L = sum(e) / Z        dL/dx = w * sign(x - y) / Z = -dL/dy

With beta > 0 it is smooth: e = w * (x - y)**2 / (2 * beta) where |x - y| < beta, elsewhere
w * (|x - y| - beta / 2), and (x - y) / beta, cut at -1 and 1, takes the place of the sign.

The reduction chooses the divisor Z:

    BATCHMEAN       x.shape[0] (the default)
    MEAN            the number of elements of x: PyTorch's 'mean' without weights
    SUM             1: PyTorch's 'sum', TensorFlow's SUM
    VALID_MEAN      the number of elements that are not ignored and whose weight is not 0:
                    TensorFlow's SUM_BY_NONZERO_WEIGHTS
    WEIGHTED_MEAN   the sum of the weights, broadcast to x, of the elements not ignored:
                    PyTorch's 'mean' with weights, TensorFlow's MEAN
    NONE            e itself, shape of x; with axis=k its means over the axes from k on,
                    shape x.shape[:k]: Keras's mean_absolute_error is axis=-1

sign(0) is 0, and a divisor of 0 gives loss 0 and gradients 0. Ignored elements give exactly 0 to
loss, gradients and counts. NaN and Inf in a prediction are never hidden: sign(NaN) is NaN.

x and y lie in memory in the same order: their shapes are equal, or one is the other with
neighbouring axes merged; axes of length 1 do not count. Every axis of w equals that of x or is 1,
matched from the first axis on.

The arrays are walked in blocks that stay in the cache. Works on Python 2.7 and 3.5 onward.

Source: torch.nn.functional.l1_loss, keras.losses.MeanAbsoluteError and
tf.compat.v1.losses.absolute_difference, to which tests/test_parity.py compares it. Unlike PyTorch,
this lets NaN through to the gradient, and refuses shapes instead of broadcasting them; unlike
Keras, it divides by the weights after they are broadcast.
"""

import functools
import itertools
import threading

import numpy as np
from l1_loss_checks import REDUCTIONS, Options, check_options, check_shapes, prefix, product

__all__ = ["REDUCTIONS", "l1_loss", "l1_loss_grad"]

# Elements. Large enough to hide the cost of a numpy call, small enough for the cache.
BLOCK = 131072
INFINITY = float("inf")
_DOUBLE = np.dtype(np.float64)
_ONES = np.ones(BLOCK)  # a sum by dot takes a third of the time of np.sum


def l1_loss(x, y, weight=None, reduction="BATCHMEAN", axis=None, ignore_label=None,
            ignore_nonfinite_target=False, beta=0.0):
    """Return the L1 loss of predictions x and targets y.

    Arguments:
        x: predictions, shape (N, ...), any number of axes.
        y: targets, shape of x, or that shape with neighbouring axes merged or split.
        weight: every axis equals that of x or is 1, from the first axis on; (N,) is one per sample.
        reduction: one of REDUCTIONS, see the top of this file.
        axis: with reduction NONE, the mean over this axis and all that follow; may be negative.
        ignore_label: elements whose target equals this number are ignored.
        ignore_nonfinite_target: whether elements whose target is NaN or infinite are ignored.
        beta: the |x - y| below which the loss is smooth, see the top of this file.

    Returns: a float64, summed in double; with NONE an array of shape x.shape or x.shape[:axis].
    Raises: ValueError, of one line, for options and shapes that do not fit.
    """
    options = Options(reduction, axis, ignore_label, ignore_nonfinite_target, beta)
    options, inputs, shape = _checked("l1_loss", options, x, y, weight)
    top = np.zeros(shape, inputs[0].dtype if shape else np.float64)
    if inputs[0].size:
        write_loss(top, options, *inputs)
    return top[()]


def l1_loss_grad(x, y, weight=None, reduction="BATCHMEAN", axis=None, ignore_label=None,
                 ignore_nonfinite_target=False, beta=0.0, top_diff=1.0):
    """Return the gradients (dx, dy) of l1_loss, in the shapes of x and y.

    Arguments: those of l1_loss, and
        top_diff: the gradient of what follows by the loss, a number or an array of its shape.

    Raises: ValueError, of one line, for options and shapes that do not fit.
    """
    options = Options(reduction, axis, ignore_label, ignore_nonfinite_target, beta)
    options, inputs, shape = _checked("l1_loss_grad", options, x, y, weight)
    dx, dy = [np.zeros(array.shape, array.dtype) for array in inputs[:2]]
    if dx.size:
        z = divisor(options, *inputs)
        write_gradients(dx, dy, np.broadcast_to(top_diff, shape), z, options, *inputs)
    return dx, dy


def _checked(who, options, *inputs):
    """Return the Options, the inputs as C-contiguous arrays of one dtype, and the loss's shape."""
    inputs = [np.asarray(array) for array in inputs if array is not None]
    try:
        options = check_options(options)
        shape = check_shapes(options, *[array.shape for array in inputs])
    except ValueError as error:
        prefix(error, who)
        raise
    if options.ignore_label is not None:
        options = options._replace(ignore_label=_label(inputs[1].dtype, options.ignore_label))
    is_float = np.result_type(np.float32, *inputs) == np.float32
    dtype = np.float32 if is_float else np.float64
    return options, [array.astype(dtype, "C", copy=False) for array in inputs], shape


def _label(dtype, number):
    """Return the number as a target of the dtype; NaN, which equals nothing, if there is none."""
    if dtype.kind != "f":
        return number if number.is_integer() else float("nan")
    with np.errstate(over="ignore"):
        return float(dtype.type(number))


# The mathematics. The inputs are x, y and perhaps the weights. They fit (check_shapes), are not
# empty, C-contiguous and of one dtype. Where nothing leaves the range of float, and no weight makes
# terms cancel, the terms are floats; all else is in double.


def write_loss(top, options, *inputs):
    """Write the loss into top, of the shape that check_shapes returned; return the divisor."""
    z = divisor(options, *inputs)
    if z == 0:
        top[...] = 0
        return z
    rows, inputs = _aligned(top.shape, *inputs)
    with _quiet():
        if not rows:
            top[...] = _total(options, *inputs) / z
            return z
        top = top.reshape(rows)
        if inputs[0].size <= BLOCK * top.size:
            for index in _blocks(inputs[0].shape):
                block = [array[index] for array in inputs]
                top[index] = _sums(top[index].shape, options, *block) / z
        else:
            for row in np.ndindex(*rows):
                top[row] = _total(options, *[array[row] for array in inputs]) / z
    return z


def write_gradients(dx, dy, top_diff, z, options, *inputs):
    """Write the gradients into dx and dy, unless they are None; z is the divisor."""
    if z == 0:
        for gradient in (dx, dy):
            if gradient is not None:
                gradient[...] = 0
        return
    rows, inputs = _aligned(top_diff.shape, *inputs)
    shape = inputs[0].shape
    dx, dy = [None if gradient is None else gradient.reshape(shape) for gradient in (dx, dy)]
    lambda_ = float(top_diff) if not rows else np.broadcast_to(
        top_diff.reshape(rows + (1,) * (len(shape) - len(rows))), shape)
    with _quiet():
        for index in _blocks(shape):
            gradient = _gradient(None if dx is None else dx[index],
                                 lambda_[index] if rows else lambda_, z, options,
                                 *[array[index] for array in inputs])
            if dy is not None:
                np.negative(gradient, dy[index])


def divisor(options, x, y, weight=None):
    """Return Z."""
    if options.reduction == "BATCHMEAN":
        return x.shape[0]
    if options.reduction == "MEAN":
        return x.size
    if options.reduction == "SUM":
        return 1
    if options.reduction == "NONE":
        return 1 if options.axis is None else product(x.shape[options.axis:])
    return _counted(options, x, y, np.ones(1, x.dtype) if weight is None else weight)


def _counted(options, x, y, weight):
    """Return the number of elements that count, or with WEIGHTED_MEAN the sum of their weights."""
    times = 1
    if options.ignore_label is None and not options.ignore_nonfinite_target:
        times, x, y = x.size // weight.size, weight, weight
    _, (_, y, weight) = _aligned((), x, y, weight)
    total = 0.0
    with _quiet():
        for index in _blocks(y.shape):
            kept = _without_ignored(weight[index].copy(), y[index], options)
            total += (np.sum(kept, dtype=_DOUBLE) if options.reduction == "WEIGHTED_MEAN" else
                      np.count_nonzero(kept))
    return float(total) * times


def _terms(dtype, options, x, y, weight=None):
    """Return e of a block, 0 where ignored."""
    beta = options.beta and x.dtype.type(options.beta)
    scratch = _scratch(x.shape, dtype, 3 if beta else 2)
    difference, e = scratch[:2]
    # Not in place, where some numpys take ten times as long.
    np.absolute(np.subtract(x, y, difference, dtype=dtype), e)
    if beta:
        _smooth(beta, *scratch)
    if weight is not None:
        np.multiply(e, weight, e)
    return _without_ignored(e, y, options)


def _smooth(beta, near, size, half):
    """Write c * (size - m / 2) over the size, with m = min(size, beta) and c = m / beta.

    c is 1 from beta on, and nothing on the way is larger than the size.
    """
    np.minimum(size, beta, near)
    np.subtract(size, np.multiply(near, 0.5, half), size)
    np.multiply(size, np.divide(near, beta, near), size)


def _gradient(out, lambda_, z, options, x, y, weight=None):
    """Return lambda * w * sign(x - y) / Z of a block, written to out unless that is None."""
    beta = options.beta and x.dtype.type(options.beta)
    factor = lambda_ / z if weight is None else np.divide(weight, z, dtype=_DOUBLE) * lambda_
    difference, sign = _scratch(x.shape, x.dtype)
    _without_ignored(np.subtract(x, y, difference), y, options)
    if beta:
        np.divide(np.minimum(np.maximum(difference, -beta, sign), beta, sign), beta, sign)
    else:
        # np.sign takes ten times as long where signs are mixed.
        np.divide(difference, np.absolute(difference, sign), sign)
    gradient = np.multiply(sign, factor, out)
    flat = gradient.reshape(-1)
    if not flat.dot(flat) < INFINITY:
        if not beta:
            # A difference may be 0 or infinite, whose quotient is NaN.
            np.multiply(np.sign(difference, sign), factor, gradient)
        if not np.isfinite(factor).all():
            np.copyto(gradient, 0, where=difference == 0)
    return gradient


def _without_ignored(array, y, options):
    """Write 0 into the array where the target is ignored, and return it."""
    if options.ignore_nonfinite_target:
        np.copyto(array, 0, where=~np.isfinite(y))
    if options.ignore_label is not None:
        np.copyto(array, 0, where=y == y.dtype.type(options.ignore_label))
    return array


def _total(options, *inputs):
    """Return the sum of all e, in double."""
    if inputs[0].size <= BLOCK:
        return _sums((), options, *inputs)
    return sum([_sums((), options, *[array[index] for array in inputs])
                for index in _blocks(inputs[0].shape)])


def _sums(rows, options, x, y, weight=None):
    """Return the sums of e over each row of a block, in double."""
    if weight is None:
        sums = _add(rows, _terms(x.dtype, options, x, y))
        if (np.vdot(sums, sums) if rows else sums) < INFINITY:
            return sums
    return _add(rows, _terms(_DOUBLE, options, x, y, weight))


def _add(rows, terms):
    if rows and terms.size == product(rows):
        return terms.reshape(rows)
    if rows:
        return np.add.reduce(terms.reshape(rows + (-1,)), -1, _DOUBLE)
    terms = terms.ravel()
    if terms.size > 4096 and terms.size % 16 == 0:
        # Sixteen at a time meet in their own type, which is three times as fast. If that is float,
        # they are not negative: fifteen roundings of 2**-24 are 9e-7 of the sum at most.
        terms = np.ones(16, terms.dtype).dot(terms.reshape(16, -1))
    return terms.astype(_DOUBLE).dot(_ONES[:terms.size])


# How large arrays are walked


def _aligned(rows, x, y, weight=None):
    """Return the inputs in one shape, and how that begins: with the shape rows, or its size.

    A row is what is summed into one element of top. Axes are merged where no weight is broadcast.
    """
    if weight is None or weight.size == x.size:
        rows = rows and (product(rows),)
        shape = rows + (-1,)
    else:
        shape = x.shape
        weight = np.broadcast_to(weight.reshape((weight.shape + (1,) * x.ndim)[:x.ndim]), shape)
    return rows, [array.reshape(shape) for array in (x, y, weight) if array is not None]


def _blocks(shape):
    """Return the indices that cut an array of this shape into contiguous blocks."""
    axis, inner = len(shape), 1
    while axis and inner * shape[axis - 1] <= BLOCK:
        axis -= 1
        inner *= shape[axis]
    if axis == 0:
        return [()]
    # What lies below the last axis here fits into a block, and that step times.
    step = max(1, BLOCK // inner)
    parts = [(slice(i, i + step),) for i in range(0, shape[axis - 1], step)]
    outer = itertools.product(*[range(n) for n in shape[:axis - 1]])
    return [index + part for index in outer for part in parts]


_kept = threading.local()


def _scratch(shape, dtype, count=2):
    """Return arrays that this thread keeps: asking for that memory costs more than a sum."""
    kept = _kept.__dict__
    if (shape, dtype, count) not in kept:
        if len(kept) == 4:  # a block and what remains, in float and in double
            kept.clear()
        kept[shape, dtype, count] = [np.empty(shape, dtype) for _ in range(count)]
    return kept[shape, dtype, count]


class _Quiet(object):
    """np.errstate(all="ignore"), which before numpy 2 takes as long as a small block."""

    def __enter__(self):
        self.state = np.geterrobj()
        np.seterrobj([self.state[0], 0, self.state[2]])

    def __exit__(self, *_):
        np.seterrobj(self.state)


# Without numpy's warnings: what overflows, and NaN, is in the results.
_quiet = _Quiet if hasattr(np, "geterrobj") else functools.partial(np.errstate, all="ignore")
