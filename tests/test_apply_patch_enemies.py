"""What someone else left in the tree, or planted there: siblings, links, journals and records.

Whatever it is: exit codes as promised, one line, and nothing lost or changed that is not the kit's.
The tables are made of every key, type, place and kind; CAFFE_L1_THOROUGH=1 tries all verbs on all
of them, not one in turn.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import shutil
import stat
from collections import Counter
from pathlib import Path

import pytest
from caffe_l1.common.tree import open_tree
from caffe_l1.patch import commit
from caffe_l1.patch.store import Store
from caffe_l1.runtest.runtest import default_log
from patch_support import (
    PROTO,
    SOURCES,
    STATE,
    TARGETS,
    Result,
    contents,
    kit,
    make_small_checkout,
)

THOROUGH = os.environ.get("CAFFE_L1_THOROUGH") == "1"
VERBS = ("check", "apply", "status", "revert")
HPP, SIMD, CU, CPP, TEST = SOURCES


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """A small checkout as it is, patched, and with an apply that was killed half-way."""
    folder = tmp_path_factory.mktemp("states")
    for name in ("unpatched", "patched", "interrupted"):
        make_small_checkout(folder / name)
    assert kit("apply", folder / "patched").code == 0
    kill_at(CU, "apply", folder / "interrupted")
    return folder


def kill_at(path: str, verb: str, root: Path) -> None:
    """In a process of its own, which ends before this file is moved."""
    child = os.fork()
    if child == 0:
        move = commit.move
        commit.move = lambda store, step: os._exit(9) if step.path == path else move(store, step)
        kit(verb, root)
        os._exit(0)
    assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 9


def copy_of(tree: Path, folder: Path) -> Path:
    shutil.rmtree(str(folder), ignore_errors=True)
    return Path(shutil.copytree(str(tree), str(folder), symlinks=True))


def everything(folder: Path) -> dict:
    """All there is, the kit's folder as well: kinds, modes, owners and bytes."""
    seen = {}
    for path in sorted(folder.rglob("*")):
        status = os.lstat(str(path))
        data: object = os.readlink(str(path)) if path.is_symlink() else None
        if stat.S_ISREG(status.st_mode):
            data = path.read_bytes()
        seen[path.relative_to(folder).as_posix()] = (status.st_mode, status.st_uid, data)
    return seen


def is_one_line(result: Result) -> bool:
    return result.err.count("\n") == (result.code != 0 and bool(result.err))


# Stale siblings


def test_a_sibling_left_by_a_run_without_a_journal_is_never_put_in_place(
    states, tmp_path, monkeypatch
):
    """As the hint once asked: restore caffe.proto, remove the kit's folder, edit, apply."""
    root = copy_of(states / "interrupted", tmp_path / "caffe")
    for path in TARGETS:
        (root / path).unlink() if (root / path).exists() else None
    make_small_checkout(root)
    shutil.rmtree(str(root / STATE))
    for word in ("old", "new"):
        stale = root / f"src/caffe/proto/.caffe.proto.l1loss-kit-{word}"
        stale.write_bytes(b"// stale\n")
    mine = (root / PROTO).read_bytes() + b"// mine\n"
    (root / PROTO).write_bytes(mine)

    def fail(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Store, "put_blob", fail)
    assert kit("apply", root).code == 4
    monkeypatch.undo()
    assert (root / PROTO).read_bytes() == mine


def stale_siblings(root: Path) -> dict:
    """Of every target, by every name a kit has ever used, with bytes of every origin."""
    bytes_of = {
        "garbage": b"// garbage\n",
        "original": (root / PROTO).read_bytes(),
        "empty": b"",
    }
    names = ("old", "new", "old-0123456789abcdef", "new-0123456789abcdef")
    return {
        f"{Path(path).parent}/.{Path(path).name}.l1loss-kit-{name}": data
        for (path, name), data in zip(
            itertools.product(TARGETS, names), itertools.cycle(bytes_of.values())
        )
    }


def test_stale_siblings_are_neither_touched_nor_in_the_way(states, tmp_path, say):
    counts: Counter = Counter()
    for state, verb in itertools.product(("unpatched", "patched"), VERBS):
        root = copy_of(states / state, tmp_path / "caffe")
        siblings = stale_siblings(root)
        for path, data in siblings.items():
            (root / path).write_bytes(data)
        wanted = kit(verb, copy_of(states / state, tmp_path / "clean")).code
        assert kit(verb, root).code == wanted
        for path, data in siblings.items():
            assert (root / path).read_bytes() == data, (state, verb, path)
        counts["runs"] += 1
        counts["siblings"] += len(siblings)
    tell(say, "stale siblings", counts)


