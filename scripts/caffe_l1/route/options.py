"""The options of an L1 layer, read from and written to JSON and text format.

What an option may be, and how an error says so, is python_layer/l1_loss_checks.py's to say; how the
text format spells it depends on its type in L1LossParameter, the kit's .proto file.
"""

import re
import sys
from typing import Any, Collection, Dict

from .. import HOME
from ..patch.payload import MESSAGE, PATCH
from .text_format import Field, Problem

sys.path.insert(0, str(HOME / "python_layer"))

import l1_loss_checks as checks  # noqa: E402  (the folder must be on the path first)
import l1_loss_stock as stock  # noqa: E402, F401

Options = Dict[str, Any]  # a str, int, float or bool by its name, in the order of the net

REDUCTIONS = checks.REDUCTIONS
# The type of each option, in the order of the message.
OPTIONS = {name: kind for kind, name in re.findall(
    r"^  optional (\w+) (\w+)", (PATCH / MESSAGE).read_text("utf-8"), re.MULTILINE)}
WORDS = {"true": True, "True": True, "t": True, "1": True,
         "false": False, "False": False, "f": False, "0": False}
# The reductions that Caffe's own loss_param means, by the names and numbers of its normalization.
NORMALIZATIONS = {"FULL": "MEAN", "VALID": "VALID_MEAN", "BATCH_SIZE": "BATCHMEAN", "NONE": "SUM",
                  "0": "MEAN", "1": "VALID_MEAN", "2": "BATCHMEAN", "3": "SUM"}


def checked(given: "dict[str, Any]", offset: int) -> Options:
    """The options of these values, of which None is the default."""
    given = {name: value for name, value in given.items() if value is not None}
    try:
        for name in sorted(given, key=list(OPTIONS).index):
            checks.check_option(name, given[name])
    except ValueError as error:
        raise Problem(str(error), offset) from None
    return {name: shortest(value) for name, value in given.items()}


def shortest(value: Any) -> Any:
    """A number as JSON and text format spell it shortest."""
    if not isinstance(value, checks.Number):
        return value
    return int(value) if value.is_integer() and abs(value) < 2**53 else float(value)


def of_block(block: Field) -> Options:
    """What python_param or l1_loss_param says."""
    if block.name == "l1_loss_param":
        return {name: value for field in once(block, OPTIONS) for name, value
                in checked({field.name: of_word(field)}, field.start).items()}
    for field in once(block, ("module", "layer", "param_str", "share_in_parallel")):
        if field.name == "param_str":
            return of_param_str(field.get(bytes).decode("utf-8", "replace"), field.start)
    return {}


def once(message: Field, allowed: Collection[str]) -> "list[Field]":
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
        given = checks.read_given(text)
    except ValueError as error:
        raise Problem(str(error), offset) from None
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
        return checks.Integer(str(int(word, 8 if is_octal else 0)))
    except ValueError:
        pass
    try:
        return checks.Number(re.sub("(?<=[0-9.])[fF]$", "", word))
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
                f'option "{name}" is {checks.shown(own[name])}, but loss_param says '
                f"{checks.shown(value)}, which L1Loss reads and a Python layer does not; fix: "
                "remove it from loss_param", offset)
    return {**own, **loss_param}
