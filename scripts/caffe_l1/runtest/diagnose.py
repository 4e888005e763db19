"""The first error in a build's log, and what to do about it."""

from __future__ import annotations

import re

from ..common.errors import BuildFailed
from ..common.packages import install, packages_for

COMPILER = re.compile(
    r"^(?P<file>[^\s:][^:\n]*):(?P<line>\d+):(?:\d+:)? (?:fatal )?error: (?P<text>.*)$"
)
PROTOC = re.compile(r"^(?P<file>\S+\.proto):(?P<line>\d+):\d+: (?!warning)(?P<text>.*)$")
NVCC = re.compile(r"^(?P<file>[^\s(]+)\((?P<line>\d+)\): error: (?P<text>.*)$")
OTHERS = [
    re.compile(r"(?P<text>cannot find -l\S+)"),
    re.compile(r"(?P<text>undefined reference to .*)$"),
    re.compile(r"^(?P<text>CMake Error.*)$"),
    re.compile(r"^.*?(?P<text>Could NOT find .*)$"),
    re.compile(r"^make.*?: \*\*\* (?P<text>.*)$"),
    re.compile(r"(?P<text>(?:\S*/)?\w+: (?:command )?not found)"),
]

# What Caffe's own sources say that is an error by now, and the mend at the line that is named.
OUTDATED = {
    r"no matching function.* to .*CodedInputStream::SetTotalBytesLimit\(": (
        "SetTotalBytesLimit takes one argument in this protobuf",
        "remove the second argument, 536870912, there",
    ),
}
MISSING = re.compile(r"No such file or directory|cannot find -l|Could NOT find|not found")


def diagnose(log: str, log_file: str, what: str) -> BuildFailed:
    """The error to show for this failed build."""
    for pattern in (COMPILER, NVCC, PROTOC):
        found = first_match(pattern, log)
        if found:
            text = found.group("text")
            file, line = found.group("file"), int(found.group("line"))
            for outdated, (problem, fix) in OUTDATED.items():
                if re.search(outdated, text):
                    return BuildFailed(problem, fix, file, line)
            return BuildFailed("error: " + text, hint(text, log_file), file, line)
    for pattern in OTHERS:
        found = first_match(pattern, log)
        if found:
            problem = what + ": " + found.group("text")
            return BuildFailed(problem, hint(found.string, log_file))
    return BuildFailed(f"{what} failed", "see " + log_file)


def first_match(pattern: re.Pattern[str], log: str) -> re.Match[str] | None:
    for line in log.splitlines():
        found = pattern.search(line)
        if found:
            return found
    return None


def hint(text: str, log_file: str) -> str:
    """What to install, where the log is; without a log, what to install or nothing."""
    packages, note = packages_for(text)
    if packages and MISSING.search(text):
        where = f"; the log is {log_file}" if log_file else ""
        return install(packages) + (f" ({note})" if note else "") + where
    return f"see {log_file}" if log_file else ""
