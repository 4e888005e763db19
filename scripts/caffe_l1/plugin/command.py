"""build-plugin: which Caffe in, a shared library out.

`l1_loss_plugin.load()` brings it into pycaffe, `LD_PRELOAD=FILE.so caffe train ...` into the
command line tool. It is compiled from the very sources that apply puts into a checkout.
"""

import argparse
import sys
import time
from pathlib import Path

from .. import HOME
from ..common.errors import WrongUsage
from . import build, installed

DEFAULT_OUTPUT = HOME / "python_layer" / "libl1_loss_plugin.so"
EPILOG = """\
The Caffe is that of CAFFE_ROOT, if that is set and built, else pycaffe's, else the system's.

exit codes: 0 built, 1 refused, 2 wrong usage, 3 the compiler failed
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="FILE.so", default=str(DEFAULT_OUTPUT),
                        help="where the plugin goes (default: where l1_loss_plugin.load() looks)")
    parser.add_argument("--python", metavar="PYTHON", default=sys.executable,
                        help="the Python whose pycaffe it is for (default: the one running this)")
    parser.add_argument("--no-openmp", dest="openmp", action="store_false",
                        help="compute on one core, whatever the size")


def run(options: argparse.Namespace) -> int:
    started = time.monotonic()
    if not options.output:
        raise WrongUsage("-o names no file", "-o FILE.so")
    caffe = installed.find(options.python)
    print(f"caffe: {caffe}\nheaders: {caffe.include}", flush=True)
    build.build(caffe, Path(options.output), options.openmp)
    print(f"built {options.output} in {time.monotonic() - started:.1f} s")
    return 0
