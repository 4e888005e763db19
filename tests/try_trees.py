"""Try the patch script on real Caffe checkouts: applied, built, tested, reverted; one line each.

    scripts/sandbox.sh run python3 tests/try_trees.py [--whole] FOLDER...

Each FOLDER, a checkout of some Caffe, is copied first. As in test_apply_patch_trees.py our layer
and its gtest are built with the few sources of the tree that they need, so that trees which do not
compile on today's systems as a whole can be tried too. With --whole it is `runtest --quick` that
builds, as for a user: all of the tree's library by its own Makefile, and our gtest. A tree with an
L1Loss of its own gets ours beside it, under another name. tests/trees.md keeps what was seen.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Callable

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parent / "scripts"):
    sys.path.insert(0, str(folder))

from build_alone import PASSED, build_alone, run  # noqa: E402
from patch_support import contents, kit  # noqa: E402

BUILT = re.compile(r"\.?build(_release)?/")
RENAMED = ("--type-name", "KitL1Loss", "--field-name", "kit_l1_loss_param")


def try_tree(folder: Path, scratch: Path, build: Callable) -> list[str]:
    """The cells of the tree's row."""
    root = scratch / "caffe"
    shutil.copytree(str(folder), str(root), symlinks=True, ignore=shutil.ignore_patterns(".git"))
    before = contents(root)
    checked = kit("apply", root)
    if checked.code == 0:
        return build_and_revert(build, root, before, "l1_loss", "yes")
    refusal = checked.err.strip().replace(str(root) + "/", "").split("; fix: ")[0]
    assert contents(root) == before, "refused, but not as before"
    if "--type-name" not in checked.err:
        return [f"refused: {refusal}", "", "", "as before"]
    beside = kit("apply", root, *RENAMED)
    if beside.code:
        again = beside.err.strip().replace(str(root) + "/", "").split("; fix: ")[0]
        return [f"refused: {refusal}; under another name: {again}", "", "", "as before"]
    return build_and_revert(build, root, before, "kit_l1_loss", f"renamed, since {refusal}")


def build_and_revert(build: Callable, root: Path, before: dict, stem: str, how: str) -> list[str]:
    built, passed = build(root, stem)
    reverted = kit("revert", root)
    after = {path: entry for path, entry in contents(root).items() if not BUILT.match(path)}
    if reverted.code:
        return [how, built, passed, f"no: {reverted.err.strip()}"]
    return [how, built, passed, "yes" if after == before else f"no: {set(after) ^ set(before)}"]


def build_and_test_alone(root: Path, stem: str) -> tuple[str, str]:
    """Whether it was built, or why not, and how many gtests passed."""
    try:
        tests = build_alone(root, stem, root.parent / "out", partly=True)
        output = run([tests, f"--gtest_filter={fixture(stem)}*"])
        return "yes", PASSED.search(output).group(1)
    except AssertionError as error:
        errors = re.findall(r".*(?:error:|undefined|FAILED|Check failed).*", str(error))
        return f"no: {(errors or str(error).splitlines()[-1:])[0][-150:]}", "0"


def build_whole(root: Path, stem: str) -> tuple[str, str]:
    result = kit("runtest", root, "--quick", "--write-config", "--json").json
    passed = (result["tests"] or {}).get("passed", 0)
    error = (result["error"] or {}).get("problem", "no test ran")
    (root / "Makefile.config").unlink()
    return "yes" if result["exit"] == 0 else f"no: {error}", str(passed)


def fixture(stem: str) -> str:
    return "".join(part.capitalize() for part in stem.split("_")) + "LayerTest"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--whole", action="store_true", help="build them with their own Makefile")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    build = build_whole if arguments.whole else build_and_test_alone
    print("| tree | applied | built | gtests passed | reverted clean |\n|---|---|---|---|---|")
    for folder in arguments.folders:
        with tempfile.TemporaryDirectory() as scratch:
            cells = try_tree(folder, Path(scratch), build)
        print(f"| {folder.name} | " + " | ".join(cells) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
