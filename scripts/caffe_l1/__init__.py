"""The command caffe-l1, which pip installs: the scripts' verbs under one name."""
