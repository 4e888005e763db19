"""The options of an L1 layer, read from and written to JSON and text format.

param_str is read as python_layer/l1_loss.py reads it, which needs numpy: tests/param_str_cases.py
holds both to the same meanings and the same words.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Dict

from .errors import Problem
from .text_format import Field, Value, unescaped

REDUCTIONS = ("BATCHMEAN", "MEAN", "SUM", "VALID_MEAN", "WEIGHTED_MEAN", "NONE")
ALLOWED = {"reduction": ", ".join(REDUCTIONS), "axis": "an integer",
           "ignore_label": "a finite number", "ignore_nonfinite_target": "true or false"}
DEFAULTS = {"reduction": "BATCHMEAN", "ignore_label": None}
NAMES = {re.sub("_(.)", lambda match: match.group(1).upper(), name): name for name in ALLOWED}
TRUE, FALSE = ("true", "True", "t", "1"), ("false", "False", "f", "0")

# What Caffe's own loss_param says, in our words; numbers are protobuf's of the same names.
NORMALIZATIONS = {"FULL": "MEAN", "VALID": "VALID_MEAN", "BATCH_SIZE": "BATCHMEAN", "NONE": "SUM",
                  "0": "MEAN", "1": "VALID_MEAN", "2": "BATCHMEAN", "3": "SUM"}

Options = Dict[str, Any]  # a str, int, float or bool by its name, in the order of the net


class Number(float):
    """A number, and how it was written."""

    def __init__(self, text: str) -> None:
        self.text = text


class Integer(Number):
    """One without fraction and exponent."""


def to_json(options: Options) -> bytes:
    return json.dumps(options).encode()


def to_text_format(options: Options) -> bytes:
    return " ".join(f"{name}: {value if name == 'reduction' else json.dumps(value)}"
                    for name, value in options.items()).encode()


def checked(given: dict[str, Any], offset: int) -> Options:
    """The options of these values, of which None is the default."""
    given = {name: value for name, value in given.items() if value is not None}
    for name, allowed in ALLOWED.items():
        if name in given and not is_right(name, given[name]):
            raise Problem(f'option "{name}" is {shown(given[name])}; allowed: {allowed}', offset)
    return {name: plain(value) for name, value in given.items()}


def is_right(name: str, value: Any) -> bool:
    if name == "reduction":
        return value in REDUCTIONS
    if name == "axis":
        return isinstance(value, Integer) and -2**31 <= value < 2**31
    if name == "ignore_label":
        return isinstance(value, Number) and math.isfinite(value)
    return isinstance(value, bool)


def plain(value: Any) -> Any:
    """A number in its shortest spelling."""
    if not isinstance(value, Number):
        return value
    return int(value) if value.is_integer() and abs(value) < 2**53 else float(value)


def shown(value: Any) -> str:
    if isinstance(value, Number):
        return value.text
    if isinstance(value, (tuple, list)):
        return "{...}" if isinstance(value, tuple) else "[...]"
    return json.dumps(value)


# ---- from param_str ----------------------------------------------------------

def of_block(block: Field) -> Options:
    """What python_param or l1_loss_param says."""
    fields = message(block)
    if block.name == "l1_loss_param":
        return of_l1_loss_param(fields)
    check(fields, ("module", "layer", "param_str", "share_in_parallel"), "python_param")
    for field in fields:
        if field.name == "param_str":
            return of_param_str(string(field).decode("utf-8", "replace"), field.start)
    return {}


def of_param_str(text: str, offset: int) -> Options:
    given: dict[str, Any] = {}
    for written, value in read_object(text.strip(" \t\r\n") or "{}", offset):
        name = NAMES.get(written, written)
        if name not in ALLOWED:
            raise Problem(f"unknown option {json.dumps(written)}; allowed: {', '.join(ALLOWED)}",
                          offset)
        if name in given:
            raise Problem(f'option "{name}" is given twice; fix: give it once', offset)
        given[name] = value
    return checked(given, offset)


def read_object(text: str, offset: int) -> tuple[tuple[str, Any], ...]:
    try:
        found = json.loads(text, parse_int=Integer, parse_float=Number,
                           parse_constant=refuse_constant, object_pairs_hook=tuple)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, tuple):
        raise Problem('param_str is not valid JSON; allowed: an object such as '
                      '{"reduction": "MEAN"}', offset)
    return found


def refuse_constant(name: str) -> None:
    raise ValueError(f"JSON has no {name}")


# ---- from l1_loss_param ------------------------------------------------------

def of_l1_loss_param(fields: tuple[Field, ...]) -> Options:
    check(fields, tuple(ALLOWED), "l1_loss_param")
    options: Options = {}
    for field in fields:
        options.update(checked({field.name: of_word(field)}, field.start))
    return options


def of_word(field: Field) -> Any:
    """The value as JSON has it, whose numbers and words are fewer: none as 0x10, 1f, .5 and t."""
    text = word(field)
    if field.name == "reduction":
        return dict(zip("012345", REDUCTIONS)).get(text, text)
    if field.name == "ignore_nonfinite_target":
        return text in TRUE if text in TRUE + FALSE else text
    return number(text)


def number(text: str) -> Any:
    try:
        octal = re.match("-?0[0-7]+\\Z", text)
        return Integer(str(int(text, 8 if octal else 0)))
    except ValueError:
        pass
    try:
        return Number(re.sub("(?<=[0-9.])[fF]\\Z", "", text))
    except ValueError:
        return text


# ---- from loss_param ---------------------------------------------------------

def of_loss_param(loss_param: Field | None) -> Options:
    """What L1Loss makes of Caffe's older spellings; a Python layer does not read them."""
    if loss_param is None:
        return {}
    fields = message(loss_param)
    check(fields, ("ignore_label", "normalization", "normalize"), "loss_param")
    given = {field.name: word(field) for field in fields}
    options: Options = {}
    if "normalization" in given:
        if given["normalization"] not in NORMALIZATIONS:
            raise Problem(f"normalization is {given['normalization']}; allowed: FULL, VALID, "
                          "BATCH_SIZE, NONE", loss_param.start)
        options["reduction"] = NORMALIZATIONS[given["normalization"]]
    elif "normalize" in given:
        options["reduction"] = "VALID_MEAN" if given["normalize"] in TRUE else "BATCHMEAN"
    if "ignore_label" in given:
        options["ignore_label"] = number(given["ignore_label"])
    return checked(options, loss_param.start)


