#!/usr/bin/env python3
"""Put the L1Loss layer into a Caffe source checkout, take it out again, build and test it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from caffe_l1.cli import OF_A_CHECKOUT, entry  # noqa: E402  (the folder must be on the path first)

if __name__ == "__main__":
    sys.exit(entry("apply_patch.py", *OF_A_CHECKOUT))