def tell(say, title: str, counts: Counter) -> None:
    say(f"{title}: " + ", ".join(f"{number} {word}" for word, number in counts.items()))


def test_who_does_what_the_hint_of_a_damaged_journal_says_loses_nothing(states, tmp_path):
    root = copy_of(states / "interrupted", tmp_path / "caffe")
    (root / STATE / "journal.json").write_text("{")
    result = kit("apply", root)
    assert (result.code, result.err.partition("; fix: ")[2]) == (
        5, f"move {STATE}/ out of the tree, keep it, and run status\n"
    )
    (root / STATE).rename(tmp_path / "kept")
    assert kit("status", root).out.startswith("partial 3/6")
    kept = [path.read_bytes() for path in (tmp_path / "kept/blobs").iterdir()]
    assert (states / "unpatched" / PROTO).read_bytes() in kept
    assert kit("revert", root).code == 0
    left = {path: entry for path, entry in contents(root).items() if "l1loss-kit-" not in path}
    assert left == contents(states / "unpatched")


# Links and other things that are no files, at every level


def plant(kind: str, place: Path, outside: Path) -> None:
    """Put something else in the place of a file or a folder."""
    if place.is_dir() and not place.is_symlink():
        shutil.move(str(place), str(outside / "moved"))
    elif os.path.lexists(str(place)):
        shutil.copy2(str(place), str(outside / "moved"))
        place.unlink()
    place.parent.mkdir(parents=True, exist_ok=True)
    if kind == "link to what was there":
        place.symlink_to(outside / "moved")
    elif kind == "link to a file outside":
        place.symlink_to(outside / "file")
    elif kind == "link to a folder outside":
        place.symlink_to(outside / "folder")
    elif kind == "link to nothing":
        place.symlink_to(outside / "nothing")
    elif kind == "link to itself":
        place.symlink_to(place.name)
    elif kind == "hard link":
        os.link(str(outside / "file"), str(place))
    elif kind == "folder":
        place.mkdir()
        (place / "mine").write_bytes(b"mine\n")
    elif kind == "fifo":
        os.mkfifo(str(place))


KINDS = [
    "link to what was there",
    "link to a file outside",
    "link to a folder outside",
    "link to nothing",
    "link to itself",
    "hard link",
    "folder",
    "fifo",
]
OURS = ["", "lock", "record.json", "journal.json", "journal.staging", "blobs", ".gitignore"]


def places(root: Path) -> list[str]:
    """Every level of the kit's folder, one blob among them, and of what it changes."""
    blobs = sorted(path.name for path in (root / STATE / "blobs").glob("*"))[:2]
    ours = [f"{STATE}/{name}".rstrip("/") for name in [*OURS, *(f"blobs/{b}" for b in blobs)]]
    folders = {parent.as_posix() for path in TARGETS for parent in Path(path).parents} - {"."}
    return [*ours, *sorted(folders), *TARGETS]


def test_nothing_is_reached_through_what_stands_at_any_level(states, tmp_path, say):
    counts: Counter = Counter()
    cases = list(itertools.product(("unpatched", "patched", "interrupted"), KINDS))
    turn = itertools.cycle(VERBS)
    for state, kind in cases:
        for place in places(states / state):
            verbs = VERBS if THOROUGH else (next(turn),)
            for verb in verbs:
                counts["cases"] += 1
                result = meet(states / state, tmp_path, kind, place, verb)
                counts[f"exit {result.code}"] += 1
    tell(say, "links at every level", counts)


def meet(state: Path, tmp_path: Path, kind: str, place: str, verb: str) -> Result:
    root, outside = copy_of(state, tmp_path / "caffe"), tmp_path / "outside"
    shutil.rmtree(str(outside), ignore_errors=True)
    (outside / "folder").mkdir(parents=True)
    (outside / "file").write_bytes(b"outside\n")
    for blob in (state / STATE / "blobs").glob("*"):
        (outside / "folder" / blob.name).write_bytes(b"theirs\n")
    plant(kind, root / place, outside)
    there = everything(outside)
    result = kit(verb, root)
    what = (state.name, kind, place, verb, result)
    assert result.code in (0, 1, 2, 5), what
    assert is_one_line(result), what
    assert {p: there[p][2] for p in there} == {
        p: entry[2] for p, entry in everything(outside).items()
    }, what
    return result


