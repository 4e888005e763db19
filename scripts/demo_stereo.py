#!/usr/bin/env python3
"""A net that learns stereo disparity from ground truth with holes, by the L1 loss with a mask."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from caffe_l1.common.output import run  # noqa: E402  (the folder must be on the path first)

if __name__ == "__main__":
    from demos.stereo import main
    sys.exit(run(main, sys.argv[1:]))
