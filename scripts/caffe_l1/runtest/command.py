"""The options of runtest."""

import argparse

from ..patch import command
from .runtest import runtest

EPILOG = command.EPILOG


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command.add_arguments(parser)
    parser.add_argument("--quick", action="store_true", help="build only what the tests need")
    parser.add_argument("--jobs", metavar="N", type=positive, help="default: one per core")
    parser.add_argument("--build-dir", metavar="DIR", type=named,
                        help="build with CMake in this folder")
    parser.add_argument("--log", metavar="FILE", type=named,
                        help="default: runtest.log in .l1loss-kit/")
    parser.add_argument("--write-config", action="store_true",
                        help="write a Makefile.config that fits this machine, where there is none")


def run(options: argparse.Namespace) -> int:
    return command.reported(options, runtest)


def named(text: str) -> str:
    """An unset shell variable gives an empty name, which would mean the working folder."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty")
    return text


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
