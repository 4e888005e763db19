"""The L1 loss as a Caffe layer, for any pycaffe built with the Python layer.

    layer {
      name: "loss"  type: "Python"  bottom: "prediction"  bottom: "target"  top: "loss"
      loss_weight: 1
      python_param {
        module: "l1_loss_layer"  layer: "L1LossLayer"  param_str: '{"reduction": "MEAN"}'
      }
    }

bottom[0] holds the predictions, bottom[1] the targets, bottom[2], which may be left out, the
weights. The formulas, the shapes and the options (param_str, as JSON) are those of l1_loss.py.
"""

import gc
import sys
import warnings

import caffe
import l1_loss
import numpy as np


class L1LossLayer(caffe.Layer):
    """L = sum(w * |x - y|) / Z, with gradients to x and y; see l1_loss.py."""

    def setup(self, bottom, top):
        self.shapes = None
        # What reshape saw of the bottoms, for the forward pass that follows at once.
        self.arrays = None
        self.z = None
        # The number that Caffe puts into top[0].diff once, after the first reshape.
        self.loss_weight = None
        self.learns = False
        self.forwards_without_gradient = 0
        try:
            if len(bottom) not in (2, 3):
                raise ValueError("takes 2 or 3 bottoms (predictions, targets, optional weights), "
                                 "got %d" % len(bottom))
            if len(top) != 1:
                raise ValueError("takes 1 top, got %d" % len(top))
            self.weighted = len(bottom) == 3
            # Caffe's own list of bottoms cannot be iterated.
            self.indices = range(len(bottom))
            # A Caffe of 2015 has it with an underscore.
            param_str = getattr(self, "param_str", None) or getattr(self, "param_str_", "")
            self.options = l1_loss.read_options(param_str)
        except ValueError as error:
            _explain(self, error)
            raise

    def reshape(self, bottom, top):
        self.arrays = arrays = [_array(bottom[i]) for i in self.indices]
        shapes = [array.shape for array in arrays]
        if self.shapes is not None and self.loss_weight is None:
            self.loss_weight = _loss_weight(top[0])
            self.learns = bool(self.loss_weight)
        if shapes == self.shapes:
            return
        try:
            top_shape = l1_loss.check_shapes(self.options, *shapes)
        except ValueError as error:
            _explain(self, error)
            raise
        if 0 in top_shape:
            # Caffe reads the data of an empty top, and aborts if there was never any.
            top[0].reshape(1)
        top[0].reshape(*top_shape)
        if self.loss_weight and top[0].count:
            # A top that grows loses what Caffe wrote there once, and training would stop.
            top[0].diff[...] = self.loss_weight
        self.shapes = shapes
        self.empty = 0 in shapes[0]

    def forward(self, bottom, top):
        if not self.learns:
            self._warn_without_loss_weight()
        if not self.empty:
            weight = self.arrays[2] if self.weighted else None
            self.z = l1_loss.write_loss(top[0].data, self.arrays[0], self.arrays[1], weight,
                                        self.options)
        elif top[0].count:
            top[0].data[...] = 0
        self.arrays = None

    def backward(self, top, propagate_down, bottom):
        if self.weighted and propagate_down[2]:
            # Caffe does not ask a Python layer before it forces backward upon all bottoms.
            error = ValueError("weights get no gradient; fix: set propagate_down to false for "
                               "bottom[2], and leave out force_backward")
            _explain(self, error)
            raise error
        if self.empty:
            return
        top_diff = top[0].diff
        self.learns = self.learns or bool(top_diff.any())
        weight = bottom[2].data if self.weighted else None
        dx = bottom[0].diff if propagate_down[0] else None
        dy = bottom[1].diff if propagate_down[1] else None
        l1_loss.write_gradients(dx, dy, bottom[0].data, bottom[1].data, weight, top_diff,
                                self.options, self.z)

    def _warn_without_loss_weight(self):
        """Warn, once, at the first training step, or at the second where the top is not reduced.

        Another layer may take an unreduced top, and then its gradient comes from there.
        """
        if getattr(self, "phase", None) != caffe.TRAIN:
            return
        self.forwards_without_gradient += 1
        if self.forwards_without_gradient == (2 if self.options.reduction == "NONE" else 1):
            warnings.warn('%s: top[0] has no loss_weight, so nothing is learned from it; fix: add '
                          'the line "loss_weight: 1" to the layer' % _who(self), stacklevel=2)


def _array(blob):
    # Caffe aborts where the data of an empty blob is read that never had any.
    return blob.data if blob.count else np.empty(tuple(blob.shape), np.float32)


def _loss_weight(top):
    diff = top.diff if top.count else np.zeros(1)
    return float(diff.flat[0]) if (diff == diff.flat[0]).all() else 0.0


def _explain(layer, error):
    """Say in the error who raised it; where no Python program called, nobody else would show it."""
    l1_loss.prefix(error, _who(layer))
    if sys._getframe(1).f_back is None:
        sys.stderr.write("%s\n" % error)


def _who(layer):
    """Return how the layer is called in messages.

    Caffe does not tell a layer its name. Once the net is made, Python may know that net.
    """
    for net in _nets():
        for name, other in zip(net._layer_names, net.layers):
            if other is layer:
                return 'L1LossLayer "%s"' % name
    return "L1LossLayer"


def _nets():
    for thing in gc.get_objects():
        try:
            if issubclass(type(thing), caffe.Net) and thing.layers:
                yield thing
            elif issubclass(type(thing), caffe._caffe.Solver):
                yield thing.net
        except TypeError:
            # A net that is still being made, here or in another thread.
            continue
