#!/usr/bin/env python3
"""Rewrite the L1 layers of a net from one route's spelling to another's."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from caffe_l1.cli import entry  # noqa: E402  (the folder must be on the path first)

if __name__ == "__main__":
    sys.exit(entry("switch_route.py", "switch-route"))
