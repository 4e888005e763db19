"""How far a build is: files compiled, out of the files to compile."""

import re
import sys
import time
from typing import TextIO

# What make and CMake print for a file they compile: `CXX src/caffe/blob.cpp`,
# `[ 12%] Building CXX object src/caffe/CMakeFiles/caffe.dir/blob.cpp.o`.
COMPILING = re.compile(
    r"(?:^|\becho )(?:CXX|NVCC) (?!object)(\S+)$|Building \w+(?: \(Device\))? object (\S+)"
)
# And for a program they link: `LD .build_release/src/caffe/test/test_blob.o`,
# `[ 97%] Linking CXX executable ../../test/test.testbin`.
LINKING = re.compile(r"^(?:LD .*?|\[ *\d+%\] Linking \w+ .*?)([^/ ]+)$")
# What a dry run of make or CMake prints for all that it would link.
UNLINKED = re.compile(r"\becho (?:LD|AR|CXX/LD) |Linking \w+ ")


def compiled_file(line: str) -> "str | None":
    found = COMPILING.search(line)
    return (found.group(1) or found.group(2)).rstrip('"') if found else None


def count_compiled(text: str) -> int:
    """How many files a dry run would compile."""
    return len(set(map(compiled_file, text.splitlines())) - {None})


def is_complete(text: str) -> bool:
    """Whether a dry run would neither compile nor link."""
    return not count_compiled(text) and not UNLINKED.search(text)


class Progress:
    """One line that is written over on a terminal; elsewhere a line now and then."""

    def __init__(self, title: str, total: int, stream: "TextIO | None" = None) -> None:
        self.title = title
        self.total = total
        self.stream = stream or sys.stderr
        self.done = 0
        self.started = time.monotonic()
        self.last_shown = 0.0

    def line(self, line: str) -> None:
        name, link = compiled_file(line), LINKING.search(line)
        if name:
            self.done += 1
            self.total = max(self.total, self.done)
            self.show(name.rpartition("/")[2], last=self.done == self.total)
        elif link:
            # There may be a hundred, which takes minutes.
            self.show("linking " + link.group(1))

    def show(self, name: str, last: bool = False) -> None:
        now = time.monotonic()
        terminal = self.stream.isatty()
        if not terminal and now - self.last_shown < 10 and not last:
            return
        self.last_shown = now
        text = f"{self.title}: {self.done} of {self.total} files, {name}, {self.seconds()}"
        self.stream.write("\r\x1b[K" + text if terminal else text + "\n")
        self.stream.flush()

    def close(self) -> None:
        if self.done:
            start = "\r\x1b[K" if self.stream.isatty() else ""
            text = f"{self.title}: {self.done} files compiled in {self.seconds()}\n"
            self.stream.write(start + text)
            self.stream.flush()

    def seconds(self) -> str:
        return f"{time.monotonic() - self.started:.0f} s"
