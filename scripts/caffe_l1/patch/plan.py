"""What apply and revert would change, worked out in memory; nothing here writes.

`check` shows this plan; `apply` and `revert` make it.
"""

import os
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from .. import VERSION
from ..common.errors import Refused
from ..common.tree import PROTO, CaffeTree, find_registration, line_of
from .commit import Change
from .naming import OTHER_NAMES, Naming
from .payload import message_text, source_files
from .proto_edit import Addition, Source, check_names_free, field_number, insert, remove
from .protoc import parse
from .record import FileRecord, Record, addition
from .store import Store, check_locks, sha256
from .target import check_writable, read_target


class Plan(NamedTuple):
    changes: "list[Change]"
    folders: "list[str]"
    record: "Record | None"
    blobs: "list[bytes]"  # what the record speaks of
    notes: "list[str]"
    done: bool  # the tree is as wanted, and the record too


class Context(NamedTuple):
    """One tree with its record, and how the layer is called in it."""

    tree: CaffeTree
    store: Store
    record: "Record | None"
    naming: Naming

    def parse(self, data: bytes) -> Any:
        return parse(data, self.tree.path(PROTO).parent)

    @property
    def wanted(self) -> "dict[str, bytes]":
        return source_files(self.tree, self.naming)

    @property
    def new(self) -> Addition:
        return addition(self.naming, message_text(self.naming))

    @property
    def ours(self) -> Addition:
        """The message and field of the record; without one, those that this kit would put in."""
        return self.record.addition if self.record else self.new

    @property
    def known(self) -> "dict[str, FileRecord]":
        return {file.path: file for file in self.record.files} if self.record else {}

    @property
    def files(self) -> "list[FileRecord]":
        """Those of the record; without one, those that this kit would put there."""
        if self.record:
            return self.record.files
        return [FileRecord(path, sha256(data), False) for path, data in self.wanted.items()]

    def with_number_in(self, proto: bytes) -> "Context":
        """Without a record, the field's number is the one that the tree gives it."""
        number = None if self.record else field_number(proto, self.naming.field_name, self.parse)
        return self._replace(naming=self.naming._replace(field_id=number)) if number else self


def naming_for(record: "Record | None", given: "dict[str, Any]") -> Naming:
    """A tree that has our layer keeps its names and number; asking for others is an error."""
    if record is None:
        return Naming(**given)
    for name, new in given.items():
        old = getattr(record, name)
        if old != new:
            option = "--" + name.replace("_", "-")
            raise Refused(f"this tree was patched with {option} {old}",
                          f"leave out {option} {new}, or revert first", PROTO)
    return record.naming


# apply


def plan_apply(context: Context) -> Plan:
    store, wanted = context.store, context.wanted
    check_writable(store.root)
    proto = read_target(store, PROTO) or b""
    check_locks(store, PROTO)
    found = {path: read_target(store, path) for path in wanted}
    check_not_registered(context, wanted, found)
    for path, new in wanted.items():
        check_target(context, path, found[path], new)
    before, after = edit_proto(context, proto)
    changes = [Change(PROTO, proto, after)]
    changes += [Change(path, found[path], new) for path, new in wanted.items()]
    changes = [change for change in changes if change.old != change.new]
    for file in context.known.values():  # what an older kit had and this one has no longer
        if file.path not in wanted and not file.adopted:
            changes += taken_out(context, file)
    # Equal files were there before apply, unless our lines in caffe.proto say that they are ours.
    theirs = {path for path, new in wanted.items() if found[path] == new and before == proto}
    folders = missing_folders(store, wanted)
    record = new_record(context, wanted, theirs, folders, before, after)
    old = context.record
    done = not changes and old is not None and (old.kit, old.files) == (record.kit, record.files)
    return Plan(changes, folders, record, [before, after, *wanted.values()], [], done)


