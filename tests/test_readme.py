"""The two READMEs say the same, and what the documents point to exists."""

from __future__ import annotations

import re
from itertools import zip_longest
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
ENGLISH = REPO / "README.md"
CHINESE = REPO / "README.zh-CN.md"
DOCUMENTS = [ENGLISH, CHINESE, REPO / "CONTRIBUTING.md", REPO / "CHANGELOG.md"]

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
FORMULA = re.compile(r"\$\$.*?\$\$", re.DOTALL)
HEADING = re.compile(r"^(#+) ", re.MULTILINE)
TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
CELL_END = re.compile(r"(?<!\\)\|")  # \| is a bar within a cell
CODE_SPAN = re.compile(r"`[^`]+`")
LINK = re.compile(r"\]\(([^)\s#]+)[^)]*\)")
OUR_PATH = re.compile(r"(?<![\w/.-])(?:scripts|prototxt|python_layer|caffe_patch|tests)/[\w./-]*")
FILE_NAME = re.compile(r"\b\w+\.(?:py|sh)\b")


def text_of(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def prose_of(document: Path) -> str:
    """What is left without the code blocks, where # and | mean something else."""
    return FENCE.sub("", text_of(document))


def assert_same(kind: str, english: list, chinese: list) -> None:
    """Names the first that differs; a missing one is None."""
    for number, (ours, theirs) in enumerate(zip_longest(english, chinese), 1):
        assert ours == theirs, (
            f"{kind} {number} differs\n--- {ENGLISH.name}\n{ours}\n--- {CHINESE.name}\n{theirs}")
    assert english, f"{ENGLISH.name} has no {kind}"


def tables_outside_speed(document: Path, speed: int) -> list[str]:
    """The tables; that of Speed is generated, and the Chinese README points to it instead."""
    sections = re.split(r"^## ", prose_of(document), flags=re.MULTILINE)
    return TABLE.findall("\n".join(sections[:speed] + sections[speed + 1:]))


def first_column(table: str) -> list[list[str]]:
    """For each row the code spans of its first cell."""
    return [CODE_SPAN.findall(CELL_END.split(row)[1]) for row in table.splitlines()]


def test_code_blocks_are_the_same():
    assert_same("code block", *(FENCE.findall(text_of(readme)) for readme in (ENGLISH, CHINESE)))


def test_formulas_are_the_same():
    assert_same("formula", *(FORMULA.findall(prose_of(readme)) for readme in (ENGLISH, CHINESE)))


def test_headings_have_the_same_levels():
    assert_same("heading", *(HEADING.findall(prose_of(readme)) for readme in (ENGLISH, CHINESE)))


def test_tables_have_the_same_rows():
    headings = re.findall(r"^## (.*)", prose_of(ENGLISH), re.MULTILINE)
    speed = 1 + headings.index("Speed")  # before the first heading stands section 0
    assert_same("table", *([first_column(table) for table in tables_outside_speed(readme, speed)]
                           for readme in (ENGLISH, CHINESE)))


def test_links_lead_somewhere():
    links = [(document, link) for document in DOCUMENTS
             for link in LINK.findall(prose_of(document)) if ":" not in link]
    assert links
    broken = [f"{document.name}: {link}" for document, link in links
              if not (document.parent / link).exists()]
    assert not broken


@pytest.mark.parametrize("readme", [ENGLISH, CHINESE], ids=lambda readme: readme.name)
def test_named_paths_exist(readme):
    paths = {path.rstrip(".") for path in OUR_PATH.findall(text_of(readme))}
    assert paths
    assert not [path for path in sorted(paths) if not (REPO / path).exists()]


def test_files_of_what_is_where_exist():
    """Each name stands after its folder, on the same line or on one that goes on with it."""
    block = FENCE.findall(text_of(ENGLISH).split("## What is where")[1])[0]
    entries = re.split(r"^(?=\w+/ )", block, flags=re.MULTILINE)[1:]
    named = [entry.split()[0] + name for entry in entries for name in FILE_NAME.findall(entry)]
    assert named
    assert not [path for path in named if not (REPO / path).exists()]


def test_the_forks_are_counted_from_the_trees_that_were_tried():
    rows = [CELL_END.split(row) for row in text_of(REPO / "tests" / "trees.md").splitlines()
            if row.startswith("|")][2:]
    forks = {row[1].split()[0] for row in rows if "refused" not in row[2]} - {"BVLC"}
    named = {"eight": 8, "nine": 9, "ten": 10}
    [said] = re.findall(r"on\s+(\w+) forks", text_of(ENGLISH))
    assert named[said] == len(forks)
    [said] = re.findall(r"(.)个 fork", text_of(CHINESE))
    assert "零一二三四五六七八九十".index(said) == len(forks)
