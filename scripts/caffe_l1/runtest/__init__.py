"""Build a patched Caffe and run the tests of its L1 layer."""
