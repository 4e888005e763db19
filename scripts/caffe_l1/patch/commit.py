"""Change several files of a tree as one: all of them or none, whatever fails and whenever.

    journal   what is to be done is written down
    staging   the new bytes are written beside their targets
    moving    each target and the file beside it change places, and what came out is looked at
    record    record.json is replaced: from here on the change is made
    tidying   what lies beside the targets is removed, then the journal

Before the record is replaced, an error takes everything back; after a kill the next apply or revert
does. From then on all that is left is to tidy. What one line does is on the disk before the next
begins. Files beside the targets bear the number of the run that its journal tells, and none is
removed whose bytes are not those of the journal: a user may have saved into it.
"""

import contextlib
import re
from typing import NamedTuple

from ..common.errors import KitError, Mixed, RecordDamaged, Refused
from ..common.folder import Folder, NotAFile, random_id
from ..common.tree import PROTO
from .journal import Journal, Step, read_journal
from .naming import Naming
from .store import FOLDER, JOURNAL, RECORD, RESTORE, STAGING, Store, present, sha256


class Change(NamedTuple):
    """One file: its bytes before and after, None where there is no file."""

    path: str
    old: "bytes | None"
    new: "bytes | None"


# The whole of it


def commit(store: Store, verb: str, changes: "list[Change]", folders: "list[str]",
           record: "bytes | None", blobs: "list[bytes]", type_name: str) -> "list[str]":
    """Make these changes and this record, or none of them; call it with the store locked.

    Returns what there is to say, of files beside the targets that someone had saved into.
    """
    run = random_id()
    steps = [Step(c.path, hash_of(c.old), hash_of(c.new), run) for c in changes]
    text = None if record is None else record.decode("utf-8")
    journal = Journal(verb, run, type_name, steps, folders, text, list(map(sha256, blobs)))
    try:
        stage(store, journal, changes, blobs)
        for step in journal.steps:
            check_unchanged(store, step)
        for step in journal.steps:
            move(store, step)
        put_record(store, journal)
    except BaseException as error:
        if not is_made(store, journal):
            left = take_back(store, journal)
            if left and isinstance(error, Refused):
                error.fix += f"; what was saved meanwhile is in {' and '.join(left)}"
            raise
        if not isinstance(error, OSError):
            raise
    with contextlib.suppress(OSError):  # a leftover is a nuisance, and the next run removes it
        return list(map(saved_into, tidy(store, journal, made=True)))
    return []


def interrupted(store: Store) -> "str | None":
    """The verb of a run that was killed half-way, None where there is none."""
    journal = left_journal(store)
    return journal.verb if journal else None


def left_journal(store: Store) -> "Journal | None":
    """journal.staging is an older kit's: it counts only where there is no journal.json."""
    journal, staging = read_journal(store, JOURNAL), read_journal(store, STAGING)
    return journal or staging


def recover(store: Store) -> "list[str]":
    """Take back what a killed run began, or tidy up where it was made; what there is to say."""
    journal = left_journal(store)
    store.read_own(RECORD)  # else what it is may come out half-way
    store.folder.remove_parts()
    store.blobs.remove_parts()
    if journal is None:
        return []
    made = is_made(store, journal)
    if not made:
        check_may_take_back(store, journal)
    left = tidy(store, journal, made) if made else take_back(store, journal)
    done = "completed" if made else "took back"
    return [f"{done} the interrupted {journal.verb}", *map(saved_into, left)]


def is_made(store: Store, journal: Journal) -> bool:
    """Whether the record has been replaced, and every target: then nothing is taken back."""
    wanted = None if journal.record is None else journal.record.encode("utf-8")
    with contextlib.suppress(OSError, KitError):
        return store.read_own(RECORD) == wanted and are(store, journal, "new")
    return False


def are(store: Store, journal: Journal, end: str) -> bool:
    """Whether all targets are the old files, or the new ones."""
    with contextlib.suppress(OSError, KitError):
        return all(found(store, step) == getattr(step, end) for step in journal.steps)
    return False


