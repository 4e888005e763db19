#!/usr/bin/env python3
"""Compile the native layer into a plugin for an installed Caffe that nobody rebuilds."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from caffe_l1.cli import entry  # noqa: E402  (the folder must be on the path first)

if __name__ == "__main__":
    sys.exit(entry("build_plugin.py", "build-plugin"))
