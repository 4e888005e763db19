"""Caffe's own layers that are an L1 loss together: where they are in a net.

Which they are, python_layer/l1_loss_stock.py says. The loss's own layer has its name and its top.
The helpers that it reads are called after that top, and by these names alone they are told from a
user's own layers. There is no slash in them: Caffe writes no HDF5 snapshot of a net with one.
"""

import re
from typing import Any, Dict, List, NamedTuple, Tuple

from . import options
from .options import Options
from .options import stock as said
from .text_format import Field, Problem

RULES = ("include", "exclude", "phase")  # when a layer is part of the net
NAMED = re.compile(rb"(.*)_l1_(?:difference|absolute|weighted|per_sample|total)\Z", re.DOTALL)
Values = Tuple[Tuple[str, Any], ...]


class Step(NamedTuple):
    """As l1_loss_stock has it, with types."""

    part: str
    type: str
    values: Values


DIFFERENCE, WEIGHTED, TOTAL = (Step(*step) for step in (said.DIFFERENCE, said.WEIGHTED, said.TOTAL))


def steps(given: Options, is_weighted: bool) -> "list[Step]":
    """The layers of these options in their order; the last one is the loss's own."""
    reduction = given.get("reduction", options.REDUCTIONS[0])
    return [Step(*step) for step in said.steps(reduction, given.get("axis"), is_weighted)]


def is_scalar(given: Options) -> bool:
    return said.is_scalar(given.get("reduction", options.REDUCTIONS[0]), given.get("axis"))


# ---- A group of them in a net ------------------------------------------------

class Group(NamedTuple):
    """The helpers of a loss in front of its own layer, and perhaps a total behind it."""

    helpers: "list[Field]"
    total: "Field | None"
    options: Options

    @property
    def removed(self) -> "list[Field]":
        """What another route has no use for."""
        return self.helpers + ([self.total] if self.total else [])

    @property
    def weighted(self) -> "Field | None":
        """The helper that reads the weights, if the loss's own layer does not."""
        return next((layer for layer in self.helpers[1:] if is_type(layer, "Eltwise")), None)


def groups(net: "list[Field]") -> "dict[int, Group]":
    """By the place of the loss's own layer; or Problem where what has our names is no L1 loss."""
    found = {index: group_of(net, index) for index, layer in enumerate(net) if is_last(layer)}
    ours = {layer.value_start for group in found.values() for layer in group.removed}
    for layer in net:
        top = string(layer, "top")
        if top.endswith(b"_l1_difference") and layer.value_start not in ours:
            raise no_l1(layer, top[: -len(b"_l1_difference")])
    need_no_other_reader(net, found)
    return found


def is_last(layer: Field) -> bool:
    named = NAMED.match(string(layer, "bottom"))
    return bool(named and named.group(1) == string(layer, "top"))


def group_of(net: "list[Field]", index: int) -> Group:
    """What the layer at this place reads, and the total of what it says."""
    last, before = net[index], net[:index]
    top, wanted = string(last, "top"), string(last, "bottom")
    helpers: List[Field] = []
    while wanted.startswith(top + b"_l1_"):
        makers = [at for at, layer in enumerate(before) if makes(layer, wanted, last)]
        if not makers:
            raise no_l1(last, top)
        helpers.insert(0, before[makers[-1]])
        wanted, before = string(helpers[0], "bottom"), before[: makers[-1]]
    total = next((layer for layer in net[index:] if makes(layer, top + b"_l1_total", last)), None)
    group = Group(helpers, total, {})
    return group._replace(options=options_of(group, last))


def makes(layer: Field, top: bytes, last: Field) -> bool:
    """Whether it makes this blob, in the same phases as the loss."""
    return string(layer, "top") == top and rules(layer) == rules(last)


def options_of(group: Group, last: Field) -> Options:
    """What the layers mean, found by trying what they may mean; or Problem."""
    top = string(last, "top")
    seen = [step_of(layer, top) for layer in group.helpers] + [step_of(last, top)]
    axis = dict(seen[-1].values).get("axis")
    tried: List[Options] = [{}, *({"reduction": name} for name in ("MEAN", "SUM", "NONE"))]
    if axis is not None:
        tried.append(options.checked({"reduction": "NONE", "axis": axis}, last.start))
    means = [given for given in tried for is_weighted in (False, True)
             if steps(given, is_weighted) == seen]
    if not means or (group.total and is_scalar(means[0])):
        raise no_l1(last, top)
    need_forms(group, last, seen)
    return means[0]


def need_forms(group: Group, last: Field, seen: "list[Step]") -> None:
    """That each has the bottoms and the loss_weight that it must have, and nothing else."""
    top, has_down = string(last, "top"), bool(all_of(group.helpers[0], "propagate_down"))
    for layer, step in zip(group.helpers, seen):
        downs = (None if step == DIFFERENCE and has_down else
                 [True, False] if step == WEIGHTED else [])
        need_form(layer, step, downs, top)
        need_fields(layer, ("propagate_down", said.block(step)), top)
    is_product = seen[-1].values == WEIGHTED.values
    need_form(last, seen[-1], [True, False] if is_product else [True] * has_down, top)
    if group.total:
        need_form(group.total, TOTAL, [], top)
        need_fields(group.total, ("loss_weight", "reduction_param"), top)
        need_total_weight(group.total, last)


