"""doctor: a Python and a checkout in, lines or JSON out."""

import argparse
import json
import os
import sys

from .finding import judge
from .look import look

EPILOG = "exit codes: 0 at least one route works, 1 none does, 2 wrong usage"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", metavar="CAFFE_ROOT", nargs="?",
                        default=os.environ.get("CAFFE_ROOT"),
                        help="a Caffe source checkout (default: the variable CAFFE_ROOT)")
    parser.add_argument("--python", metavar="PYTHON", default=sys.executable,
                        help="the Python that runs pycaffe (default: the one running this)")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")


def run(options: argparse.Namespace) -> int:
    findings = look(options.python, options.root)
    routes = judge(findings)
    if options.json:
        print(json.dumps({"findings": [finding._asdict() for finding in findings],
                          "routes": [route._asdict() for route in routes]}, indent=1))
    else:
        print(*(finding.line() for finding in findings), "",
              *(f"{route.name}: {route.text}" for route in routes), sep="\n")
    return 0 if any(route.works for route in routes) else 1
