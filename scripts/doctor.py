#!/usr/bin/env python3
"""Say which routes to the L1 loss work on this machine, and what the others lack."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from caffe_l1.cli import entry  # noqa: E402  (the folder must be on the path first)

if __name__ == "__main__":
    sys.exit(entry("doctor.py", "doctor"))
