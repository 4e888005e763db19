"""The L1 layer for those who write their nets with caffe.NetSpec.

    from l1_loss_net_spec import l1_loss
    n = caffe.NetSpec()
    ...
    n.loss = l1_loss(n.prediction, n.target, reduction="MEAN")

Python 2.7 and 3.5 onward.
"""

import json

import l1_loss_stock as stock
from caffe import layers
from caffe.proto import caffe_pb2
from l1_loss_checks import DEFAULTS, Options, check_options, prefix

ROUTES = ("stock", "python", "plugin", "native")
RULES = ("include", "exclude", "phase")  # when a layer is part of the net


def l1_loss(prediction, target, weight=None, route="python", loss_weight=1, **given):
    """Return the top of an L1 layer, in the spelling of a route, which is one of ROUTES.

    prediction, target and weight, which may be None, are tops. The options are those of l1_loss.py;
    whatever else is given becomes a field of the layer, as for any layer of caffe.layers, such as
    name="l1" or include=dict(phase=caffe.TRAIN). A top that feeds further layers and is no loss
    itself takes loss_weight=0. By the route "stock" it is the top of several layers of Caffe's own.
    Raises ValueError for an unknown route or a wrong option.
    """
    options = [(name, given.pop(name)) for name in Options._fields if name in given]
    try:
        _check(route, given)
        checked = check_options(DEFAULTS._replace(**dict(options)))
        if route == "stock":
            stock.check(checked, weight is not None)
            _check_downs(given.get("propagate_down"), weight)
    except ValueError as error:
        prefix(error, "l1_loss")
        raise
    bottoms = [prediction, target] + ([] if weight is None else [weight])
    if route == "stock":
        return _stock(bottoms, checked, loss_weight, given)
    said = [(name, value) for name, value in options if value is not None]
    given.update(_spelled(route, said), loss_weight=loss_weight)
    make = layers.Python if route == "python" else layers.L1Loss
    return make(*bottoms, **given)


def _check(route, fields):
    if route not in ROUTES:
        raise ValueError('route is "%s"; allowed: %s' % (route, ", ".join(ROUTES)))
    if route == "native" and not hasattr(caffe_pb2, "L1LossParameter"):
        raise ValueError('route is "native", and this pycaffe is of a Caffe without the native '
                         'layer; fix: scripts/apply_patch.py puts it in, or take "python" or '
                         '"plugin"')
    unread = ["python_param", "l1_loss_param"]
    unread += ["loss_param"] if route in ("stock", "python") else []
    for name in fields:
        if name in unread:
            raise ValueError('"%s" would not be read; fix: give the options themselves, such as '
                             'reduction="MEAN"' % name)
        if name not in caffe_pb2.LayerParameter.DESCRIPTOR.fields_by_name:
            raise ValueError('unknown option "%s"; allowed: %s, and the fields of a layer'
                             % (name, ", ".join(Options._fields)))


def _check_downs(downs, weight):
    if downs is not None and len(downs) != (2 if weight is None else 3):
        raise ValueError('"propagate_down" is %s; fix: give it once for each bottom' % (downs,))
    if downs is not None and any(downs[2:]):
        raise ValueError("weights get no gradient; fix: propagate_down=[..., False]")


def _spelled(route, options):
    if route == "native":
        # assign_proto, which NetSpec uses, takes enums by number alone.
        message = caffe_pb2.L1LossParameter
        return {"l1_loss_param": {name: message.Reduction.Value(value) if name == "reduction"
                                  else value for name, value in options}}
    # json does not know numpy's numbers.
    pairs = ['"%s": %s' % (name, json.dumps(value, default=lambda number: number.item()))
             for name, value in options]
    param = {"param_str": "{%s}" % ", ".join(pairs)}
    if route == "python":
        param.update(module="l1_loss_layer", layer="L1LossLayer")
    return {"python_param": param}


def _stock(bottoms, options, loss_weight, fields):
    """Return the top of the last of several layers of Caffe's own."""
    rules = dict((name, fields[name]) for name in RULES if name in fields)
    downs = fields.pop("propagate_down", None)
    has_total = loss_weight != 0 and not stock.is_scalar(options.reduction, options.axis)
    last = dict(fields, loss_weight=0 if has_total else loss_weight)
    if downs is not None:
        last["propagate_down"] = [True]
    top, parts = bottoms[0], []
    for step in stock.steps(options.reduction, options.axis, len(bottoms) == 3):
        inputs, own = [top], dict(rules if step.part else last)
        if step == stock.DIFFERENCE:
            inputs = bottoms[:2]
            own.update({} if downs is None else {"propagate_down": list(downs[:2])})
        elif step.values == stock.WEIGHTED.values:
            inputs = [top, bottoms[2]]
            own["propagate_down"] = [True, False]  # weights get no gradient
        top = _layer(step, inputs, own)
        parts.append((step.part, top))
    if has_total:
        own = dict(rules, loss_weight=loss_weight)
        parts.append((stock.TOTAL.part, _layer(stock.TOTAL, [top], own)))
    _name_late(top, [(part, helper) for part, helper in parts if part])
    return top


def _layer(step, inputs, fields):
    name = stock.block(step)
    values = dict(step.values)
    if values:
        message = caffe_pb2.LayerParameter.DESCRIPTOR.fields_by_name[name].message_type
        enum = message.fields_by_name["operation"].enum_type
        values["operation"] = enum.values_by_name[values["operation"]].number
        if "coeff" in values:  # given twice, which a dict cannot hold
            values["coeff"] = [value for given, value in step.values if given == "coeff"]
        fields[name] = values
    return getattr(layers, step.type)(*inputs, **fields)


def _name_late(last, helpers):
    """Name the helpers after the top of the loss, which gets its own name only in to_proto()."""
    written = last.fn._to_proto

    def to_proto(layers, names, autonames):
        if last.fn in layers:
            return
        base = last.fn._get_top_name(last, names, autonames)
        for part, helper in helpers:
            names[helper] = "%s_l1_%s" % (base, part)
        written(layers, names, autonames)
        if helpers[-1][0] == stock.TOTAL.part:  # nothing that is asked for leads to it
            helpers[-1][1]._to_proto(layers, names, autonames)

    last.fn._to_proto = to_proto
