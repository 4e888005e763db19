"""`python3 -m caffe_l1`: the command caffe-l1 where it is not installed."""

from .cli import entry

raise SystemExit(entry())
