#!/usr/bin/env python3
"""Say which routes to the L1 loss work on this machine, and what the others lack."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from caffe_l1.cli import entry  # noqa: E402  (the folder must be on the path first)

if __name__ == "__main__":
    sys.exit(entry("doctor.py", "doctor"))
