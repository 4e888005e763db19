"""What the kit did to a tree, kept in it as record.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from . import VERSION
from .commit import check_inside
from .errors import RecordDamaged
from .naming import Naming
from .proto_edit import Addition
from .store import FOLDER, Store, read_if_there, restore_hint

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
    if not store.exists():
        return None
    data = read_if_there(store.record)
    return None if data is None else parse_record(data)


def parse_record(data: bytes) -> Record:
    where = f"{FOLDER}/record.json"
    try:
        fields = json.loads(data.decode("utf-8"))
        number = fields.pop("format")
        if isinstance(number, int) and number > FORMAT:
            newer = f"was written by a newer kit (format {number}, kit {VERSION} knows {FORMAT})"
            raise RecordDamaged(newer, "use the kit that wrote it", where)
        fields["files"] = [FileRecord(**file) for file in fields["files"]]
        record = Record(**fields)
        check_types(record)
        return record
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordDamaged(f"the record is damaged: {error}", restore_hint(), where) from None


def check_types(record: Record) -> None:
    texts = [record.kit, record.type_name, record.field_name, record.message] + record.blobs
    if not all(isinstance(text, str) for text in texts) or not isinstance(record.field_id, int):
        raise TypeError("a value has the wrong type")
    if any(not isinstance(file.adopted, bool) for file in record.files):
        raise TypeError("adopted is neither true nor false")
    if any(len(name) != 64 or set(name) - set("0123456789abcdef") for name in record.blobs):
        raise ValueError("a hash is none")
    for path in [file.path for file in record.files] + record.folders:
        check_inside(path)
