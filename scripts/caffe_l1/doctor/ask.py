"""Questions to a Python in a process of its own: importing Caffe may end the process."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
from typing import Any, NamedTuple

SECONDS = 60
MARK = "doctor's answer: "
EXCEPTION = re.compile(r"^[\w.]*(?:Error|Exception|Warning|Exit|Interrupt)\b.*", re.MULTILINE)

# Python 2.7 reads these too. Each sets `answer`.
VERSION = "import sys; answer = sys.executable, '.'.join(map(str, sys.version_info[:3]))"
PYCAFFE = """
import caffe
answer = {
    'file': getattr(caffe, '__file__', None),
    'folders': [str(folder) for folder in getattr(caffe, '__path__', [])],
    'version': getattr(caffe, '__version__', ''),
    'real': hasattr(caffe, 'Net'),
    'types': list(caffe.layer_type_list()) if hasattr(caffe, 'layer_type_list') else None,
}
"""
LAYER = "import l1_loss_layer; answer = l1_loss_layer.__file__"
PROTOBUF = "import google.protobuf; answer = google.protobuf.__version__"


class Answer(NamedTuple):
    value: Any  # None if the process gave no answer
    problem: str  # one line, empty if it did


def ask(python: str, question: str, *path: str) -> Answer:
    """The answer of that Python, with these folders first on its module path."""
    environment = dict(os.environ, GLOG_minloglevel="2")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [*path, os.getenv("PYTHONPATH")]))
    code = (f"{question}\nimport sys; sys.stdout.write({MARK!r} + repr(answer) + '\\n')\n"
            "sys.stdout.flush()")
    try:
        done = subprocess.run([python, "-c", code], env=environment, timeout=SECONDS,
                              stdin=subprocess.DEVNULL, capture_output=True)
    except OSError as error:
        return Answer(None, f"{python}: {error.strerror}")
    except subprocess.TimeoutExpired:
        return Answer(None, f"no answer in {SECONDS} seconds")
    # An answer of a process that dies after giving it is none: a net would not live either.
    found = done.stdout.decode("utf-8", "replace").rpartition(MARK)
    if done.returncode == 0 and found[1]:
        return Answer(ast.literal_eval(found[2].strip()), "")
    return Answer(None, problem(done.returncode, done.stderr.decode("utf-8", "replace")))


def problem(code: int, stderr: str) -> str:
    """One line for how a process ended."""
    if code < 0:
        return f"the process was ended by {signal_name(-code)}"
    exceptions = EXCEPTION.findall(stderr)
    lines = stderr.strip().splitlines()
    return (exceptions or lines or [f"the process ended with exit code {code}"])[-1].strip()


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
