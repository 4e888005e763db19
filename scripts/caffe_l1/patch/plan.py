"""What apply and revert would change, worked out in memory; nothing here writes.

`check` shows this plan; `apply` and `revert` make it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from .. import VERSION
from ..common.diff import unified_diff
from ..common.errors import Refused
from ..common.tree import PROTO, CaffeTree, find_registration, line_of
from .commit import Change
from .naming import Naming
from .payload import message_text, source_files
from .proto_edit import Addition, field_number, insert, present, remove
from .protoc import parse
from .record import FileRecord, Record, addition
from .store import Store, check_locks, sha256
from .target import check_writable, read_target


@dataclass(frozen=True)
class Plan:
    changes: list[Change] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    record: Record | None = None
    blobs: list[bytes] = field(default_factory=list)  # what the record speaks of
    notes: list[str] = field(default_factory=list)


class Context:
    """One tree with its record, and caffe.proto as protoc sees it."""

    def __init__(self, tree: CaffeTree, store: Store, record: Record | None) -> None:
        self.tree = tree
        self.store = store
        self.record = record

    def parse(self, data: bytes):
        return parse(data, self.tree.path(PROTO).parent)

    def blob(self, name: str) -> bytes:
        return self.store.blob(name)


# apply


def plan_apply(context: Context, naming: Naming) -> Plan:
    check_writable(context.store.root)
    proto = read_target(context.store, PROTO) or b""
    check_locks(context.store, PROTO)
    wanted = source_files(context.tree, naming)
    found = {path: read_target(context.store, path) for path in wanted}
    check_not_registered(context, naming, wanted, found)
    check_targets(context, wanted, found)
    before, after = edit_proto(context, naming, proto)
    ours = proto != before  # our lines are in it: then equal files are ours as well
    changes = [Change(PROTO, proto, after)] if after != proto else []
    changes += [Change(p, found[p], new) for p, new in wanted.items() if found[p] != new]
    changes += leave_behind(context, wanted)
    folders = missing_folders(context, wanted)
    record = Record(
        kit=VERSION,
        type_name=naming.type_name,
        field_name=naming.field_name,
        field_id=naming.field_id,
        message=message_text(naming).decode("utf-8"),
        proto_before=sha256(before),
        proto_after=sha256(after),
        files=[file_record(context, p, new, found[p], ours) for p, new in wanted.items()],
        folders=folders or (context.record.folders if context.record else []),
    )
    return Plan(changes, folders, record, [before, after, *wanted.values()])


def naming_for(record: Record | None, asked: Naming, given: list[str]) -> Naming:
    """A tree that has our layer keeps its names and number; asking for others is an error."""
    if record is None:
        return asked
    for name in given:
        old, new = getattr(record, name), getattr(asked, name)
        if old != new:
            option = "--" + name.replace("_", "-")
            raise Refused(
                f"this tree was patched with {option} {old}",
                f"leave out {option} {new}, or revert first",
                PROTO,
            )
    return record.naming


def check_not_registered(
    context: Context, naming: Naming, wanted: dict[str, bytes], found: dict[str, bytes | None]
) -> None:
    ours = {path for path, data in found.items() if is_ours(context, path, data, wanted[path])}
    for place in find_registration(context.tree.root, naming.type_name):
        if place.file not in ours:
            raise Refused(
                f'this tree registers a layer type "{naming.type_name}" of its own',
                "use it, or let ours stand beside it: "
                "--type-name MyL1Loss --field-name my_l1_loss_param",
                place.file,
                place.line,
            )


def is_ours(context: Context, path: str, data: bytes | None, new: bytes) -> bool:
    return data is not None and (data == new or recorded_hash(context, path) is not None)


def recorded_hash(context: Context, path: str) -> str | None:
    files = context.record.files if context.record else []
    return next((file.after for file in files if file.path == path), None)


def check_targets(
    context: Context, wanted: dict[str, bytes], found: dict[str, bytes | None]
) -> None:
    """What stands where ours goes is ours, or byte for byte the same."""
    for path, new in wanted.items():
        data = found[path]
        known = recorded_hash(context, path)
        if data is None or data == new or (known and is_as_put(data, known)):
            continue
        if known is not None:
            raise edited(path, data, context.blob(known))
        raise Refused(
            "is there already, with other content",
            "move it away, or apply under another name with --type-name and --field-name",
            path,
            first_line_changed(data, new),
        )


def is_as_put(data: bytes, after: str) -> bool:
    """Whether these are the bytes with this hash, but for line ends: git may change those."""
    feeds = data.replace(b"\r\n", b"\n")
    return after in map(sha256, (data, feeds, feeds.replace(b"\n", b"\r\n")))


def edited(path: str, data: bytes, ours: bytes) -> Refused:
    return Refused(
        "was edited after the kit put it there",
        "save your edit elsewhere and delete the file, then run this again",
        path,
        first_line_changed(data, ours),
    )


def first_line_changed(one: bytes, other: bytes) -> int:
    one, other = one.replace(b"\r\n", b"\n"), other.replace(b"\r\n", b"\n")
    lines = zip(one.split(b"\n") + [b""], other.split(b"\n") + [b""])
    for number, (a, b) in enumerate(lines, 1):
        if a != b:
            return number
    return min(one.count(b"\n"), other.count(b"\n")) + 1


def edit_proto(context: Context, naming: Naming, proto: bytes) -> tuple[bytes, bytes]:
    """caffe.proto without our lines and with the ones of this kit."""
    new = addition(naming, message_text(naming))
    before = without_ours(context, proto, new)
    after = insert(before, new, context.parse)
    return before, (proto if same_edit(context, proto, new) else after)


def same_edit(context: Context, proto: bytes, new: Addition) -> bool:
    """Whether our very lines are in it, wherever they stand by now."""
    try:
        remove(proto, new, context.parse)
    except (Refused, ValueError):
        return False
    return True


def without_ours(context: Context, proto: bytes, new: Addition) -> bytes:
    """caffe.proto as it was; Refused where something of our names is there that is not ours."""
    old = context.record.addition if context.record else new
    message, its_field = present(context.parse(proto), old)
    if not message and not its_field:
        return proto
    if context.record is None and not is_exact(context, proto, old):
        raise foreign(context, proto, old)
    if message != its_field:
        raise half_there(context, proto, old, message)
    if context.record and sha256(proto) == context.record.proto_after:
        return context.blob(context.record.proto_before)
    return remove(proto, old, context.parse)


def is_exact(context: Context, proto: bytes, ours: Addition) -> bool:
    """Whether the file is exactly what insert makes of what remains without our lines."""
    try:
        return insert(remove(proto, ours, context.parse), ours, context.parse) == proto
    except (Refused, ValueError):
        return False


def half_there(context: Context, proto: bytes, ours: Addition, message: bool) -> Refused:
    there = "message " + ours.message if message else ours.field_name
    gone = ours.field_name if message else "message " + ours.message
    return Refused(
        f"{there} is there, but {gone} is gone",
        "delete it as well, then run this again",
        PROTO,
        line_naming(proto, ours.message if message else ours.field_name),
    )


def foreign(context: Context, proto: bytes, ours: Addition) -> Refused:
    message, its_field = present(context.parse(proto), ours)
    name = ours.field_name if its_field else ours.message
    return Refused(
        f"{name} is there already, and the kit did not put it there",
        "apply under another name: --type-name MyL1Loss --field-name my_l1_loss_param",
        PROTO,
        line_naming(proto, name),
    )


def line_naming(data: bytes, name: str) -> int:
    offset = data.find(name.encode())
    return line_of(data, offset) if offset >= 0 else 0


def leave_behind(context: Context, wanted: dict[str, bytes]) -> list[Change]:
    """Files of an older kit that this one no longer has."""
    changes = []
    for file in context.record.files if context.record else []:
        if file.path not in wanted and not file.adopted:
            changes += taken_out(context, file)
    return changes


def missing_folders(context: Context, wanted: dict[str, bytes]) -> list[str]:
    folders: list[str] = []
    for path in wanted:
        parent = path.rpartition("/")[0]
        while context.store.at(parent) is None:
            folders.append(parent)
            parent = parent.rpartition("/")[0]
    return sorted(set(folders))


def file_record(
    context: Context, path: str, new: bytes, found: bytes | None, ours: bool
) -> FileRecord:
    files = context.record.files if context.record else []
    known = next((file for file in files if file.path == path), None)
    adopted = known.adopted if known else found == new and not ours
    return FileRecord(path, sha256(new), adopted)


# revert


def plan_revert(context: Context, naming: Naming) -> Plan:
    record = context.record or imagined_record(context, naming)
    context = Context(context.tree, context.store, record)
    changes: list[Change] = []
    notes: list[str] = []
    for file in reversed(record.files):
        if file.adopted:
            notes.append(f"{file.path} was there before apply and stays")
        else:
            changes += taken_out(context, file)
    proto = read_target(context.store, PROTO) or b""
    before = without_ours(context, proto, record.addition)
    if before != proto:
        changes.append(Change(PROTO, proto, before))
    return Plan(changes, record.folders, None, [], notes)


def imagined_record(context: Context, naming: Naming) -> Record:
    """Without a record: what this kit would have written, if that is exactly what is there."""
    proto = read_target(context.store, PROTO) or b""
    number = field_number(context.parse(proto), naming.field_name)
    naming = replace(naming, field_id=number or naming.field_id)
    text = message_text(naming)
    ours = addition(naming, text)
    if any(present(context.parse(proto), ours)) and not is_exact(context, proto, ours):
        raise foreign(context, proto, ours)
    wanted = source_files(context.tree, naming)
    there = [path for path in wanted if context.tree.path(path).exists()]
    return Record(
        VERSION,
        naming.type_name,
        naming.field_name,
        naming.field_id,
        text.decode("utf-8"),
        "",
        "",
        [FileRecord(path, sha256(wanted[path]), False) for path in there],
        [],
    )


def taken_out(context: Context, file: FileRecord) -> list[Change]:
    data = read_target(context.store, file.path)
    if data is None:
        return []
    if not is_as_put(data, file.after):
        raise edited(file.path, data, recorded_bytes(context, file))
    return [Change(file.path, data, None)]


def recorded_bytes(context: Context, file: FileRecord) -> bytes:
    data = context.store.read_blob(file.after)
    if data is not None:
        return data
    wanted = source_files(context.tree, context.record.naming) if context.record else {}
    return wanted.get(file.path, b"")


# How it looks


def diff(plan: Plan) -> str:
    """The plan as a unified diff that `git apply` and `patch -p1` can read."""
    diffs = [unified_diff(change.path, change.old, change.new) for change in plan.changes]
    return b"".join(diffs).decode("utf-8", "surrogateescape")
