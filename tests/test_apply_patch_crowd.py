"""Two and three runs in one tree at the same moment: each works, or says that another one does.

CAFFE_L1_THOROUGH=1: 500 rounds.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest
from patch_support import PROTO, Result, contents, kit, make_small_checkout

ROUNDS = 500 if os.environ.get("CAFFE_L1_THOROUGH") == "1" else 16
AT_WORK = "another apply_patch.py is at work in this tree"
CALM = {  # what each verb says where no other run is at work
    "apply": ("applied: ", "already applied, "),
    "revert": ("reverted: ", "not applied, "),
    "status": ("applied (", "not applied\n"),
    "check": ("already applied, ", "--- a/", "--- /dev/null"),
}


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trees")
    for name in ("unpatched", "patched"):
        make_small_checkout(folder / name)
    assert kit("apply", folder / "patched").code == 0
    return folder


def at_once(verbs: list[str], root: Path, out: Path) -> list[Result]:
    """Each in a process of its own, from the same moment on."""
    start = time.monotonic() + 0.02
    children = []
    for number, verb in enumerate(verbs):
        child = os.fork()
        if child == 0:
            while time.monotonic() < start:
                pass
            (out / str(number)).write_text(json.dumps(kit(verb, root)))
            os._exit(0)
        children.append(child)
    assert [os.WEXITSTATUS(os.waitpid(child, 0)[1]) for child in children] == [0] * len(verbs)
    return [Result(*json.loads((out / str(n)).read_text())) for n in range(len(verbs))]


def is_said(verb: str, result: Result) -> str:
    """What the run did: worked, gave way, or something else that it should not."""
    if result.code == 1 and AT_WORK in result.out + result.err:
        return "gave way"
    calm = result.out.startswith(CALM[verb]) and not result.err
    return "worked" if calm and result.code in ((0, 1) if verb == "status" else (0,)) else "wrong"


def choose(chance: random.Random) -> list[str]:
    """One that writes, with one or two others."""
    writer = chance.choice(["apply", "revert"])
    return [writer, *chance.choices(["apply", "revert", writer, "status", "check"],
                                    k=chance.choice([1, 2]))]


def test_runs_at_once_work_or_give_way(trees, tmp_path, say):
    chance = random.Random(20260102)
    ends = [contents(trees / name) for name in ("unpatched", "patched")]
    counts: Counter = Counter()
    wrong = []
    for _ in range(ROUNDS):
        verbs, state = choose(chance), chance.choice(["unpatched", "patched"])
        root = tmp_path / "caffe"
        shutil.rmtree(str(root), ignore_errors=True)
        shutil.copytree(str(trees / state), str(root))
        results = at_once(verbs, root, tmp_path)
        said = [is_said(*pair) for pair in zip(verbs, results)]
        counts[f"rounds of {len(verbs)}"] += 1
        counts.update(said)
        writers = [word for verb, word in zip(verbs, said) if verb in ("apply", "revert")]
        whole = contents(root) in ends
        after = kit("status", root)
        if "wrong" in said or "worked" not in writers or not whole or after.err:
            wrong.append((state, list(zip(verbs, results)), whole, after))
    say("runs at once: " + ", ".join(f"{n} {word}" for word, n in sorted(counts.items())))
    assert counts["gave way"] + counts["worked"] > ROUNDS
    assert not wrong, "\n".join(map(str, wrong[:3]))


def test_a_lock_that_was_removed_lets_nobody_in(tmp_path):
    root = tmp_path / "caffe"
    make_small_checkout(root)
    handle = os.open(str(root), os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)  # as a run does whose lock file is gone
    done = kit("apply", root)
    assert done.code == 1 and AT_WORK in done.err
    os.close(handle)
    assert kit("apply", root).code == 0


def test_a_run_that_has_caffe_proto_out_of_its_place_is_not_called_killed(tmp_path):
    root = tmp_path / "caffe"
    make_small_checkout(root)
    assert kit("apply", root).code == 0
    os.rename(str(root / PROTO), str(tmp_path / "caffe.proto"))
    handle = os.open(str(root / ".l1loss-kit" / "lock"), os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    done = kit("status", root)
    os.close(handle)
    assert done.code == 1 and AT_WORK in done.err
