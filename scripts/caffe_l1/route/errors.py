"""What can be wrong with a net, and where."""

from __future__ import annotations


class Problem(Exception):
    """What is wrong and what to do, in one line, and the byte where that is, if it is in a net."""

    def __init__(self, text: str, offset: int | None = None) -> None:
        super().__init__(text)
        self.offset = offset


def place(data: bytes, offset: int) -> tuple[int, int]:
    """Line and column, from 1, as editors count them: in characters."""
    before = data[:offset]
    start = before.rfind(b"\n") + 1
    return before.count(b"\n") + 1, len(before[start:].decode("utf-8", "replace")) + 1
