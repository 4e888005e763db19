"""The command line: the one table of verbs, and how a verb is run."""

import argparse
import sys
from functools import partial
from importlib import import_module
from typing import NamedTuple, NoReturn, Sequence

from . import VERSION
from .common import output
from .common.errors import KitError, WrongUsage
from .patch.report import Report


class Verb(NamedTuple):
    module: str  # has EPILOG, add_arguments(parser) and run(options), which returns the exit code
    summary: str


VERBS = {
    "check": Verb("patch.command", "show what apply would change in a Caffe checkout"),
    "apply": Verb("patch.command", "put the native layer into a Caffe checkout"),
    "status": Verb("patch.command", "say what a checkout holds of the layer"),
    "revert": Verb("patch.command", "take the layer out of a checkout again"),
    "runtest": Verb("runtest.command", "build Caffe with the layer and run the layer's tests"),
    "build-plugin": Verb("plugin.command", "compile the native layer for an installed Caffe"),
    "switch-route": Verb("route.command", "rewrite a net's L1 layers for another route"),
    "doctor": Verb("doctor.command", "say which routes work on this machine, and what others lack"),
    "single-file": Verb("single_file", "write the Python layer as one module, as for DIGITS"),
    "path": Verb("path", "print where the kit's Python modules or nets are"),
}
OF_A_CHECKOUT = ("check", "apply", "status", "revert", "runtest")


class Parser(argparse.ArgumentParser):
    """What it finds wrong is JSON where --json is given."""

    as_json = False

    def error(self, message: str) -> NoReturn:
        if not self.as_json:
            super().error(message)
        report = Report(self.get_default("verb") or "", "")
        report.set_error(WrongUsage(message, f"see {self.prog} --help"))
        print(report.to_json())
        sys.exit(report.exit)


def entry(program: str = "caffe-l1", *verbs: str) -> int:
    return output.run(partial(main, program=program, verbs=verbs or tuple(VERBS)), sys.argv[1:])


def main(arguments: "list[str]", program: str, verbs: Sequence[str]) -> int:
    """The exit code of a program with these verbs; where there is one, nobody names it."""
    as_json = "--json" in arguments
    verb = verbs[0]
    if len(verbs) > 1:
        verb = parser_of_verbs(program, verbs, as_json).parse_args(arguments[:1]).verb
        program, arguments = f"{program} {verb}", arguments[1:]
    module = import_module(f".{VERBS[verb].module}", __package__)
    parser = made(program, VERBS[verb].summary, module.EPILOG, as_json)
    parser.set_defaults(verb=verb)
    module.add_arguments(parser)
    try:
        return module.run(parser.parse_args(arguments))
    except KitError as error:
        print(error, file=sys.stderr)
        return error.code


def parser_of_verbs(program: str, verbs: Sequence[str], as_json: bool) -> Parser:
    listed = "\n".join(f"  {verb:<14}{VERBS[verb].summary}" for verb in verbs)
    epilog = f"verbs ({program} VERB --help tells more):\n{listed}"
    parser = made(program, "the L1 loss for Caffe", epilog, as_json)
    parser.usage = f"{program} [--version] VERB ..."
    parser.add_argument("verb", metavar="VERB", choices=verbs, help=argparse.SUPPRESS)
    return parser


def made(program: str, summary: str, epilog: str, as_json: bool) -> Parser:
    description = f"{summary[0].upper()}{summary[1:]}."
    parser = Parser(prog=program, description=description, epilog=epilog, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=VERSION)
    parser.as_json = as_json
    return parser