def new_record(
    context: Context, wanted: "dict[str, bytes]", theirs: "set[str]", folders: "list[str]",
    before: bytes, after: bytes
) -> Record:
    known = context.known
    files = [FileRecord(path, sha256(new), known[path].adopted if path in known else path in theirs)
             for path, new in wanted.items()]
    return Record(
        kit=VERSION, **context.naming._asdict(), message=context.new.text.decode("utf-8"),
        proto_before=sha256(before), proto_after=sha256(after), files=files,
        folders=folders or (context.record.folders if context.record else []))


def check_not_registered(
    context: Context, wanted: "dict[str, bytes]", found: "dict[str, bytes | None]"
) -> None:
    for file, line in find_registration(context.tree.root, context.naming.type_name):
        if file not in context.known and not (file in wanted and found[file] == wanted[file]):
            problem = f'this tree registers a layer type "{context.naming.type_name}" of its own'
            raise Refused(problem, f"use it, or {OTHER_NAMES}", file, line)


def check_target(context: Context, path: str, data: "bytes | None", new: bytes) -> None:
    """What stands where ours goes is ours, or byte for byte the same."""
    if data is None or data == new:
        return
    if path in context.known:
        check_as_put(context, context.known[path], data)
    else:
        raise Refused("is there already, with other content", f"move it away, or {OTHER_NAMES}",
                      path, first_line_changed(data, new))


def edit_proto(context: Context, proto: bytes) -> "tuple[bytes, bytes]":
    """caffe.proto without our lines, and with the ones of this kit, wherever they stand by now."""
    before, new = without_ours(context, proto), context.new
    there = before != proto and context.ours == new
    return before, proto if there else insert(before, new, context.parse)


def missing_folders(store: Store, paths: "dict[str, bytes]") -> "list[str]":
    above = {str(folder) for path in paths for folder in PurePosixPath(path).parents} - {"."}
    return sorted(folder for folder in above if store.at(folder) is None)


# revert


def plan_revert(context: Context) -> Plan:
    proto = read_target(context.store, PROTO) or b""
    context = context.with_number_in(proto)
    before = without_ours(context, proto)
    changes, notes = [], []
    for file in reversed(context.files):
        if file.adopted:
            notes.append(f"{file.path} was there before apply and stays")
        else:
            changes += taken_out(context, file)
    if before != proto:
        changes.append(Change(PROTO, proto, before))
    record = context.record
    done = not changes and record is None
    return Plan(changes, record.folders if record else [], None, [], notes, done)


def taken_out(context: Context, file: FileRecord) -> "list[Change]":
    there = os.path.lexists(str(context.tree.path(file.path)))
    data = read_target(context.store, file.path) if there else None
    if data is None:
        return []
    check_as_put(context, file, data)
    return [Change(file.path, data, None)]


# What is ours


def without_ours(context: Context, proto: bytes) -> bytes:
    """caffe.proto as it was; without a record, only what insert would write is ours."""
    ours = context.ours
    if context.record or is_exact(context, proto):
        return remove(proto, ours, context.parse)
    check_names_free(Source(proto, context.parse), ours)
    return proto


def is_exact(context: Context, proto: bytes) -> bool:
    try:
        rest = remove(proto, context.ours, context.parse)
        return insert(rest, context.ours, context.parse) == proto
    except Refused:
        return False


def check_as_put(context: Context, file: FileRecord, data: bytes) -> None:
    if not is_as_put(file, data):
        raise Refused("was edited after the kit put it there",
                      "save your edit elsewhere and delete the file, then run this again",
                      file.path, line_edited(context, file, data))


def is_as_put(file: FileRecord, data: bytes) -> bool:
    """Whether these are its bytes, apart from line ends, which git may change."""
    feeds = data.replace(b"\r\n", b"\n")
    return file.after in map(sha256, (data, feeds, feeds.replace(b"\n", b"\r\n")))


def line_edited(context: Context, file: FileRecord, data: bytes) -> int:
    ours = context.store.read_blob(file.after) or context.wanted.get(file.path, b"")
    return first_line_changed(data, ours)


def first_line_changed(one: bytes, other: bytes) -> int:
    one, other = one.replace(b"\r\n", b"\n"), other.replace(b"\r\n", b"\n")
    return line_of(one, len(os.path.commonprefix([one, other])))
