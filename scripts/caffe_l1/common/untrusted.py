"""JSON from the tree is input, also where we once wrote it: exactly the keys and kinds expected."""

from __future__ import annotations

import json
import re
from typing import Any, Callable

Check = Callable[[Any], bool]
HASH = re.compile(r"[0-9a-f]{64}\Z")


def parse_object(data: bytes) -> dict[str, Any]:
    """Strict JSON, one object; else ValueError."""
    try:
        value = json.loads(
            data.decode("utf-8"), parse_constant=not_a_number, object_pairs_hook=once
        )
    except RecursionError:
        raise ValueError("it nests too deep") from None
    if not isinstance(value, dict):
        raise ValueError("it is not an object")
    return value


def not_a_number(text: str) -> None:
    raise ValueError(f"{text} is not a number")


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key is there twice")
    return dict(pairs)


def check_keys(value: Any, checks: dict[str, Check], what: str) -> None:
    """An object with exactly these keys, each of the right kind; else ValueError."""
    if not isinstance(value, dict) or set(value) != set(checks):
        raise ValueError(f"{what} has not the keys that it should have")
    for name, check in checks.items():
        if not check(value[name]):
            raise ValueError(f"{name} of {what} is not valid")


def is_text(value: Any) -> bool:
    """Without NUL and without halves of letters, which no file could hold."""
    if not isinstance(value, str) or "\0" in value:
        return False
    return not any(0xD800 <= ord(letter) <= 0xDFFF for letter in value)


def is_match(pattern: str) -> Check:
    return lambda value: isinstance(value, str) and re.match(pattern + r"\Z", value) is not None


def is_hash(value: Any) -> bool:
    return isinstance(value, str) and HASH.match(value) is not None


def is_number(value: Any) -> bool:
    return type(value) is int


def is_list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def is_optional(check: Check) -> Check:
    return lambda value: value is None or check(value)
