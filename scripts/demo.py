#!/usr/bin/env python3
"""Least absolute deviations on Engel's data by every route; demo.sh starts this beside a Caffe."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from caffe_l1.common.output import run  # noqa: E402  (the folder must be on the path first)

if __name__ == "__main__":
    from demos.demo import main
    sys.exit(run(main, sys.argv[1:]))
