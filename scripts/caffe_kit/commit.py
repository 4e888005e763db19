"""Change several files of a tree as one: all of them or none, whatever fails and whenever.

    staging   the plan is written to journal.staging, then the new bytes beside their targets
    commit    journal.staging becomes journal.json: from here on a kill is rolled forward
    moving    every target is looked at again, then link, rename and unlink only
    record    record.json is replaced: from here on nothing is rolled back
    tidying   the siblings and the journal are removed

An error before the record is replaced rolls back, by rename. A kill leaves the journal, and the
next apply or revert finishes what it says.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import FileSystemFailed, RecordDamaged, Refused
from .store import (
    FOLDER,
    Store,
    give,
    owner_of,
    read_if_there,
    remove_if_there,
    sha256,
    sync_folder,
    write_new,
)

FORMAT = 1


@dataclass(frozen=True)
class Change:
    """One file: its bytes before and after, None where there is no file."""

    path: str
    old: bytes | None
    new: bytes | None


@dataclass(frozen=True)
class Step:
    """A change as the journal holds it: hashes, the bytes themselves lie in the store."""

    path: str
    old: str | None
    new: str | None
    mode: int
    owner: tuple[int, int]


@dataclass(frozen=True)
class Journal:
    verb: str
    steps: list[Step]
    folders: list[str]  # made by apply, removed by revert; outer ones first
    record: str | None
    keep: list[str]  # the blobs that the record speaks of

    def to_bytes(self) -> bytes:
        steps = [dict(vars(step), owner=list(step.owner)) for step in self.steps]
        return json.dumps(dict(vars(self), steps=steps, format=FORMAT), indent=1).encode() + b"\n"


def read_journal(path: Path) -> Journal:
    try:
        data: dict[str, Any] = json.loads((read_if_there(path) or b"").decode("utf-8"))
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']!r}, this kit knows {FORMAT}")
        steps = [
            Step(s["path"], s["old"], s["new"], int(s["mode"]), (s["owner"][0], s["owner"][1]))
            for s in data["steps"]
        ]
        journal = Journal(
            data["verb"], steps, list(data["folders"]), data["record"], list(data["keep"])
        )
        for inside in [step.path for step in steps] + journal.folders:
            check_inside(inside)
        return journal
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        where = f"{FOLDER}/{path.name}"
        raise RecordDamaged(f"the journal is damaged: {error}", journal_hint(), where) from None


def check_inside(path: str) -> None:
    parts = path.split("/")
    if os.path.isabs(path) or parts[0] not in ("src", "include") or ".." in parts:
        raise ValueError(f"path {path!r} leaves the sources")


def journal_hint() -> str:
    return f"restore src/ and include/ from your own copy or git, then remove {FOLDER}/"


def interrupted(store: Store) -> str | None:
    """The verb of a run that was killed half-way, None where there is none."""
    if not store.exists():
        return None
    for path in (store.journal, store.staging):
        if path.exists():
            return read_journal(path).verb
    return None


# The whole of it


def commit(
    store: Store,
    verb: str,
    changes: list[Change],
    folders: list[str],
    record: bytes | None,
    blobs: list[bytes],
) -> None:
    """Make these changes and this record, or none of them; call it with the store locked."""
    journal = Journal(
        verb,
        [step_for(store, change) for change in changes],
        folders,
        None if record is None else record.decode("utf-8"),
        [sha256(data) for data in blobs],
    )
    with rolled_back_on_error(store, journal):
        stage(store, journal, changes, blobs)
        os.rename(str(store.staging), str(store.journal))
        sync_folder(store.folder)
        for step in journal.steps:
            check_unchanged(store, step)
        for step in journal.steps:
            move(store, step)
        put_record(store, journal)
    tidy(store, journal)


def recover(store: Store) -> str | None:
    """Finish what a killed run began; its verb, or None where there was none."""
    if not store.exists():
        return None
    with told_as_error("tidy up"):
        store.remove_parts()
    if store.journal.exists():
        journal = read_journal(store.journal)
        with told_as_error("roll forward"):
            roll_forward(store, journal)
        return journal.verb
    if store.staging.exists():
        journal = read_journal(store.staging)
        with told_as_error("tidy up"):
            unstage(store, journal)
        return journal.verb
    return None


def step_for(store: Store, change: Change) -> Step:
    """Modes and owners are kept; a new file takes them from its folder and its neighbours."""
    path = store.root / change.path
    old = None if change.old is None else sha256(change.old)
    new = None if change.new is None else sha256(change.new)
    if change.old is not None:
        status = os.lstat(str(path))
        return Step(change.path, old, new, status.st_mode & 0o7777, (status.st_uid, status.st_gid))
    folder = nearest_folder(path)
    neighbour = os.stat(str(store.root / "src/caffe/proto/caffe.proto"))
    owner = owner_of(folder) or (0, 0)
    return Step(change.path, old, new, neighbour.st_mode & 0o666, owner)


def nearest_folder(path: Path) -> Path:
    folder = path.parent
    while not folder.is_dir():
        folder = folder.parent
    return folder


def sibling(store: Store, step: Step, word: str) -> Path:
    path = store.root / step.path
    return path.with_name(f".{path.name}.l1loss-kit-{word}")


# Before the commit point


def stage(store: Store, journal: Journal, changes: list[Change], blobs: list[bytes]) -> None:
    ends = [end for change in changes for end in (change.old, change.new) if end is not None]
    for data in ends + blobs:
        store.put_blob(data)
    store.put(store.staging, journal.to_bytes())
    sync_folder(store.blobs)
    sync_folder(store.folder)
    if journal.verb != "revert":
        make_folders(store, journal)
    for step in journal.steps:
        stage_step(store, step)


def make_folders(store: Store, journal: Journal) -> None:
    for name in journal.folders:
        folder = store.root / name
        if not folder.is_dir():
            folder.mkdir()
            give(folder, owner_of(folder.parent))


def stage_step(store: Store, step: Step) -> None:
    new = sibling(store, step, "new")
    remove_if_there(new)  # left by a run whose journal was deleted
    remove_if_there(sibling(store, step, "old"))
    if step.new is not None:
        write_new(new, store.blob(step.new), step.mode, step.owner)
        sync_folder(new.parent)


def unstage(store: Store, journal: Journal) -> None:
    """Take back what stage did."""
    for step in journal.steps:
        remove_if_there(sibling(store, step, "new"))
    if journal.verb != "revert":
        remove_folders(store, journal)
    remove_if_there(store.staging)


def remove_folders(store: Store, journal: Journal) -> None:
    for name in reversed(journal.folders):
        with contextlib.suppress(FileNotFoundError, OSError):
            os.rmdir(str(store.root / name))


# Behind the commit point


def check_unchanged(store: Store, step: Step) -> None:
    data = read_if_there(store.root / step.path)
    if (None if data is None else sha256(data)) != step.old:
        raise Refused(
            "was edited by someone else just now; nothing was changed",
            "run this again once the edit is done",
            step.path,
        )


def move(store: Store, step: Step) -> None:
    """By link, rename and unlink alone; what was there stays beside it until the end."""
    target = str(store.root / step.path)
    new, old = str(sibling(store, step, "new")), str(sibling(store, step, "old"))
    if step.new is None:
        os.rename(target, old)
    elif step.old is None:
        os.link(new, target)
    else:
        os.link(target, old)
        os.rename(new, target)
    sync_folder(Path(target).parent)


def move_back(store: Store, step: Step) -> None:
    target, old = store.root / step.path, sibling(store, step, "old")
    if os.path.lexists(str(old)):
        os.rename(str(old), str(target))
        remove_if_there(old)  # rename does nothing where both are links to one file
    elif step.old is None and same_file(sibling(store, step, "new"), target):
        os.unlink(str(target))


def same_file(one: Path, other: Path) -> bool:
    return os.path.lexists(str(one)) and os.path.lexists(str(other)) and os.path.samefile(
        str(one), str(other)
    )


def put_record(store: Store, journal: Journal) -> None:
    if journal.record is None:
        remove_if_there(store.record)
    else:
        store.put(store.record, journal.record.encode("utf-8"))


def record_is_put(store: Store, journal: Journal) -> bool:
    data = read_if_there(store.record)
    wanted = None if journal.record is None else journal.record.encode("utf-8")
    return store.journal.exists() and data == wanted


def tidy(store: Store, journal: Journal) -> None:
    """The change is made; a leftover is a nuisance, not a failure, and the next run removes it."""
    with contextlib.suppress(OSError):
        remove_leftovers(store, journal)


def remove_leftovers(store: Store, journal: Journal) -> None:
    for step in journal.steps:
        remove_if_there(sibling(store, step, "new"))
        remove_if_there(sibling(store, step, "old"))
    if journal.verb == "revert":
        remove_folders(store, journal)
    remove_if_there(store.staging)
    store.keep_blobs(journal.keep)
    remove_if_there(store.journal)
    sync_folder(store.folder)


# When it fails


@contextlib.contextmanager
def rolled_back_on_error(store: Store, journal: Journal):
    try:
        yield
    except BaseException as error:
        if not made(store, journal):
            with told_as_error("roll back", cause=error):
                roll_back(store, journal)
            if isinstance(error, OSError):
                raise FileSystemFailed(
                    describe(error) + ", the tree is as before",
                    "make room or make it writable, then run this again",
                ) from error
            raise
        if not isinstance(error, OSError):
            raise


def made(store: Store, journal: Journal) -> bool:
    """Whether the record has moved, and every target with it: then nothing is rolled back."""
    with contextlib.suppress(OSError):
        return record_is_put(store, journal) and targets_are_new(store, journal)
    return False


def targets_are_new(store: Store, journal: Journal) -> bool:
    """Whether every target holds its new bytes."""
    for step in journal.steps:
        data = read_if_there(store.root / step.path)
        if (None if data is None else sha256(data)) != step.new:
            return False
    return True


def roll_back(store: Store, journal: Journal) -> None:
    for step in reversed(journal.steps):
        move_back(store, step)
    unstage(store, journal)
    remove_if_there(store.journal)


@contextlib.contextmanager
def told_as_error(what: str, cause: BaseException | None = None):
    """An error while repairing leaves the journal: the next run goes on from there."""
    try:
        yield
    except OSError as error:
        first = describe(cause) + ", and then " if isinstance(cause, OSError) else ""
        raise FileSystemFailed(
            f"{first}could not {what}: {describe(error)}",
            "make room or make it writable, then run apply or revert again: it goes on from here",
        ) from error


def describe(error: OSError) -> str:
    name = error.filename if isinstance(error.filename, str) else ""
    return f"{name}: {error.strerror}" if name else str(error.strerror or error)


# After a kill


def roll_forward(store: Store, journal: Journal) -> None:
    if journal.verb != "revert":
        make_folders(store, journal)
    for step in journal.steps:
        finish_step(store, step)
    put_record(store, journal)
    remove_leftovers(store, journal)


def finish_step(store: Store, step: Step) -> None:
    """Bring one target from its old bytes to its new ones, wherever the kill came."""
    data = read_if_there(store.root / step.path)
    found = None if data is None else sha256(data)
    if found == step.new:
        return
    if found != step.old:
        raise Refused(
            "was edited after the interrupted run: it is neither the old nor the new file",
            f"put back the old bytes ({FOLDER}/blobs/{step.old}) and run this again"
            if step.old
            else "move it away and run this again",
            step.path,
        )
    stage_step(store, step)
    move(store, step)
