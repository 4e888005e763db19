#!/usr/bin/env python3
"""Say which routes to the L1 loss work on this machine, and what the others lack."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from caffe_doctor.cli import main  # noqa: E402  (the folder must be on the path first)
from caffe_kit.output import run  # noqa: E402

if __name__ == "__main__":
    sys.exit(run(partial(main, program="doctor.py"), sys.argv[1:]))
