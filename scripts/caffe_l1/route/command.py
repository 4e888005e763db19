"""switch-route: a net and a route in, a diff out."""

import argparse
import sys
from pathlib import Path

from ..common.diff import unified_diff
from ..common.errors import one_line
from . import files
from .layer import ROUTES
from .switch import Switched, switch
from .text_format import Problem, place

EPILOG = """\
stock: several of Caffe's own layers; python: a layer of type Python, module l1_loss_layer; plugin:
type L1Loss with python_param; native: type L1Loss with l1_loss_param. The net computes the same: a
default loss_weight is written out. Every byte outside of its L1 layers stays. A layer that this
script has written once comes back byte for byte when it is switched through the other routes and
back. Through stock it does too, but options that say a default are left out, and bottoms that other
fields part are put together. Stock layers are known by their names, such as loss_l1_difference.

exit codes: 0 done, or nothing to do; 1 refused, nothing was written; 2 wrong usage
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.prototxt", help="the net to rewrite")
    parser.add_argument("--to", required=True, choices=ROUTES, help="the route to switch to")
    parser.add_argument("--in-place", action="store_true", help="also write the file")


def run(options: argparse.Namespace) -> int:
    path, old = Path(options.file), b""
    try:
        old = files.read(path)
        switched = switch(old, options.to)
        if options.in_place and switched.data != old:
            files.write(path, old, switched.data)
    except Problem as problem:
        where = () if problem.offset is None else place(old, problem.offset)
        complain(f"{':'.join(map(str, [options.file, *where]))}: {problem}")
        return 1
    show(unified_diff(options.file.lstrip("/"), old, switched.data))
    complain(f"{options.file}: {outcome(switched, options)}")
    return 0


def outcome(switched: Switched, options: argparse.Namespace) -> str:
    count, changed = switched.layers, switched.changed
    if not changed:
        return f"already {options.to}, nothing to do"
    done = "written" if options.in_place else "not written: add --in-place to write the file"
    return f"{changed} of {count} L1 layer{'s' * (count > 1)} switched to {options.to}, {done}"


def show(text: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(text)
    sys.stdout.flush()


def complain(text: str) -> None:
    print(f"switch_route: {one_line(text)}", file=sys.stderr)
