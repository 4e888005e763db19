"""An L1 layer spread over Caffe's own layers, and gathered into one again: edits of the net.

The loss's own layer stays where it is. Bottoms and propagate_down go to the helpers with all that
stands between them, so that they come back as they were.
"""

import re
from typing import List, NamedTuple, Tuple

from . import options, stock
from .layer import Layer
from .layout import gap_at_end, gap_of_new
from .options import Options
from .stock import NAMED, RULES, WEIGHTED, Group, Step, all_of, fields_of, shown, string
from .text_format import Field, Problem, Token

Edits = List[Tuple[int, int, bytes]]
SEPARATOR = rb"\s*[,;]?"


# ---- One layer becomes several -------------------------------------------------

def last_step(layer: Layer, given: Options) -> Step:
    return stock.steps(given, is_weighted(layer))[-1]


def is_weighted(layer: Layer) -> bool:
    return len(all_of(layer.field, "bottom")) == 3


def has_total(layer: Layer, given: Options) -> bool:
    return not stock.is_scalar(given) and options.number(weight_of(layer)) != 0


def weight_of(layer: Layer) -> str:
    """The loss_weight as the net spells it, or the default of its route."""
    weights = all_of(layer.field, "loss_weight")
    return str(weights[0].value) if weights else layer.default_weight


def spread(data: bytes, layer: Layer, given: Options) -> Edits:
    """What becomes of everything but the layer's type and block."""
    top = need_sayable(layer, given)
    gap, closing = gaps(data, layer)
    steps = stock.steps(given, is_weighted(layer))
    helpers = [named(top, step) for step in steps[:-1]]
    bottoms = moved(data, layer, "bottom", gap, steps[-1], b"bottom: " + helpers[-1])
    downs = moved(data, layer, "propagate_down", gap, steps[-1], b"propagate_down: true")
    rules = [data[field.start : field.end] for field in fields_of(layer.field)
             if field.name in RULES]
    written, previous = b"", b""
    for step, name in zip(steps, helpers):
        reads, down = [b"bottom: " + previous], []
        if step == stock.DIFFERENCE:
            reads, down = [bottoms.first], [downs.first] if downs.first else []
        elif step == WEIGHTED:
            reads[0] += bottoms.third
            down = [b"propagate_down: true" + (downs.third or gap + b"propagate_down: false")]
        written += whole(step, name, reads, [*down, *rules], gap, closing) + closing
        previous = name
    edits = [*bottoms.edits, *downs.edits, (layer.field.start, layer.field.start, written)]
    return edits + (total(data, layer, top, rules, gap, closing) if has_total(layer, given) else [])


def gaps(data: bytes, layer: Layer) -> "tuple[bytes, bytes]":
    """What parts the fields of a helper, as in the layer without its block."""
    start, end = (layer.block.start, layer.block.end) if layer.block else (layer.end, layer.end)
    inside = data[layer.start : start] + data[end : layer.end]
    return gap_of_new(inside), gap_at_end(inside)


def named(top: bytes, step: Step) -> bytes:
    """The name of a helper as the net spells it."""
    name = top + b"_l1_" + step.part.encode()
    return b'"%s"' % re.sub(rb'[^ !#-\[\]-~]', lambda found: b"\\%03o" % found.group()[0], name)


def whole(step: Step, name: bytes, reads: "list[bytes]", more: "list[bytes]", gap: bytes,
          closing: bytes) -> bytes:
    """A helper's text."""
    parts = [b"name: " + name, b'type: "%s"' % step.type.encode(), *reads, b"top: " + name, *more]
    if step.values:
        parts.append(block_of(step) + b" { " + values_of(step) + b" }")
    return b"layer {" + b"".join(gap + part for part in parts) + closing + b"}"


def block_of(step: Step) -> bytes:
    return options.stock.block(step).encode()


def values_of(step: Step) -> bytes:
    return " ".join(f"{name}: {value}" for name, value in step.values).encode()


