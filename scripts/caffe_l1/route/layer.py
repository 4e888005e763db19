"""Where the L1 layers of a net are, and the parts of one that depend on its route."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator

from . import options
from .errors import Problem
from .options import Options
from .text_format import Document, Field, Value, unescaped

ROUTES = ("python", "plugin", "native")
# A solver may hold its nets.
NETS = ("net_param", "train_net_param", "test_net_param")


@dataclass(frozen=True)
class Layer:
    """An L1 layer; offsets are those in the net."""

    route: str
    start: int  # of what stands between its brackets
    end: int
    type: Value
    block: Field | None  # python_param or l1_loss_param
    comments: tuple[bytes, ...]  # inside the block
    has_weight: bool
    options: Options
    loss_param: Options

    @property
    def fits(self) -> tuple[str, ...]:
        """Without options a native layer is a plugin's as well."""
        return ("native", "plugin") if self.block is None else (self.route,)


def layers(net: Document) -> list[Layer]:
    return [read(value, net) for value in values_of(net.fields) if is_ours(value.fields or ())]


def values_of(fields: tuple[Field, ...]) -> Iterator[Value]:
    for field in fields:
        for value in field.values:
            if field.name == "layer" and value.fields is not None:
                yield value
            elif field.name in NETS and value.fields is not None:
                yield from values_of(value.fields)


def is_ours(fields: tuple[Field, ...]) -> bool:
    """Whether this is an L1 layer of any route."""
    kind = text_of(fields, "type")
    if kind != b"Python":
        return kind == b"L1Loss"
    param = find(fields, "python_param")
    inside = param.values[0].fields if param and param.values else None
    return (text_of(inside or (), "module"), text_of(inside or (), "layer")) == (
        b"l1_loss_layer", b"L1LossLayer")


def find(fields: tuple[Field, ...], name: str) -> Field | None:
    return next((field for field in fields if field.name == name), None)


def text_of(fields: tuple[Field, ...], name: str) -> bytes | None:
    field = find(fields, name)
    if field is None or not field.values or not field.values[0].tokens:
        return None
    found = field.values[0].tokens
    return unescaped(found) if found[0].kind == "string" else None


def read(value: Value, net: Document) -> Layer:
    fields = value.fields or ()
    check_once(fields)
    python, native = find(fields, "python_param"), find(fields, "l1_loss_param")
    if python and native:
        raise Problem("this layer has both python_param and l1_loss_param; fix: remove one",
                      max(python.start, native.start))
    block = python or native
    route = ("python" if text_of(fields, "type") == b"Python" else
             "plugin" if python else "native")
    own = options.of_block(block) if block else {}
    loss_param = options.of_loss_param(find(fields, "loss_param"))
    options.check_axis(own if route == "python" else {**loss_param, **own}, block)
    return Layer(
        route, value.start + 1, value.end - 1,
        next(field for field in fields if field.name == "type").values[0], block,
        tuple(c.text for c in net.comments if block and block.start < c.start < block.end),
        find(fields, "loss_weight") is not None, own, loss_param)


def check_once(fields: tuple[Field, ...]) -> None:
    for name in ("type", "loss_param", "python_param", "l1_loss_param"):
        found = [field for field in fields if field.name == name]
        if len(found) > 1:
            raise Problem(f'"{name}" is given twice in this layer; fix: remove one',
                          found[1].start)
