"""single-file: the Python layer as one module, to copy beside a net or upload to DIGITS."""

import argparse
import re
import sys
from pathlib import Path

from . import HOME, VERSION
from .common.errors import Refused, WrongUsage
from .common.folder import write_file

# Each needs only those before it, and no two define the same name.
MODULES = ("l1_loss_checks", "l1_loss", "l1_loss_layer")
OWN_IMPORT = re.compile(r"^(?:import|from) l1_loss\w*\b.*\n", re.MULTILINE)
HEAD = f'''\
"""The L1 loss as a Caffe layer in one file, written by single-file of caffe-l1-loss {VERSION}.

    layer {{
      name: "loss"  type: "Python"  bottom: "prediction"  bottom: "target"  top: "loss"
      loss_weight: 1
      python_param {{
        module: "NAME OF THIS FILE, WITHOUT .py"  layer: "L1LossLayer"
        param_str: '{{"reduction": "MEAN"}}'
      }}
    }}

It needs numpy and Caffe alone; for DIGITS its name is digits_python_layers.py. Do not edit it: what
follows are the modules {", ".join(MODULES[:2])} and {MODULES[2]}, one after the other.
"""
'''
EPILOG = "exit codes: 0 done, or already so; 1 refused, nothing was written; 2 wrong usage"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="FILE.py",
                        help="where it goes, as digits_python_layers.py (default: standard output)")


def run(options: argparse.Namespace) -> int:
    data = joined().encode("ascii")
    if options.output is None:
        sys.stdout.write(data.decode("ascii"))
    elif not re.match(r"[A-Za-z_]\w*\.py\Z", Path(options.output).name):
        raise WrongUsage("Python cannot import a file of this name", "-o digits_python_layers.py",
                         options.output)
    else:
        print(put(Path(options.output), data))
    return 0


def joined() -> str:
    texts = [(HOME / "python_layer" / f"{name}.py").read_text("ascii") for name in MODULES]
    return "\n\n".join([HEAD, *(OWN_IMPORT.sub("", text) for text in texts)])


def put(path: Path, data: bytes) -> str:
    """Write it where nothing is: a file of this name may hold other layers."""
    try:
        write_file(path, data, 0o644, new=True)
    except FileExistsError:
        if not path.is_file() or path.read_bytes() != data:
            raise Refused("is there already, with other content",
                          "move it away, or name another with -o", str(path)) from None
        return f"{path} is there already, nothing to do"
    except OSError as error:
        raise Refused((error.strerror or str(error)).lower(), "name another place with -o",
                      str(path)) from None
    return f"wrote {path}"
