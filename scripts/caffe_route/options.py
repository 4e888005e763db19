"""The options of an L1 layer, read from and written to JSON and text format.

Numbers stay spelled as they are wherever both have that spelling.
"""

from __future__ import annotations

import json
import math
import re
from typing import Dict

from .errors import Problem, short
from .text_format import Field, Value, unescaped

REDUCTIONS = ("BATCHMEAN", "MEAN", "SUM", "VALID_MEAN", "WEIGHTED_MEAN", "NONE")
KINDS = {"reduction": ", ".join(REDUCTIONS), "axis": "an integer", "ignore_label": "a number",
         "ignore_nonfinite_target": "true or false"}
CAMEL_CASE = {"ignoreLabel": "ignore_label", "ignoreNonfiniteTarget": "ignore_nonfinite_target"}
JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?\Z")
TRUE, FALSE = ("true", "True", "t", "1"), ("false", "False", "f", "0")

# What Caffe's own loss_param says, in our words; numbers are protobuf's of the same names.
NORMALIZATIONS = {"FULL": "MEAN", "VALID": "VALID_MEAN", "BATCH_SIZE": "BATCHMEAN", "NONE": "SUM",
                  "0": "MEAN", "1": "VALID_MEAN", "2": "BATCHMEAN", "3": "SUM"}

Options = Dict[str, str]  # name: value, as text format and JSON have it, but without quotes


class Number(str):
    """A number of JSON, as it is spelled."""


def to_json(options: Options) -> bytes:
    pairs = [f'"{name}": "{value}"' if name == "reduction" else f'"{name}": {value}'
             for name, value in options.items()]
    return f"{{{', '.join(pairs)}}}".encode()


def to_text_format(options: Options) -> bytes:
    return " ".join(f"{name}: {value}" for name, value in options.items()).encode()


# ---- from param_str ----------------------------------------------------------

def of_python_param(fields: tuple[Field, ...]) -> Options:
    check(fields, ("module", "layer", "param_str", "share_in_parallel"), "python_param")
    for field in fields:
        if field.name == "param_str":
            return of_param_str(string(field).decode("utf-8", "replace"), field.start)
    return {}


def of_param_str(text: str, offset: int) -> Options:
    try:
        return of_json(text, offset)
    except RecursionError:
        raise Problem("param_str is nested too deeply", "write an object such as "
                      '{"reduction": "MEAN"}', offset) from None


def of_json(text: str, offset: int) -> Options:
    try:
        pairs = json.loads(text.strip() or "{}", object_pairs_hook=tuple, parse_int=Number,
                           parse_float=Number)
    except ValueError as error:
        raise Problem(f"param_str is not valid JSON ({error})", "write an object such as "
                      '{"reduction": "MEAN"}', offset) from None
    if not isinstance(pairs, tuple):
        raise Problem("param_str is no JSON object", 'write one, such as {"reduction": "MEAN"}',
                      offset)
    return of_pairs(pairs, offset)


def of_pairs(pairs: tuple[tuple[str, object], ...], offset: int) -> Options:
    options: Options = {}
    for given, value in pairs:
        name = CAMEL_CASE.get(given, given)
        if name not in KINDS:
            raise Problem(f'unknown option "{short(given)}"', f"use one of {', '.join(KINDS)}",
                          offset)
        if name in options:
            raise Problem(f'option "{name}" is given twice', "remove one", offset)
        if value is not None:  # null is the default
            options[name] = of_json_value(name, value, offset)
    return options


def of_json_value(name: str, value: object, offset: int) -> str:
    right = {
        "reduction": isinstance(value, str) and value in REDUCTIONS,
        "axis": isinstance(value, Number) and re.match(r"-?[0-9]+\Z", value) is not None,
        "ignore_label": isinstance(value, Number),
        "ignore_nonfinite_target": isinstance(value, bool),
    }[name]
    if not right:
        raise wrong(name, json.dumps(value), offset)
    return json.dumps(value) if isinstance(value, bool) else str(value)


# ---- from l1_loss_param ------------------------------------------------------

