"""Run a command with its output into a log, line by line, and leave no child behind."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import BinaryIO, Callable, Iterator

from .errors import BuildFailed

# What would change what make and gtest do.
STRAY = ("MAKEFLAGS", "GNUMAKEFLAGS", "MFLAGS", "MAKEFILES", "MAKELEVEL")
MARK = "L1LOSS_KIT_RUN"  # by which the children of a run are known, whatever session they are in
ENDING = ((signal.SIGINT, 5.0), (signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0))
OnLine = Callable[[str], None]


def environment(folder: Path) -> dict[str, str]:
    """That of a shell in this folder, without what is stray."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if name not in STRAY and not name.startswith("GTEST_")
    }
    # A Makefile that writes to $(PWD)/build would else write where the user stands.
    return {**ours, "PWD": str(folder.absolute())}


def run(command: list[str], folder: Path, log: BinaryIO, on_line: OnLine) -> int:
    """The exit status; on Ctrl-C the command and all its children end first."""
    log.write(("+ {}\n".format(" ".join(command))).encode("utf-8", "surrogateescape"))
    mark = os.urandom(8).hex()
    try:
        process = subprocess.Popen(
            command,
            cwd=str(folder),
            env={**environment(folder), MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        problem = f"cannot be run: {error.strerror}"
        raise BuildFailed(problem, "run it by hand to see why", command[0]) from None
    with ended_on_error(process, mark):
        for line in lines(process):
            log.write(line)
            log.flush()
            on_line(line.decode("utf-8", "replace").rstrip("\r\n"))
        return process.wait()


def lines(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """What it prints until it ends; a server that it started may keep the pipe open for longer."""
    assert process.stdout is not None
    rest = b""
    while True:
        ended = process.poll() is not None
        if select.select([process.stdout], [], [], 0 if ended else 0.1)[0]:
            data = os.read(process.stdout.fileno(), 1 << 16)
            if not data:
                break
            *whole, rest = (rest + data).split(b"\n")
            yield from (line + b"\n" for line in whole)
        elif ended:
            break
    if rest:
        yield rest


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
def ended_on_error(process: subprocess.Popen[bytes], mark: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        end(process, mark)
        raise
    finally:
        if process.stdout:
            process.stdout.close()


def end(process: subprocess.Popen[bytes], mark: str) -> None:
    """The command leads a process group of its own; make's compilers are in it."""
    for number, seconds in ENDING:
        others = [pid for pid in marked(mark) if group_of(pid) != process.pid]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        for pid in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if ended(process, mark, time.monotonic() + seconds):
            return


def ended(process: subprocess.Popen[bytes], mark: str, deadline: float) -> bool:
    while process.poll() is None or marked(mark):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def marked(mark: str) -> list[int]:
    """The processes that inherited this mark and are alive; none where there is no /proc."""
    word = f"{MARK}={mark}".encode()
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if word in file.read_bytes():
                found.append(int(file.parent.name))
    return found


def group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


@contextlib.contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """A polite kill and Ctrl-\\ end the children as Ctrl-C does; a second one changes nothing."""

    def interrupt(number: int, frame: object) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)
