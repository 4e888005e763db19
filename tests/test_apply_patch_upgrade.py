"""A tree that kit 1.0.0 patched: recognised, upgraded and reverted.

kit_1.0.0/ holds what that kit put into BVLC's Caffe: its files, its record, and its change of
caffe.proto.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from caffe_l1 import VERSION
from patch_support import PROTO, STATE, TARGETS, contents, edit, kit, make_small_checkout

OLD = Path(__file__).with_name("kit_1.0.0")
OF_1_0_0 = sorted(path.relative_to(OLD).as_posix() for path in OLD.rglob("*l1_loss*"))


@pytest.fixture
def unpatched(tmp_path) -> Path:
    make_small_checkout(tmp_path / "unpatched")
    return tmp_path / "unpatched"


@pytest.fixture
def old(unpatched) -> Path:
    """The same tree as 1.0.0 left it."""
    tree = Path(shutil.copytree(str(unpatched), str(unpatched.with_name("old"))))
    for path in OF_1_0_0:
        shutil.copy(str(OLD / path), str(tree / path))
    diff = (OLD / "caffe.proto.patch").read_bytes()
    subprocess.run(["patch", "-p1", "--quiet"], input=diff, cwd=str(tree), check=True)
    record = json.loads((OLD / "record.json").read_text())
    record["proto_before"] = keep(unpatched / PROTO, tree)
    record["proto_after"] = keep(tree / PROTO, tree)
    assert [file["after"] for file in record["files"]] == [
        keep(tree / file["path"], tree) for file in record["files"]]
    (tree / STATE / "record.json").write_text(json.dumps(record))
    return tree


def keep(file: Path, tree: Path) -> str:
    """A blob of the kit's store, by its hash."""
    name = hashlib.sha256(file.read_bytes()).hexdigest()
    blobs = tree / STATE / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    shutil.copy(str(file), str(blobs / name))
    return name


def test_it_is_recognised(old):
    assert kit("status", old)[:2] == (0, "applied (kit 1.0.0, field number 1701)\n")
    assert {file["state"] for file in kit("status", old, "--json").json["files"]} == {"applied"}


def test_an_upgrade_leaves_what_a_fresh_apply_leaves(old, unpatched):
    before = contents(old)
    assert "+++ b/src/caffe/layers/l1_loss_layer.cpp" in kit("check", old).out
    assert contents(old) == before
    assert kit("apply", old).code == 0
    assert kit("status", old).out == f"applied (kit {VERSION}, field number 1701)\n"
    fresh = unpatched.with_name("fresh")
    shutil.copytree(str(unpatched), str(fresh))
    assert kit("apply", fresh).code == 0
    assert contents(old) == contents(fresh)
    assert set(TARGETS) <= set(contents(old))


@pytest.mark.parametrize("upgraded", [False, True])
def test_a_revert_leaves_what_was_there_before_it(old, unpatched, upgraded):
    if upgraded:
        assert kit("apply", old).code == 0
    result = kit("revert", old)
    assert (result.code, result.err) == (0, "")
    assert contents(old) == contents(unpatched)
    folders = {path.relative_to(unpatched) for path in unpatched.rglob("*") if path.is_dir()}
    left = {path.relative_to(old) for path in old.rglob("*") if path.is_dir()}
    assert left - folders == {Path(STATE), Path(STATE) / "blobs"}


def test_an_edit_of_an_old_file_is_not_lost_by_an_upgrade(old):
    edit(old / OF_1_0_0[-1], b"TYPED_TEST", b"// mine\nTYPED_TEST")
    before = contents(old)
    result = kit("apply", old)
    assert result.code == 1 and OF_1_0_0[-1] in result.err
    assert contents(old) == before
