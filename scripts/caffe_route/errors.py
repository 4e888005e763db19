"""What can be wrong with a net: a problem, what to do, and the byte where it is."""

from __future__ import annotations


class Problem(Exception):
    """`FILE:LINE:COL: problem; fix: ...` once the command line knows the file."""

    def __init__(self, problem: str, fix: str, offset: int | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.fix = fix
        self.offset = offset

    def __str__(self) -> str:
        return f"{self.problem}; fix: {self.fix}" if self.fix else self.problem


def short(text: str) -> str:
    """For a message, which is one line."""
    return text if len(text) <= 80 else text[:77] + "..."


def place(data: bytes, offset: int) -> tuple[int, int]:
    """Line and column, from 1, as editors count them: in characters."""
    before = data[:offset]
    start = before.rfind(b"\n") + 1
    return before.count(b"\n") + 1, len(before[start:].decode("utf-8", "replace")) + 1
