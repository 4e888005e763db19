"""What the doctor finds, and what it means for the routes: no file is read here."""

from __future__ import annotations

from typing import Iterable, NamedTuple

OK, LACKS, NOTE = "ok", "lacks", "note"
# What each route needs; a route works if none of these is lacking.
ROUTES = {
    "python": ("pycaffe", "Python layer", "l1_loss_layer"),
    "native": ("kit", "checkout", "compiler", "make", "protoc", "libraries", "Caffe's sources",
               "BLAS"),
    "plugin": ("compiler", "protoc", "libcaffe", "Caffe's headers", "CUDA"),
}
WORKS = {
    "python": "works",
    "native": "works: apply puts it into the checkout, runtest builds it",
    "plugin": "works: build-plugin makes it",
}
# With one of its own in the Caffe that is installed, nothing has to be built.
OWN_L1_LOSS = "L1Loss"


class Finding(NamedTuple):
    name: str
    state: str
    text: str
    fix: str = ""

    def line(self) -> str:
        text = f"{self.state:<6} {self.name}: {self.text}"
        return f"{text}; fix: {self.fix}" if self.fix else text


class Route(NamedTuple):
    name: str
    works: bool
    lacks: list[str]
    text: str

    def line(self) -> str:
        return f"{self.name}: {self.text}"


def judge(findings: Iterable[Finding]) -> list[Route]:
    """The routes, from what was found; what nobody could look at counts as lacking nothing."""
    states = {finding.name: finding.state for finding in findings}
    return [judge_one(name, needs, states) for name, needs in ROUTES.items()]


def judge_one(name: str, needs: tuple[str, ...], states: dict[str, str]) -> Route:
    lacks = [need for need in needs if states.get(need) == LACKS]
    if states.get(OWN_L1_LOSS) == OK:
        if name == "native":
            return Route(name, True, [], "works: this Caffe has an L1Loss already")
        if name == "plugin":
            return Route(name, False, [], "not needed: this Caffe has an L1Loss already")
    return Route(name, not lacks, lacks, f"lacks {', '.join(lacks)}" if lacks else WORKS[name])
