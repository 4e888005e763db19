"""Questions to a Python in a process of its own: importing Caffe may end the process."""

import ast
import os
import re
import signal
import subprocess
from typing import Any

from ..common.errors import Refused

SECONDS = 60
MARK = "the answer: "
EXCEPTION = re.compile(r"^[\w.]*(?:Error|Exception|Warning|Exit|Interrupt)\b.*", re.MULTILINE)


class NoAnswer(Refused):
    """That Python runs, but the question fails in it."""


def ask(python: str, question: str, *path: str, fix: str = "") -> Any:
    """What the question, in words that Python 2.7 reads too, leaves in `answer`.

    The folders of `path` come first on its module path; `fix` is for a question that fails.
    """
    environment = dict(os.environ, GLOG_minloglevel="2")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [*path, os.getenv("PYTHONPATH")]))
    code = (f"{question}\nimport sys; sys.stdout.write({MARK!r} + repr(answer) + '\\n')\n"
            "sys.stdout.flush()")
    try:
        done = subprocess.run([python, "-c", code], env=environment, timeout=SECONDS,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE)
    except OSError as error:
        raise Refused(error.strerror or str(error), "name a Python with --python",
                      python) from None
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"no answer in {SECONDS} seconds", fix) from None
    # A process that dies after its answer does not count: a net would not live either.
    _, answered, answer = done.stdout.decode("utf-8", "replace").rpartition(MARK)
    if done.returncode == 0 and answered:
        return ast.literal_eval(answer.strip())
    raise NoAnswer(ending(done.returncode, done.stderr.decode("utf-8", "replace")), fix)


def ending(code: int, stderr: str) -> str:
    """One line for how a process ended."""
    if code < 0:
        names = {number.value: number.name for number in signal.Signals}
        return f"the process was ended by {names.get(-code, f'signal {-code}')}"
    lines = EXCEPTION.findall(stderr) or stderr.strip().splitlines()
    return lines[-1].strip() if lines else f"the process ended with exit code {code}"
