"""What the verbs of a checkout have in common: their options, and how they end."""

import argparse
import os
import sys
from typing import Callable, TextIO

from ..common.errors import FileSystemFailed, KitError, WrongUsage
from ..common.output import FOLDER_IS_GONE, is_folder_gone
from . import verbs
from .report import Report
from .store import FOLDER

EPILOG = """\
exit codes:
  0  done, or already so (status: fully applied)
  1  refused or not applied, nothing was changed
  2  wrong usage
  3  build or tests failed, or no test ran
  4  the file system failed, the tree is as before
  5  the kit's record in the tree is damaged, nothing was touched
  6  the file system failed twice: the tree is mixed, and apply or revert goes on from there
  130  interrupted by Ctrl-C; a patch that was applied stays, a build's children have ended
"""
Work = Callable[[argparse.Namespace, Report], None]
WORKS = {"check": verbs.check, "apply": verbs.apply, "status": verbs.status, "revert": verbs.revert}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", metavar="CAFFE_ROOT", help="a Caffe source checkout")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--type-name", metavar="T", help="layer type (default: L1Loss)")
    parser.add_argument("--field-name", metavar="F", help="field (default: l1_loss_param)")
    parser.add_argument("--field-id", metavar="N", type=int, help="number (default: 1701)")


def run(options: argparse.Namespace) -> int:
    return reported(options, WORKS[options.verb])


def reported(options: argparse.Namespace, work: Work) -> int:
    """Do it and say how it went, as text or as JSON; the exit code."""
    report = Report(options.verb, options.root)
    try:
        report.root = os.path.abspath(options.root)
        work(options, report)
    except KitError as error:
        report.set_error(error)
    except OSError as error:
        report.set_error(failure(error))
    except KeyboardInterrupt:
        report.exit = 130
        report.messages.append("interrupted")
    if options.json:
        write(sys.stdout, report.to_json() + "\n")
    else:
        write(sys.stdout, report.diff + "".join(line + "\n" for line in report.messages))
        if report.error is not None:
            write(sys.stderr, f"{KitError(**report.error)}\n")
    return report.exit


def failure(error: OSError) -> KitError:
    if is_folder_gone(error):
        return WrongUsage(*FOLDER_IS_GONE)
    name = f"{error.filename}: " if error.filename else ""
    fix = "run this again once the disk has space and can be written to"
    if isinstance(error, PermissionError):
        other = f", or move {FOLDER}/ out of the tree" if FOLDER in name else ""
        fix = f"run this as its owner{other}"
    problem = f"{name}{error.strerror or error}, the tree is as before"
    return FileSystemFailed(problem, fix)


def write(stream: TextIO, text: str) -> None:
    """Bytes as they are in the tree, whatever the locale says."""
    stream.flush()
    stream.buffer.write(text.encode("utf-8", "surrogateescape"))
    stream.flush()
