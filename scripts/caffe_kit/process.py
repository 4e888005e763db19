"""Run a command with its output into a log, line by line, and leave no child behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import BinaryIO, Callable, Iterator

OnLine = Callable[[str], None]


def environment(folder: Path) -> dict[str, str]:
    """That of a shell in this folder, without what would change what make and gtest do."""
    stray = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    ours = {
        name: value
        for name, value in os.environ.items()
        if name not in stray and not name.startswith("GTEST_")
    }
    # A Makefile that writes to $(PWD)/build would else write where the user stands.
    return {**ours, "PWD": str(folder.absolute())}


def run(command: list[str], folder: Path, log: BinaryIO, on_line: OnLine) -> int:
    """The exit status; on Ctrl-C the command and all its children end first."""
    log.write(("+ {}\n".format(" ".join(command))).encode("utf-8", "surrogateescape"))
    process = subprocess.Popen(
        command,
        cwd=str(folder),
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    with ended_on_error(process):
        for line in process.stdout or []:
            log.write(line)
            log.flush()
            on_line(line.decode("utf-8", "replace").rstrip("\r\n"))
        return process.wait()


def output(command: list[str], folder: Path, even_failed: bool = False) -> str | None:
    """What a command prints on standard output, None where it fails."""
    try:
        done = subprocess.run(
            command,
            cwd=str(folder),
            env=environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return None
    good = done.returncode == 0 or even_failed
    return done.stdout.decode("utf-8", "replace") if good else None


@contextlib.contextmanager
def ended_on_error(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        end(process)
        raise
    finally:
        if process.stdout:
            process.stdout.close()


def end(process: subprocess.Popen[bytes]) -> None:
    """The command leads a process group of its own; make's compilers are in it."""
    for number, seconds in ((signal.SIGINT, 5.0), (signal.SIGTERM, 2.0), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """A polite kill ends the children as Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)
