"""The first error in a build's log, and what to do about it."""

import re

from ..common.cuda import FIELDS
from ..common.errors import BuildFailed
from ..common.packages import install, packages_for

# In this order: the first line that the first of these finds is the error.
ERRORS = [re.compile(pattern) for pattern in (
    r"^(?P<file>[^\s:][^:\n]*):(?P<line>\d+):(?:\d+:)? (?:fatal )?error: (?P<text>.*)$",
    r"^(?P<file>[^\s(]+)\((?P<line>\d+)\): error: (?P<text>.*)$",  # nvcc
    r"^(?P<file>\S+\.proto):(?P<line>\d+):\d+: (?!warning)(?P<text>.*)$",
    r"(?P<text>cannot find -l\S+)",
    r"(?P<text>undefined reference to .*)$",
    r"^(?P<text>CMake Error.*)$",
    r"^.*?(?P<text>Could NOT find .*)$",
    r"^make.*?: \*\*\* (?P<text>.*)$",
    r"(?P<text>(?:\S*/)?\w+: (?:command )?not found)",
)]

# What Caffe's own sources say that is an error by now, and the mend at the line that is named.
OUTDATED = {
    r"no matching function.* to .*CodedInputStream::SetTotalBytesLimit\(": (
        "SetTotalBytesLimit takes one argument in this protobuf",
        "remove the second argument, 536870912, there",
    ),
    rf"cudaDeviceProp\W+has no member named \W?({'|'.join(FIELDS)})\b": (
        "this CUDA has no such field any more",
        "COMMON_FLAGS += " + " ".join(f"-D{name}={other}" for name, other in FIELDS.items())
        + " in Makefile.config, as --write-config writes it",
    ),
}
MISSING = re.compile(r"No such file or directory|cannot find -l|Could NOT find|not found")


def diagnose(log: str, log_file: str, what: str) -> BuildFailed:
    """The error to show for this failed build."""
    lines = log.splitlines()
    found = next((found for error in ERRORS for found in map(error.search, lines) if found), None)
    if found is None:
        return BuildFailed(f"{what} failed", "see " + log_file)
    parts = found.groupdict()
    text, file, line = parts["text"], parts.get("file", ""), int(parts.get("line", 0))
    if not file:
        return BuildFailed(f"{what}: {text}", hint(found.string, log_file))
    for outdated, (problem, fix) in OUTDATED.items():
        if re.search(outdated, text):
            return BuildFailed(problem, fix, file, line)
    return BuildFailed("error: " + text, hint(text, log_file), file, line)


def hint(text: str, log_file: str) -> str:
    """What to install, where the log is; without a log, what to install or nothing."""
    packages, note = packages_for(text)
    if packages and MISSING.search(text):
        where = f"; the log is {log_file}" if log_file else ""
        return install(packages) + (f" ({note})" if note else "") + where
    return f"see {log_file}" if log_file else ""
