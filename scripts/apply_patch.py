#!/usr/bin/env python3
"""Put the L1Loss layer into a Caffe source checkout, take it out again, build and test it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from caffe_kit.cli import main  # noqa: E402  (the folder must be on the path first)
from caffe_kit.output import run  # noqa: E402

if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
