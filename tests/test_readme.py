"""The two READMEs say the same, and what the documents point to exists."""

from __future__ import annotations

import re
from itertools import zip_longest
from pathlib import Path

import pytest
from caffe_l1.cli import VERBS
from environment import REPO

ENGLISH = REPO / "README.md"
CHINESE = REPO / "README.zh-CN.md"
PAGES = [REPO / folder / "README.md" for folder in
         ("caffe_patch", "prototxt", "python_layer", "scripts")]
DOCUMENTS = [ENGLISH, CHINESE, *PAGES, REPO / "python_layer" / "RECIPES.md",
             REPO / "CONTRIBUTING.md", REPO / "CHANGELOG.md"]

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
FORMULA = re.compile(r"\$\$.*?\$\$", re.DOTALL)
HEADING = re.compile(r"^(#+) ", re.MULTILINE)
TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
CELL_END = re.compile(r"(?<!\\)\|")  # \| is a bar within a cell
CODE_SPAN = re.compile(r"`[^`]+`")
LINK = re.compile(r"\]\(([^)\s#]+)[^)]*\)")
OUR_PATH = re.compile(r"(?<![\w/.-])(?:scripts|prototxt|python_layer|caffe_patch|tests)/[\w./-]*")
COMMENT = re.compile(r"\s+# .*$", re.MULTILINE)


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


def first_column(table: str) -> list[list[str]]:
    """For each row the code spans of its first cell."""
    return [CODE_SPAN.findall(CELL_END.split(row)[1]) for row in table.splitlines()]


def test_code_blocks_are_the_same():
    """But for their comments, which are translated."""
    assert_same("code block", *([COMMENT.sub("", block) for block in FENCE.findall(text_of(readme))]
                                for readme in (ENGLISH, CHINESE)))


def test_formulas_are_the_same():
    assert_same("formula", *(FORMULA.findall(prose_of(readme)) for readme in (ENGLISH, CHINESE)))


def test_headings_have_the_same_levels():
    assert_same("heading", *(HEADING.findall(prose_of(readme)) for readme in (ENGLISH, CHINESE)))


def test_tables_have_the_same_rows():
    assert_same("table", *([first_column(table) for table in TABLE.findall(prose_of(readme))]
                           for readme in (ENGLISH, CHINESE)))


def test_two_minutes_are_enough():
    assert text_of(ENGLISH).count("\n") <= 200


def test_links_lead_somewhere():
    links = [(document, link) for document in DOCUMENTS
             for link in LINK.findall(prose_of(document)) if ":" not in link]
    assert links
    broken = [f"{document.name}: {link}" for document, link in links
              if not (document.parent / link).exists()]
    assert not broken


@pytest.mark.parametrize("readme", [ENGLISH, CHINESE, *PAGES],
                         ids=lambda readme: str(readme.relative_to(REPO)))
def test_named_paths_exist(readme):
    paths = {path.rstrip(".") for path in OUR_PATH.findall(text_of(readme))}
    assert paths
    assert not [path for path in sorted(paths) if not (REPO / path).exists()]


def spans_of(document: Path, column: int) -> set:
    """All code spans of a column of the first table."""
    rows = TABLE.findall(prose_of(document))[0].splitlines()
    return {span for row in rows for span in CODE_SPAN.findall(CELL_END.split(row)[column])}


def test_every_script_and_every_verb_is_in_the_table_of_commands():
    scripts = REPO / "scripts"
    started_by_others = {"demo.py", "host_packages.sh"}
    assert spans_of(scripts / "README.md", 1) == {f"`{path.name}`" for path in [
        *scripts.glob("*.py"), *scripts.glob("*.sh")] if path.name not in started_by_others}
    named = " ".join(sorted(spans_of(scripts / "README.md", 2)))
    assert {word for word in re.findall(r"[\w-]+", named) if word in VERBS} == set(VERBS)


def test_every_net_is_in_the_table_of_nets():
    nets = {path.stem.rsplit("_", 1)[0] if "_" in path.stem else path.stem
            for path in (REPO / "prototxt").glob("*.prototxt")}
    assert spans_of(REPO / "prototxt" / "README.md", 1) == {
        f"`{net}`" for net in nets - {"solver"}}


def test_the_forks_are_counted_from_the_trees_that_were_tried():
    rows = [CELL_END.split(row) for row in text_of(REPO / "tests" / "trees.md").splitlines()
            if row.startswith("|")][2:]
    forks = {row[1].split()[0] for row in rows if "refused" not in row[2]} - {"BVLC"}
    named = {"eight": 8, "nine": 9, "ten": 10}
    [said] = re.findall(r"on\s+(\w+) forks", text_of(ENGLISH))
    assert named[said] == len(forks)
    [said] = re.findall(r"(.)个 fork", text_of(CHINESE))
    assert "零一二三四五六七八九十".index(said) == len(forks)
