"""The L1 layer for those who write their nets with caffe.NetSpec.

    from l1_loss_net_spec import l1_loss
    n = caffe.NetSpec()
    ...
    n.loss = l1_loss(n.prediction, n.target, reduction="MEAN")

Python 2.7 and 3.5 onward.
"""

import json

from caffe import layers
from caffe.proto import caffe_pb2
from l1_loss_checks import DEFAULTS, Options, check_options, prefix


def l1_loss(prediction, target, weight=None, route="python", loss_weight=1, **given):
    """Return the top of an L1 layer, in the spelling of a route: "python", "plugin" or "native".

    prediction, target and weight, which may be None, are tops. The options are those of l1_loss.py;
    whatever else is given becomes a field of the layer, as for any layer of caffe.layers, such as
    name="l1" or include=dict(phase=caffe.TRAIN). A top that feeds further layers and is no loss
    itself takes loss_weight=0. Raises ValueError for an unknown route or a wrong option.
    """
    options = [(name, given.pop(name)) for name in Options._fields if name in given]
    try:
        _check(route, given)
        check_options(DEFAULTS._replace(**dict(options)))
    except ValueError as error:
        prefix(error, "l1_loss")
        raise
    bottoms = [prediction, target] + ([] if weight is None else [weight])
    said = [(name, value) for name, value in options if value is not None]
    given.update(_spelled(route, said), loss_weight=loss_weight)
    make = layers.Python if route == "python" else layers.L1Loss
    return make(*bottoms, **given)


def _check(route, fields):
    if route not in ("python", "plugin", "native"):
        raise ValueError('route is "%s"; allowed: python, plugin, native' % route)
    if route == "native" and not hasattr(caffe_pb2, "L1LossParameter"):
        raise ValueError('route is "native", and this pycaffe is of a Caffe without the native '
                         'layer; fix: scripts/apply_patch.py puts it in, or take "python" or '
                         '"plugin"')
    unread = ["python_param", "l1_loss_param"] + (["loss_param"] if route == "python" else [])
    for name in fields:
        if name in unread:
            raise ValueError('"%s" would not be read; fix: give the options themselves, such as '
                             'reduction="MEAN"' % name)
        if name not in caffe_pb2.LayerParameter.DESCRIPTOR.fields_by_name:
            raise ValueError('unknown option "%s"; allowed: %s, and the fields of a layer'
                             % (name, ", ".join(Options._fields)))


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
