"""A kill and an I/O error before every system call by which apply and revert change something.

strace runs the script once to list these calls, then once per call and fault. After each: every
file is the old one or the new one; the exit code tells which; the next run completes.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import patch_support
import pytest
from _pytest.monkeypatch import MonkeyPatch
from patch_support import REPO, STATE, TARGETS, contents, kit, make_small_checkout

KILLED = -9
TRACE = (
    "trace=openat,write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,link,linkat,"
    "unlink,unlinkat,mkdir,mkdirat,rmdir,fchmod,chmod,fchmodat,chown,fchown,fchownat,lchown,"
    "ftruncate,truncate,utimensat,symlink,symlinkat,flock"
)
CREATING = {"openat", "write", "renameat", "renameat2", "linkat", "mkdirat"}  # may find a full disk
KILL, EIO, ENOSPC = "error=EIO:signal=SIGKILL", "error=EIO", "error=ENOSPC"
FULL = "error=ENOSPC:delay_enter=0"  # this one and all that follow
ENVIRONMENT = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}


class Fault(NamedTuple):
    call: str
    number: int  # the n-th call of this name
    line: str  # as strace showed it
    what: str


class Outcome(NamedTuple):
    fault: Fault
    fired: bool
    problem: str  # empty where all is well


def copy_kit(folder: Path) -> Path:
    """The kit as it is now: someone may be at work on the sources while this runs."""
    shutil.copytree(str(REPO / "caffe_patch"), str(folder / "caffe_patch"))
    shutil.copytree(str(REPO / "scripts/caffe_l1"), str(folder / "scripts/caffe_l1"))
    return Path(shutil.copy2(str(patch_support.SCRIPT), str(folder / "scripts")))


def use_kit(script: Path) -> None:
    """In a worker process: kit() is the copy's."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "caffe_l1"]:
        del sys.modules[name]
    sys.path.insert(0, str(script.parent))
    from caffe_l1 import cli

    assert cli.__file__.startswith(str(script.parent))
    patch_support.SCRIPT, patch_support.cli = script, cli