def need_form(layer: Field, step: Step, downs: "list[bool] | None", top: bytes) -> None:
    """downs: what propagate_down must say; None: something of two bottoms."""
    said = [options.WORDS.get(field.get(str)) for field in all_of(layer, "propagate_down")]
    bottoms = [field.get(bytes) for field in all_of(layer, "bottom")]
    if (len(bottoms) != 1 + (step.type == "Eltwise") or len(all_of(layer, "top")) != 1
            or (said != downs if downs is not None else len(said) != 2)):
        raise no_l1(layer, top)
    if step == TOTAL and (step_of(layer, top) != TOTAL or bottoms != [top]):
        raise no_l1(layer, top)


def need_fields(layer: Field, more: "tuple[str, ...]", top: bytes) -> None:
    """Of a helper, which is removed: that it has nothing that would be missed."""
    names = [field.name for field in fields_of(layer) if field.name not in ("bottom", *RULES)]
    once = [name for name in names if name != "propagate_down"]
    if (not set(names) <= {"name", "type", "top", *more} or len(set(once)) != len(once)
            or string(layer, "name") != string(layer, "top")):
        raise no_l1(layer, top)


def need_total_weight(total: Field, last: Field) -> None:
    weights = [all_of(layer, "loss_weight") for layer in (total, last)]
    if [len(found) for found in weights] != [1, 1] or options.number(str(weights[1][0].value)) != 0:
        raise no_l1(total, string(last, "top"))


def need_no_other_reader(net: "list[Field]", found: "dict[int, Group]") -> None:
    known = {net[index].value_start for index in found}
    known |= {layer.value_start for group in found.values() for layer in group.removed}
    helpers = {string(layer, "top") for group in found.values() for layer in group.removed}
    for layer in net:
        for field in all_of(layer, "bottom"):
            if field.value in helpers and layer.value_start not in known:
                raise Problem(f'"{shown(field.value)}" is read by another layer too, and is in no '
                              "other route; fix: compute it by layers with names of your own",
                              field.start)


def no_l1(layer: Field, top: bytes) -> Problem:
    return Problem(f'the stock layers of "{shown(top)}" are not an L1 loss as this script writes '
                   f'it; fix: undo what was edited, or rename what is called '
                   f'"{shown(top)}_l1_..." if it is your own', layer.start)


def shown(text: Any) -> str:
    return text.decode("utf-8", "backslashreplace")


# ---- A layer of a net ---------------------------------------------------------

def fields_of(layer: Field) -> "list[Field]":
    return layer.value if isinstance(layer.value, list) else []


def all_of(layer: Field, name: str) -> "list[Field]":
    return [field for field in fields_of(layer) if field.name == name]


def string(layer: Field, name: str) -> bytes:
    """The first string of this name; blank where there is none."""
    return next((field.value for field in all_of(layer, name)
                 if isinstance(field.value, bytes)), b"")


def is_type(layer: Field, kind: str) -> bool:
    return string(layer, "type") == kind.encode()


def step_of(layer: Field, top: bytes) -> Step:
    """What a layer says of itself."""
    blocks = [field for field in fields_of(layer)
              if field.name in ("eltwise_param", "reduction_param") and field.value != []]
    values = tuple((name, options.number(value) if isinstance(value, str) else value)
                   for field in blocks for name, value in plain(field.value))
    part = string(layer, "top")[len(top) :]
    if part.startswith(b"_l1_"):
        part = part[len(b"_l1_") :]
    return Step(shown(part), shown(string(layer, "type")), values)


def rules(layer: Field) -> Values:
    return plain([field for field in fields_of(layer) if field.name in RULES])


def plain(fields: Any) -> Any:
    """Names and values, wherever they stand."""
    if not isinstance(fields, list):
        return fields
    return tuple((field.name, plain(field.value)) for field in fields)


def known_shapes(net: "list[Field]") -> "dict[bytes, tuple[int, ...]]":
    """Of the blobs whose shape stands in the net, unless two layers say two."""
    found: Dict[bytes, set] = {}
    for layer in net:
        for block in all_of(layer, "input_param") + all_of(layer, "dummy_data_param"):
            shapes = [dims(shape) for shape in all_of(block, "shape")]
            tops = [field.value for field in all_of(layer, "top")]
            for top, shape in zip(tops, shapes * len(tops) if len(shapes) == 1 else shapes):
                found.setdefault(top, set()).add(shape)  # type: ignore[arg-type]
    return {top: min(shapes) for top, shapes in found.items() if len(shapes) == 1}


def dims(shape: Field) -> "tuple[int, ...]":
    return tuple(int(options.number(str(field.value))) for field in all_of(shape, "dim"))
