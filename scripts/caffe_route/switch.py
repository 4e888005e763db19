"""Rewrite the L1 layers of a net from one route's spelling to another's: bytes in, bytes out.

A layer goes through all routes and comes back as the same bytes, however it was spelled. Where the
new spelling cannot tell how the old one was written, a comment in the layer keeps it; once the
layer was edited since, the comment says nothing and is dropped at the next switch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

from . import options
from .errors import Problem
from .layer import BLOCKS, NOTE, ROUTES, Layer, is_ours, layers, line_end, read, weight
from .options import Options
from .text_format import Document, parse

Edit = Tuple[int, int, bytes]
FOREIGN = "give a net with a layer of type L1Loss, or Python with module l1_loss_layer"


@dataclass(frozen=True)
class Switched:
    data: bytes
    layers: int  # L1 layers in the net
    changed: int


def switch(data: bytes, to: str) -> Switched:
    """The net with its L1 layers in the spelling of a route, or Problem."""
    document = parse(data)
    found = [value for value in layers(document) if is_ours(value)]
    if not found:
        raise no_layer(document)
    newline = line_end(data[: data.find(b"\n") + 1]) or b"\n"
    edits = []
    for value in found:
        text = data[value.start : value.end]
        try:
            edits.append((value.start, value.end, switch_layer(text, to, newline)))
        except Problem as problem:
            problem.offset = value.start + (problem.offset or 0)
            raise
    changed = [edit for edit in edits if data[edit[0] : edit[1]] != edit[2]]
    return Switched(replace(data, edits), len(found), len(changed))


def no_layer(document: Document) -> Problem:
    old = [field for field in document.fields if field.name == "layers"]
    if old:
        return Problem("no L1 layer; an old net's layers { } cannot have one", "upgrade the net "
                       "with upgrade_net_proto_text, then add the layer", old[0].start)
    return Problem("no L1 layer", FOREIGN, 0)


def switch_layer(text: bytes, to: str, newline: bytes) -> bytes:
    layer = read(text)
    if to in layer.fits:
        return text
    return write(origin(layer, newline), to, newline)


def write(layer: Layer, to: str, newline: bytes) -> bytes:
    """Plainly where that tells all, else with the note."""
    plain = translate(layer, to, newline)
    there = read(plain)
    if all(translate(there, route, newline) == translate(layer, route, newline)
           for route in ROUTES):
        return plain
    return translate(layer, to, newline, note_of(layer))


def translate(layer: Layer, to: str, newline: bytes, note: bytes = b"") -> bytes:
    """The layer's text in another route's spelling."""
    if to in layer.fits:
        return layer.text
    start, end = layer.region
    lead = layer.text[start : layer.content] if layer.block else new_lead(layer)
    content = new_content(layer, to, lead, line_end(lead) or newline, note)
    return replace(layer.text, [(*layer.type, new_type(layer, to)),
                                (start, end, lead + content if content else b"")])


def new_type(layer: Layer, to: str) -> bytes:
    quote = layer.text[layer.type[0] : layer.type[0] + 1]
    return quote + (b"Python" if to == "python" else b"L1Loss") + quote


def new_content(layer: Layer, to: str, lead: bytes, newline: bytes, note: bytes) -> bytes:
    line = line_end(lead)
    loss_weight = new_weight(layer, to, lead)
    values = new_options(layer, to)
    needed = note or loss_weight or values or layer.comments or to == "python"
    if layer.last and not needed:
        return b""
    parting = lead[lead.rfind(line) :] if line else newline + b"  "
    block = new_block(to, values, layer.comments, Style(layer, lead, newline))
    return (note and note + parting) + loss_weight + block


def new_weight(layer: Layer, to: str, lead: bytes) -> bytes:
    """L1Loss has a loss_weight of 1 by default, a Python layer none; what we added we take out."""
    if (layer.route == "python") == (to == "python"):
        return weight(to, lead) if layer.added_weight else b""
    return b"" if layer.has_weight else weight(to, lead)


def new_options(layer: Layer, to: str) -> Options:
    """Whatever L1Loss reads in loss_param must be among a Python layer's own options."""
    if layer.route == "python":
        own = {"reduction": "BATCHMEAN", "ignore_label": None, **layer.options}
        options.merged(own, layer.older, layer.own)
    elif to == "python":
        return options.merged(layer.options, layer.older, layer.own)
    return layer.options


