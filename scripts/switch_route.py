#!/usr/bin/env python3
"""Rewrite the L1 layers of a net from one route's spelling to another's."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from caffe_kit.output import run  # noqa: E402  (the folder must be on the path first)
from caffe_route.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(run(partial(main, program="switch_route.py"), sys.argv[1:]))
