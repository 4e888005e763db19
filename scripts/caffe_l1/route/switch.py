"""Rewrite the L1 layers of a net from one route's spelling to another's: bytes in, bytes out.

What is written depends on the options and on what stands around them alone, which stays as it is:
so a layer that was written once comes back byte for byte from a round through all routes.
"""

import json
import re
from typing import List, NamedTuple, Tuple

from . import options
from .layer import Layer, layers
from .options import Options
from .text_format import Field, Problem, parse

Edits = List[Tuple[int, int, bytes]]
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
    edits = [edit for layer in changed for edit in edits_of(data, layer, to)]
    return Switched(replace(data, edits), len(found), len(changed))


def no_layer(fields: "list[Field]") -> Problem:
    for field in fields:
        if field.name == "layers":
            return Problem("no L1 layer, and the old layers { } cannot be one; fix: upgrade the "
                           "net with Caffe's upgrade_net_proto_text, then add the layer",
                           field.start)
    return Problem("no L1 layer; fix: give a net that has a layer of type L1Loss, or of type "
                   "Python with module l1_loss_layer", 0)


def replace(data: bytes, edits: Edits) -> bytes:
    parts, at = [], 0
    for start, end, new in sorted(edits):
        parts += [data[at:start], new]
        at = end
    return b"".join([*parts, data[at:]])


def edits_of(data: bytes, layer: Layer, to: str) -> Edits:
    """Of the type, and of the block, in front of which the default loss_weight is written out."""
    quote = data[layer.type.value_start : layer.type.value_start + 1]
    kind = quote + (b"Python" if to == "python" else b"L1Loss") + quote
    inside = data[layer.start : layer.end]
    parts = [] if layer.has_weight else [b"loss_weight: %d" % (layer.route != "python")]
    if layer.block is None:  # a new one goes behind all that is in the layer
        start = end = layer.start + len(inside.rstrip())
        gap = gap_of_new(inside)
        parts = [b"", *parts, new_block(layer, to, gap, inside)]
    else:
        start, end = layer.block.start, layer.block.end
        before, behind = data[layer.start : start], data[end : layer.end]
        gap = gap_at_end(before)
        block = new_block(layer, to, gap, inside)
        before += b"".join(part + gap for part in parts)
        if block != BLOCKS[to] + b" { }" or not is_last(before, behind, gap):
            parts.append(block)
        elif not parts:
            start -= len(gap)
    return [(layer.type.value_start, layer.type.end, kind), (start, end, gap.join(parts))]


def is_last(before: bytes, behind: bytes, gap: bytes) -> bool:
    """Whether a new block would be put between these: an empty one need not be there then."""
    rest = before.rstrip()
    return not behind.strip() and before[len(rest):] == gap == gap_of_new(rest + behind)


def gap_at_end(text: bytes) -> bytes:
    """The line break and the indentation that a text ends with; a blank where it has none."""
    found = re.search(rb"\r?\n[^\S\n]*\Z", text)
    return found.group() if found else b" "


def gap_of_new(inside: bytes) -> bytes:
    """What parts a new field from all that is in a layer: as its last line is, or a blank."""
    closing = gap_at_end(inside)
    gaps = re.findall(rb"\r?\n[^\S\n]*(?=\S)", inside) or [closing + b"  "]
    return gaps[-1] if b"\n" in closing else closing


def new_options(layer: Layer, to: str) -> Options:
    """Whatever L1Loss reads in loss_param must be among a Python layer's own options."""
    offset = layer.block.start if layer.block else layer.start
    if layer.route == "python":
        defaults = {"reduction": options.REDUCTIONS[0], "ignore_label": None}
        options.merged({**defaults, **layer.options}, layer.loss_param, offset)
    elif to == "python":
        return options.merged(layer.options, layer.loss_param, offset)
    return layer.options


def new_block(layer: Layer, to: str, gap: bytes, inside: bytes) -> bytes:
    parts = [b'module: "l1_loss_layer"', b'layer: "L1LossLayer"'] if to == "python" else []
    parts += layer.comments
    values = new_options(layer, to)
    if values and to == "native":
        parts.append(" ".join(
            f"{name}: {value if name == 'reduction' else json.dumps(value)}"
            for name, value in values.items()).encode())
    elif values:
        parts.append(b"param_str: '%s'" % json.dumps(values).encode())
    if not layer.comments and (to != "python" or b"\n" not in gap):
        return b" ".join([BLOCKS[to], b"{", *parts, b"}"])
    line = gap if b"\n" in gap else b"\r\n" if b"\r\n" in inside else b"\n"
    closing = gap_at_end(inside)
    # Inside the block by as much as the block is inside the layer.
    step = (gap[len(closing):] if gap.startswith(closing) else b"") or b"  "
    return BLOCKS[to] + b" {" + b"".join(line + step + part for part in parts) + line + b"}"
