#!/usr/bin/env python3
"""Put the L1Loss layer into a Caffe source checkout, take it out again, build and test it."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from caffe_l1.cli import OF_A_CHECKOUT, entry  # noqa: E402  (the folder must be on the path first)

if __name__ == "__main__":
    sys.exit(entry("apply_patch.py", *OF_A_CHECKOUT))
