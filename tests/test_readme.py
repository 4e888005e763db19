"""The README, and that its Chinese twin is in step with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
README, CHINESE = REPO / "README.md", REPO / "README.zh-CN.md"
DOCUMENTS = [README, CHINESE, REPO / "CONTRIBUTING.md", REPO / "CHANGELOG.md"]
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def blocks(file: Path) -> list[str]:
    return FENCED.findall(file.read_text("utf-8"))


def prose(file: Path) -> str:
    return FENCED.sub("", file.read_text("utf-8"))


def tables(file: Path) -> list[list[str]]:
    """What stands in the first column as code, table by table, but for the generated one."""
    found = re.findall(r"(?:^\|.*\n)+", prose(file), re.MULTILINE)
    return [["".join(re.findall(r"`[^`]+`", re.split(r"(?<!\\)\|", row)[1]))
             for row in table.splitlines()[2:]]
            for table in found if "1 thread" not in table]


def test_both_have_the_same_code_blocks():
    assert len(blocks(README)) == len(blocks(CHINESE)) > 10
    for english, chinese in zip(blocks(README), blocks(CHINESE)):
        assert chinese == english


def test_both_have_the_same_headings():
    levels = [re.findall(r"^#+", prose(file), re.MULTILINE) for file in (README, CHINESE)]
    assert levels[0] == levels[1] and len(levels[0]) > 10


def test_both_have_the_same_tables():
    assert tables(README) == tables(CHINESE)
    assert len(tables(README)) >= 7


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_what_the_documents_point_to_is_there(file):
    links = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", file.read_text("utf-8"))
    named = re.findall(r"(?<![\w/])(?:scripts|prototxt|tests|python_layer|caffe_patch)/[\w./-]*\w",
                       file.read_text("utf-8"))
    assert named or links
    missing = [name for name in {*links, *named} if not (REPO / name).exists()]
    assert missing == []
