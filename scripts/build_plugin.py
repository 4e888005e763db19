#!/usr/bin/env python3
"""Compile the native layer into a plugin for an installed Caffe that nobody rebuilds."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from caffe_l1.cli import entry  # noqa: E402  (the folder must be on the path first)

if __name__ == "__main__":
    sys.exit(entry("build_plugin.py", "build-plugin"))
