"""What a tree holds of the kit, read from the tree itself; the record only says what is ours."""

from typing import NamedTuple

from ..common.errors import Refused, one_line
from ..common.tree import PROTO, find_registration
from .commit import interrupted
from .naming import Naming
from .plan import Context, is_as_put, line_edited, without_ours
from .record import FileRecord


class FileState(NamedTuple):
    path: str
    state: str  # absent, applied, modified, foreign
    line: int = 0

    def __str__(self) -> str:
        return f"{self.path}:{self.line}" if self.line else self.path


class State(NamedTuple):
    word: str  # not applied, applied, partial, interrupted, foreign, modified, busy
    text: str
    files: "list[FileState]"
    naming: Naming
    kit: "str | None" = None


def read_state(context: Context) -> State:
    """What is there of the layer; raises RecordDamaged where the record cannot be trusted."""
    kit = context.record.kit if context.record else None
    proto = context.store.read_target(PROTO) or b""
    context = context.with_number_in(proto)
    verb = interrupted(context.store)
    if verb is not None:
        text = f"interrupted: {verb} was killed half-way; apply or revert puts the tree right"
        return State("interrupted", text, [], context.naming, kit)
    files = [proto_state(context, proto), *(file_state(context, file) for file in context.files)]
    return State(*summary(context, files), files, context.naming, kit)


def proto_state(context: Context, proto: bytes) -> FileState:
    context.parse(proto)  # a file that protoc refuses has no state
    try:
        before = without_ours(context, proto)
    except Refused as error:
        return FileState(PROTO, "modified" if context.record else "foreign", error.line)
    return FileState(PROTO, "absent" if before == proto else "applied")


def file_state(context: Context, file: FileRecord) -> FileState:
    data = context.store.read_target(file.path)
    if data is None:
        return FileState(file.path, "absent")
    if is_as_put(file, data):
        return FileState(file.path, "applied")
    word = "modified" if context.record else "foreign"
    return FileState(file.path, word, line_edited(context, file, data))


def summary(context: Context, files: "list[FileState]") -> "tuple[str, str]":
    """The state of the tree, in a word and in a line."""
    for word in ("foreign", "modified"):
        places = [str(file) for file in files if file.state == word]
        if places:
            return word, f"{word} ({', '.join(places)})"
    missing = [file.path for file in files if file.state == "absent"]
    if len(missing) == len(files):
        for file, line in find_registration(context.tree.root, context.naming.type_name):
            where = one_line(f"{file}:{line}")
            return "foreign", f'foreign: "{context.naming.type_name}" is registered at {where}'
        return "not applied", "not applied"
    if missing:
        count = f"{len(files) - len(missing)}/{len(files)}"
        return "partial", f"partial {count} (missing: {', '.join(missing)})"
    kit = "kit " + context.record.kit if context.record else "without a record"
    return "applied", f"applied ({kit}, field number {context.naming.field_id})"
