"""The power goes after any write of a run: whatever of what was not synced is left, the next apply
and revert complete, and lose nothing.

It also goes a second time, while the next run recovers. CAFFE_L1_THOROUGH=1 tries 500 states of
each run, 20 all of them.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
from caffe_l1.patch import commit
from patch_support import PROTO, STATE, TARGETS, contents, kit, make_small_checkout
from power import choices, key_of, materialise, moments, recorded

THOROUGH = int(os.environ.get("CAFFE_L1_THOROUGH", 0))
STATES = 500 * THOROUGH or 24  # of each run, at most
AGAIN = 25 * THOROUGH or 2  # recoveries in which the power goes once more
SEED = 20260101


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trees")
    for name in ("unpatched", "patched", "flat"):
        make_small_checkout(folder / name)
    assert kit("apply", folder / "patched").code == 0
    layers = folder / "flat/include/caffe/layers"
    (layers / "loss_layer.hpp").rename(layers.parent / "loss_layers.hpp")
    layers.rmdir()
    return folder


def record(tree: Path, root: Path, verb: str, code: int = 0):
    shutil.rmtree(str(root), ignore_errors=True)
    shutil.copytree(str(tree), str(root), symlinks=True)
    with recorded(root) as disk:
        assert kit(verb, root).code == code
    return disk


def fail(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Judge:
    """Tries the states that a run may have left, each once."""

    def __init__(self, scratch: Path, old: dict, new: dict) -> None:
        self.root = scratch / "caffe"
        self.old, self.new = old, new
        self.seen: set = set()
        self.counts: Counter = Counter()
        self.bad: list = []
        self.chance = random.Random(SEED)

    def lose_power(self, disk, limit: int) -> None:
        """After each write; where there are more states than the limit, some of every moment."""
        found = []
        for moment in moments(disk):
            sets = list(choices(moment, 20 if THOROUGH else 3, self.chance))
            self.chance.shuffle(sets)
            found += [(rank, self.chance.random(), moment, *choice)
                      for rank, choice in enumerate(sets)]
        self.counts["states"] += len(found)
        for _, _, *state in sorted(found, key=lambda one: one[:2]):
            if limit == 0:
                break
            self.fresh(disk, *state)
            key = key_of(self.root)
            if key not in self.seen:
                self.seen.add(key)
                self.counts["tried"] += 1
                limit -= 1
                for verb, wanted in (("apply", self.new), ("revert", self.old)):
                    self.fresh(disk, *state)
                    self.run(verb, wanted, state)

    def fresh(self, disk, moment, kept, torn) -> None:
        shutil.rmtree(str(self.root), ignore_errors=True)
        materialise(disk, moment, kept, torn, self.root)

    def run(self, verb: str, wanted: dict, state: tuple) -> None:
        status = kit("status", self.root)
        result = kit(verb, self.root)
        problem = self.problem(status, result, wanted)
        if " the interrupted " in result.out:
            self.counts["interrupted"] += 1
        if problem:
            self.bad.append((verb, state[0].names[-1:], state[1:], problem))

    def problem(self, status, result, wanted: dict) -> str:
        if status.code not in (0, 1) or result.code != 0:
            return f"{status} {result}"
        now = {path: entry[0] for path, entry in contents(self.root).items()}
        if now != wanted:
            return f"wrong: {[p for p in set(now) | set(wanted) if now.get(p) != wanted.get(p)]}"
        if any((self.root / STATE / f"journal.{word}").exists() for word in ("json", "staging")):
            return "a journal is left"
        return ""

    def tell(self, say, title: str) -> None:
        say(f"power lost during {title}: "
            + ", ".join(f"{number} {word}" for word, number in self.counts.items())
            + f", {len(self.bad)} lost or stuck")
        assert self.counts["interrupted"]
        assert not self.bad, "\n".join(map(str, self.bad[:5]))


def bytes_only(tree: Path) -> dict:
    return {path: entry[0] for path, entry in contents(tree).items()}


RUNS = {"apply": ("unpatched", "apply"), "revert": ("patched", "revert"), "flat": ("flat", "apply")}


@pytest.mark.parametrize("name", RUNS)
def test_after_a_loss_of_power_the_next_run_completes(trees, tmp_path, name, say):
    tree, verb = RUNS[name]
    judge = Judge(tmp_path, *ends(trees, tree, tmp_path))
    judge.lose_power(record(trees / tree, tmp_path / "run", verb), STATES)
    judge.tell(say, f"{verb} of {tree}")


def ends(trees: Path, tree: str, tmp_path: Path) -> tuple:
    """Bytes without and with the patch."""
    if tree != "flat":
        return bytes_only(trees / "unpatched"), bytes_only(trees / "patched")
    shutil.copytree(str(trees / "flat"), str(tmp_path / "flat"))
    assert kit("apply", tmp_path / "flat").code == 0
    return bytes_only(trees / "flat"), bytes_only(tmp_path / "flat")


def test_after_a_loss_of_power_in_a_rollback_the_next_run_completes(
    trees, tmp_path, say, monkeypatch
):
    judge = Judge(tmp_path, *ends(trees, "unpatched", tmp_path))
    monkeypatch.setattr(commit, "put_record", fail)
    disk = record(trees / "unpatched", tmp_path / "run", "apply", code=4)
    monkeypatch.undo()
    judge.lose_power(disk, STATES)
    judge.tell(say, "the rollback of apply")


@pytest.mark.parametrize("name", ["apply", "revert"])
def test_the_power_may_go_again_while_the_next_run_recovers(trees, tmp_path, name, say):
    tree, verb = RUNS[name]
    judge = Judge(tmp_path, *ends(trees, tree, tmp_path))
    first = record(trees / tree, tmp_path / "run", verb)
    states = [(moment, *choice) for moment in moments(first)
              for choice in choices(moment, 1, judge.chance)]
    judge.chance.shuffle(states)
    for state in states:
        if judge.counts["recoveries"] == AGAIN:
            break
        left = tmp_path / "left"
        shutil.rmtree(str(left), ignore_errors=True)
        materialise(first, *state, left)
        if kit("status", left).out.startswith("interrupted"):
            judge.counts["recoveries"] += 1
            judge.lose_power(record(left, tmp_path / "again", verb), 12 if THOROUGH else 6)
    judge.tell(say, f"the recovery from {verb}")


def test_when_a_run_has_ended_all_that_it_did_lasts(trees, tmp_path):
    """But for the lock, which nobody misses."""
    for tree, verb in (("unpatched", "apply"), ("patched", "revert")):
        *_, last = moments(record(trees / tree, tmp_path / verb, verb))
        assert last.unsynced == [] or all(last.data[n] == b"" for n in last.unsynced)
        left = {name for index in last.pending for name in last.names[index].names}
        assert left <= {"lock"}, (verb, left)


def test_the_harness_notices_what_is_not_synced(trees, tmp_path, monkeypatch):
    """With syncs that do nothing, states appear in which files are lost."""
    judge = Judge(tmp_path, *ends(trees, "unpatched", tmp_path))
    monkeypatch.setattr(commit.Folder, "sync", lambda folder: None)
    disk = record(trees / "unpatched", tmp_path / "run", "apply")
    monkeypatch.undo()
    judge.lose_power(disk, 24)
    assert judge.bad


def test_every_target_is_among_what_is_judged(trees):
    assert set(TARGETS) <= set(bytes_only(trees / "patched"))
    assert PROTO in bytes_only(trees / "unpatched")
