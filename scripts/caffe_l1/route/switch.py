"""Rewrite the L1 layers of a net from one route's spelling to another's: bytes in, bytes out.

What is written depends on the options and on what stands around them alone, which stays as it is:
so a layer that was written once comes back byte for byte from a round through all routes.
"""

import json
from typing import NamedTuple

from . import options
from .layer import Layer, layers
from .layout import gap_at_end, gap_of_new
from .options import Options
from .spread import Edits, block_of, gather, has_total, last_step, spread, values_of
from .stock import WEIGHTED, all_of
from .text_format import Field, Problem, Token, parse

BLOCKS = {"python": b"python_param", "plugin": b"python_param", "native": b"l1_loss_param"}


class Switched(NamedTuple):
    data: bytes
    layers: int  # L1 layers in the net
    changed: int


def switch(data: bytes, to: str) -> Switched:
    """The net with its L1 layers in the spelling of a route, or Problem."""
    fields, comments = parse(data)
    found = layers(fields, comments)
    if not found:
        raise no_layer(fields)
    changed = [layer for layer in found if to not in layer.fits]
    edits = [edit for layer in changed for edit in edits_of(data, layer, to, comments)]
    return Switched(replace(data, edits), len(found), len(changed))


def no_layer(fields: "list[Field]") -> Problem:
    for field in fields:
        if field.name == "layers":
            return Problem("no L1 layer, and the old layers { } cannot be one; fix: upgrade the "
                           "net with Caffe's upgrade_net_proto_text, then add the layer",
                           field.start)
    return Problem("no L1 layer; fix: give a net that has a layer of type L1Loss, or of type "
                   "Python with module l1_loss_layer; an Eltwise is taken for one by its name, "
                   "such as loss_l1_difference", 0)


def replace(data: bytes, edits: Edits) -> bytes:
    parts, at = [], 0
    for start, end, new in sorted(edits):
        parts += [data[at:start], new]
        at = max(at, end)
    return b"".join([*parts, data[at:]])


def edits_of(data: bytes, layer: Layer, to: str, comments: "list[Token]") -> Edits:
    given = new_options(layer, to)
    edits = gather(data, layer, comments) if layer.route == "stock" else []
    if to == "stock":
        edits += spread(data, layer, given)
    return edits + edits_of_type_and_block(data, layer, to, given)


def edits_of_type_and_block(data: bytes, layer: Layer, to: str, given: Options) -> Edits:
    """The block, with the default loss_weight written out in front of it."""
    quote = data[layer.type.value_start : layer.type.value_start + 1]
    kind = quote + new_type(layer, to, given).encode() + quote
    inside = data[layer.start : layer.end]
    parts = new_parts(layer, to, given)
    if layer.block is None:  # a new one goes behind all that is in the layer
        start = end = layer.start + len(inside.rstrip())
        gap = gap_of_new(inside)
        block = new_block(layer, to, given, gap, inside)
        parts = [b"", *parts] + [block] * (not is_empty(block))
    else:
        start, end = layer.block.start, layer.block.end
        before, behind = data[layer.start : start], data[end : layer.end]
        gap = gap_at_end(before)
        block = new_block(layer, to, given, gap, inside)
        before += b"".join(part + gap for part in parts)
        if not is_empty(block) or not is_last(before, behind, gap):
            parts.append(block)
        elif not parts:
            start -= len(gap)
    return [(layer.type.value_start, layer.type.end, kind), (start, end, gap.join(parts))]


def new_type(layer: Layer, to: str, given: Options) -> str:
    if to == "stock":
        return last_step(layer, given).type
    return "Python" if to == "python" else "L1Loss"


def new_parts(layer: Layer, to: str, given: Options) -> "list[bytes]":
    """What a layer has not said so far."""
    parts = []
    if not layer.has_weight:
        is_moved = to == "stock" and has_total(layer, given)
        parts.append(b"loss_weight: " + (b"0" if is_moved else layer.default_weight.encode()))
    if (to == "stock" and last_step(layer, given).values == WEIGHTED.values
            and not all_of(layer.field, "propagate_down")):
        parts += [b"propagate_down: true", b"propagate_down: false"]
    return parts


def is_empty(block: bytes) -> bool:
    return block.endswith(b"_param { }")


def is_last(before: bytes, behind: bytes, gap: bytes) -> bool:
    """Whether a new block would be put between these: an empty one need not be there then."""
    rest = before.rstrip()
    return not behind.strip() and before[len(rest):] == gap == gap_of_new(rest + behind)


def new_options(layer: Layer, to: str) -> Options:
    """L1Loss reads loss_param; other routes need what it says among their own options."""
    offset = layer.block.start if layer.block else layer.start
    reads, will_read = (route in ("plugin", "native") for route in (layer.route, to))
    if will_read and not reads:
        defaults = {"reduction": options.REDUCTIONS[0], "ignore_label": None}
        options.merged({**defaults, **layer.options}, layer.loss_param, offset)
    elif reads and not will_read:
        return options.merged(layer.options, layer.loss_param, offset)
    return layer.options


def new_block(layer: Layer, to: str, given: Options, gap: bytes, inside: bytes) -> bytes:
    name = block_of(last_step(layer, given)) if to == "stock" else BLOCKS[to]
    parts = [b'module: "l1_loss_layer"', b'layer: "L1LossLayer"'] if to == "python" else []
    parts += layer.comments + new_values(layer, to, given)
    if not layer.comments and (to != "python" or b"\n" not in gap):
        return b" ".join([name, b"{", *parts, b"}"])
    line = gap if b"\n" in gap else b"\r\n" if b"\r\n" in inside else b"\n"
    closing = gap_at_end(inside)
    # Inside the block by as much as the block is inside the layer.
    step = (gap[len(closing):] if gap.startswith(closing) else b"") or b"  "
    return name + b" {" + b"".join(line + step + part for part in parts) + line + b"}"


def new_values(layer: Layer, to: str, given: Options) -> "list[bytes]":
    """What the block says, if anything."""
    if to == "stock":
        values = values_of(last_step(layer, given))
    elif to == "native":
        values = " ".join(f"{name}: {value if name == 'reduction' else json.dumps(value)}"
                          for name, value in given.items()).encode()
    else:
        values = b"param_str: '%s'" % json.dumps(given).encode() if given else b""
    return [values] if values else []
