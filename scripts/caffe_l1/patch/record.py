"""What the kit did to a tree, kept in it as record.json."""

import json
from typing import NamedTuple

from .. import VERSION
from ..common.errors import RecordDamaged, WrongUsage
from ..common.untrusted import HASH, TEXT, check_shape, parse_object
from .naming import Naming, check_naming
from .payload import FOLDERS, may_be_ours
from .proto_edit import Addition
from .store import FOLDER, RECORD, RESTORE, Store

FORMAT = 1


class FileRecord(NamedTuple):
    path: str
    after: str  # sha256 of the bytes the kit put there
    adopted: bool  # was there before, byte for byte the same: revert leaves it


class Record(NamedTuple):
    kit: str
    type_name: str
    field_name: str
    field_id: int
    message: str  # the text of the message, lines ending in \n
    proto_before: str  # sha256
    proto_after: str
    files: "list[FileRecord]"
    folders: "list[str]"  # made by the kit

    @property
    def naming(self) -> Naming:
        return Naming(self.type_name, self.field_name, self.field_id)

    @property
    def addition(self) -> Addition:
        return addition(self.naming, self.message.encode("utf-8"))

    @property
    def blobs(self) -> "list[str]":
        return [self.proto_before, self.proto_after] + [file.after for file in self.files]

    def to_bytes(self) -> bytes:
        files = [file._asdict() for file in self.files]
        fields = dict(self._asdict(), files=files, format=FORMAT)
        return json.dumps(fields, indent=1).encode() + b"\n"


SHAPE = {
    "format": FORMAT,
    "kit": r"[0-9A-Za-z.+-]{1,40}",
    "type_name": TEXT,
    "field_name": TEXT,
    "field_id": int,
    "message": TEXT,
    "proto_before": HASH,
    "proto_after": HASH,
    "files": [{"path": TEXT, "after": HASH, "adopted": bool}],
    "folders": [TEXT],
}


def addition(naming: Naming, text: bytes) -> Addition:
    return Addition(naming.message, naming.field_name, naming.field_id, text)


def read_record(store: Store) -> "Record | None":
    """The record, None where there is none; RecordDamaged where it cannot be trusted."""
    data = store.read_own(RECORD)
    return None if data is None else parse_record(data)


def parse_record(data: bytes) -> Record:
    where = f"{FOLDER}/{RECORD}"
    try:
        fields = parse_object(data)
        number = fields.get("format", 0)
        if type(number) is int and number > FORMAT:
            newer = f"was written by a newer kit (format {number}, kit {VERSION} knows {FORMAT})"
            raise RecordDamaged(newer, "use the kit that wrote it", where)
        check_shape(fields, SHAPE)
        del fields["format"]
        files = [FileRecord(**file) for file in fields.pop("files")]
        record = Record(files=files, **fields)
        check_meaning(record)
        return record
    except (ValueError, WrongUsage) as error:
        problem = f"the record is damaged: {getattr(error, 'problem', error)}"
        raise RecordDamaged(problem, RESTORE, where) from None


def check_meaning(record: Record) -> None:
    """That a kit would have written it; else ValueError or WrongUsage."""
    check_naming(record.naming)
    if not record.files:
        raise ValueError("it tells of no file")
    if f"message {record.naming.message}" not in record.message:
        raise ValueError("message is not valid")
    check_paths([file.path for file in record.files], record.folders, record.naming)


def check_paths(files: "list[str]", folders: "list[str]", naming: Naming) -> None:
    """Only what a kit puts into a tree under these names, each once."""
    for path in files:
        if not may_be_ours(path, naming):
            raise ValueError(f"{path!r} is not a path of the kit")
    if not set(folders) <= set(FOLDERS):
        raise ValueError("a folder is not one of the kit")
    if len(set(files)) != len(files) or len(set(folders)) != len(folders):
        raise ValueError("a path is there twice")
