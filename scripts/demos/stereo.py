"""A net that learns stereo disparity from ground truth with holes, by the L1 loss with a mask.

The true disparity of the Motorcycle pair is infinite in 7.35 % of its pixels, where nobody could
measure it. With ignore_nonfinite_target the net learns from the others; without, the loss is
infinite. Runs in a stock Caffe, by the Python layer: yours, or that of scripts/sandbox.sh.
"""

import argparse
import os
import subprocess
import sys

from caffe_l1 import HOME

from . import fetch_motorcycle

PICTURE = HOME / "build" / "demo" / "stereo.png"


def main(arguments: "list[str]") -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--iterations", metavar="N", type=int, default=3000)
    parser.add_argument("--fetch", action="store_true", help="fetch the images and end")
    options = parser.parse_args(arguments)
    os.environ.setdefault("GLOG_minloglevel", "2")
    fetch_motorcycle.fetch()  # where pip is; the rest happens beside a Caffe
    if options.fetch:
        return 0
    if not has_caffe():
        scripts = HOME / "scripts"
        return subprocess.run([str(scripts / "sandbox.sh"), "run", "python3",
                               str(scripts / "demo_stereo.py"), *arguments]).returncode
    sys.path.insert(0, str(HOME / "python_layer"))
    from . import motorcycle
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

