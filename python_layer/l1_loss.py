"""The L1 loss (mean absolute error) and its gradients, in numpy alone.

    e = w * |x - y|        L = sum(e) / Z        dL/dx = w * sign(x - y) / Z = -dL/dy

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

The arrays are walked once, in blocks that stay in the cache. Works on Python 2.7 and 3.5 onward.

Source: torch.nn.functional.l1_loss, keras.losses.MeanAbsoluteError and
tf.compat.v1.losses.absolute_difference, to which tests/test_parity.py compares it. Other than
PyTorch this lets NaN through to the gradient, and refuses shapes instead of broadcasting them;
other than Keras it divides by the weights as broadcast.
"""

import itertools
import json
import math
import numbers
import threading
from collections import namedtuple

import numpy as np

# Elements. Large enough to drown the cost of a numpy call, small enough for the cache.
BLOCK = 131072
_WHOLE = ((),)
_INFINITY = float("inf")
REDUCTIONS = ("BATCHMEAN", "MEAN", "SUM", "VALID_MEAN", "WEIGHTED_MEAN", "NONE")

Options = namedtuple("Options", "reduction axis ignore_label ignore_nonfinite_target")
DEFAULTS = Options("BATCHMEAN", None, None, False)


def l1_loss(x, y, weight=None, reduction="BATCHMEAN", axis=None, ignore_label=None,
            ignore_nonfinite_target=False):
    """Return the L1 loss of predictions x and targets y.

    Arguments:
        x: predictions, shape (N, ...), any number of axes.
        y: targets, shape of x, or that shape with neighbouring axes merged or split.
        weight: every axis equals that of x or is 1, from the first axis on; (N,) is one per sample.
        reduction: one of REDUCTIONS, see the top of this file.
        axis: with reduction NONE, the mean over this axis and all that follow; may be negative.
        ignore_label: elements whose target equals this number are ignored.
        ignore_nonfinite_target: whether elements whose target is NaN or infinite are ignored.

    Returns: a float64, summed in double; with NONE an array of shape x.shape or x.shape[:axis].
    Raises: ValueError, of one line, for options and shapes that do not fit.
    """
    task = _task("l1_loss", x, y, weight, reduction, axis, ignore_label, ignore_nonfinite_target)
    x, y, weight, options, shape = task
    top = np.zeros(shape, x.dtype if shape else np.float64)
    if x.size:
        write_loss(top, x, y, weight, options)
    return top[()]


def l1_loss_grad(x, y, weight=None, reduction="BATCHMEAN", axis=None, ignore_label=None,
                 ignore_nonfinite_target=False, top_diff=1.0):
    """Return the gradients (dx, dy) of l1_loss, in the shapes of x and y.

    Arguments: those of l1_loss, and
        top_diff: the gradient of what follows by the loss, a number or an array of its shape.

    Raises: ValueError, of one line, for options and shapes that do not fit.
    """
    task = _task("l1_loss_grad", x, y, weight, reduction, axis, ignore_label,
                 ignore_nonfinite_target)
    dx, dy = np.zeros(np.shape(x), task[0].dtype), np.zeros(np.shape(y), task[0].dtype)
    x, y, weight, options, shape = task
    if x.size:
        write_gradients(dx, dy, x, y, weight, np.broadcast_to(top_diff, shape), options)
    return dx, dy


def _task(who, x, y, weight, reduction, axis, ignore_label, ignore_nonfinite_target):
    x, y = np.asarray(x), np.asarray(y)
    weight = None if weight is None else np.asarray(weight)
    try:
        options = check_options(reduction, axis, ignore_label, ignore_nonfinite_target)
        shape = check_shapes(options, x.shape, y.shape, None if weight is None else weight.shape)
    except ValueError as error:
        prefix(error, who)
        raise
    if options.ignore_label is not None:
        options = options._replace(ignore_label=_label(y.dtype, options.ignore_label))
    dtype = np.result_type(np.float32, *[a for a in (x, y, weight) if a is not None])
    dtype = np.dtype(np.float32 if dtype == np.float32 else np.float64)
    x, y = x.astype(dtype, "C", copy=False), y.astype(dtype, "C", copy=False)
    weight = None if weight is None else weight.astype(dtype, "C", copy=False)
    return x, y, weight, options, shape


def _label(dtype, number):
    """Return the number as targets of the dtype can be; NaN, which equals nothing, if they cannot.
    """
    if dtype.kind != "f":
        return number if number.is_integer() else float("nan")
    with np.errstate(over="ignore"):
        return float(dtype.type(number))