class Style:
    """How a block is laid out: on lines of its own where it begins one, else in the line."""

    def __init__(self, layer: Layer, lead: bytes, newline: bytes) -> None:
        blanks = blanks_before(layer.text, len(layer.text) - 1)
        closing = blanks[blanks.rfind(b"\n") + 1 :] if b"\n" in blanks else b""
        self.newline = newline
        self.own_line = b"\n" in lead
        self.indent = lead[lead.rfind(b"\n") + 1 :] if self.own_line else closing
        deeper = self.indent.startswith(closing) and len(self.indent) > len(closing)
        self.step = self.indent[len(closing) :] if deeper else b"  "


def new_block(to: str, values: Options, comments: tuple[bytes, ...], style: Style) -> bytes:
    parts = [b'module: "l1_loss_layer"', b'layer: "L1LossLayer"'] if to == "python" else []
    parts += comments
    if values and to == "native":
        parts.append(options.to_text_format(values))
    elif values:
        parts.append(b"param_str: '%s'" % options.to_json(values))
    name = BLOCKS[to].encode()
    if comments or (to == "python" and style.own_line):
        outer = style.newline + style.indent
        return name + b" {" + b"".join(outer + style.step + part for part in parts) + outer + b"}"
    return b" ".join([name, b"{", *parts, b"}"])


def new_lead(layer: Layer) -> bytes:
    """The blanks in front of a block where there was none: it comes last."""
    start = layer.region[0]
    blanks = layer.text[start : len(layer.text) - 1]
    line = line_end(blanks)
    if not line:
        return b" "
    neighbour = layer.text[layer.text.rfind(b"\n", 0, start) + 1 : start]
    if b"\n" in layer.text[:start]:
        return line + neighbour[: len(neighbour) - len(neighbour.lstrip())]
    return line + blanks[blanks.rfind(b"\n") + 1 :] + b"  "


def blanks_before(text: bytes, end: int) -> bytes:
    return text[len(text[:end].rstrip()) : end]


def replace(data: bytes, edits: list[Edit]) -> bytes:
    for start, end, new in sorted(edits, reverse=True):
        data = data[:start] + new + data[end:]
    return data


# ---- The note: how the layer was spelled -------------------------------------

def note_of(layer: Layer) -> bytes:
    """The parts that a switch replaces, as they are, in one line of a comment."""
    kept = b"type: " + layer.text[slice(*layer.type)]
    if layer.block:
        kept += b" " + layer.text[layer.own : layer.region[1]]
    return b"# switch_route keeps the %s spelling: %s" % (layer.route.encode(), escape(kept))


def origin(layer: Layer, newline: bytes) -> Layer:
    """The layer that a note tells of, if nothing was edited since; else this one, without it."""
    text = layer.text
    match = NOTE.match(text[layer.content : layer.own].rstrip())
    if not match:
        return layer
    try:
        before = restored(layer, unescape(match.group(2)))
        if write(before, layer.route, newline) == text:
            return before
    except (Problem, IndexError):
        pass  # not a note that this script wrote
    return read(text[: layer.content] + text[layer.own :])


def restored(layer: Layer, kept: bytes) -> Layer:
    field = parse(kept).fields[0]
    value, content = field.values[0], kept[field.end + 1 :]
    start, end = layer.region
    lead = layer.text[start : layer.content] if content else b""
    return read(replace(layer.text, [(*layer.type, kept[value.start : value.end]),
                                     (start, end, lead + content)]))


def escape(text: bytes) -> bytes:
    return text.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")


def unescape(text: bytes) -> bytes:
    text = text.replace(b"\\\\", b"\0")  # which no prototxt has
    return text.replace(b"\\n", b"\n").replace(b"\\r", b"\r").replace(b"\0", b"\\")