def test_blobs_that_is_a_link_deletes_nothing_outside_of_the_tree(states, tmp_path):
    root = copy_of(states / "patched", tmp_path / "caffe")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "thesis.tex").write_bytes(b"mine\n")
    shutil.rmtree(str(root / STATE / "blobs"))
    (root / STATE / "blobs").symlink_to(outside)
    before = contents(root)
    result = kit("revert", root)
    assert (result.code, os.listdir(str(outside))) == (5, ["thesis.tex"])
    assert result.err.startswith(f"{STATE}/blobs: is a link, or not a folder; fix: ")
    assert contents(root) == before


def test_what_is_no_blob_by_name_and_hash_is_not_deleted(states, tmp_path):
    root = copy_of(states / "patched", tmp_path / "caffe")
    blobs = root / STATE / "blobs"
    (blobs / "folder").mkdir()
    (blobs / "notes.txt").write_bytes(b"mine\n")
    (blobs / ("0" * 64)).write_bytes(b"not what its name says\n")
    assert kit("revert", root).code == 0
    assert sorted(os.listdir(str(blobs))) == ["0" * 64, "folder", "notes.txt"]


def test_a_stray_folder_in_blobs_does_not_stop_a_recovery(states, tmp_path):
    root = copy_of(states / "interrupted", tmp_path / "caffe")
    (root / STATE / "blobs/folder.part").mkdir()
    assert kit("apply", root).code == 0
    assert kit("status", root).code == 0


@pytest.mark.parametrize("name", ["journal.staging", "record.json"])
def test_a_folder_in_the_place_of_a_file_of_ours_is_found_before_a_recovery(
    states, tmp_path, name
):
    root = copy_of(states / "interrupted", tmp_path / "caffe")
    (root / STATE / name).mkdir()
    before = everything(root)
    for verb in ("apply", "revert"):
        result = kit(verb, root)
        assert result.code == 5
        assert result.err.startswith(f"{STATE}/{name}: is a link, or not a file; fix: ")
        assert everything(root) == before


@pytest.mark.parametrize("verb", VERBS)
def test_a_fifo_as_lock_is_said_and_not_waited_for(states, tmp_path, verb):
    root = copy_of(states / "patched", tmp_path / "caffe")
    (root / STATE / "lock").unlink()
    os.mkfifo(str(root / STATE / "lock"))
    result = kit(verb, root)
    assert (result.code, is_one_line(result)) == (5, True)
    assert result.err.startswith(f"{STATE}/lock: is a link, or not a file; fix: ")


# Journals and records by an enemy


DEEP = 100000 * "[" + 100000 * "]"
WRONG = ["null", "true", "0", "-1", "1.5", "1e400", "Infinity", "NaN", "1" * 400, '""', '"x"',
         '"\\u0000"', '"\\ud800"', '"\\u001b[31m"', "[]", "[[]]", "[null]", '["x"]', "{}",
         '{"x": 1}', DEEP]
PATHS = [
    "../outside/file",
    "/etc/passwd",
    "src/../../outside/file",
    "src/x/authorized_keys",
    "src/caffe/net.cpp",
    "src/caffe/proto/../proto/caffe.proto",
    "src/caffe/layers/euclidean_loss_layer.cpp",
    "src/caffe/layers/x/l1_loss_layer.cpp",
    "src/caffe/layers/l1_loss_layer.cpp/",
    "src/caffe/layers/.l1_loss_layer.cpp",
    "./src/caffe/layers/l1_loss_layer.cpp",
    "src//caffe/layers/l1_loss_layer.cpp",
    "README.md",
    ".git/hooks/pre-commit",
    STATE + "/record.json",
    "src/caffe/layers/l1_loss_layer.cpp\n",
    "src",
    ".",
    "",
]


def holders(value: object, path: tuple = ()) -> list[tuple]:
    """The place of every value in some JSON, as keys from outside in."""
    inner = value.items() if isinstance(value, dict) else []
    if isinstance(value, list):
        inner = list(enumerate(value))[:2]
    return ([path] if path else []) + [p for k, v in inner for p in holders(v, (*path, k))]


