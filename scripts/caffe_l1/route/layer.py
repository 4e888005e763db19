"""Where the L1 layers of a net are, and the parts of one that depend on its route."""

from typing import Any, Iterator, NamedTuple

from . import options, stock
from .options import Options
from .stock import Group
from .text_format import Field, Problem, Token

ROUTES = ("stock", "python", "plugin", "native")
# A solver may hold its nets.
NETS = ("net_param", "train_net_param", "test_net_param")


class Layer(NamedTuple):
    """An L1 layer; offsets are those in the net."""

    route: str
    net: "list[Field]"  # all layers of the net
    field: Field  # this one; by the stock route, the one with the loss's own name
    group: "Group | None"  # the others, by the stock route
    start: int  # of what stands between its brackets
    end: int
    type: Field
    block: "Field | None"  # python_param or l1_loss_param, by the stock route that of Caffe's layer
    comments: "list[bytes]"  # inside the block
    has_weight: bool
    options: Options
    loss_param: Options

    @property
    def fits(self) -> "tuple[str, ...]":
        """Without options a native layer is a plugin's as well."""
        is_both = self.route in ("native", "plugin") and self.block is None
        return ("native", "plugin") if is_both else (self.route,)

    @property
    def default_weight(self) -> str:
        """Caffe gives a loss_weight to its loss layers alone."""
        return "1" if self.route in ("native", "plugin") else "0"


def layers(fields: "list[Field]", comments: "list[Token]") -> "list[Layer]":
    return [layer for net in nets(fields) for layer in layers_of(net, comments)]


def nets(fields: Any) -> "Iterator[list[Field]]":
    """The layers of each net."""
    yield [field for field in fields if field.name == "layer" and isinstance(field.value, list)]
    for field in fields:
        if field.name in NETS and isinstance(field.value, list):
            yield from nets(field.value)


def layers_of(net: "list[Field]", comments: "list[Token]") -> Iterator[Layer]:
    groups = stock.groups(net)
    for index, field in enumerate(net):
        if is_ours(field.value) or index in groups:
            yield read(field, net, groups.get(index), comments)


def is_ours(fields: Any) -> bool:
    """Whether this is an L1 layer of a route that has a layer for it."""
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


def read(layer: Field, net: "list[Field]", group: "Group | None", comments: "list[Token]") -> Layer:
    fields: Any = layer.value
    kind, loss_param = find(fields, "type"), find(fields, "loss_param")
    assert kind
    given = options.of_loss_param(loss_param) if loss_param else {}
    route, block = ("stock", block_of_stock(fields)) if group else block_of(fields)
    own = group.options if group else options.of_block(block) if block else {}
    if block:
        check_axis({**given, **own} if route in ("plugin", "native") else own, block)
    return Layer(
        route, net, layer, group, layer.value_start + 1, layer.end - 1, kind, block,
        [c.text.rstrip() for c in comments if block and block.start < c.start < block.end],
        any(field.name == "loss_weight" for field in fields), own, given)


def block_of_stock(fields: "list[Field]") -> "Field | None":
    return find(fields, "eltwise_param") or find(fields, "reduction_param")


def block_of(fields: "list[Field]") -> "tuple[str, Field | None]":
    """The route of a layer that is ours, and what holds its options."""
    python, native = find(fields, "python_param"), find(fields, "l1_loss_param")
    if python and native:
        raise Problem("this layer has both python_param and l1_loss_param; fix: remove one",
                      max(python.start, native.start))
    is_python = string(fields, "type") == b"Python"
    return "python" if is_python else "plugin" if python else "native", python or native


def check_axis(own: Options, block: Field) -> None:
    try:
        options.checks.check_axis(own.get("reduction", options.REDUCTIONS[0]), own.get("axis"))
    except ValueError as error:
        place = next(field.start for field in block.get(list)
                     if field.name in ("axis", "param_str"))
        raise Problem(str(error), place) from None
