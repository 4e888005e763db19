"""What a run is about to do, as it lies in the tree until it is done."""

import json
from typing import NamedTuple

from ..common.errors import RecordDamaged, WrongUsage
from ..common.tree import PROTO
from ..common.untrusted import HASH, TEXT, check_shape, parse_object
from .naming import Naming, check_naming
from .record import check_paths, parse_record, read_record
from .store import FOLDER, RESTORE, Store

FORMAT = 2


class Step(NamedTuple):
    """A change as the journal holds it: hashes, the bytes themselves lie in the store."""

    path: str
    old: "str | None"
    new: "str | None"
    run: str

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def beside(self) -> str:
        """Holds the new bytes before the move and the old ones after it."""
        return self.siblings[1]

    @property
    def spare(self) -> str:
        """Holds the old bytes after the move where two files cannot be exchanged at once."""
        return self.siblings[0]

    @property
    def siblings(self) -> "tuple[str, str]":
        end = f"-{self.run}" if self.run else ""
        return f".{self.name}.l1loss-kit-old{end}", f".{self.name}.l1loss-kit-new{end}"


class Journal(NamedTuple):
    verb: str
    run: str  # a random number; empty where a kit of format 1 wrote it
    type_name: str
    steps: "list[Step]"
    folders: "list[str]"  # made by apply, removed by revert; outer ones first
    record: "str | None"
    keep: "list[str]"  # the blobs that the record speaks of

    def to_bytes(self) -> bytes:
        steps = [{"path": step.path, "old": step.old, "new": step.new} for step in self.steps]
        fields = dict(self._asdict(), steps=steps, format=FORMAT)
        return json.dumps(fields, indent=1).encode() + b"\n"


STEP = {"path": TEXT, "old": (HASH, None), "new": (HASH, None)}
SHAPE_OF_1 = {  # of kit 1.0.0, which told modes and owners: they are the file system's to say
    "format": 1,
    "verb": "apply|revert",
    "steps": [{**STEP, "mode": int, "owner": [int]}],
    "folders": [TEXT],
    "record": (TEXT, None),
    "keep": [HASH],
}
SHAPE = {**SHAPE_OF_1, "format": FORMAT, "steps": [STEP], "type_name": TEXT,
         "run": "(?:[0-9a-f]{16})?"}


def read_journal(store: Store, name: str) -> "Journal | None":
    """The journal, None where there is none; RecordDamaged where it cannot be trusted."""
    data = store.read_own(name)
    if data is None:
        return None
    try:
        fields = parse_object(data)
        check_shape(fields, (SHAPE, SHAPE_OF_1))
        if fields.pop("format") == 1:
            fields.update(run="", type_name=type_name_of_1(fields["record"], store))
        steps = [Step(step["path"], step["old"], step["new"], fields["run"])
                 for step in fields.pop("steps")]
        journal = Journal(steps=steps, **fields)
        check_meaning(journal)
        return journal
    except (ValueError, WrongUsage, RecordDamaged) as error:
        problem = f"the journal is damaged: {getattr(error, 'problem', error)}"
        raise RecordDamaged(problem, RESTORE, f"{FOLDER}/{name}") from None


def type_name_of_1(record: "str | None", store: Store) -> str:
    known = read_record(store) if record is None else parse_record(record.encode("utf-8"))
    return known.type_name if known else Naming().type_name


def check_meaning(journal: Journal) -> None:
    naming = Naming(journal.type_name)
    check_naming(naming)
    if journal.record is not None:
        parse_record(journal.record.encode("utf-8"))
    if (journal.record is None) != (journal.verb == "revert"):
        raise ValueError("verb and record do not fit")
    files = [step.path for step in journal.steps if step.path != PROTO]
    check_paths(files, journal.folders, naming)
    protos = [step for step in journal.steps if step.path == PROTO]
    if len(protos) > 1 or any(None in (step.old, step.new) for step in protos):
        raise ValueError("caffe.proto is changed once, and neither made nor removed")
    if any(step.old == step.new for step in journal.steps):
        raise ValueError("a step changes nothing")