# What a user can get wrong. Each check raises a ValueError without saying who asks.


def prefix(error, who):
    """Put who asks in front of the line of the error."""
    error.args = ("%s: %s" % (who, error.args[0]),)


class _Number(float):
    """A number of a param_str, which knows how it was written."""

    def __init__(self, text):
        self.text = text


class _Integer(_Number):
    """One without fraction and exponent; a float, because it may have any number of digits."""


numbers.Integral.register(_Integer)


class _Object(tuple):
    """The names and values of a JSON object, in order."""


def read_options(param_str):
    """Return the Options of a param_str: L1LossParameter in protobuf's JSON form, or nothing."""
    spellings = {_camel_case(name): name for name in Options._fields}
    given = {}
    for written, value in _read_object(param_str.strip(" \t\r\n") or "{}"):
        name = spellings.get(written, written)
        if name not in Options._fields:
            raise ValueError("unknown option %s; allowed: %s"
                             % (json.dumps(written), ", ".join(Options._fields)))
        if name in given:
            raise ValueError('option "%s" is given twice; fix: give it once' % name)
        given[name] = value
    return check_options(**given)


def _read_object(text):
    try:
        found = json.loads(text, parse_int=_Integer, parse_float=_Number,
                           parse_constant=_refuse_constant, object_pairs_hook=_Object)
    except (ValueError, RuntimeError):  # RuntimeError: nested too deep
        found = None
    if not isinstance(found, _Object):
        raise ValueError('param_str is not valid JSON; allowed: an object such as '
                         '{"reduction": "MEAN"}')
    return found


def _refuse_constant(name):
    raise ValueError("JSON has no " + name)


def _camel_case(name):
    first, rest = name.split("_")[0], name.split("_")[1:]
    return first + "".join(word.capitalize() for word in rest)


def check_options(reduction=None, axis=None, ignore_label=None, ignore_nonfinite_target=None):
    """Return Options, where None stands for the default, or raise ValueError."""
    given = Options(reduction, axis, ignore_label, ignore_nonfinite_target)
    options = Options(*[d if g is None else g for g, d in zip(given, DEFAULTS)])
    _allow("reduction", options.reduction, options.reduction in REDUCTIONS, ", ".join(REDUCTIONS))
    _allow("axis", axis, axis is None or _is(axis, numbers.Integral) and -2**31 <= axis < 2**31,
           "an integer")
    _allow("ignore_label", ignore_label,
           ignore_label is None or _is(ignore_label, numbers.Real) and _is_finite(ignore_label),
           "a finite number")
    _allow("ignore_nonfinite_target", options.ignore_nonfinite_target,
           isinstance(options.ignore_nonfinite_target, (bool, np.bool_)), "true or false")
    if axis is not None and options.reduction != "NONE":
        raise ValueError('option "axis" needs "reduction": "NONE", not "%s"' % options.reduction)
    return options._replace(axis=None if axis is None else int(axis),
                            ignore_label=None if ignore_label is None else float(ignore_label))


def _is(value, kind):
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_finite(number):
    try:
        return -_INFINITY < float(number) < _INFINITY
    except OverflowError:  # an int of Python may have any number of digits
        return False


def _allow(name, value, good, allowed):
    if not good:
        raise ValueError('option "%s" is %s; allowed: %s' % (name, _shown(value), allowed))


def _shown(value):
    if isinstance(value, _Number):
        return value.text
    if isinstance(value, (dict, _Object)):
        return "{...}"
    if isinstance(value, (list, tuple)):
        return "[...]"
    return json.dumps(value.item() if isinstance(value, np.generic) else value, default=str)


def check_shapes(options, x, y, weight=None):
    """Return the shape of the loss for the shapes of x, y and weight, or raise ValueError."""
    if not x:
        raise ValueError("predictions () have no axes; fix: give them at least one, the batch")
    if x[0] != (y or (None,))[0] or not (_merges(x, y) or _merges(y, x)):
        raise ValueError("predictions %s and targets %s do not match; fix: give both the same "
                         "shape, or one with neighbouring axes of the other merged" % (x, y))
    if weight is not None and not _broadcasts(weight, x):
        raise ValueError("weights %s do not match predictions %s; fix: every axis of the weights "
                         "must equal that of the predictions or be 1, from the first axis on"
                         % (weight, x))
    if options.reduction != "NONE":
        return ()
    axis = len(x) if options.axis is None else options.axis
    if options.axis is not None and not -len(x) <= axis < len(x):
        raise ValueError('option "axis" is %d; allowed: %d to %d for predictions of shape %s'
                         % (axis, -len(x), len(x) - 1, x))
    return x[:axis]


