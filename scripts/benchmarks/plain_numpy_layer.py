"""The Python baseline of the benchmark: an L1 loss in plain numpy, as one writes it at first."""

import caffe
import numpy as np


class PlainNumpyLayer(caffe.Layer):
    """BATCHMEAN without options; for the benchmark alone."""

    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape()

    def forward(self, bottom, top):
        difference = bottom[0].data - bottom[1].data
        top[0].data[...] = np.abs(difference).sum() / bottom[0].shape[0]

    def backward(self, top, propagate_down, bottom):
        sign = np.sign(bottom[0].data - bottom[1].data)
        scale = top[0].diff / bottom[0].shape[0]
        for i in range(2):
            if propagate_down[i]:
                bottom[i].diff[...] = (1 - 2 * i) * scale * sign