def saved_into(path: str) -> str:
    return f"{path}: someone saved into it just now, so it stays"


# One step: a target, and what lies beside it


def hash_of(data: "bytes | None") -> "str | None":
    return None if data is None else sha256(data)


def peek(folder: Folder, name: str) -> "str | None":
    """The hash of a file, None where nothing is; empty for what is no file."""
    try:
        return hash_of(folder.read(name))
    except NotAFile:
        return ""


def found(store: Store, step: Step) -> "str | None":
    """The hash of the target, None where nothing is."""
    folder = store.at(step.folder)
    return peek(folder, step.name) if folder else None


def edited_just_now(step: Step) -> Refused:
    problem = "was edited by someone else just now; nothing was changed"
    return Refused(problem, "run this again once the edit is done", step.path)


# Forward


def stage(store: Store, journal: Journal, changes: "list[Change]", blobs: "list[bytes]") -> None:
    ends = [end for change in changes for end in (change.old, change.new) if end is not None]
    for data in ends + blobs:
        store.put_blob(data)
    store.blobs.sync()
    store.put(store.folder, JOURNAL, journal.to_bytes())
    store.folder.sync()
    if journal.verb != "revert":
        make_folders(store, journal)
    for step in journal.steps:
        stage_step(store, step)


def make_folders(store: Store, journal: Journal) -> None:
    for path in journal.folders:
        above, _, name = path.rpartition("/")
        if store.at(path) is None:
            parent = present(store.at(above), above)
            parent.make_child(name, parent.own_status().st_mode & 0o777)
            parent.sync()


def stage_step(store: Store, step: Step) -> None:
    if step.new is None:
        return
    like = step.name if step.old is not None else None
    try:
        folder = present(store.at(step.folder), step.folder)
        folder.create(step.beside, store.blob(step.new), new_mode(store), like)
    except (FileNotFoundError, NotAFile):
        raise edited_just_now(step) from None
    folder.sync()


def new_mode(store: Store) -> int:
    """A new file is as open as its neighbour, whatever the umask."""
    above, _, name = PROTO.rpartition("/")
    folder = store.at(above)
    status = folder.status(name) if folder else None
    return status.st_mode & 0o666 if status else 0o644


def check_unchanged(store: Store, step: Step) -> None:
    if found(store, step) != step.old:
        raise edited_just_now(step)


def move(store: Store, step: Step) -> None:
    """What comes out must be what the plan was made for; else it goes back at once."""
    try:
        folder = present(store.at(step.folder), step.folder)
        if step.new is None:
            folder.move(step.name, step.beside, ours=False)
        elif step.old is None:
            folder.move(step.beside, step.name)
        else:
            folder.exchange(step.beside, step.name, step.spare)
    except (FileExistsError, FileNotFoundError):
        raise edited_just_now(step) from None
    if step.old is not None and not kept(folder, step):
        put_back(folder, step, step.spare if folder.status(step.spare) else step.beside)
        raise edited_just_now(step)
    folder.sync()


def put_record(store: Store, journal: Journal) -> None:
    if journal.record is None:
        store.remove(RECORD)
    else:
        store.put(store.folder, RECORD, journal.record.encode("utf-8"))
    store.folder.sync()


def tidy(store: Store, journal: Journal, made: bool) -> "list[str]":
    """Remove what lies beside the targets, the journal last; returns what someone saved into."""
    left = [path for step in journal.steps for path in remove_beside(store, step, made)]
    if made == (journal.verb == "revert"):  # else they are to stay
        remove_folders(store, journal)
    if made:
        store.keep_blobs(journal.keep)
    store.remove(STAGING)
    store.remove(JOURNAL)
    store.folder.sync()
    return left


