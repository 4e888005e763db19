#!/usr/bin/env python3
"""Compile the native layer into a plugin for an installed Caffe that nobody rebuilds.

The plugin is a shared library: `l1_loss_plugin.load()` brings it into pycaffe, and
`LD_PRELOAD=FILE.so caffe train ...` into the command line tool. It is compiled from the very
sources that apply_patch.py puts into a checkout.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from caffe_kit.errors import KitError
from caffe_plugin import build, installed

DEFAULT_OUTPUT = Path(__file__).resolve().parent.parent / "python_layer" / "libl1_loss_plugin.so"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     epilog="exit codes: 0 built, 1 refused, 2 wrong usage, "
                                            "3 the compiler failed")
    parser.add_argument("-o", "--output", metavar="FILE.so", type=Path, default=DEFAULT_OUTPUT,
                        help="where the plugin goes (default: beside l1_loss_plugin.py)")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        caffe = installed.find()
        device = "CPU only" if caffe.cpu_only else "with CUDA"
        print(f"caffe: {caffe.library} ({device})\nheaders: {caffe.include}", flush=True)
        build.build(caffe, options.output)
    except KitError as error:
        print(error, file=sys.stderr)
        return error.code
    print(f"built {options.output} in {time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
