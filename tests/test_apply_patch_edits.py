"""A user saves a file between any two system calls of a run: what was saved is never lost.

Four ways to save: into the file, by renaming another over it, into a file that was opened before
the run began, and by putting a link in its place. Each call is tried with one file and one way in
turn, with CAFFE_L1_THOROUGH=1 with all of them.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from patch_support import PROTO, SOURCES, STATE, TARGETS, contents, kit, make_small_checkout
from system_calls import before_each_call

THOROUGH = os.environ.get("CAFFE_L1_THOROUGH") == "1"
MINE = b"// mine\n"


def save_into(path: Path, held: int) -> None:
    with open(str(path), "ab") as file:
        file.write(MINE)


def save_by_rename(path: Path, held: int) -> None:
    """As editors do it: the new file has the old one's mode, whatever the umask."""
    new = path.with_name("." + path.name + ".swp")
    if path.exists():
        shutil.copy(str(path), str(new))
    save_into(new, held)
    os.rename(str(new), str(path))


def save_into_what_was_open(path: Path, held: int) -> None:
    if held >= 0:
        os.write(held, MINE)
    else:
        save_into(path, held)


def save_as_link(path: Path, held: int) -> None:
    elsewhere = path.with_name("." + path.name + ".elsewhere")
    elsewhere.write_bytes((path.read_bytes() if path.exists() else b"") + MINE)
    link = path.with_name("." + path.name + ".link")
    link.symlink_to(elsewhere.name)
    os.rename(str(link), str(path))


WAYS = [save_into, save_by_rename, save_into_what_was_open, save_as_link]


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    folder = tmp_path_factory.mktemp("states")
    for name in ("apply", "revert"):
        make_small_checkout(folder / name)
    assert kit("apply", folder / "revert").code == 0
    return folder


def copy_of(tree: Path, folder: Path) -> Path:
    shutil.rmtree(str(folder), ignore_errors=True)
    return Path(shutil.copytree(str(tree), str(folder), symlinks=True))


def refuse(name: str, lacking: tuple) -> None:
    if name in lacking:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def count_calls(root: Path, verb: str, lacking: tuple) -> int:
    calls = 0

    def count(name, *arguments):
        nonlocal calls
        calls += 1
        refuse(name, lacking)

    with before_each_call(count):
        assert kit(verb, root).code == 0
    return calls


def run_with_an_edit(
    root: Path, verb: str, lacking: tuple, number: int, path: str, way
) -> tuple:
    """The result, and whether what was saved could not be kept by any means."""
    target, calls, too_late = root / path, 0, False
    held = os.open(str(target), os.O_WRONLY | os.O_APPEND) if target.exists() else -1

    def save(name, arguments, options):
        nonlocal calls, too_late
        calls += 1
        if calls == number:
            too_late = way is save_into_what_was_open and is_too_late(held, name, arguments)
            way(target, held)
        refuse(name, lacking)

    try:
        with before_each_call(save):
            result = kit(verb, root)
    finally:
        if held >= 0:
            os.close(held)
    return result, too_late


def is_too_late(held: int, name: str, arguments: tuple) -> bool:
    """Whether the file that was open is removed, or looked at for the last time before that."""
    removed = held >= 0 and os.fstat(held).st_nlink == 0
    return removed or (name == "unlink" and ".l1loss-kit-" in arguments[0])


def judge(root: Path, verb: str, result, path: str, old: dict, new: dict) -> str:
    """What is wrong, empty where all is well."""
    if result.code not in (0, 1) or result.err.count("\n") > 1:
        return f"exit {result.code}: {result.err}"
    if list((root / STATE).glob("journal*")):
        return "interrupted"
    there = [root / path, *(root / path).parent.glob(f".{Path(path).name}.l1loss-kit-*")]
    said = [p for p in there if p == root / path or p.name in result.out + result.err]
    if said != there:
        return f"left without a word: {there}"
    if not any(MINE in p.read_bytes() for p in there if p.exists()):
        return "what was saved is lost"
    now = contents(root)
    for other in TARGETS:
        if other != path and now.get(other) != (old if result.code else new).get(other):
            return f"exit {result.code}, but {other} is not as that says"
    return ""


@pytest.mark.parametrize("lacking", [(), ("renameat2",)] if THOROUGH else [()])
@pytest.mark.parametrize("verb", ["apply", "revert"])
def test_what_a_user_saves_before_any_call_is_kept(states, tmp_path, verb, lacking, say):
    old = contents(states / verb)
    new = contents(states / ("revert" if verb == "apply" else "apply"))
    for _ in range(2):  # the first time what is imported and remembered counts as well
        total = count_calls(copy_of(states / verb, tmp_path / "caffe"), verb, lacking)
    cases = list(itertools.product((PROTO, SOURCES[0], SOURCES[1]), WAYS))
    turn = itertools.cycle(cases)
    counts: Counter = Counter()
    bad = []
    for number in range(1, total + 1):
        for path, way in cases if THOROUGH else [next(turn)]:
            root = copy_of(states / verb, tmp_path / "caffe")
            result, too_late = run_with_an_edit(root, verb, lacking, number, path, way)
            counts["edits"] += 1
            counts[f"exit {result.code}"] += 1
            counts["too late, into a file that was removed"] += too_late
            counts["kept beside its place"] += "l1loss-kit-" in result.out + result.err
            problem = judge(root, verb, result, path, old, new)
            if problem and not (too_late and problem == "what was saved is lost"):
                bad.append((number, path, way.__name__, problem))
    say(f"edits during {verb}{' without '.join(['', *lacking])}: {total} calls, "
        + ", ".join(f"{n} {word}" for word, n in counts.items())
        + f", {len(bad)} lost or wrong")
    assert counts["exit 0"] and counts["exit 1"]
    assert not bad, "\n".join(map(str, bad[:5]))
