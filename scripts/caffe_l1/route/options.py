"""The options of an L1 layer, read from and written to JSON and text format.

Names and types are those of L1LossParameter, in the kit's .proto file. param_str is read as
python_layer/l1_loss.py reads it, which needs numpy: tests/param_str_cases.py holds both to the same
meanings and the same words.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Callable, Collection, Dict

from ..common.untrusted import not_a_number
from ..patch.payload import MESSAGE, PATCH
from .text_format import Field, Problem

Options = Dict[str, Any]  # a str, int, float or bool by its name, in the order of the net


class Number(float):
    """A number, and how it was written."""

    def __init__(self, text: str) -> None:
        self.text = text


class Integer(Number):
    """One without fraction and exponent."""


PROTO = (PATCH / MESSAGE).read_text("utf-8")
REDUCTIONS = re.findall(r"^    ([A-Z_]+) = \d+;", PROTO, re.MULTILINE)
# What a value must be, by the type of its field, and how an error says so.
TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "Reduction": (lambda value: value in REDUCTIONS, ", ".join(REDUCTIONS)),
    "int32": (lambda value: isinstance(value, Integer) and -2**31 <= value < 2**31, "an integer"),
    "double": (lambda value: isinstance(value, Number) and math.isfinite(value), "a finite number"),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
}
# The type of each option, in the order of the message, and the options as JSON may spell them too.
OPTIONS = {name: kind for kind, name in re.findall(r"^  optional (\w+) (\w+)", PROTO, re.MULTILINE)}
CAMEL_CASE = {re.sub("_(.)", lambda match: match.group(1).upper(), name): name for name in OPTIONS}
WORDS = {"true": True, "True": True, "t": True, "1": True,
         "false": False, "False": False, "f": False, "0": False}
# The reductions that Caffe's own loss_param means, by the names and numbers of its normalization.
NORMALIZATIONS = {"FULL": "MEAN", "VALID": "VALID_MEAN", "BATCH_SIZE": "BATCHMEAN", "NONE": "SUM",
                  "0": "MEAN", "1": "VALID_MEAN", "2": "BATCHMEAN", "3": "SUM"}


def checked(given: dict[str, Any], offset: int) -> Options:
    """The options of these values, of which None is the default."""
    given = {name: value for name, value in given.items() if value is not None}
    for name, kind in OPTIONS.items():
        is_right, allowed = TYPES[kind]
        if name in given and not is_right(given[name]):
            raise Problem(f'option "{name}" is {shown(given[name])}; allowed: {allowed}', offset)
    return {name: shortest(value) for name, value in given.items()}


def shortest(value: Any) -> Any:
    """A number as JSON and text format spell it shortest."""
    if not isinstance(value, Number):
        return value
    return int(value) if value.is_integer() and abs(value) < 2**53 else float(value)


def shown(value: Any) -> str:
    if isinstance(value, Number):
        return value.text
    if isinstance(value, (tuple, list)):
        return "{...}" if isinstance(value, tuple) else "[...]"
    return json.dumps(value)


def of_block(block: Field) -> Options:
    """What python_param or l1_loss_param says."""
    if block.name == "l1_loss_param":
        return {name: value for field in once(block, OPTIONS) for name, value
                in checked({field.name: of_word(field)}, field.start).items()}
    for field in once(block, ("module", "layer", "param_str", "share_in_parallel")):
        if field.name == "param_str":
            return of_param_str(field.get(bytes).decode("utf-8", "replace"), field.start)
    return {}


def once(message: Field, allowed: Collection[str]) -> list[Field]:
    """The fields of a message, each allowed and given once, or Problem."""
    seen = set()
    for field in message.get(list):
        if field.name not in allowed:
            raise Problem(f'unknown field "{field.name}" in {message.name}; allowed: '
                          f"{', '.join(allowed)}", field.start)
        if field.name in seen:
            raise Problem(f'"{field.name}" is given twice; fix: give it once', field.start)
        seen.add(field.name)
    return message.get(list)


def of_param_str(text: str, offset: int) -> Options:
    try:
        found = json.loads(text.strip(" \t\r\n") or "{}", parse_int=Integer, parse_float=Number,
                           parse_constant=not_a_number, object_pairs_hook=tuple)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, tuple):  # of the names and values of an object
        raise Problem('param_str is not valid JSON; allowed: an object such as '
                      '{"reduction": "MEAN"}', offset)
    given: dict[str, Any] = {}
    for written, value in found:
        name = CAMEL_CASE.get(written, written)
        if name not in OPTIONS:
            raise Problem(f"unknown option {json.dumps(written)}; allowed: {', '.join(OPTIONS)}",
                          offset)
        if name in given:
            raise Problem(f'option "{name}" is given twice; fix: give it once', offset)
        given[name] = value
    return checked(given, offset)


def of_word(field: Field) -> Any:
    """The value as JSON has it, which spells numbers, names and truth in fewer ways."""
    kind, word = OPTIONS[field.name], field.get(str)
    if kind == "Reduction":
        return dict(zip("0123456789", REDUCTIONS)).get(word, word)
    return WORDS.get(word, word) if kind == "bool" else number(word)


def number(word: str) -> Any:
    """Text format has 0x10, 010, .5 and 1f as well; what is no number stays a word."""
    is_octal = re.match(r"-?0[0-7]+\Z", word)
    try:
        return Integer(str(int(word, 8 if is_octal else 0)))
    except ValueError:
        pass
    try:
        return Number(re.sub("(?<=[0-9.])[fF]$", "", word))
    except ValueError:
        return word


def of_loss_param(loss_param: Field) -> Options:
    """What L1Loss reads there."""
    options: Options = {}
    for field in once(loss_param, ("ignore_label", "normalization", "normalize")):
        word = field.get(str)
        if field.name == "ignore_label":
            options["ignore_label"] = number(word)
        elif field.name == "normalize":
            options.setdefault("reduction", "VALID_MEAN" if WORDS.get(word) else "BATCHMEAN")
        elif word in NORMALIZATIONS:
            options["reduction"] = NORMALIZATIONS[word]
        else:
            raise Problem(f"normalization is {word}; allowed: FULL, VALID, BATCH_SIZE, NONE",
                          loss_param.start)
    return checked(options, loss_param.start)


def merged(own: Options, loss_param: Options, offset: int) -> Options:
    """Both together, or Problem where they contradict each other."""
    for name, value in loss_param.items():
        if own.get(name, value) != value:
            raise Problem(
                f'option "{name}" is {shown(own[name])}, but loss_param says {shown(value)}, which '
                "L1Loss reads and a Python layer does not; fix: remove it from loss_param", offset)
    return {**own, **loss_param}