def _merges(fine, coarse):
    """Tell whether merging neighbours in the shape fine gives coarse, but for axes of length 1."""
    fine, coarse = [n for n in fine if n != 1], [n for n in coarse if n != 1]
    # How many axes of fine the axes of coarse so far can be made of: with zeros, there are several.
    ends = {0}
    for length in coarse:
        ends = {j + 1 for i in ends for j in range(i, len(fine))
                if _product(fine[i:j + 1]) == length}
    return len(fine) in ends


def _broadcasts(weight, x):
    padded = x + (1,) * (len(weight) - len(x))
    return all(n in (1, m) for n, m in zip(weight, padded))


def _product(shape):
    result = 1
    for n in shape:
        result *= n
    return result


# The mathematics. The arrays fit (check_shapes), are not empty, C-contiguous and of one dtype.


def write_loss(top, x, y, weight, options):
    """Write the loss into top, of the shape that check_shapes returned, and return the divisor."""
    with _quiet():
        z = divisor(x.shape, y, weight, options)
        if z == 0:
            top[...] = 0
        else:
            x, y, weight, rows = _aligned(x, y, weight, top.shape)
            _write_sums(top, x, y, weight, rows, options, z)
    return z


def write_gradients(dx, dy, x, y, weight, top_diff, options, z=None):
    """Write the gradients into dx and dy, where not None; z is what write_loss returned."""
    with _quiet():
        z = divisor(x.shape, y, weight, options) if z is None else z
        if z == 0:
            for gradient in (dx, dy):
                if gradient is not None:
                    gradient[...] = 0
            return
        x, y, weight, rows = _aligned(x, y, weight, top_diff.shape)
        dx, dy = [None if g is None else g.reshape(x.shape) for g in (dx, dy)]
        lambda_ = 1.0 if top_diff.shape else float(top_diff)
        scale = lambda_ / z
        if weight is not None and math.isinf(scale):
            # Weights that all are so small that not even a double holds what 1 is of their sum.
            weight, scale = weight / z, lambda_
        factors = [] if weight is None else [weight]
        if top_diff.shape:
            column = top_diff.reshape(rows + (1,) * (x.ndim - len(rows)))
            factors.append(np.broadcast_to(column, x.shape))
        for index in _blocks(x.shape):
            gradient = _gradient(None if dx is None else dx[index], x[index], y[index],
                                 [f[index] for f in factors], scale, options)
            if dy is not None:
                np.negative(gradient, dy[index])


def divisor(shape, y, weight, options):
    """Return Z for predictions of this shape."""
    reduction = options.reduction
    if reduction == "BATCHMEAN":
        return shape[0]
    if reduction == "SUM":
        return 1
    if reduction == "NONE":
        return 1 if options.axis is None else _product(shape[options.axis:])
    if reduction == "MEAN" or weight is None and not _masks(options):
        return _product(shape)
    return _counted(shape, y, weight, options)


def _counted(shape, y, weight, options):
    """Return the number of elements that count, or with WEIGHTED_MEAN the sum of their weights."""
    weight = np.ones(1, y.dtype) if weight is None else weight
    if _masks(options):
        y, _, weight, _ = _aligned(y.reshape(shape), y, weight, ())
        times = 1
    else:
        times = _product(shape) // weight.size
        y = weight = weight.reshape(-1)
    total = 0
    for index in _blocks(weight.shape):
        s = _scratch(weight[index].shape, weight.dtype)
        np.copyto(s.weight, weight[index])
        _zero(s.weight, _ignored(y[index], options))
        if options.reduction == "WEIGHTED_MEAN":
            total += np.add.reduce(s.weight, None)
        else:
            total += np.count_nonzero(np.not_equal(s.weight, 0, s.where))
    return total * times


def _aligned(x, y, weight, rows):
    """Return views of x, y and weight of one shape, and how that begins: with the shape rows.

    A row is what is summed into one element of top. Axes are merged where no weight is broadcast.
    """
    if weight is None or weight.size == x.size:
        rows = rows and (_product(rows),)
        shape = rows + (-1,)
        weight = None if weight is None else weight.reshape(shape)
    else:
        shape = x.shape
        weight = weight.reshape((weight.shape + (1,) * x.ndim)[:x.ndim])
        weight = np.broadcast_to(weight, shape)
    return x.reshape(shape), y.reshape(shape), weight, rows


