"""Change several files of a tree as one: all of them or none, whatever fails and whenever.

    staging   the plan is written to journal.staging, then the new bytes beside their targets
    commit    journal.staging becomes journal.json: from here on a kill is rolled forward
    moving    each target and the file beside it change places, and what came out is looked at
    record    record.json is replaced: from here on nothing is rolled back
    tidying   what lies beside the targets is removed, then the journal

An error before the record is replaced rolls back, by moving. A kill leaves the journal, and the
next apply or revert finishes what it says. What one line commits or tidies is on the disk before
the next begins. Files beside the targets bear the number of the run that its journal tells, and
none is removed whose bytes are not those of the journal: a user may have saved into it.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Iterator

from ..common.errors import FileSystemFailed, KitError, Mixed, RecordDamaged, Refused
from ..common.folder import Folder, NotAFile, random_id
from ..common.tree import PROTO
from .journal import Journal, Step, read_journal
from .store import FOLDER, JOURNAL, RECORD, STAGING, Store, restore_hint, sha256


@dataclass(frozen=True)
class Change:
    """One file: its bytes before and after, None where there is no file."""

    path: str
    old: bytes | None
    new: bytes | None


def interrupted(store: Store) -> str | None:
    """The verb of a run that was killed half-way, None where there is none."""
    journals = [read_journal(store, name) for name in (JOURNAL, STAGING)]
    return next((journal.verb for journal in journals if journal), None)


# The whole of it


def commit(
    store: Store,
    verb: str,
    changes: list[Change],
    folders: list[str],
    record: bytes | None,
    blobs: list[bytes],
    type_name: str,
) -> list[str]:
    """Make these changes and this record, or none of them; call it with the store locked.

    Returns what there is to say, of files beside the targets that someone had saved into.
    """
    run = random_id()
    journal = Journal(
        verb,
        run,
        type_name,
        [Step(c.path, hash_of(c.old), hash_of(c.new), run) for c in changes],
        folders,
        None if record is None else record.decode("utf-8"),
        [sha256(data) for data in blobs],
    )
    with rolled_back_on_error(store, journal):
        stage(store, journal, changes, blobs)
        store.folder.replace(STAGING, JOURNAL)
        store.folder.sync()
        for step in journal.steps:
            check_unchanged(store, step)
        for step in journal.steps:
            move(store, step)
        put_record(store, journal)
    return list(map(saved_into, tidy(store, journal)))


def recover(store: Store) -> list[str]:
    """Finish what a killed run began; what there is to say of it, if there was one."""
    journal, staged = read_journal(store, JOURNAL), read_journal(store, STAGING)
    store.read_own(RECORD)  # else what it is may come out half-way
    with told_as_error(store, {}, "tidy up"):
        store.remove_parts()
    if journal is not None:
        check_ours(store, journal)
        now = {step: found(store, step) for step in journal.steps}
        with told_as_error(store, now, "roll forward"):
            left = roll_forward(store, journal)
        return [f"completed the interrupted {journal.verb}", *map(saved_into, left)]
    if staged is not None:
        with told_as_error(store, {}, "tidy up"):
            unstage(store, staged)
        return [f"completed the interrupted {staged.verb}"]
    return []


def check_ours(store: Store, journal: Journal) -> None:
    """Whoever wrote the journal: no file is replaced or removed that is not one of the kit."""
    name = re.escape(journal.type_name.encode("utf-8"))
    for step in journal.steps:
        data = None if step.path == PROTO or step.old is None else store.read_target(step.path)
        if data is not None and not re.search(name + b"(?:Broadcast|Shape)", data):
            problem = "the journal would change this file, which is not the kit's"
            raise RecordDamaged(problem, restore_hint(), step.path)


def saved_into(path: str) -> str:
    return f"{path}: someone saved into it just now, so it stays"


def hash_of(data: bytes | None) -> str | None:
    return None if data is None else sha256(data)


# One step: a target, and what lies beside it


def peek(folder: Folder, name: str) -> str | None:
    """The hash of a file, None where nothing is; empty for what is no file."""
    try:
        return hash_of(folder.read(name))
    except NotAFile:
        return ""


def found(store: Store, step: Step) -> str | None:
    """The same of the target."""
    folder = store.at(step.folder)
    return peek(folder, step.name) if folder else None


def place(store: Store, step: Step) -> Folder:
    folder = store.at(step.folder)
    if folder is None:
        raise Refused("the folder was removed just now", "put it back", step.folder)
    return folder


def swap(folder: Folder, step: Step) -> None:
    """The target and what lies beside it change places; with the step turned round, back again."""
    if step.new is None:
        folder.move(step.name, step.beside, ours=False)
    elif step.old is None:
        folder.move(step.beside, step.name)
    else:
        folder.exchange(step.beside, step.name, step.spare)


def drop(folder: Folder, name: str, hashes: tuple[str | None, ...]) -> None:
    """Remove a file beside a target, if it holds what the journal says."""
    if peek(folder, name) in [hash for hash in hashes if hash]:
        folder.unlink(name)


def mend(store: Store, step: Step) -> None:
    """Where a swap took more than one system call and was cut short, take back its half."""
    folder = store.at(step.folder)
    if folder is None:
        return
    now = found(store, step)
    if now is not None and now == step.old:
        for name in (step.spare, step.beside):
            drop(folder, name, (step.old,))
    elif now is not None and now == step.new:
        drop(folder, step.beside, (step.new,))
        if peek(folder, step.beside) is not None:
            drop(folder, step.spare, (step.old,))
        elif peek(folder, step.spare) is not None:
            folder.move(step.spare, step.beside)
    elif now is None and step.new is not None and peek(folder, step.spare) == step.old is not None:
        folder.move(step.spare, step.name)


# Before the commit point


def stage(store: Store, journal: Journal, changes: list[Change], blobs: list[bytes]) -> None:
    ends = [end for change in changes for end in (change.old, change.new) if end is not None]
    for data in ends + blobs:
        store.put_blob(data)
    store.blobs.sync()
    store.put(store.folder, STAGING, journal.to_bytes())
    store.folder.sync()
    if journal.verb != "revert":
        make_folders(store, journal)
    for step in journal.steps:
        stage_step(store, step)


def make_folders(store: Store, journal: Journal) -> None:
    for path in journal.folders:
        above, _, name = path.rpartition("/")
        parent = store.at(above)
        if parent is not None and store.at(path) is None:
            parent.make_child(name, parent.own_status().st_mode & 0o777)
            parent.sync()


def stage_step(store: Store, step: Step) -> None:
    if step.new is None:
        return
    folder = place(store, step)
    like = step.name if step.old is not None else None
    try:
        folder.create(step.beside, store.blob(step.new), new_mode(store), like)
    except (FileNotFoundError, NotAFile):
        raise edited_just_now(step) from None
    folder.sync()


def new_mode(store: Store) -> int:
    """A new file is as open as its neighbour, whatever the umask."""
    folder, _, name = PROTO.rpartition("/")
    there = store.at(folder)
    status = there.status(name) if there else None
    return status.st_mode & 0o666 if status else 0o644


def unstage(store: Store, journal: Journal) -> None:
    """Take back what stage did."""
    for step in journal.steps:
        remove_staged(store, step)
    if journal.verb != "revert":
        remove_folders(store, journal)
    store.remove(STAGING)
    store.folder.sync()


def remove_staged(store: Store, step: Step) -> None:
    folder = store.at(step.folder)
    if folder is None or step.new is None:
        return
    with contextlib.suppress(NotAFile):
        data = folder.read(step.beside)
        if data is not None and is_torn(data, store.read_blob(step.new) or b""):
            folder.unlink(step.beside)
    folder.sync()


def is_torn(data: bytes, whole: bytes) -> bool:
    """Whether a loss of power can have made this of a file that was being written, or none did."""
    return len(data) <= len(whole) and all(a in (0, b) for a, b in zip(data, whole))


def remove_folders(store: Store, journal: Journal) -> None:
    for path in reversed(journal.folders):
        above, _, name = path.rpartition("/")
        parent = store.at(above)
        if parent is not None:
            store.folders.pop(path, None)
            parent.remove_child(name)
            parent.sync()


# Behind the commit point


def check_unchanged(store: Store, step: Step) -> None:
    if found(store, step) != step.old:
        raise edited_just_now(step)


def edited_just_now(step: Step) -> Refused:
    return Refused(
        "was edited by someone else just now; nothing was changed",
        "run this again once the edit is done",
        step.path,
    )


def move(store: Store, step: Step) -> None:
    """What comes out must be what the plan was made for; else it goes back at once."""
    folder = place(store, step)
    try:
        swap(folder, step)
    except (FileExistsError, FileNotFoundError):
        raise edited_just_now(step) from None
    if step.old is not None and peek(folder, step.beside) != step.old:
        swap(folder, step.turned)
        raise edited_just_now(step)
    folder.sync()


def put_record(store: Store, journal: Journal) -> None:
    if journal.record is None:
        store.remove(RECORD)
    else:
        store.put(store.folder, RECORD, journal.record.encode("utf-8"))
    store.folder.sync()


def record_is_put(store: Store, journal: Journal) -> bool:
    data = store.read_own(RECORD)
    wanted = None if journal.record is None else journal.record.encode("utf-8")
    return store.folder.status(JOURNAL) is not None and data == wanted


def tidy(store: Store, journal: Journal) -> list[str]:
    """The change is made; a leftover is a nuisance, not a failure, and the next run removes it."""
    with contextlib.suppress(OSError):
        return remove_leftovers(store, journal)
    return []


def remove_leftovers(store: Store, journal: Journal) -> list[str]:
    """What lies beside the targets, and the journal last; returns what someone saved into."""
    left = [path for step in journal.steps for path in remove_beside(store, step)]
    if journal.verb == "revert":
        remove_folders(store, journal)
    store.remove(STAGING)
    store.keep_blobs(journal.keep)
    store.remove(JOURNAL)
    store.folder.sync()
    return left


def remove_beside(store: Store, step: Step) -> list[str]:
    folder = store.at(step.folder)
    if folder is None:
        return []
    for name in (step.spare, step.beside):
        drop(folder, name, (step.old, step.new))
    folder.sync()
    return [folder.path(n) for n in (step.spare, step.beside) if folder.status(n) is not None]


# When it fails


@contextlib.contextmanager
def rolled_back_on_error(store: Store, journal: Journal) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if not made(store, journal):
            old = {step: step.old for step in journal.steps}
            with told_as_error(store, old, "roll back", cause=error):
                left = roll_back(store, journal)
            if left and isinstance(error, Refused):
                error.fix += f"; what was saved meanwhile is in {' and '.join(left)}"
            if isinstance(error, OSError):
                raise failed(describe(error) + ", the tree is as before") from error
            raise
        if not isinstance(error, OSError):
            raise


def made(store: Store, journal: Journal) -> bool:
    """Whether the record has moved, and every target with it: then nothing is rolled back."""
    with contextlib.suppress(OSError, KitError):
        return record_is_put(store, journal) and all(
            found(store, step) == step.new for step in journal.steps
        )
    return False


def roll_back(store: Store, journal: Journal) -> list[str]:
    for step in reversed(journal.steps):
        move_back(store, step)
    left = [path for step in journal.steps for path in remove_beside(store, step)]
    unstage(store, journal)
    store.remove(JOURNAL)
    store.folder.sync()
    return left


def move_back(store: Store, step: Step) -> None:
    """What a user has saved in the place of our new file stays where it is."""
    mend(store, step)
    folder = store.at(step.folder)
    if folder is not None and found(store, step) == step.new:
        swap(folder, step.turned)
        folder.sync()


@contextlib.contextmanager
def told_as_error(
    store: Store, before: dict[Step, str | None], what: str, cause: BaseException | None = None
) -> Iterator[None]:
    """An error while repairing leaves the journal: the next run goes on from there."""
    try:
        yield
    except OSError as error:
        first = describe(cause) + ", and then " if isinstance(cause, OSError) else ""
        problem = f"{first}could not {what}: {describe(error)}"
        with contextlib.suppress(OSError):
            if all(found(store, step) == hash for step, hash in before.items()):
                raise failed(problem) from error
        raise Mixed(
            problem + ": the tree is mixed, some files are old and some are new",
            "mend the file system, then run apply or revert again: it goes on from here",
        ) from error


def failed(problem: str) -> FileSystemFailed:
    return FileSystemFailed(problem, "look at the disk, then run this again")


def describe(error: OSError) -> str:
    name = error.filename if isinstance(error.filename, str) else ""
    return f"{name}: {error.strerror}" if name else str(error.strerror or error)


# After a kill


def roll_forward(store: Store, journal: Journal) -> list[str]:
    if journal.verb != "revert":
        make_folders(store, journal)
    for step in journal.steps:
        finish_step(store, step)
    put_record(store, journal)
    return remove_leftovers(store, journal)


def finish_step(store: Store, step: Step) -> None:
    """Bring one target from its old bytes to its new ones, wherever the kill came."""
    mend(store, step)
    now = found(store, step)
    if now == step.new:
        return
    if now != step.old:
        raise Refused(
            "was edited after the interrupted run: it is neither the old nor the new file",
            f"save it elsewhere, put {FOLDER}/blobs/{step.old} in its place and run this again"
            if step.old
            else "move it away and run this again",
            step.path,
        )
    remove_staged(store, step)
    folder = place(store, step)
    if step.new is not None and folder.status(step.beside) is not None:
        fix = "move it away and run this again"
        raise Refused("someone saved into it", fix, folder.path(step.beside))
    stage_step(store, step)
    move(store, step)