def altered(text: str, path: tuple, new: str) -> str:
    """This JSON with the value at one place written anew."""
    data = json.loads(text)
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = "@@here@@"
    return json.dumps(data).replace('"@@here@@"', new)


def without(text: str, path: tuple) -> str:
    data = json.loads(text)
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return json.dumps(data)


def forgeries(text: str) -> list[str]:
    """Every value of every wrong kind, every path a bad one, every key gone or one too many."""
    data = json.loads(text)
    found = [altered(text, path, new) for path in holders(data) for new in WRONG]
    for path in holders(data):
        if path[-1] == "path" or "folders" in path:
            found += [altered(text, path, json.dumps(bad)) for bad in PATHS]
    found += [altered(text, ("folders",), json.dumps([bad])) for bad in PATHS]
    found += [without(text, path) for path in holders(data) if isinstance(path[-1], str)]
    found.append(json.dumps({**data, "more": 1}))
    found += [text[:-9], text + text, DEEP, "\0", "", '"', "\x1b[31m", text.replace(":", ";")]
    return found


def test_no_forged_record_does_what_a_record_may_not(states, tmp_path, say):
    text = (states / "patched" / STATE / "record.json").read_text()
    forge(states / "patched", tmp_path, "record.json", text, say)


def test_no_forged_journal_does_what_a_journal_may_not(states, tmp_path, say):
    text = (states / "interrupted" / STATE / "journal.json").read_text()
    forge(states / "interrupted", tmp_path, "journal.json", text, say)


def test_no_forged_staging_journal_does_what_a_journal_may_not(states, tmp_path, say):
    text = (states / "interrupted" / STATE / "journal.json").read_text()
    root = copy_of(states / "interrupted", tmp_path / "staged")
    (root / STATE / "journal.json").rename(root / STATE / "journal.staging")
    forge(root, tmp_path, "journal.staging", text, say)


def forge(state: Path, tmp_path: Path, name: str, text: str, say) -> None:
    counts: Counter = Counter()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"outside\n")
    (outside / "authorized_keys").write_bytes(b"ssh-rsa mine\n")
    root = copy_of(state, tmp_path / "caffe")
    (root / "src/x").symlink_to(outside)
    theirs, before = everything(outside), everything(root)
    turn = itertools.cycle(VERBS)
    for forgery in forgeries(text):
        counts["forgeries"] += 1
        (root / STATE / name).write_text(forgery)
        for verb in VERBS if THOROUGH else (next(turn),):
            result = kit(verb, root)
            counts[f"exit {result.code}"] += 1
            what = (forgery[:2000], verb, result)
            assert result.code in (0, 1, 5), what
            assert is_one_line(result), what
            assert "\x1b" not in result.err and (verb == "check" or "\x1b" not in result.out), what
            assert everything(outside) == theirs, what
            after = everything(root)
            check_only_ours_changed(before, after, what)
            if after != {**before, f"{STATE}/{name}": after.get(f"{STATE}/{name}")}:
                assert result.code == 0 or verb in ("apply", "revert"), what
                root = copy_of(state, tmp_path / "caffe")
                (root / "src/x").symlink_to(outside)
    assert counts["exit 5"] > counts["forgeries"] / 2
    tell(say, f"forged {name}", counts)


def check_only_ours_changed(before: dict, after: dict, what: tuple) -> None:
    for path in set(before) | set(after):
        if path in TARGETS or path.startswith(STATE) or "l1loss-kit-" in path:
            mode = after.get(path, (0,))[0]
            assert not mode & 0o7000 and not mode & 0o111 or stat.S_ISDIR(mode), what
        else:
            assert before.get(path) == after.get(path), (path, what)


def test_a_journal_of_a_clone_removes_no_layer_of_caffes_own(tmp_path):
    root = tmp_path / "caffe"
    make_small_checkout(root)
    layer = root / "src/caffe/layers/data_layer.cpp"
    layer.write_bytes(b"class DataLayer;\n")
    (root / STATE).mkdir()
    step = {"path": "src/caffe/layers/data_layer.cpp", "new": None,
            "old": hashlib.sha256(layer.read_bytes()).hexdigest()}
    (root / STATE / "journal.json").write_text(json.dumps(
        {"format": 2, "verb": "revert", "run": "", "type_name": "Data", "steps": [step],
         "folders": [], "record": None, "keep": []}))
    for verb in ("revert", "apply"):
        done = kit(verb, root)
        assert done.code == 5 and "which is not the kit's; fix: " in done.err, done
        assert layer.exists()


