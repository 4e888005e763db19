"""The command line that builds the plugin: which Caffe in, exit code out.

The plugin is a shared library: `l1_loss_plugin.load()` brings it into pycaffe, and
`LD_PRELOAD=FILE.so caffe train ...` into the command line tool. It is compiled from the very
sources that apply_patch.py puts into a checkout.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from caffe_kit.errors import KitError, WrongUsage

from . import build, installed

KIT = Path(__file__).resolve().parents[2]
DEFAULT_OUTPUT = KIT / "python_layer" / "libl1_loss_plugin.so"


def main(arguments: list[str], program: str = "caffe-l1 build-plugin") -> int:
    options = parser(program).parse_args(arguments)
    started = time.monotonic()
    try:
        if not options.output:
            raise WrongUsage("-o names no file", "-o FILE.so")
        caffe = installed.find(options.python)
        device = "CPU only" if caffe.cpu_only else "with CUDA"
        print(f"caffe: {caffe.library} ({device})\nheaders: {caffe.include}", flush=True)
        build.build(caffe, Path(options.output))
    except KitError as error:
        print(error, file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return 130
    print(f"built {options.output} in {time.monotonic() - started:.1f} s")
    return 0


def parser(program: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=program,
        description="Compile the native layer into a plugin for an installed Caffe.",
        epilog="The Caffe is that of CAFFE_ROOT, if that is set and built, else pycaffe's, else "
               "the system's. Exit codes: 0 built, 1 refused, 2 wrong usage, 3 the compiler failed")
    made.add_argument("-o", "--output", metavar="FILE.so", default=str(DEFAULT_OUTPUT),
                      help="where the plugin goes (default: where l1_loss_plugin.load() looks)")
    made.add_argument("--python", metavar="PYTHON", default=sys.executable,
                      help="the Python whose pycaffe it is for (default: the one running this)")
    return made
