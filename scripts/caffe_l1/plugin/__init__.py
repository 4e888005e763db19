"""Building the native layer as a plugin for an installed Caffe."""