def merged(own: Options, loss_param: Options, offset: int) -> Options:
    """Both together, or Problem where they contradict each other."""
    for name, value in loss_param.items():
        if own.get(name, value) != value:
            raise Problem(
                f'option "{name}" is {shown(own[name])}, but loss_param says {shown(value)}, which '
                "L1Loss reads and a Python layer does not; fix: remove it from loss_param", offset)
    return {**own, **loss_param}


def check_axis(options: Options, block: Field | None) -> None:
    reduction = options.get("reduction", DEFAULTS["reduction"])
    if block and "axis" in options and reduction != "NONE":
        raise Problem(f'option "axis" needs "reduction": "NONE", not "{reduction}"', next(
            field.start for field in message(block) if field.name in ("axis", "param_str")))


# ---- fields ------------------------------------------------------------------

def check(fields: tuple[Field, ...], allowed: tuple[str, ...], message: str) -> None:
    seen = set()
    for field in fields:
        if field.name not in allowed:
            raise Problem(f'unknown field "{field.name}" in {message}; allowed: '
                          f"{', '.join(allowed)}", field.start)
        if field.name in seen:
            raise Problem(f'"{field.name}" is given twice; fix: give it once', field.start)
        seen.add(field.name)


def message(field: Field) -> tuple[Field, ...]:
    fields = single(field).fields
    if fields is None:
        raise Problem(f'"{field.name}" has no brackets; fix: write {{ }} around its fields',
                      field.start)
    return fields


def single(field: Field) -> Value:
    if len(field.values) != 1:
        raise Problem(f'"{field.name}" is a list; fix: give it one value', field.start)
    return field.values[0]


def string(field: Field) -> bytes:
    value = single(field)
    if not value.tokens or value.tokens[0].kind != "string":
        raise Problem(f'"{field.name}" is not a string; fix: put it in quotes', field.start)
    return unescaped(value.tokens)


def word(field: Field) -> str:
    """A number or a name, with its minus."""
    value = single(field)
    if not value.tokens or value.tokens[0].kind == "string":
        raise Problem(f'"{field.name}" is not a word or a number; fix: remove its quotes or '
                      "brackets", field.start)
    return b"".join(token.text for token in value.tokens).decode()
