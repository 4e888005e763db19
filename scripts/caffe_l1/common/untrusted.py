"""JSON from the tree is input, also where we once wrote it: of exactly the shape expected."""

import json
import re
from typing import Any

TEXT = "[^\0\ud800-\udfff]*"  # without halves of letters, which no file could hold
HASH = "[0-9a-f]{64}"


def parse_object(data: bytes) -> "dict[str, Any]":
    """Strict JSON, one object; else ValueError."""
    try:
        value = json.loads(data.decode(), parse_constant=not_a_number, object_pairs_hook=once)
    except RecursionError:
        raise ValueError("it nests too deep") from None
    if not isinstance(value, dict):
        raise ValueError("it is not an object")
    return value


def not_a_number(text: str) -> None:
    raise ValueError(f"{text} is not a number")


def once(pairs: "list[tuple[str, Any]]") -> "dict[str, Any]":
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key is there twice")
    return dict(pairs)


def check_shape(value: Any, shape: Any) -> None:
    if not fits(value, shape):
        raise ValueError("it is not what a kit writes")


def fits(value: Any, shape: Any) -> bool:
    """A shape is the pattern of a text, a type, a number, [the shape of each], {key: shape} for all
    keys, or (shape, another one)."""
    if isinstance(shape, str):
        return isinstance(value, str) and re.fullmatch(shape, value, re.DOTALL) is not None
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(one, shape[0]) for one in value)
    if isinstance(shape, dict):
        return (isinstance(value, dict) and set(value) == set(shape)
                and all(fits(value[key], shape[key]) for key in shape))
    if isinstance(shape, tuple):
        return any(fits(value, one) for one in shape)
    return type(value) is shape or (type(value) is type(shape) and value == shape)
