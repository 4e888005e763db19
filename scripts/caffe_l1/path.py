"""caffe-l1 path: where a part of the kit is, for PYTHONPATH and for copying from."""

import argparse

from . import HOME

PARTS = {"python": "python_layer", "prototxt": "prototxt", "patch": "caffe_patch",
         "proto": "caffe_patch/src/caffe/proto/l1_loss_parameter.proto"}
EPILOG = """\
for a Python that the kit is not installed in: export PYTHONPATH=$(caffe-l1 path):$PYTHONPATH"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="?", choices=PARTS, default="python",
                        help="python modules (default), prototxt to copy from, patch sources, "
                             "proto: the file with our message for caffe.proto")


def run(options: argparse.Namespace) -> int:
    print(HOME / PARTS[options.what])
    return 0
