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
import numpy as np
from l1_loss import divisor, write_gradients, write_loss
from l1_loss_checks import check_shapes, prefix, read_options

# What fills a top that was empty when Caffe wrote its loss_weight there, where nobody can say what
# that was: the smallest number, which no layer above leaves there.
UNKNOWN = 2.0**-149


class L1LossLayer(caffe.Layer):
    """L = sum(w * |x - y|) / Z, with gradients to x and y; see l1_loss.py."""

    def setup(self, bottom, top):
        self.shapes = None
        # What reshape saw of the bottoms, for the forward pass that follows at once.
        self.arrays = None
        self.z = None
        # The number that Caffe puts into top[0].diff once, after the first reshape.
        self.loss_weight = None
        # Whether a warning may still come, and what decides it.
        self.watched = True
        self.forwards = 0
        self.is_lossless = False
        _asked(self, _check_blobs, bottom, top)
        # Caffe's own list of bottoms cannot be iterated.
        self.indices = range(len(bottom))
        # A Caffe of 2015 has it with an underscore.
        param_str = getattr(self, "param_str", None) or getattr(self, "param_str_", "")
        self.options = _asked(self, read_options, param_str)

    def reshape(self, bottom, top):
        self.arrays = arrays = [_array(bottom[i]) for i in self.indices]
        shapes = [array.shape for array in arrays]
        if self.loss_weight is None and self.shapes is not None and top[0].count:
            # Caffe wrote it into all of the diff.
            diff = top[0].diff
            self.loss_weight = float(diff.flat[0]) if (diff == diff.flat[0]).all() else 0.0
        if shapes == self.shapes:
            return
        top_shape = _asked(self, check_shapes, self.options, *shapes)
        if 0 in top_shape:
            # Caffe reads the data of an empty top, and aborts if there was never any.
            top[0].reshape(1)
        top[0].reshape(*top_shape)
        if self.shapes is not None and top[0].count:
            self._write_loss_weight(top[0])
        self.shapes = shapes
        self.empty = 0 in shapes[0]

    def _write_loss_weight(self, top):
        """Write it once more: a top that grows loses what Caffe wrote there, and training stops.

        Nobody else writes there: before a top with a loss_weight that another layer reads, Caffe
        puts a Split, and moves the loss_weight to that.
        """
        if self.loss_weight is None:
            # The top was empty, so there was nothing to write it to.
            net, index, _ = _place(self)
            self.loss_weight = (UNKNOWN if net is None else
                                net._blob_loss_weights[net._top_ids(index)[0]])
        if self.loss_weight:
            top.diff[...] = self.loss_weight

    def forward(self, bottom, top):
        if self.watched:
            self._watch_forward()
        if not self.empty:
            self.z = write_loss(top[0].data, self.options, *self.arrays)
        elif top[0].count:
            top[0].data[...] = 0
        self.arrays = None

    def backward(self, top, propagate_down, bottom):
        _asked(self, self._check_gradients, top, propagate_down)
        if self.empty:
            return
        top_diff = top[0].diff
        if self.watched:
            self._watch_backward(top_diff)
        inputs = [bottom[i].data for i in self.indices]
        dx, dy = [bottom[i].diff if propagate_down[i] else None for i in (0, 1)]
        z = divisor(self.options, *inputs) if self.z is None else self.z
        write_gradients(dx, dy, top_diff, z, self.options, *inputs)

    def _check_gradients(self, top, propagate_down):
        if len(self.indices) == 3 and propagate_down[2]:
            # Caffe does not ask a Python layer before it forces backward upon all bottoms.
            raise ValueError("weights get no gradient; fix: set propagate_down to false for "
                             "bottom[2], and leave out force_backward")
        if self.loss_weight == UNKNOWN and not self.empty and (top[0].diff == UNKNOWN).all():
            raise ValueError("top[0] was empty when Caffe wrote its loss_weight there, which is "
                             "lost; fix: make the net with a batch of at least 1")

    # A top without loss_weight is no mistake where another layer reads it, nor in a metric that is
    # watched beside a loss. Caffe shows nobody whether a loss_weight is 0 or missing. What is sure
    # is that a net in training learns nothing if no layer of it has a loss_weight.

    def _watch_forward(self):
        self.forwards += 1
        phase = getattr(self, "phase", None)
        if self.loss_weight not in (None, 0, UNKNOWN) or phase not in (None, caffe.TRAIN):
            self.watched = False
            return
        net, index, is_trained = _place(self)
        if net is None:
            self._watch_without_net(is_called=sys._getframe(1).f_back is not None)
        elif phase is None and not is_trained:
            # Caffe up to rc3 tells a layer no phase; a solver's net is there to be trained.
            self.watched = False
        elif _is_read(net, index) or any(net._blob_loss_weights):
            self.watched = False
        elif any(len(layer.blobs) for layer in net.layers):
            self._warn("top[0] has no loss_weight, or 0, and no layer reads it, so nothing is "
                       "learned from it; fix: add")
        else:
            # Only if a backward pass is forced there is more to see.
            self.is_lossless = True
            self.watched = self.forwards == 1

    def _watch_without_net(self, is_called):
        """In the command line tool Python knows no net, and no Python program calls the layer.

        There a backward pass follows each forward pass, unless nothing is learned from the top.
        """
        if is_called:
            self.watched = False
        elif self.forwards == 2:
            self._warn("Caffe asks for no gradient of top[0], so nothing is learned from it; fix: "
                       "if it is a loss, add")

    def _watch_backward(self, top_diff):
        if top_diff.any():
            self.watched = False
        elif self.is_lossless:
            self._warn("no layer of the net has a loss_weight, so all gradients are 0; fix: add")
        self.forwards = 0

    def _warn(self, text):
        self.watched = False
        warnings.warn('%s: %s the line "loss_weight: 1" to the layer' % (_who(self), text),
                      stacklevel=4)