def total(data: bytes, layer: Layer, top: bytes, rules: "list[bytes]", gap: bytes,
          closing: bytes) -> Edits:
    """A layer behind it, which has the loss_weight."""
    [read] = all_of(layer.field, "top")
    weight = b"loss_weight: " + weight_of(layer).encode()
    text = whole(stock.TOTAL, named(top, stock.TOTAL),
                 [b"bottom: " + data[read.value_start : read.end]], [weight, *rules], gap, closing)
    return [(layer.field.end, layer.field.end, closing + text)] + [
        (field.value_start, field.end, b"0") for field in all_of(layer.field, "loss_weight")]


class Moved(NamedTuple):
    """Texts for the helpers: the first two fields, and the third with what stands before it."""

    first: bytes
    third: bytes
    edits: Edits


def moved(data: bytes, layer: Layer, name: str, gap: bytes, last: Step, instead: bytes) -> Moved:
    """Fields of this name go to the helpers, and something takes the place of the first."""
    fields = all_of(layer.field, name)
    if not fields:
        return Moved(b"", b"", [])
    texts, edits = [own(data, fields[0])], [(fields[0].start, fields[0].end, instead)]
    is_apart = False
    for before, field in zip(fields, fields[1:]):
        texts.append(with_gap(data, layer.field, before, field, gap))
        is_next = are_neighbours(layer.field, before, field)
        is_apart = is_apart or not is_next  # then the separator behind it goes too
        start = before.end if is_next else field.start
        end = behind(SEPARATOR, data, field.end) if is_apart else field.end
        if field is fields[1] or last.values != WEIGHTED.values:
            edits.append((start, end, b""))
    return Moved(b"".join(texts[:2]), b"".join(texts[2:]), edits)


def own(data: bytes, field: Field) -> bytes:
    return data[field.start : field.end]


def are_neighbours(layer: Field, before: Field, field: Field) -> bool:
    return not any(before.end <= other.start < field.start for other in fields_of(layer))


def with_gap(data: bytes, layer: Field, before: Field, field: Field, gap: bytes) -> bytes:
    """A field and what parts it from its neighbour, comments too."""
    if are_neighbours(layer, before, field):
        return data[before.end : field.end]
    return gap + own(data, field)


def behind(pattern: bytes, data: bytes, at: int) -> int:
    found = re.compile(pattern).match(data, at)
    return found.end() if found else at


# ---- Several layers become one -------------------------------------------------

def gather(data: bytes, layer: Layer, comments: "list[Token]") -> Edits:
    """What becomes of everything but the type and the block of the loss's own layer."""
    group = layer.group
    assert group
    edits = [edit for name in ("bottom", "propagate_down")
             for edit in moved_back(data, layer, group, name)]
    for helper in group.helpers:
        edits.append((helper.start, behind(SEPARATOR + rb"\s*", data, helper.end), b""))
    if group.total:
        edits += without_total(data, layer.field, group.total)
    need_comments(comments, group, data[layer.field.start : layer.field.end]
                  + b"".join(text for _, _, text in edits))
    return edits


def moved_back(data: bytes, layer: Layer, group: Group, name: str) -> Edits:
    here, two = all_of(layer.field, name), all_of(group.helpers[0], name)
    three = all_of(group.weighted, name) if group.weighted else []
    if two:
        gap, _ = gaps(data, layer)
        text = own(data, two[0]) + with_gap(data, group.helpers[0], two[0], two[1], gap)
        if three and group.weighted:
            text += with_gap(data, group.weighted, three[0], three[1], gap)
        return [(here[0].start, here[0].end, text)]
    if here:  # for the weights, which get no gradient anyway
        return [(len(data[: here[0].start].rstrip()), here[1].end, b"")]
    return []


