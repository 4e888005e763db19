"""Where the L1 layers of a net are, and the parts of one that depend on its route."""

from typing import Any, Iterator, NamedTuple

from . import options
from .options import Options
from .text_format import Field, Problem, Token

ROUTES = ("python", "plugin", "native")
# A solver may hold its nets.
NETS = ("net_param", "train_net_param", "test_net_param")


class Layer(NamedTuple):
    """An L1 layer; offsets are those in the net."""

    route: str
    start: int  # of what stands between its brackets
    end: int
    type: Field
    block: "Field | None"  # python_param or l1_loss_param
    comments: "list[bytes]"  # inside the block
    has_weight: bool
    options: Options
    loss_param: Options

    @property
    def fits(self) -> "tuple[str, ...]":
        """Without options a native layer is a plugin's as well."""
        return ("native", "plugin") if self.block is None else (self.route,)


def layers(fields: "list[Field]", comments: "list[Token]") -> "list[Layer]":
    return [read(field, comments) for field in layer_fields(fields) if is_ours(field.value)]


def layer_fields(fields: Any) -> Iterator[Field]:
    for field in fields:
        if field.name in NETS and isinstance(field.value, list):
            yield from layer_fields(field.value)
        elif field.name == "layer" and isinstance(field.value, list):
            yield field


def is_ours(fields: Any) -> bool:
    """Whether this is an L1 layer of any route."""
    kind, param = string(fields, "type"), find(fields, "python_param")
    if kind != b"Python" or param is None:
        return kind == b"L1Loss"
    names = [string(param.get(list), name) for name in ("module", "layer")]
    return names == [b"l1_loss_layer", b"L1LossLayer"]


def find(fields: "list[Field]", name: str) -> "Field | None":
    found = [field for field in fields if field.name == name]
    if len(found) > 1:
        raise Problem(f'"{name}" is given twice in this layer; fix: remove one', found[1].start)
    return found[0] if found else None


def string(fields: "list[Field]", name: str) -> "bytes | None":
    field = find(fields, name)
    return field.get(bytes) if field else None


def read(layer: Field, comments: "list[Token]") -> Layer:
    fields: Any = layer.value
    kind, loss_param, python, native = (
        find(fields, name) for name in ("type", "loss_param", "python_param", "l1_loss_param"))
    assert kind
    if python and native:
        raise Problem("this layer has both python_param and l1_loss_param; fix: remove one",
                      max(python.start, native.start))
    block = python or native
    route = "python" if kind.value == b"Python" else "plugin" if python else "native"
    own = options.of_block(block) if block else {}
    given = options.of_loss_param(loss_param) if loss_param else {}
    if block:
        check_axis(own if route == "python" else {**given, **own}, block)
    return Layer(
        route, layer.value_start + 1, layer.end - 1, kind, block,
        [c.text.rstrip() for c in comments if block and block.start < c.start < block.end],
        any(field.name == "loss_weight" for field in fields), own, given)


def check_axis(own: Options, block: Field) -> None:
    try:
        options.checks.check_axis(own.get("reduction", options.REDUCTIONS[0]), own.get("axis"))
    except ValueError as error:
        place = next(field.start for field in block.get(list)
                     if field.name in ("axis", "param_str"))
        raise Problem(str(error), place) from None