def strace(root: Path, verb: str, trace: Path, *options: str) -> int:
    command = ["strace", "-y", "-s", "256", "-o", str(trace), *options]
    command += [sys.executable, str(patch_support.SCRIPT), verb, str(root)]
    done = subprocess.run(
        command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return done.returncode


def changing_calls(root: Path, verb: str, trace: Path) -> list[tuple[str, int, str]]:
    """Every call of one run that changes something in the tree, with its number by name."""
    assert strace(root, verb, trace, "-e", TRACE) == 0
    counts: dict[str, int] = {}
    found = []
    for line in trace.read_text("utf-8", "replace").splitlines():
        name = line.partition("(")[0]
        counts[name] = counts.get(name, 0) + 1
        if str(root) in line and (name != "openat" or "O_CREAT" in line):
            found.append((name, counts[name], line))
    return found


def inject(root: Path, verb: str, fault: Fault, trace: Path) -> tuple[int, bool]:
    """The exit code (-9 for killed) and whether the fault fired, at the very call meant."""
    rule = f"inject={fault.call}:{fault.what}:when={fault.number}"
    rule += "+" if fault.what == FULL else ""
    code = strace(root, verb, trace, "-e", "trace=" + fault.call, "-e", rule)
    lines = trace.read_text("utf-8", "replace").splitlines()
    if fault.what == KILL:
        killed = code in (-signal.SIGKILL, 128 + signal.SIGKILL)
        at_it = any(str(root) in line for line in lines[-2:])
        return (KILLED, True) if killed and at_it else (code, False)
    return code, any("INJECTED" in line and str(root) in line for line in lines)


def work(job: tuple) -> list[Outcome]:
    template, folder, verb, faults, old, new = job
    return [one(template, folder, verb, fault, old, new) for fault in faults]


def one(template: Path, folder: Path, verb: str, fault: Fault, old: dict, new: dict) -> Outcome:
    """One fault on a copy of the template, and what became of it."""
    shutil.rmtree(str(folder), ignore_errors=True)
    shutil.copytree(str(template), str(folder), symlinks=True)
    code, fired = inject(folder, verb, fault, folder.with_name(folder.name + ".trace"))
    problem = judge(folder, verb, code, old, new)
    return Outcome(fault, fired, problem)


def judge(root: Path, verb: str, code: int, old: dict, new: dict) -> str:
    seen = targets(root)
    torn = [path for path in TARGETS if seen[path] not in (old[path], new[path])]
    if torn:
        return f"torn: {torn}"
    mixed = seen not in (old, new)
    if code != KILLED:
        wanted = {0: new, 4: old}.get(code)
        if wanted is None:
            return f"exit {code}"
        if seen != wanted:
            return f"exit {code}, but the tree is not as that says"
    if mixed:
        status = kit("status", root)
        if not status.out.startswith("interrupted"):
            return f"mixed, but status says {status.out + status.err}"
    return completes(root, verb, old, new)


def completes(root: Path, verb: str, old: dict, new: dict) -> str:
    """The next run of the same verb, and on a copy of the other one, ends as it should."""
    other = "revert" if verb == "apply" else "apply"
    copy = root.with_name(root.name + ".copy")
    shutil.rmtree(str(copy), ignore_errors=True)
    shutil.copytree(str(root), str(copy), symlinks=True)
    for folder, again, wanted in ((root, verb, new), (copy, other, old)):
        result = kit(again, folder)
        if result.code != 0:
            return f"{again} afterwards: exit {result.code}: {result.err}"
        if targets(folder) != wanted:
            return f"{again} afterwards left another tree"
        if leftovers(folder):
            return f"{again} afterwards left {leftovers(folder)}"
    return ""


def targets(root: Path) -> dict:
    seen = contents(root)
    return {path: seen.get(path) for path in TARGETS}


def leftovers(root: Path) -> list[str]:
    names = [p.name for p in root.rglob("*") if "l1loss-kit-" in p.name]
    journals = [root / STATE / name for name in ("journal.json", "journal.staging")]
    return names + [journal.name for journal in journals if journal.exists()]


def faults_at(calls: list[tuple[str, int, str]]) -> list[Fault]:
    faults = [Fault(*call, what) for call in calls for what in (KILL, EIO)]
    faults += [Fault(*call, ENOSPC) for call in calls if call[0] in CREATING]
    return faults + [Fault(*call, FULL) for call in calls if call[0] == "write"]


class Trees(NamedTuple):
    script: Path  # of a copy of the kit
    unpatched: Path
    patched: Path
    before: dict
    after: dict
    apply_calls: list


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """A small checkout, the same with the kit applied, and the calls that applying it took."""
    folder = tmp_path_factory.mktemp("faults")
    patch = MonkeyPatch()
    patch.setattr(patch_support, "SCRIPT", copy_kit(folder / "kit"))
    unpatched, patched = folder / "unpatched", folder / "patched"
    make_small_checkout(unpatched)
    shutil.copytree(str(unpatched), str(patched))
    calls = changing_calls(patched, "apply", folder / "trace")
    yield Trees(
        patch_support.SCRIPT, unpatched, patched, targets(unpatched), targets(patched), calls
    )
    patch.undo()


def copy_of(tree: Path, folder: Path) -> Path:
    return Path(shutil.copytree(str(tree), str(folder), symlinks=True))


def inject_all(trees: Trees, template: Path, verb: str, faults: list[Fault]) -> list[Outcome]:
    old, new = trees.before, trees.after
    if verb == "revert":
        old, new = new, old
    jobs = [(template, template.with_name(f"w{n}"), verb, faults[n::2], old, new) for n in (0, 1)]
    with ProcessPoolExecutor(2, initializer=use_kit, initargs=(trees.script,)) as pool:
        return [outcome for share in pool.map(work, jobs) for outcome in share]


def report(say, title: str, calls: int, outcomes: list[Outcome]) -> None:
    """What was injected and what came of it; then the same as assertions."""
    bad = [outcome for outcome in outcomes if outcome.problem]
    silent = [outcome for outcome in outcomes if not outcome.fired]
    neither = sum("torn" in o.problem or "not as" in o.problem for o in bad)
    say(f"faults in {title}: {calls} changing calls, {len(outcomes)} faults injected, "
        f"{len(outcomes) - len(silent)} fired, {neither} trees neither old nor new")
    assert calls > 20
    assert not silent, silent[:3]
    assert not bad, "\n".join(map(str, bad[:5]))


def test_a_fault_before_any_call_of_apply_leaves_old_or_new_and_the_next_run_completes(
    trees, tmp_path, say
):
    template = copy_of(trees.unpatched, tmp_path / "template")
    outcomes = inject_all(trees, template, "apply", faults_at(trees.apply_calls))
    report(say, "apply", len(trees.apply_calls), outcomes)


def test_a_fault_before_any_call_of_revert_leaves_old_or_new_and_the_next_run_completes(
    trees, tmp_path, say
):
    template = copy_of(trees.patched, tmp_path / "template")
    calls = changing_calls(copy_of(template, tmp_path / "once"), "revert", tmp_path / "trace")
    outcomes = inject_all(trees, template, "revert", faults_at(calls))
    report(say, "revert", len(calls), outcomes)


def test_a_kill_before_any_call_of_the_recovery_from_a_kill_is_recovered_from(
    trees, tmp_path, say
):
    template = copy_of(trees.unpatched, tmp_path / "template")
    moves = [call for call in trees.apply_calls if call[0] == "renameat2"]
    move = moves[len(moves) // 2]
    killed = inject(template, "apply", Fault(*move, KILL), tmp_path / "trace")
    assert killed == (KILLED, True)
    assert targets(template) not in (trees.before, trees.after)
    calls = changing_calls(copy_of(template, tmp_path / "once"), "apply", tmp_path / "trace")
    outcomes = inject_all(trees, template, "apply", [Fault(*call, KILL) for call in calls])
    report(say, "recovery", len(calls), outcomes)


def test_the_harness_notices_a_call_it_does_not_reach(trees, tmp_path):
    root = tmp_path / "caffe"
    make_small_checkout(root)
    fault = Fault("rename", 999, "", EIO)
    code, fired = inject(root, "apply", fault, tmp_path / "trace")
    assert (code, fired) == (0, False)


def test_every_name_traced_is_one_that_strace_knows():
    known = subprocess.run(
        ["strace", "-e", TRACE, "true"], stderr=subprocess.PIPE
    )
    assert known.returncode == 0 and not re.search(rb"invalid|unknown", known.stderr)
