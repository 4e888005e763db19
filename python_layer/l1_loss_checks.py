"""Options and shapes of the L1 loss: what a user can get wrong, checked without numpy.

Each check raises a ValueError of one line, which does not say who asks. `Options` are those of the
message L1LossParameter. Works on Python 2.7 and 3.5 onward; l1_loss.py, the layer, NetSpec and
switch_route.py say the same of an option because they ask here.
"""

import functools
import json
import numbers
import operator
import re
import sys
from collections import namedtuple

REDUCTIONS = ("BATCHMEAN", "MEAN", "SUM", "VALID_MEAN", "WEIGHTED_MEAN", "NONE")
Options = namedtuple("Options", "reduction axis ignore_label ignore_nonfinite_target beta")
DEFAULTS = Options("BATCHMEAN", None, None, False, 0.0)
# The largest float: in no Caffe a beta is infinite.
LARGEST = (2 - 2.0**-23) * 2.0**127


def prefix(error, who):
    """Put who asks in front of the line of the error."""
    error.args = ("%s: %s" % (who, error.args[0]),)


class Number(float):
    """A number of a param_str, which knows how it was written."""

    def __init__(self, text):
        self.text = text


class Integer(Number):
    """One without fraction and exponent; a float, because it may have any number of digits."""


numbers.Integral.register(Integer)


class _Object(tuple):
    """The names and values of a JSON object, in order."""


def read_options(param_str):
    """Return the Options of a param_str: L1LossParameter in protobuf's JSON form, or nothing."""
    return check_options(DEFAULTS._replace(**read_given(param_str)))


def read_given(param_str):
    """Return the values by name that a param_str gives, of which none is checked yet."""
    given = {}
    for written, value in _read_object(param_str.strip(" \t\r\n") or "{}"):
        name = _SPELLINGS.get(written)
        if name is None:
            raise ValueError("unknown option %s; allowed: %s"
                             % (json.dumps(written), ", ".join(Options._fields)))
        if name in given:
            raise ValueError('option "%s" is given twice; fix: give it once' % name)
        given[name] = value
    return given


def _camel_case(name):
    return re.sub("_([a-z])", lambda match: match.group(1).upper(), name)


_SPELLINGS = {spell(name): name for name in Options._fields for spell in (str, _camel_case)}


def _read_object(text):
    try:
        found = json.loads(text, parse_int=Integer, parse_float=Number, object_pairs_hook=_Object,
                           parse_constant=int)  # int("NaN") raises ValueError
    except (ValueError, RuntimeError):  # RuntimeError: nested too deep
        found = None
    if not isinstance(found, _Object):
        raise ValueError('param_str is not valid JSON; allowed: an object such as '
                         '{"reduction": "MEAN"}')
    return found


def check_options(options):
    """Return the Options with the default for each None, or raise ValueError."""
    given = [_plain(option) for option in options]
    reduction, axis, label, nonfinite, beta = options = Options(*[
        default if option is None else check_option(name, option)
        for name, option, default in zip(Options._fields, given, DEFAULTS)])
    check_axis(reduction, axis)
    return options._replace(axis=None if axis is None else int(axis),
                            ignore_label=None if label is None else float(label),
                            beta=float(beta))


def check_axis(reduction, axis):
    """Raise ValueError for an axis of a loss that is no mean over axes."""
    if axis is not None and reduction != "NONE":
        raise ValueError('option "axis" needs "reduction": "NONE", not "%s"' % reduction)


def check_option(name, value):
    """Return the value, which is not None, if the option of this name may have it."""
    is_right, allowed = _ALLOWED[name]
    if not is_right(value):
        raise ValueError('option "%s" is %s; allowed: %s' % (name, shown(value), allowed))
    return value


def _plain(value):
    """Return a number, name or truth of numpy's as Python's own."""
    is_numpys = type(value).__module__ == "numpy" and not hasattr(value, "__setitem__")
    return value.item() if is_numpys else value


def _is(value, kind):
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_number(value, least, most):
    try:
        return _is(value, numbers.Real) and least <= float(value) <= most
    except OverflowError:  # an int of Python may have any number of digits
        return False


_ALLOWED = {
    "reduction": (lambda value: value in REDUCTIONS, ", ".join(REDUCTIONS)),
    "axis": (lambda value: _is(value, numbers.Integral) and -2**31 <= value < 2**31, "an integer"),
    "ignore_label": (lambda value: _is_number(value, -sys.float_info.max, sys.float_info.max),
                     "a finite number"),
    "ignore_nonfinite_target": (lambda value: isinstance(value, bool), "true or false"),
    "beta": (lambda value: _is_number(value, 0, LARGEST), "a number from 0 to %r" % LARGEST),
}


def shown(value):
    """Return the value as an error shows it."""
    if isinstance(value, Number):
        return value.text
    if isinstance(value, (dict, _Object)):
        return "{...}"
    if isinstance(value, (list, tuple)):
        return "[...]"
    return json.dumps(value, default=str)


def check_shapes(options, x, y, weight=()):
    """Return the shape of the loss for the shapes of x, y and weight, or raise ValueError."""
    if not x:
        raise ValueError("predictions () have no axes; fix: give them at least one, the batch")
    if x[:1] != y[:1] or not (_merges(x, y) or _merges(y, x)):
        raise ValueError("predictions %s and targets %s do not match; fix: give both the same "
                         "shape, or one with neighbouring axes of the other merged" % (x, y))
    if not _broadcasts(weight, x):
        raise ValueError("weights %s do not match predictions %s; fix: every axis of the weights "
                         "must equal that of the predictions or be 1, from the first axis on"
                         % (weight, x))
    if options.reduction != "NONE":
        return ()
    axis = options.axis
    if axis is not None and not -len(x) <= axis < len(x):
        raise ValueError('option "axis" is %d; allowed: %d to %d for predictions of shape %s'
                         % (axis, -len(x), len(x) - 1, x))
    return x[:axis]


def _merges(fine, coarse):
    """Tell whether merging neighbours in the shape fine gives coarse, but for axes of length 1."""
    fine, coarse = [n for n in fine if n != 1], [n for n in coarse if n != 1]
    # How many axes of fine can make up the axes of coarse so far: with zeros, there are several.
    ends = {0}
    for length in coarse:
        ends = {j + 1 for i in ends for j in range(i, len(fine))
                if product(fine[i:j + 1]) == length}
    return len(fine) in ends


def _broadcasts(weight, x):
    padded = x + (1,) * (len(weight) - len(x))
    return all(n in (1, m) for n, m in zip(weight, padded))


def product(shape):
    return functools.reduce(operator.mul, shape, 1)
