"""The command line of caffe-l1: a verb in, the script of that verb run."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

# Installed, the kit's folders lie beside each other as they do in a checkout.
KIT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(KIT / "scripts"))

# The verb: the module whose main(arguments) runs it, and what it does.
VERBS = {
    "check": ("caffe_kit.cli", "show what apply would change in a Caffe checkout"),
    "apply": ("caffe_kit.cli", "put the native layer into a Caffe checkout"),
    "status": ("caffe_kit.cli", "say what a checkout holds of the layer"),
    "revert": ("caffe_kit.cli", "take the layer out of a checkout again"),
    "runtest": ("caffe_kit.cli", "build Caffe with the layer and run the layer's tests"),
    "build-plugin": ("caffe_plugin.cli", "compile the native layer for an installed Caffe"),
    "switch-route": ("caffe_route.cli", "rewrite a net's L1 layers for another route"),
    "doctor": ("caffe_doctor.cli", "say which routes work on this machine, and what others lack"),
    "path": ("caffe_l1.path", "print where the kit's Python modules or nets are"),
}
# One script has all of these; it wants to hear which.
SHARED = "caffe_kit.cli"


def entry() -> int:
    from caffe_kit.output import run
    return run(main, sys.argv[1:])


def main(arguments: list[str]) -> int:
    """What follows the verb is for its own script alone to read."""
    verb = parser().parse_args(arguments[:1]).verb
    module = VERBS[verb][0]
    return import_module(module).main(arguments if module == SHARED else arguments[1:])


def parser() -> argparse.ArgumentParser:
    from caffe_kit import VERSION
    verbs = "\n".join(f"  {verb:<14}{summary}" for verb, (_, summary) in VERBS.items())
    made = argparse.ArgumentParser(
        prog="caffe-l1", usage="caffe-l1 [--version] VERB ...",
        description="The L1 loss for Caffe: a Python layer, a native layer, a plugin.",
        epilog=f"verbs (caffe-l1 VERB --help tells more):\n{verbs}",
        formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--version", action="version", version=VERSION)
    made.add_argument("verb", metavar="VERB", choices=VERBS, help=argparse.SUPPRESS)
    return made


if __name__ == "__main__":
    sys.exit(entry())
