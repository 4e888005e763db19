"""How a net is laid out: what stands between its fields, so that new ones look like the old."""

import re


def gap_at_end(text: bytes) -> bytes:
    """The line break and the indentation that a text ends with; a blank where it has none."""
    found = re.search(rb"\r?\n[^\S\n]*\Z", text)
    return found.group() if found else b" "


def gap_of_new(inside: bytes) -> bytes:
    """What parts a new field from all that is in a layer: as its last line is, or a blank."""
    closing = gap_at_end(inside)
    gaps = re.findall(rb"\r?\n[^\S\n]*(?=\S)", inside) or [closing + b"  "]
    return gaps[-1] if b"\n" in closing else closing
