#!/usr/bin/env python3
"""How fast the L1 loss is, beside others and beside what the memory allows."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from caffe_l1.common.output import run  # noqa: E402  (the folder must be on the path first)

if __name__ == "__main__":
    from benchmarks.benchmark import main
    sys.exit(run(main, sys.argv[1:]))