def of_l1_loss_param(fields: tuple[Field, ...]) -> Options:
    check(fields, tuple(KINDS), "l1_loss_param")
    return {field.name: of_field(field) for field in fields}


def of_field(field: Field) -> str:
    text = word(field)
    if field.name == "reduction":
        numbers = dict(zip(map(str, range(len(REDUCTIONS))), REDUCTIONS))
        text = numbers.get(text, text)
        right = text in REDUCTIONS
    elif field.name == "ignore_nonfinite_target":
        right = text in TRUE + FALSE
        text = "true" if text in TRUE else "false" if right else text
    else:
        text, right = number(text, field.name == "axis")
    if not right:
        raise wrong(field.name, text, field.start)
    return text


def number(text: str, whole: bool) -> tuple[str, bool]:
    """A number as JSON spells it, and whether it is one: JSON has no 0x10, 1f, .5 or inf."""
    if JSON_NUMBER.match(text) and not (whole and re.search("[.eE]", text)):
        return text, True
    try:
        if whole:
            digits = text.lstrip("-")
            octal = re.match("0[0-7]+\\Z", digits)
            size = int(digits, 8 if octal else 0)
            return str(-size if text.startswith("-") else size), True
        value = float(text.rstrip("fF") if not text.lower().endswith("inf") else text)
        return repr(value), math.isfinite(value)
    except ValueError:
        return text, False


# ---- from loss_param ---------------------------------------------------------

def of_loss_param(fields: tuple[Field, ...]) -> Options:
    """What L1Loss makes of Caffe's older spellings; a Python layer cannot see them."""
    check(fields, ("ignore_label", "normalization", "normalize"), "loss_param")
    given = {field.name: word(field) for field in fields}
    options: Options = {}
    if "normalization" in given:
        if given["normalization"] not in NORMALIZATIONS:
            raise Problem(f"normalization is {given['normalization']}", "use FULL, VALID, "
                          "BATCH_SIZE or NONE", fields[0].start)
        options["reduction"] = NORMALIZATIONS[given["normalization"]]
    elif "normalize" in given:
        options["reduction"] = "VALID_MEAN" if given["normalize"] in TRUE else "BATCHMEAN"
    if "ignore_label" in given:
        options["ignore_label"] = number(given["ignore_label"], True)[0]
    return options


def merged(own: Options, loss_param: Options, offset: int) -> Options:
    """Both together, or Problem where they contradict each other."""
    for name, value in loss_param.items():
        if name in own and not same(own[name], value):
            raise Problem(
                f'loss_param makes "{name}" {value}, the layer\'s own options say {own[name]}; a '
                "Python layer ignores loss_param, L1Loss does not", "remove one of them", offset)
    return {**loss_param, **own}


def same(one: str, other: str) -> bool:
    try:
        return float(one) == float(other)
    except ValueError:
        return one == other


# ---- fields ------------------------------------------------------------------

def check(fields: tuple[Field, ...], allowed: tuple[str, ...], message: str) -> None:
    seen = set()
    for field in fields:
        if field.name not in allowed:
            raise Problem(f'{message} has no field "{field.name}" that the other routes know',
                          f"use {', '.join(allowed)}", field.start)
        if field.name in seen:
            raise Problem(f'"{field.name}" is given twice', "remove one", field.start)
        seen.add(field.name)


def single(field: Field) -> Value:
    if len(field.values) != 1:
        raise Problem(f'"{field.name}" takes one value', "remove the list", field.start)
    return field.values[0]


def string(field: Field) -> bytes:
    value = single(field)
    if not value.tokens or value.tokens[0].kind != "string":
        raise Problem(f'"{field.name}" is no string', "put it in quotes", field.start)
    return unescaped(value.tokens)


def word(field: Field) -> str:
    """A number or a name, with its minus."""
    value = single(field)
    if not value.tokens or value.tokens[0].kind == "string":
        raise Problem(f'"{field.name}" is no plain word or number', "remove quotes and brackets",
                      field.start)
    return b"".join(token.text for token in value.tokens).decode()


def wrong(name: str, value: str, offset: int) -> Problem:
    return Problem(f'option "{name}" is {short(value)}', f"use {KINDS[name]}", offset)
