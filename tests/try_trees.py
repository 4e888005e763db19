"""Try the patch script on real Caffe checkouts: applied, built, tested, reverted; one line each.

    scripts/sandbox.sh run python3 tests/try_trees.py FOLDER...

Each FOLDER, a checkout of some Caffe, is copied first. As in test_apply_patch_trees.py our layer
and its gtest are built with the few sources of the tree that they need, so that trees which do not
compile on today's systems as a whole can be tried too. A tree with an L1Loss of its own gets ours
beside it, under another name. tests/trees.md keeps what was seen.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parent / "scripts"):
    sys.path.insert(0, str(folder))

import test_apply_patch_trees as alone  # noqa: E402
from patch_support import contents, kit  # noqa: E402

RENAMED = ("--type-name", "KitL1Loss", "--field-name", "kit_l1_loss_param")


def try_tree(folder: Path, scratch: Path) -> list[str]:
    """The cells of the tree's row."""
    root = scratch / "caffe"
    shutil.copytree(str(folder), str(root), symlinks=True, ignore=shutil.ignore_patterns(".git"))
    before = contents(root)
    checked = kit("apply", root)
    if checked.code == 0:
        return build_and_revert(root, scratch, before, "l1_loss", "yes")
    refusal = checked.err.strip().replace(str(root) + "/", "").split("; fix: ")[0]
    assert contents(root) == before, "refused, but not as before"
    if "--type-name" not in checked.err:
        return [f"refused: {refusal}", "", "", "as before"]
    beside = kit("apply", root, *RENAMED)
    if beside.code:
        again = beside.err.strip().replace(str(root) + "/", "").split("; fix: ")[0]
        return [f"refused: {refusal}; under another name: {again}", "", "", "as before"]
    return build_and_revert(root, scratch, before, "kit_l1_loss", f"renamed, since {refusal}")


def build_and_revert(root: Path, scratch: Path, before: dict, stem: str, how: str) -> list[str]:
    try:
        tests = alone.build_alone(root, stem, scratch / "out", partly=True)
        output = alone.run([tests, f"--gtest_filter={fixture(stem)}*"])
        built, passed = "yes", alone.PASSED.search(output).group(1)
    except AssertionError as error:
        errors = re.findall(r".*(?:error:|undefined|FAILED|Check failed).*", str(error))
        built, passed = f"no: {(errors or str(error).splitlines()[-1:])[0][-150:]}", "0"
    reverted = kit("revert", root)
    clean = reverted.code == 0 and contents(root) == before
    return [how, built, passed, "yes" if clean else f"no: {reverted.err.strip()}"]


def fixture(stem: str) -> str:
    return "".join(part.capitalize() for part in stem.split("_")) + "LayerTest"


def main(folders: list[str]) -> int:
    print("| tree | applied | built | gtests passed | reverted clean |\n|---|---|---|---|---|")
    for folder in map(Path, folders):
        with tempfile.TemporaryDirectory() as scratch:
            cells = try_tree(folder, Path(scratch))
        print(f"| {folder.name} | " + " | ".join(cells) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