def _blocks(shape):
    """Return the indices that cut an array of this shape into contiguous blocks."""
    if _product(shape) <= BLOCK:
        return _WHOLE
    axis, inner = len(shape) - 1, 1
    while axis and inner * shape[axis] <= BLOCK:
        inner *= shape[axis]
        axis -= 1
    # What lies below this axis fits into a block, and that step times.
    step = max(1, BLOCK // inner)
    parts = [(slice(i, i + step),) for i in range(0, shape[axis], step)]
    if axis == 0:
        return parts
    outer = itertools.product(*[range(n) for n in shape[:axis]])
    return [index + part for index in outer for part in parts]


class _Quiet(object):
    """np.errstate(all="ignore"), which before numpy 2 takes half as long as a small block."""

    def __enter__(self):
        self.state = np.geterrobj()
        np.seterrobj([self.state[0], 0, self.state[2]])

    def __exit__(self, *_):
        np.seterrobj(self.state)


def _quiet():
    """Return a context without numpy's warnings: what overflows, and NaN, is in the results."""
    return _Quiet() if hasattr(np, "geterrobj") else np.errstate(all="ignore")


class _Scratch(object):
    """Arrays of the shape of a block; views of them, flat and as integers, whose sign is a bit."""

    def __init__(self, shape, dtype):
        integer = np.dtype("i%d" % dtype.itemsize)
        self.difference, self.result = np.empty(shape, dtype), np.empty(shape, dtype)
        self.difference_bits = self.difference.view(integer)
        self.wide, self.weight = np.empty(shape), np.empty(shape)
        self.where = np.empty(shape, np.bool_)
        self.flat, self.wide_flat = self.difference.reshape(-1), self.wide.reshape(-1)
        self.weight_flat = self.weight.reshape(-1)
        # For sums in double: by dot they take a third of the time of add.reduce.
        size = self.flat.size
        parts = 16 if size > 4096 and size % 16 == 0 else 1
        self.parts, self.ones = self.result.reshape(parts, -1), np.ones(parts, dtype)
        self.sums = np.empty(size // parts, dtype) if parts > 1 else self.result.reshape(-1)
        self.wide_sums, self.wide_ones = np.empty(size // parts), np.ones(size // parts)
        # As arrays, because numpy takes longer to make something of a number.
        self.sign, self.zero = np.array(np.iinfo(integer).min, integer), np.zeros((), dtype)

    def sum(self):
        """Return the sum of the results, none of them negative, in double.

        Sixteen parts of a large block are added up in its own precision before, which is three
        times as fast: fifteen roundings of 2**-24, so an error of 9e-7 of the sum at most.
        """
        if len(self.ones) > 1:
            np.dot(self.ones, self.parts, self.sums)
        self.wide_sums[...] = self.sums
        return self.wide_sums.dot(self.wide_ones)


_kept = threading.local()


def _scratch(shape, dtype):
    """Return what this thread keeps for blocks of the shape.

    Asking for that memory costs more than a sum. Two shapes, a block and what remains, are usual.
    """
    kept = _kept.__dict__
    key = shape, dtype
    if key not in kept:
        if len(kept) == 4:
            kept.clear()
        kept[key] = _Scratch(shape, dtype)
    return kept[key]


def _write_sums(top, x, y, weight, rows, options, z):
    """Write the sums of e over each row, divided by z."""
    blocks = _blocks(x.shape)
    if not rows:
        top[...] = sum([_sums(x[i], y[i], weight, i, options, ()) for i in blocks]) / z
    elif x.size <= BLOCK * top.size:
        top = top.reshape(rows)
        for index in blocks:
            sums = _sums(x[index], y[index], weight, index, options, top[index].shape)
            np.divide(sums, z, top[index], casting="same_kind")
    else:
        sums = np.zeros(rows)
        for index in blocks:
            sums[index[:len(rows)]] += _sums(x[index], y[index], weight, index, options, ())
        top[...] = sums.reshape(top.shape) / z


def _sums(x, y, weight, index, options, rows):
    """Return the sums of e over each row of a block in double, as an array of the shape rows.

    Where a weight is negative the terms may cancel: they are multiplied and added in double. So are
    those whose product leaves the range of float.
    """
    s = _scratch(x.shape, x.dtype)
    ignored = _difference(x, y, options, s.difference)
    # Not in place, where some numpys take ten times as long.
    e = np.absolute(s.difference, s.result)
    if weight is None:
        sums = _row_sums(e, rows) if rows else s.sum()
    elif _product(rows) == e.size or not rows and not _has_negative(weight[index], s):
        np.multiply(e, weight[index], e)
        _zero(e, ignored)
        sums = _row_sums(e, rows) if rows else s.sum()
        if not rows and sums < e.size * np.finfo(e.dtype).tiny:
            sums = float("nan")
    else:
        np.copyto(s.wide, e)
        np.copyto(s.weight, weight[index])
        _zero(s.weight, ignored)
        sums = (_row_sums(np.multiply(s.wide, s.weight, s.wide), rows) if rows
                else s.wide_flat.dot(s.weight_flat))
    if _is_finite(np.dot(sums.reshape(-1), sums.reshape(-1)) if rows else sums):
        return sums
    # Two floats may differ, and sixteen add up, by more than a float can hold.
    e = np.absolute(np.subtract(x, y, dtype=np.float64))
    if weight is not None:
        np.multiply(e, weight[index], e)
    _zero(e, ignored)
    return _row_sums(e, rows)


def _has_negative(weight, s):
    if 0 not in weight.strides:
        return np.count_nonzero(np.less(weight, s.zero, s.where))
    # Of what is broadcast, one is enough.
    return (weight[tuple([slice(None) if step else 0 for step in weight.strides])] < 0).any()


def _row_sums(terms, rows):
    if terms.size == _product(rows):
        return terms.reshape(rows)
    return np.add.reduce(terms.reshape(rows + (-1,)), -1, np.float64)


def _gradient(gradient, x, y, factors, scale, options):
    """Write scale * sign(x - y) times the factors of a block; where there is none, return an array.

    sign(0) is 0, whatever it is multiplied by, and sign(NaN) is NaN.
    """
    s = _scratch(x.shape, x.dtype)
    gradient = s.result if gradient is None else gradient
    ignored = _difference(x, y, options, s.difference)
    _write_products(gradient, factors, scale, s)
    flat = gradient.reshape(-1)
    # A sum of squares is finite only if all of them are.
    if _is_finite(s.flat.dot(s.flat)) and (not factors or _is_finite(flat.dot(flat))):
        zeros = np.count_nonzero(np.equal(s.difference, s.zero, s.where))
        bits = gradient.view(s.sign.dtype)
        np.bitwise_and(s.difference_bits, s.sign, s.difference_bits)
        np.bitwise_xor(bits, s.difference_bits, bits)
        if zeros:
            np.copyto(gradient, 0, where=s.where)
    else:
        _write_products(s.wide, factors, scale, s)
        np.multiply(s.wide, np.sign(s.difference), gradient, casting="same_kind")
        np.copyto(gradient, 0, where=np.equal(s.difference, s.zero, s.where))  # of infinite weights
        _zero(gradient, ignored)
    return gradient


def _write_products(out, factors, scale, s):
    """Write scale times the factors, with one rounding to the type of out, or two that are as good.
    """
    if not factors:
        out[...] = scale
        return
    limits = np.finfo(out.dtype)
    dtype = out.dtype if limits.tiny <= abs(scale) <= limits.max else np.float64
    factor = factors[0]
    if len(factors) == 2 and scale == 1:
        np.multiply(factor, factors[1], out, dtype=out.dtype, casting="same_kind")
        return
    if len(factors) == 2:
        factor = np.multiply(factor, factors[1], s.weight, dtype=np.float64)
        dtype = np.float64
    np.multiply(factor, scale, out, dtype=dtype, casting="same_kind")


def _difference(x, y, options, out):
    """Write x - y, 0 where ignored, into out, and return what is ignored, or None."""
    np.subtract(x, y, out)
    ignored = _ignored(y, options)
    _zero(out, ignored)
    return ignored


def _masks(options):
    return options.ignore_nonfinite_target or options.ignore_label is not None


def _ignored(y, options):
    """Tell for each target whether it is ignored; None if none can be."""
    if not _masks(options):
        return None
    ignored = np.isfinite(y)
    if options.ignore_nonfinite_target:
        np.logical_not(ignored, ignored)
    else:
        ignored[...] = False
    if options.ignore_label is not None:
        np.logical_or(ignored, np.equal(y, y.dtype.type(options.ignore_label)), ignored)
    return ignored


def _zero(array, where):
    if where is not None:
        np.copyto(array, 0, where=where)
