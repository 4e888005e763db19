"""Where the L1 layers of a net are, and the parts of one that depend on its route.

    layer {
      name: "loss"  type: "Python"            the type's value
      bottom: "x"  bottom: "y"  top: "loss"
      # switch_route keeps ...                the note, see switch.py
      loss_weight: 1  # Caffe gives ...       only where it is spelled as this kit adds it
      python_param { ... }                    the block
    }

The last three stand together and are called the content.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Iterator

from . import options
from .errors import Problem
from .options import Options
from .text_format import Document, Field, Value, parse_message, unescaped

ROUTES = ("python", "plugin", "native")
BLOCKS = {"python": "python_param", "plugin": "python_param", "native": "l1_loss_param"}
# A solver may hold its nets.
NETS = ("net_param", "train_net_param", "test_net_param")
NOTE = re.compile(rb"# switch_route keeps the (\w+) spelling: (.*)\Z", re.DOTALL)
WEIGHTS = {
    "python": b"loss_weight: 1  # Caffe gives Python layers none by default",
    "L1Loss": b"loss_weight: 0  # a layer of type L1Loss has 1 by default",
}


def layers(document: Document) -> Iterator[Value]:
    return layers_of(document.fields)


def layers_of(fields: tuple[Field, ...]) -> Iterator[Value]:
    for field in fields:
        for value in field.values:
            if field.name == "layer" and value.fields is not None:
                yield value
            elif field.name in NETS and value.fields is not None:
                yield from layers_of(value.fields)


def find(fields: tuple[Field, ...], name: str) -> Field | None:
    return next((field for field in fields if field.name == name), None)


def is_ours(value: Value) -> bool:
    """Whether this is an L1 layer of any route."""
    kind = text_of(value.fields or (), "type")
    if kind != b"Python":
        return kind == b"L1Loss"
    param = find(value.fields or (), "python_param")
    fields = param.values[0].fields if param and param.values else None
    return (text_of(fields or (), "module"), text_of(fields or (), "layer")) == (
        b"l1_loss_layer", b"L1LossLayer")


def text_of(fields: tuple[Field, ...], name: str) -> bytes | None:
    field = find(fields, name)
    if field is None or not field.values or not field.values[0].tokens:
        return None
    found = field.values[0].tokens
    return unescaped(found) if found[0].kind == "string" else None


@dataclass(frozen=True)
class Layer:
    """An L1 layer: its text from bracket to bracket, and the spans of its parts in it."""

    text: bytes
    route: str
    type: tuple[int, int]
    region: tuple[int, int]  # the content and the blanks in front of it
    content: int  # where the content begins
    own: int  # where weight and block begin, behind a note
    block: Field | None
    last: bool  # nothing but blanks between the content and the closing bracket
    added_weight: bool  # a loss_weight as we add it, next to the block
    has_weight: bool  # any loss_weight, that one too
    options: Options
    older: Options  # what loss_param says
    comments: tuple[bytes, ...]  # inside the block

    @property
    def fits(self) -> tuple[str, ...]:
        """Without options a native layer is a plugin's as well."""
        return ("native", "plugin") if self.block is None else (self.route,)


def read(text: bytes) -> Layer:
    """The parts of an L1 layer's text, or Problem with an offset in that text."""
    value, comments = parse_message(text)
    if not is_ours(value):
        raise Problem("this is no L1 layer", "leave it as it is", 0)
    fields = value.fields or ()
    route, block = route_of(fields)
    kind = next(field for field in fields if field.name == "type").values[0]
    older = find(fields, "loss_param")
    parts = Parts(text, fields, [(comment.start, comment.end) for comment in comments])
    own, added_weight = parts.own(block, route)
    content = parts.note_before(own) if block else own
    start = parts.end_before(content)
    given = read_options(block)
    said = options.of_loss_param(message(older)) if older else {}
    if block and "axis" in given:
        options.check_axis(given if route == "python" else {**said, **given}, place_of_axis(block))
    return Layer(
        text=text, route=route, type=(kind.start, kind.end),
        region=(start, block.end if block else start), content=content, own=own, block=block,
        last=not block or not text[block.end : -1].strip(),
        added_weight=added_weight, has_weight=find(fields, "loss_weight") is not None,
        options=given, older=said,
        comments=tuple(c.text for c in comments if block and block.start < c.start < block.end))


def route_of(fields: tuple[Field, ...]) -> tuple[str, Field | None]:
    for name in ("type", "loss_param", "python_param", "l1_loss_param"):
        found = [field for field in fields if field.name == name]
        if len(found) > 1:
            raise Problem(f'"{name}" is given twice in this layer', "remove one", found[1].start)
    python, native = find(fields, "python_param"), find(fields, "l1_loss_param")
    if python and native:
        raise Problem("this layer has both python_param and l1_loss_param", "remove one",
                      max(python.start, native.start))
    if text_of(fields, "type") == b"Python":
        return "python", python
    return ("plugin", python) if python else ("native", native)


def read_options(block: Field | None) -> Options:
    if block is None:
        return {}
    if block.name == "python_param":
        return options.of_python_param(message(block))
    return options.of_l1_loss_param(message(block))


def place_of_axis(block: Field) -> int:
    name = "param_str" if block.name == "python_param" else "axis"
    return next(field.start for field in message(block) if field.name == name)


def message(field: Field) -> tuple[Field, ...]:
    fields = options.single(field).fields
    if fields is None:
        raise Problem(f'"{field.name}" takes fields in brackets', "write { } around them",
                      field.start)
    return fields


@dataclass(frozen=True)
class Parts:
    """The places in a layer that are in none of its fields."""

    text: bytes
    fields: tuple[Field, ...]
    comments: list[tuple[int, int]]

    def own(self, block: Field | None, route: str) -> tuple[int, bool]:
        """Where weight and block begin, and whether a weight of ours is there."""
        if block is None:
            return self.end_before(len(self.text) - 1), False
        ours = weight(route, self.lead(block.start))
        start = block.start - len(ours)
        there = any(f.name == "loss_weight" and f.start == start for f in self.fields)
        if there and self.text[start : block.start] == ours:
            return start, True
        return block.start, False

    def lead(self, offset: int) -> bytes:
        return self.text[self.end_before(offset) : offset]

    def end_before(self, offset: int) -> int:
        """Where what stands in front of this place ends, blanks apart."""
        ends = [end for start, end in self.comments if end <= offset]
        ends += [field.end for field in self.fields if field.end <= offset]
        end = max([*ends, 1])  # 1: the opening bracket
        separator = re.match(rb"\s*[,;]", self.text[end:offset])
        return end + separator.end() if separator else end

    def note_before(self, offset: int) -> int:
        for start, end in self.comments:
            blanks = self.text[end:offset]
            if end <= offset and not blanks.strip() and NOTE.match(self.text[start:end]):
                return start
        return offset


def weight(route: str, lead: bytes) -> bytes:
    """The loss_weight that the way to this route adds, and what parts it from the block.

    Where the block does not begin its line, no remark can stand in front of it.
    """
    line = WEIGHTS["python" if route == "python" else "L1Loss"]
    end = line_end(lead)
    return line + lead[lead.rfind(end) :] if end else line.split(b"  #")[0] + b" "


def line_end(blanks: bytes) -> bytes:
    return b"\r\n" if b"\r\n" in blanks else b"\n" if b"\n" in blanks else b""