def without_total(data: bytes, layer: Field, total: Field) -> Edits:
    before = data[: total.start].rstrip()
    end = behind(SEPARATOR, data, total.end) if before.endswith((b",", b";")) else total.end
    [weight], [kept] = all_of(total, "loss_weight"), all_of(layer, "loss_weight")
    return [(len(before), end, b""),
            (kept.value_start, kept.end, data[weight.value_start : weight.end])]


def need_comments(comments: "list[Token]", group: Group, kept: bytes) -> None:
    """That the layers which are removed hold none that is nowhere else."""
    for comment in comments:
        if comment.text not in kept and any(
                layer.start < comment.start < layer.end for layer in group.removed):
            raise Problem("this comment is in a layer that is no part of other routes; fix: move "
                          "it in front of the layer", comment.start)


# ---- What Caffe's own layers cannot say ------------------------------------------

def need_sayable(layer: Layer, given: Options) -> bytes:
    """The layer's top; or Problem, which names what is in the way."""
    need_options(layer, given)
    need_layout(layer)
    need_shapes(layer, given)
    top = string(layer.field, "top")
    for other in layer.net:
        name = string(other, "top")
        if name.startswith(top + b"_l1_") and NAMED.match(name):
            raise Problem(f'the blob "{shown(name)}" is there already; fix: rename it', other.start)
    return top


def need_options(layer: Layer, given: Options) -> None:
    try:
        options.stock.check(options.checks.DEFAULTS._replace(**given), is_weighted(layer))
    except ValueError as error:
        raise Problem(str(error), layer.block.start if layer.block else layer.start) from None


def cannot(what: str, at: int, fix: str = "take another route") -> Problem:
    return Problem(str(options.stock.cannot(what, fix)), at)


def need_layout(layer: Layer) -> None:
    bottoms, downs = (all_of(layer.field, name) for name in ("bottom", "propagate_down"))
    for field in [layer.field, *fields_of(layer.field)]:
        if field.in_list and field.name in ("layer", "bottom", "propagate_down", *RULES):
            raise Problem(f'"{field.name}" is a list, which cannot be spread over several layers; '
                          f'fix: write "{field.name}" in front of each', field.start)
    if len(bottoms) not in (2, 3) or not string(layer.field, "top"):
        raise Problem("this layer needs two or three bottoms and a top; fix: give it them",
                      layer.field.start)
    if downs and len(downs) != len(bottoms):
        raise Problem('"propagate_down" is not given once for each bottom; fix: do that',
                      downs[0].start)
    if len(downs) == 3 and options.WORDS.get(downs[2].get(str)) is not False:
        raise Problem("weights get no gradient; fix: propagate_down: false", downs[2].start)
    for name in ("top", "loss_weight"):
        if len(all_of(layer.field, name)) > 1:
            raise Problem(f'"{name}" is given twice in this layer; fix: remove one',
                          all_of(layer.field, name)[1].start)


def need_shapes(layer: Layer, given: Options) -> None:
    """Where the net says them; else Caffe itself finds out, and names them."""
    known = stock.known_shapes(layer.net)
    bottoms = all_of(layer.field, "bottom")
    shapes = [known.get(field.get(bytes)) for field in bottoms]
    shape = shapes[0] or shapes[1]
    if shape and shapes[1] and shapes[1] != shape:
        raise cannot(f"loss of targets {shapes[1]} and predictions {shape}", bottoms[1].start,
                     "reshape the targets")
    if shape and shapes[2:] and shapes[2] and shapes[2] != shape:
        raise cannot(f"weights {shapes[2]} that are broadcast to {shape}", bottoms[2].start)
    if shape and len(shape) == 1 and given.get("reduction", "BATCHMEAN") == "BATCHMEAN":
        raise cannot('"reduction": "BATCHMEAN" of one axis', bottoms[0].start,
                     "write MEAN, the same there")
    if shape and given.get("axis") == -len(shape) and has_total(layer, given):
        raise cannot(f'"axis": {given["axis"]} of {len(shape)} axes', bottoms[0].start,
                     "write axis: 0, the same there")
