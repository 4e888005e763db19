"""The L1 loss by Caffe's own layers: which ones say which reduction.

Eltwise takes the difference, AbsVal its size, Reduction sums or averages. All but the last are
helpers, whose names and tops are TOP_l1_difference and so on, after the top of the loss: by these
names switch_route.py knows them again. Works on Python 2.7 and 3.5 onward, without numpy.
"""

from collections import namedtuple

from l1_loss_checks import DEFAULTS, Options

# part: the end of its name, or nothing for the loss's own layer; values: what its block says.
Step = namedtuple("Step", "part type values")

DIFFERENCE = Step("difference", "Eltwise", (("operation", "SUM"), ("coeff", 1), ("coeff", -1)))
ABSOLUTE = Step("absolute", "AbsVal", ())
WEIGHTED = Step("weighted", "Eltwise", (("operation", "PROD"),))
# A top that is not a scalar would lose its loss_weight as the batch grows, so a sum of it has that.
TOTAL = Step("total", "Reduction", (("operation", "SUM"),))


def steps(reduction, axis, is_weighted):
    """Return the Steps in their order; the last one is the loss's own layer."""
    # Weights may be negative, so the absolute value comes first; a sum takes it by itself.
    by_sum = reduction in ("SUM", "BATCHMEAN") and not is_weighted
    operation = "ASUM" if by_sum else "SUM"
    found = [DIFFERENCE] + [ABSOLUTE] * (not by_sum) + [WEIGHTED] * is_weighted
    if reduction == "SUM":
        found.append(_reduction(operation))
    elif reduction == "BATCHMEAN":
        found += [_reduction(operation, 1, "per_sample"), _reduction("MEAN")]
    elif reduction == "MEAN" or axis is not None:
        found.append(_reduction("MEAN", axis))
    return found[:-1] + [found[-1]._replace(part="")]


def _reduction(operation, axis=None, part=""):
    values = (("operation", operation),)
    return Step(part, "Reduction", values if axis is None else values + (("axis", axis),))


def block(step):
    """Return the name of the field that holds the values."""
    return "eltwise_param" if step.type == "Eltwise" else "reduction_param"


def is_scalar(reduction, axis):
    """Tell whether the top surely is one, whose loss_weight stays as the batch grows."""
    return reduction != "NONE" or axis == 0


def check(options, is_weighted):
    """Raise ValueError for Options that Caffe's own layers cannot say."""
    for name, value, default in zip(Options._fields, options, DEFAULTS):
        if name not in ("reduction", "axis") and value != default:
            raise cannot('option "%s"' % name)
    if options.reduction in ("VALID_MEAN", "WEIGHTED_MEAN"):
        raise cannot('"reduction": "%s"' % options.reduction, "take another route" if is_weighted
                     else "write MEAN, the same without weights")


def cannot(what, fix="take another route"):
    """Return the ValueError that says what they have not."""
    return ValueError("Caffe's own layers have no %s; fix: %s" % (what, fix))
