"""What the doctor finds, and what it means for the routes: no file is read here."""

from typing import Callable, Iterable, Iterator, NamedTuple

from ..common.errors import KitError

OK, LACKS, NOTE = "ok", "lacks", "note"
# What is said of each route if it works, and what it needs for that.
ROUTES = {
    "stock": ("works: switch-route writes Caffe's own layers, nothing is installed", "Reduction"),
    "python": ("works", "pycaffe", "Python layer", "l1_loss_layer"),
    "native": ("works: apply puts it into the checkout, runtest builds it", "kit", "checkout",
               "compiler", "make", "protoc", "libraries", "Caffe's sources", "BLAS"),
    "plugin": ("works: build-plugin makes it", "compiler", "protoc", "libcaffe", "Caffe's headers",
               "CUDA"),
}


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
    lacks: "list[str]"
    text: str


def finding(name: str, tell: Callable[..., str], *arguments: object, **options: str) -> Finding:
    """What the function tells is fine; what it raises is lacking."""
    try:
        return Finding(name, OK, tell(*arguments, **options))
    except KitError as error:
        return lacking(name, error)


def findings(name: str, several: Iterator[Finding]) -> Iterator[Finding]:
    """The findings, until one of this name is lacking."""
    try:
        yield from several
    except KitError as error:
        yield lacking(name, error)


def lacking(name: str, error: KitError) -> Finding:
    text = str(KitError(error.problem, file=error.file, line=error.line))
    return Finding(name, LACKS, text, error.fix)


def judge(findings: Iterable[Finding]) -> "list[Route]":
    """The routes; what nobody could look at counts as there."""
    states = {finding.name: finding.state for finding in findings}
    return [judge_one(name, states) for name in ROUTES]


def judge_one(name: str, states: "dict[str, str]") -> Route:
    if name == "stock" and states.get("pycaffe") == states.get("libcaffe") == LACKS:
        return Route(name, False, ["Caffe"], "lacks Caffe: neither pycaffe nor libcaffe was found")
    if states.get("L1Loss") == OK and name in ("native", "plugin"):
        works, word = (True, "works") if name == "native" else (False, "not needed")
        return Route(name, works, [], f"{word}: this Caffe has an L1Loss already")
    works_how, *needs = ROUTES[name]
    lacks = [need for need in needs if states.get(need) == LACKS]
    return Route(name, not lacks, lacks, f"lacks {', '.join(lacks)}" if lacks else works_how)
