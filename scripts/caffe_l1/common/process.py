"""Run a command with its output into a log, line by line, and leave no child behind."""

import contextlib
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import IO, BinaryIO, Callable, Iterator

from .errors import BuildFailed

# Variables that change what make does; GTEST_... change what gtest does.
STRAY = ("MAKEFLAGS", "GNUMAKEFLAGS", "MFLAGS", "MAKEFILES", "MAKELEVEL")
MARK = "L1LOSS_KIT_RUN"  # tells the children of a run, even those in another session
ENDING = ((signal.SIGINT, 5.0), (signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0))


def environment(folder: Path) -> "dict[str, str]":
    """The environment of a shell in this folder, without such variables."""
    ours = {name: value for name, value in os.environ.items()
            if name not in STRAY and not name.startswith("GTEST_")}
    # A Makefile that writes to $(PWD)/build would otherwise write where the user stands.
    return {**ours, "PWD": str(folder.absolute())}


def run(command: "list[str]", folder: Path, log: BinaryIO, on_line: Callable[[str], None]) -> int:
    """The exit status; on Ctrl-C the command and all its children end first."""
    log.write(f"+ {' '.join(command)}\n".encode("utf-8", "surrogateescape"))
    mark = os.urandom(8).hex()
    try:
        process = subprocess.Popen(
            command, cwd=str(folder), env={**environment(folder), MARK: mark},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True)
    except OSError as error:
        problem = f"cannot be run: {error.strerror}"
        raise BuildFailed(problem, "run it by hand to see why", command[0]) from None
    assert process.stdout is not None
    with process.stdout as pipe:
        try:
            for line in lines(process, pipe):
                log.write(line)
                log.flush()
                on_line(line.decode("utf-8", "replace").rstrip("\r\n"))
            return process.wait()
        except BaseException:
            end(process, mark)
            raise


def lines(process: "subprocess.Popen[bytes]", pipe: IO[bytes]) -> Iterator[bytes]:
    """What it prints until it ends; a server that it started may keep the pipe open for longer."""
    rest = b""
    while True:
        ended = process.poll() is not None
        if select.select([pipe], [], [], 0 if ended else 0.1)[0]:
            data = os.read(pipe.fileno(), 1 << 16)
            if not data:
                break
            *whole, rest = (rest + data).split(b"\n")
            yield from (line + b"\n" for line in whole)
        elif ended:
            break
    if rest:
        yield rest


def output(command: "list[str]", folder: Path) -> str:
    """What a command prints on standard output, nothing where it cannot be run."""
    try:
        done = subprocess.run(command, cwd=str(folder), env=environment(folder),
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL)
    except OSError:
        return ""
    return done.stdout.decode("utf-8", "replace")


def end(process: "subprocess.Popen[bytes]", mark: str) -> None:
    """The command leads a process group of its own; make's compilers are in it."""
    for number, seconds in ENDING:
        others = [pid for pid, group in marked(mark).items() if group != process.pid]
        for kill, pid in [(os.killpg, process.pid), *((os.kill, pid) for pid in others)]:
            with contextlib.suppress(ProcessLookupError):
                kill(pid, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if process.poll() is not None and not marked(mark):
                return
            time.sleep(0.02)


def marked(mark: str) -> "dict[int, int]":
    """The living processes that inherited this mark, with their groups; none without /proc."""
    word = f"{MARK}={mark}".encode()
    found = {}
    for file in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if word in file.read_bytes():
                pid = int(file.parent.name)
                found[pid] = os.getpgid(pid)
    return found


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
