"""The edge of every entry script: its work is done and its exit code told, whoever reads it."""

import io
import os
import select
import sys
from typing import Any, Callable, TextIO

from .errors import FileSystemFailed

FOLDER_IS_GONE = ("the working folder was deleted", "cd to a folder that is there")
FIX = "look at the space (df -h), the permissions (ls -ld) and the type of what is there"


def run(main: "Callable[[list[str]], int]", arguments: "list[str]") -> int:
    """The exit code of main.

    It depends on neither standard output nor standard error: both may be closed, full, or a pipe
    that nobody reads. What cannot be written is dropped, and one line on standard error says so,
    but for a closed stream or pipe, which somebody wanted.
    """
    fill_closed()
    out, err = Lasting(1, "w", closefd=False), Lasting(2, "w", closefd=False)
    sys.stdout, sys.stderr = over(out, sys.stdout), over(err, sys.stderr)
    try:
        return main(arguments)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if is_folder_gone(error):
            print("; fix: ".join(FOLDER_IS_GONE), file=sys.stderr)
            return 2
        failed = FileSystemFailed(error.strerror or str(error), FIX, str(error.filename or ""))
        print(failed, file=sys.stderr)
        return failed.code
    finally:
        sys.stdout.flush()
        if out.failure and not isinstance(out.failure, BrokenPipeError):
            print(f"standard output could not be written: {out.failure.strerror}; fix: send it "
                  "elsewhere", file=sys.stderr)
        sys.stderr.flush()


def is_folder_gone(error: OSError) -> bool:
    """Whether it was the working folder that this error did not find."""
    if error.filename is None:
        try:
            os.getcwd()
        except FileNotFoundError:
            return True
    return False


class Lasting(io.FileIO):
    """A descriptor to write to that cannot fail: from the first failure on, all is dropped."""

    failure: "OSError | None" = None

    def write(self, data: Any) -> int:
        try:
            written = super().write(data)
            while written is None:  # a full pipe that does not block, as some parents make them
                select.select([], [self], [])
                written = super().write(data)
            return written
        except OSError as error:
            self.failure = error
            to_nowhere(self.fileno())
            return len(data)


def over(raw: Lasting, before: "TextIO | None") -> TextIO:
    """A text stream like the one that Python has made, if it made one, but for letters it lacks."""
    encoding, errors = (before.encoding, before.errors) if before else ("utf-8", "strict")
    errors = "backslashreplace" if errors == "strict" else errors
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=True)


def fill_closed() -> None:
    """Open closed streams, or the next file opened, a log or a net, would take their place."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            to_nowhere(number)


def to_nowhere(number: int) -> None:
    """Send what is written there to /dev/null, also for child processes."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)
    os.set_inheritable(number, True)