def remove_beside(store: Store, step: Step, made: bool) -> "list[str]":
    folder = store.at(step.folder)
    if folder is None:
        return []
    for name in step.siblings:
        if is_ours(store, folder, name, step, made):
            folder.unlink(name)
    folder.sync()
    return [folder.path(name) for name in step.siblings if folder.status(name) is not None]


def is_ours(store: Store, folder: Folder, name: str, step: Step, made: bool) -> bool:
    """Whether it holds bytes of the journal; before they are moved, the new ones may be torn."""
    try:
        data = folder.read(name)
    except NotAFile:
        return False
    if data is None or sha256(data) in (step.old, step.new):
        return data is not None
    return not made and step.new is not None and is_torn(data, store.read_blob(step.new) or b"")


def is_torn(data: bytes, whole: bytes) -> bool:
    """Whether a loss of power can have made this of a file that was being written."""
    return len(data) <= len(whole) and all(a in (0, b) for a, b in zip(data, whole))


def remove_folders(store: Store, journal: Journal) -> None:
    for path in reversed(journal.folders):
        above, _, name = path.rpartition("/")
        parent = store.at(above)
        if parent is not None:
            store.folders.pop(path, None)
            parent.remove_child(name)
            parent.sync()


# Back


def check_may_take_back(store: Store, journal: Journal) -> None:
    """Nothing of a user's would be lost by it, whoever wrote the journal."""
    now = {step: found(store, step) for step in journal.steps}
    any_moved = any(now[step] == step.new for step in journal.steps)
    for step in journal.steps:
        if now[step] in (step.old, step.new):
            check_ours(store, journal, step)
        elif any_moved and now[step] is not None:
            raise Refused(
                "was edited after the interrupted run: it is neither the old nor the new file",
                f"save it elsewhere, put {FOLDER}/blobs/{step.old} in its place and run this again"
                if step.old else "move it away and run this again", step.path)


def check_ours(store: Store, journal: Journal, step: Step) -> None:
    data = None if step.path == PROTO else store.read_target(step.path)
    names = f"{journal.type_name}(?:Broadcast|Shape)|{Naming(journal.type_name).stem}_simd"
    if data is not None and not re.search(names.encode("ascii"), data):
        problem = "the journal would change this file, which is not the kit's"
        raise RecordDamaged(problem, RESTORE, step.path)


def take_back(store: Store, journal: Journal) -> "list[str]":
    """An error leaves the journal: the next run goes on from there."""
    try:
        for step in reversed(journal.steps):
            move_back(store, step)
        return tidy(store, journal, made=False)
    except OSError as error:
        if are(store, journal, "old"):
            raise
        problem = "the tree is mixed, some files are old and some are new"
        fix = "mend the file system, then run apply or revert again: it goes on from here"
        raise Mixed(f"{error.filename}: {error.strerror}: {problem}", fix) from error


def move_back(store: Store, step: Step) -> None:
    """The old file goes back in the place of our new one, or of nothing; a user's stays there."""
    folder, now = store.at(step.folder), found(store, step)
    if folder is None or now not in (step.new, None):
        return
    if now is not None and peek(folder, step.beside) == now:
        folder.unlink(step.beside)  # it was linked into its place
    if step.old is not None:
        if now == step.new and not kept(folder, step):
            stage_step(store, step._replace(old=step.new, new=step.old))
        name = kept(folder, step)
        if name:
            put_back(folder, step, name)
    elif now is not None:
        folder.move(step.name, step.beside, ours=False)
    folder.sync()


def kept(folder: Folder, step: Step) -> "str | None":
    """The name under which the old file lies, where it was moved out of its place."""
    return next((name for name in step.siblings if peek(folder, name) == step.old), None)


def put_back(folder: Folder, step: Step, name: str) -> None:
    """What was moved out of its place goes back there, and what is there now comes out."""
    spare, beside = step.siblings
    if folder.status(step.name) is None:
        folder.move(name, step.name)
    else:
        folder.exchange(name, step.name, beside if name == spare else spare)