def test_a_record_without_files_is_damaged(states, tmp_path):
    root = copy_of(states / "patched", tmp_path / "caffe")
    record = root / STATE / "record.json"
    record.write_text(json.dumps(dict(json.loads(record.read_text()), files=[])))
    assert kit("status", root).code == 5


def test_a_journal_of_a_clone_writes_no_authorized_keys(states, tmp_path):
    root = copy_of(states / "interrupted", tmp_path / "caffe")
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "src/x").symlink_to(outside)
    journal = root / STATE / "journal.json"
    steps = [{"path": "src/x/authorized_keys", "old": None, "mode": 0o4755, "owner": [0, 0],
              "new": sorted(os.listdir(str(root / STATE / "blobs")))[0]}]
    journal.write_text(json.dumps({**json.loads(journal.read_text()), "steps": steps}))
    for verb in VERBS:
        assert kit(verb, root).code == 5
    assert os.listdir(str(outside)) == []


def test_what_a_recovery_makes_is_never_setuid_or_executable(states, tmp_path):
    """Modes and owners are those of what is replaced, or of the neighbours."""
    root = old_interrupted(states, tmp_path / "caffe")
    assert kit("apply", root).code == 0
    for path in TARGETS:
        mode = stat.S_IMODE(os.stat(str(root / path)).st_mode)
        assert mode == stat.S_IMODE(os.stat(str(states / "unpatched" / PROTO)).st_mode), path


@pytest.mark.parametrize("name", ["record.json", "journal.json"])
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_record_or_journal_of_a_third_user_is_not_trusted(states, tmp_path, name):
    root = copy_of(states / "patched", tmp_path / "caffe")
    if name == "journal.json":
        root = copy_of(states / "interrupted", tmp_path / "caffe")
    os.chown(str(root / STATE / name), 1234, 1234)
    before = everything(root)
    for verb in VERBS:
        result = kit(verb, root)
        assert result.code == 5, (verb, result)
        assert result.err.startswith(f"{STATE}/{name}: belongs to user 1234")
        assert everything(root) == before


# The journal of a kit of format 1, as it is on users' disks


def test_what_a_kit_of_format_1_left_half_way_is_completed(states, tmp_path):
    """It put links beside its targets, by names without a number."""
    for verb, word in (("apply", "applied"), ("revert", "not applied")):
        root = old_interrupted(states, tmp_path / verb)
        result = kit(verb, root)
        assert (result.code, result.out.split("\n")[0]) == (0, "took back the interrupted apply")
        assert kit("status", root).out.startswith(word)
        assert not [path for path in root.rglob("*") if "l1loss-kit-" in path.name]
        good = "patched" if verb == "apply" else "unpatched"
        assert contents(root) == contents(states / good)


def old_interrupted(states: Path, root: Path) -> Path:
    """The tree that a kit of format 1 left where it was killed before its third move."""
    copy_of(states / "interrupted", root)
    journal = root / STATE / "journal.json"
    data = json.loads(journal.read_text())
    run = data.pop("run")
    del data["type_name"]
    steps = [{**step, "mode": 0o4777, "owner": [0, 0]} for step in data["steps"]]
    journal.write_text(json.dumps({**data, "steps": steps, "format": 1}))
    for path in TARGETS:
        new = (root / path).with_name(f".{Path(path).name}.l1loss-kit-new")
        ours = new.with_name(f"{new.name}-{run}")
        if path == PROTO:
            ours.rename(new.with_name(f".{Path(path).name}.l1loss-kit-old"))
        elif ours.exists():
            ours.rename(new)
        else:
            os.link(str(root / path), str(new))
    return root


def test_the_log_of_runtest_is_not_written_through_a_link(states, tmp_path):
    for link in (os.symlink, os.link):
        root = copy_of(states / "patched", tmp_path / "caffe")
        outside = tmp_path / "outside"
        outside.write_bytes(b"mine\n")
        link(str(outside), str(root / STATE / "runtest.log"))
        with default_log(open_tree(str(root))) as log:
            log.write(b"log\n")
        assert outside.read_bytes() == b"mine\n"
        outside.unlink()
