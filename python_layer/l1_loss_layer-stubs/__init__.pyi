import caffe

class L1LossLayer(caffe.Layer): ...  # type: ignore[misc]  # Caffe says no types
