"""The command line: verbs and options in, exit code out."""

from __future__ import annotations

import argparse
import os
import sys
from typing import NoReturn

from . import VERSION, runtest, verbs
from .errors import FileSystemFailed, KitError, WrongUsage
from .output import FOLDER_IS_GONE, is_folder_gone
from .report import Report
from .store import FOLDER

EXITS = """exit codes:
  0  done, or already so (status: fully applied)
  1  refused or not applied, nothing was changed
  2  wrong usage
  3  build or tests failed, or no test ran
  4  the file system failed, the tree is as before
  5  the kit's record in the tree is damaged, nothing was touched
  6  the file system failed twice: the tree is mixed, and apply or revert goes on from there
  130  interrupted by Ctrl-C; a patch that was applied stays, a build's children have ended
"""
VERBS = {
    "check": (verbs.check, "show what apply would change, as a unified diff"),
    "apply": (verbs.apply, "put the layer into the tree, all of it or nothing"),
    "status": (verbs.status, "say what the tree holds of the layer"),
    "revert": (verbs.revert, "take the layer out again, byte for byte"),
    "runtest": (runtest.runtest, "build Caffe with the layer and run the layer's tests"),
}


def main(arguments: list[str]) -> int:
    try:
        options = parser(arguments).parse_args(arguments)
    except WrongUsage as error:
        return show_wrong_usage(arguments, error)
    report = Report(options.verb, options.root)
    try:
        report.root = os.path.abspath(options.root)
        VERBS[options.verb][0](options, report)
    except KitError as error:
        report.set_error(error)
    except OSError as error:
        report.set_error(failure(error))
    except KeyboardInterrupt:
        report.exit = 130
        report.messages.append("interrupted")
    show(report, options.json)
    return report.exit


def failure(error: OSError) -> KitError:
    if is_folder_gone(error):
        return WrongUsage(*FOLDER_IS_GONE)
    name = f"{error.filename}: " if error.filename else ""
    fix = "look at the disk"
    if isinstance(error, PermissionError) and FOLDER in str(error.filename):
        fix = f"run this as the owner of {FOLDER}/, or move that folder out of the tree"
    return FileSystemFailed(name + (error.strerror or str(error)), fix)


def show_wrong_usage(arguments: list[str], error: WrongUsage) -> int:
    report = Report(next((word for word in arguments if word in VERBS), ""), "")
    report.set_error(error)
    show(report, as_json=True)
    return report.exit


def show(report: Report, as_json: bool) -> None:
    if as_json:
        write(sys.stdout, report.to_json() + "\n")
        return
    write(sys.stdout, report.diff + "".join(line + "\n" for line in report.messages))
    if report.error is not None:
        write(sys.stderr, "{}\n".format(KitError(**{**report.error, "file": report.error["file"]})))


def write(stream, text: str) -> None:
    """Bytes as they are in the tree, whatever the locale says."""
    stream.flush()
    stream.buffer.write(text.encode("utf-8", "surrogateescape"))
    stream.flush()


class JsonParser(argparse.ArgumentParser):
    """What it finds wrong is to be shown as JSON, unlike what argparse itself prints."""

    def error(self, message: str) -> NoReturn:
        raise WrongUsage(message, f"see {self.prog} --help")


def parser(arguments: list[str]) -> argparse.ArgumentParser:
    kind = JsonParser if "--json" in arguments else argparse.ArgumentParser
    main_parser = kind(
        prog="caffe-l1" if os.path.basename(sys.argv[0]) == "caffe-l1" else "apply_patch.py",
        description="Put the L1Loss layer into a Caffe source checkout, build it and test it.",
        epilog=EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    main_parser.add_argument("--version", action="version", version=VERSION)
    commands = main_parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, (_, summary) in VERBS.items():
        command = commands.add_parser(verb, help=summary, description=summary, allow_abbrev=False)
        command.add_argument("root", metavar="CAFFE_ROOT", help="a Caffe source checkout")
        command.add_argument("--json", action="store_true", help="one JSON object on stdout")
        naming_options(command)
        if verb == "runtest":
            runtest_options(command)
    return main_parser


def naming_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--type-name", metavar="T", help="layer type (default: L1Loss)")
    command.add_argument("--field-name", metavar="F", help="field (default: l1_loss_param)")
    command.add_argument("--field-id", metavar="N", type=int, help="number (default: 1701)")


def runtest_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--quick", action="store_true", help="build only what the tests need")
    command.add_argument("--jobs", metavar="N", type=positive, help="default: one per core")
    command.add_argument("--build-dir", metavar="DIR", type=named,
                         help="build with CMake in this folder")
    command.add_argument("--log", metavar="FILE", type=named,
                         help="default: runtest.log in .l1loss-kit/")
    command.add_argument(
        "--write-config",
        action="store_true",
        help="write a Makefile.config that fits this machine, where there is none",
    )


def named(text: str) -> str:
    """A shell variable that is not set would else name the working folder."""
    if not text:
        raise argparse.ArgumentTypeError("an empty name")
    return text


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number
