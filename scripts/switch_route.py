#!/usr/bin/env python3
"""Rewrite the L1 layers of a net from one route's spelling to another's."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from caffe_l1.cli import entry  # noqa: E402  (the folder must be on the path first)

if __name__ == "__main__":
    sys.exit(entry("switch_route.py", "switch-route"))
