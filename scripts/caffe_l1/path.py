"""caffe-l1 path: where a folder of the kit is, for PYTHONPATH and for copying from."""

from __future__ import annotations

import argparse
from pathlib import Path

KIT = Path(__file__).resolve().parents[2]
FOLDERS = {"python": "python_layer", "prototxt": "prototxt", "patch": "caffe_patch"}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="caffe-l1 path", description="Print where a folder of the kit is.",
        epilog="for a Python that the kit is not installed in: "
               "export PYTHONPATH=$(caffe-l1 path):$PYTHONPATH")
    parser.add_argument("what", nargs="?", choices=FOLDERS, default="python",
                        help="python modules (default), prototxt to copy from, patch sources")
    print(KIT / FOLDERS[parser.parse_args(arguments).what])
    return 0
