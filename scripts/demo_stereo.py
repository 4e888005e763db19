#!/usr/bin/env python3
"""A net that learns stereo disparity from ground truth with holes, by the L1 loss with a mask.

The true disparity of the Motorcycle pair is infinite in 7.35 % of its pixels, where nobody could
measure it. With ignore_nonfinite_target the net learns from the others; without, the loss is
infinite. Runs in a stock Caffe, by the Python layer: yours, or that of scripts/sandbox.sh.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "python_layer")]
os.environ.setdefault("GLOG_minloglevel", "2")

from caffe_l1.common.output import run  # noqa: E402
from demos import fetch_motorcycle  # noqa: E402

PICTURE = HERE.parent / "build" / "demo" / "stereo.png"


def main(arguments: "list[str]") -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--iterations", metavar="N", type=int, default=3000)
    parser.add_argument("--fetch", action="store_true", help="fetch the images and end")
    options = parser.parse_args(arguments)
    fetch_motorcycle.fetch()  # where pip is; the rest happens beside a Caffe
    if options.fetch:
        return 0
    if not has_caffe():
        return subprocess.run([str(HERE / "sandbox.sh"), "run", "python3", str(Path(__file__)),
                               *arguments]).returncode
    from demos import motorcycle
    motorcycle.demo(options.iterations, PICTURE)
    return 0


def has_caffe() -> bool:
    """Whether this Python has Caffe, and what else the demo needs."""
    try:
        import caffe
        import matplotlib  # noqa: F401
        import scipy  # noqa: F401
    except ImportError:
        return False
    return hasattr(caffe, "Net")  # the empty package of that name has none


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
