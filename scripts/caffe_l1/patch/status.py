"""What a tree holds of the kit, read from the tree itself; the record only says what is ours."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..common.errors import Refused, one_line
from ..common.tree import PROTO, find_registration
from .commit import interrupted
from .naming import Naming
from .payload import message_text, source_files
from .plan import Context, first_line_changed, is_as_put, is_exact, line_naming
from .proto_edit import Addition, field_number, present, remove
from .record import addition
from .store import sha256


@dataclass(frozen=True)
class FileState:
    path: str
    state: str  # absent, applied, modified, foreign
    line: int = 0

    def __str__(self) -> str:
        return f"{self.path}:{self.line}" if self.line else self.path


@dataclass(frozen=True)
class State:
    word: str  # not applied, applied, partial, interrupted, foreign, modified, busy
    text: str
    files: list[FileState]
    naming: Naming
    kit: str | None = None


def read_state(context: Context, asked: Naming) -> State:
    """What is there of the layer; raises RecordDamaged where the record cannot be trusted."""
    record = context.record
    naming = record.naming if record else found_number(context, asked)
    kit = record.kit if record else None
    verb = interrupted(context.store)
    if verb is not None:
        text = f"interrupted: {verb} was killed half-way; apply or revert completes it"
        return State("interrupted", text, [], naming, kit)
    files = [proto_state(context, naming)] + source_states(context, naming)
    word, text = summary(context, naming, files)
    return State(word, text, files, naming, kit)


def found_number(context: Context, naming: Naming) -> Naming:
    file = context.parse(context.store.read_target(PROTO) or b"")
    return replace(naming, field_id=field_number(file, naming.field_name) or naming.field_id)


def proto_state(context: Context, naming: Naming) -> FileState:
    data = context.store.read_target(PROTO) or b""
    record = context.record
    ours = record.addition if record else addition(naming, message_text(naming))
    there = present(context.parse(data), ours)
    if not any(there):
        return FileState(PROTO, "absent")
    if record is None:
        exact = is_exact(context, data, ours)
        line = 0 if exact else line_naming(data, ours.field_name if there[1] else ours.message)
        return FileState(PROTO, "applied" if exact else "foreign", line)
    if not all(there):
        return FileState(PROTO, "modified", line_naming(data, half_of(ours, there[0])))
    try:
        remove(data, ours, context.parse)
    except Refused as error:
        return FileState(PROTO, "modified", error.line)
    return FileState(PROTO, "applied")


def half_of(ours: Addition, message: bool) -> str:
    return ours.message if message else ours.field_name


def source_states(context: Context, naming: Naming) -> list[FileState]:
    wanted = source_files(context.tree, naming)
    if context.record is None:
        return [source_state(context, p, sha256(new), new, "foreign") for p, new in wanted.items()]
    return [
        source_state(context, f.path, f.after, wanted.get(f.path, b""), "modified")
        for f in context.record.files
    ]


def source_state(
    context: Context, path: str, after: str, new: bytes, otherwise: str
) -> FileState:
    data = context.store.read_target(path)
    if data is None:
        return FileState(path, "absent")
    if is_as_put(data, after):
        return FileState(path, "applied")
    ours = context.store.read_blob(after) or new
    return FileState(path, otherwise, first_line_changed(data, ours))


def summary(context: Context, naming: Naming, files: list[FileState]) -> tuple[str, str]:
    for word in ("foreign", "modified"):
        places = [str(file) for file in files if file.state == word]
        if places:
            return word, "{} ({})".format(word, ", ".join(places))
    count = sum(file.state == "applied" for file in files)
    if count == 0:
        for place in find_registration(context.tree.root, naming.type_name):
            where = one_line(f"{place.file}:{place.line}")
            return "foreign", f'foreign: "{naming.type_name}" is registered at {where}'
        return "not applied", "not applied"
    if count < len(files):
        missing = ", ".join(str(file) for file in files if file.state == "absent")
        return "partial", f"partial {count}/{len(files)} (missing: {missing})"
    kit = "kit " + context.record.kit if context.record else "without a record"
    return "applied", f"applied ({kit}, field number {naming.field_id})"
