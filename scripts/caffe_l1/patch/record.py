"""What the kit did to a tree, kept in it as record.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from .. import VERSION
from ..common.errors import RecordDamaged, WrongUsage
from ..common.untrusted import (
    check_keys,
    is_hash,
    is_list_of,
    is_match,
    is_number,
    is_text,
    parse_object,
)
from .naming import Naming, check_naming
from .payload import FOLDERS, may_be_ours
from .proto_edit import Addition
from .store import FOLDER, RECORD, Store, restore_hint

FORMAT = 1


@dataclass(frozen=True)
class FileRecord:
    path: str
    after: str  # sha256 of the bytes the kit put there
    adopted: bool  # was there before, byte for byte the same: revert leaves it


@dataclass(frozen=True)
class Record:
    kit: str
    type_name: str
    field_name: str
    field_id: int
    message: str  # the text of the message, lines ending in \n
    proto_before: str  # sha256
    proto_after: str
    files: list[FileRecord]
    folders: list[str]  # made by the kit

    @property
    def naming(self) -> Naming:
        return Naming(self.type_name, self.field_name, self.field_id)

    @property
    def addition(self) -> Addition:
        return addition(self.naming, self.message.encode("utf-8"))

    @property
    def blobs(self) -> list[str]:
        return [self.proto_before, self.proto_after] + [file.after for file in self.files]

    def to_bytes(self) -> bytes:
        return json.dumps(dict(asdict(self), format=FORMAT), indent=1).encode() + b"\n"


def addition(naming: Naming, text: bytes) -> Addition:
    return Addition(naming.message, naming.field_name, naming.field_id, text)


def read_record(store: Store) -> Record | None:
    """The record, None where there is none; RecordDamaged where it cannot be trusted."""
    data = store.read_own(RECORD)
    return None if data is None else parse_record(data)


def parse_record(data: bytes) -> Record:
    where = f"{FOLDER}/{RECORD}"
    try:
        fields = parse_object(data)
        number = fields.get("format", 0)
        if is_number(number) and number > FORMAT:
            newer = f"was written by a newer kit (format {number}, kit {VERSION} knows {FORMAT})"
            raise RecordDamaged(newer, "use the kit that wrote it", where)
        return checked(fields)
    except ValueError as error:
        raise RecordDamaged(f"the record is damaged: {error}", restore_hint(), where) from None


def checked(fields: dict[str, Any]) -> Record:
    """The record that these fields make; ValueError where a kit would not have written them."""
    check_keys(fields, RECORD_KEYS, "the record")
    for file in fields["files"]:
        check_keys(file, FILE_KEYS, "a file")
    del fields["format"]
    files = [FileRecord(**file) for file in fields.pop("files")]
    record = Record(files=files, **fields)
    check_meaning(record)
    return record


RECORD_KEYS = {
    "format": lambda value: is_number(value) and value == FORMAT,
    "kit": is_match(r"[0-9A-Za-z.+-]{1,40}"),
    "type_name": is_text,
    "field_name": is_text,
    "field_id": is_number,
    "message": is_text,
    "proto_before": is_hash,
    "proto_after": is_hash,
    "files": is_list_of(lambda value: isinstance(value, dict)),
    "folders": is_list_of(is_text),
}
FILE_KEYS = {"path": is_text, "after": is_hash, "adopted": lambda value: isinstance(value, bool)}


def check_meaning(record: Record) -> None:
    try:
        check_naming(record.naming)
    except WrongUsage as error:
        raise ValueError(error.problem) from None
    if not record.files:
        raise ValueError("it tells of no file")
    if f"message {record.naming.message}" not in record.message:
        raise ValueError("message of the record is not valid")
    check_paths([file.path for file in record.files], record.folders, record.naming)


def check_paths(files: list[str], folders: list[str], naming: Naming) -> None:
    """Only what a kit puts into a tree under these names, each once."""
    for path in files:
        if not may_be_ours(path, naming):
            raise ValueError(f"{path!r} is not a path of the kit")
    if not set(folders) <= set(FOLDERS):
        raise ValueError("a folder is not one of the kit")
    if len(set(files)) != len(files) or len(set(folders)) != len(folders):
        raise ValueError("a path is there twice")
