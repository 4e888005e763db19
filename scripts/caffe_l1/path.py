"""caffe-l1 path: where a folder of the kit is, for PYTHONPATH and for copying from."""

import argparse

from . import HOME

FOLDERS = {"python": "python_layer", "prototxt": "prototxt", "patch": "caffe_patch"}
EPILOG = """\
for a Python that the kit is not installed in: export PYTHONPATH=$(caffe-l1 path):$PYTHONPATH"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="?", choices=FOLDERS, default="python",
                        help="python modules (default), prototxt to copy from, patch sources")


def run(options: argparse.Namespace) -> int:
    print(HOME / FOLDERS[options.what])
    return 0