def _array(blob):
    # Caffe aborts where the data of an empty blob is read that never had any.
    return blob.data if blob.count else np.empty(tuple(blob.shape), np.float32)


def _check_blobs(bottom, top):
    if len(bottom) not in (2, 3):
        raise ValueError("takes 2 or 3 bottoms (predictions, targets, optional weights), got %d"
                         % len(bottom))
    if len(top) != 1:
        raise ValueError("takes 1 top, got %d" % len(top))
    for i in range(len(bottom)):
        if _is_same(top[0], bottom[i]):
            raise ValueError("top[0] is bottom[%d]; fix: give the top a name of its own" % i)


def _is_same(one, other):
    """Tell whether both are the same blob, which pycaffe wraps anew each time it is asked.

    One that is reshaped, and back, shows it. Blobs that share their data have shapes of their own.
    """
    shape = tuple(one.shape)
    if shape != tuple(other.shape):
        return False
    probe = (0, 0) if shape == (0,) else (0,)
    one.reshape(*probe)
    same = tuple(other.shape) == probe
    one.reshape(*shape)
    return same


def _asked(layer, check, *arguments):
    """Return what the check returns; its error says who raised it.

    Where no Python program called, nobody else would show that error.
    """
    try:
        return check(*arguments)
    except ValueError as error:
        prefix(error, _who(layer))
        if sys._getframe(1).f_back is None:
            sys.stderr.write("%s\n" % error)
        raise


def _who(layer):
    """Return how the layer is called in messages.

    Caffe does not tell a layer its name. Once the net is made, Python may know that net.
    """
    net, index, _ = _place(layer)
    if net is None:
        return "L1LossLayer"
    try:
        return 'L1LossLayer "%s"' % net._layer_names[index]
    except UnicodeDecodeError:
        return "L1LossLayer, layer number %d" % index


def _place(layer):
    """Return the layer's net, its number in it, and whether a solver has the net; or Nones."""
    for kind in (caffe._caffe.Solver, caffe.Net):
        for thing in gc.get_objects():
            try:
                if issubclass(type(thing), kind):
                    net = thing if kind is caffe.Net else thing.net
                    for index, other in enumerate(net.layers):
                        if other is layer:
                            return net, index, kind is not caffe.Net
            except Exception:
                # A net that is still being made, here or in another thread, or somebody's own
                # class, which may raise anything.
                continue
    return None, None, None


def _is_read(net, index):
    """Tell whether a layer of the net reads the top; pycaffe tells the numbers since 2015."""
    top = net._top_ids(index)[0]
    return any(top in net._bottom_ids(i) for i in range(len(net.layers)))
