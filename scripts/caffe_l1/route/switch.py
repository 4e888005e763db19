"""Rewrite the L1 layers of a net from one route's spelling to another's: bytes in, bytes out.

What is written depends on the options and on what stands around them alone, which stays as it is:
so a layer that was written once comes back byte for byte from a round through all routes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Tuple

from . import options
from .errors import Problem
from .layer import Layer, layers
from .options import Options
from .text_format import Document, Field, parse

Edit = Tuple[int, int, bytes]
BLOCKS = {"python": b"python_param", "plugin": b"python_param", "native": b"l1_loss_param"}


@dataclass(frozen=True)
class Switched:
    data: bytes
    layers: int  # L1 layers in the net
    changed: int


def switch(data: bytes, to: str) -> Switched:
    """The net with its L1 layers in the spelling of a route, or Problem."""
    net = parse(data)
    found = layers(net)
    if not found:
        raise no_layer(net)
    changed = [layer for layer in found if to not in layer.fits]
    edits = [edit for layer in changed for edit in edits_of(data, layer, to)]
    return Switched(replace(data, edits), len(found), len(changed))


def no_layer(net: Document) -> Problem:
    old = [field for field in net.fields if field.name == "layers"]
    if old:
        return Problem("no L1 layer, and the old layers { } cannot be one; fix: upgrade the net "
                       "with Caffe's upgrade_net_proto_text, then add the layer", old[0].start)
    return Problem("no L1 layer; fix: give a net that has a layer of type L1Loss, or of type "
                   "Python with module l1_loss_layer", 0)


def replace(data: bytes, edits: list[Edit]) -> bytes:
    parts, at = [], 0
    for start, end, new in sorted(edits):
        parts += [data[at:start], new]
        at = end
    return b"".join([*parts, data[at:]])


def edits_of(data: bytes, layer: Layer, to: str) -> list[Edit]:
    quote = data[layer.type.start : layer.type.start + 1]
    kind = quote + (b"Python" if to == "python" else b"L1Loss") + quote
    put = replace_block(data, layer, layer.block, to) if layer.block else add_block(
        data, layer, to)
    return [(layer.type.start, layer.type.end, kind), put]


def add_block(data: bytes, layer: Layer, to: str) -> Edit:
    """Behind all that is in the layer."""
    inside = data[layer.start : layer.end]
    at, gap = layer.start + len(inside.rstrip()), new_gap(inside)
    parts = [*new_weight(layer), new_block(layer, to, gap, inside)]
    return at, at, gap + gap.join(parts)


def replace_block(data: bytes, layer: Layer, old: Field, to: str) -> Edit:
    """In the same place; an empty one goes where add_block would put it there again."""
    before, behind = data[layer.start : old.start], data[old.end : layer.end]
    gap, weight = gap_before(before), new_weight(layer)
    block = new_block(layer, to, gap, data[layer.start : layer.end])
    before += b"".join(part + gap for part in weight)
    if block == BLOCKS[to] + b" { }" and is_last(before, behind, gap):
        return old.start - (0 if weight else len(gap)), old.end, gap.join(weight)
    return old.start, old.end, gap.join([*weight, block])


def is_last(before: bytes, behind: bytes, gap: bytes) -> bool:
    """Whether the block between these stands where add_block would put it."""
    rest = before.rstrip()
    return not behind.strip() and before[len(rest):] == gap == new_gap(rest + behind)


def gap_before(text: bytes) -> bytes:
    """The line break and the indentation that a text ends with; a blank where it has none."""
    found = re.search(rb"\r?\n[^\S\n]*\Z", text)
    return found.group() if found else b" "


def new_gap(inside: bytes) -> bytes:
    """What parts a new field from all that is in a layer: as its last line is, or a blank."""
    closing = gap_before(inside)
    gaps = re.findall(rb"\r?\n[^\S\n]*(?=\S)", inside) or [closing + b"  "]
    return gaps[-1] if b"\n" in closing else closing


def new_weight(layer: Layer) -> list[bytes]:
    """The default, which is 1 for L1Loss and 0 for a Python layer, is written out."""
    if layer.has_weight:
        return []
    return [b"loss_weight: 0" if layer.route == "python" else b"loss_weight: 1"]


def new_options(layer: Layer, to: str) -> Options:
    """Whatever L1Loss reads in loss_param must be among a Python layer's own options."""
    offset = layer.block.start if layer.block else layer.start
    if layer.route == "python":
        options.merged({**options.DEFAULTS, **layer.options}, layer.loss_param, offset)
    elif to == "python":
        return options.merged(layer.options, layer.loss_param, offset)
    return layer.options


def new_block(layer: Layer, to: str, gap: bytes, inside: bytes) -> bytes:
    parts = [b'module: "l1_loss_layer"', b'layer: "L1LossLayer"'] if to == "python" else []
    parts += layer.comments
    values = new_options(layer, to)
    if values and to == "native":
        parts.append(options.to_text_format(values))
    elif values:
        parts.append(b"param_str: '%s'" % options.to_json(values))
    if not layer.comments and (to != "python" or b"\n" not in gap):
        return b" ".join([BLOCKS[to], b"{", *parts, b"}"])
    line = gap if b"\n" in gap else b"\r\n" if b"\r\n" in inside else b"\n"
    lines = [line + step(gap, inside) + part for part in parts]
    return b"".join([BLOCKS[to], b" {", *lines, line, b"}"])


def step(gap: bytes, inside: bytes) -> bytes:
    """The indentation inside the block relative to it: as that of the block to its layer."""
    closing = gap_before(inside)
    return (gap[len(closing) :] if gap.startswith(closing) else b"") or b"  "
