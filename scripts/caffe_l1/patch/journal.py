"""What a run is about to do, as it lies in the tree until it is done."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..common.errors import RecordDamaged, WrongUsage
from ..common.tree import PROTO
from ..common.untrusted import (
    check_keys,
    is_hash,
    is_list_of,
    is_match,
    is_number,
    is_optional,
    is_text,
    parse_object,
)
from .naming import Naming, check_naming
from .record import check_paths, parse_record, read_record
from .store import FOLDER, Store, restore_hint

FORMAT = 2


@dataclass(frozen=True)
class Step:
    """A change as the journal holds it: hashes, the bytes themselves lie in the store."""

    path: str
    old: str | None
    new: str | None
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
        return self.sibling("new")

    @property
    def spare(self) -> str:
        return self.sibling("old")

    @property
    def turned(self) -> Step:
        """The way back."""
        return Step(self.path, self.new, self.old, self.run)

    def sibling(self, word: str) -> str:
        return f".{self.name}.l1loss-kit-{word}" + (f"-{self.run}" if self.run else "")


@dataclass(frozen=True)
class Journal:
    verb: str
    run: str  # a random number; empty where a kit of format 1 wrote it
    type_name: str
    steps: list[Step]
    folders: list[str]  # made by apply, removed by revert; outer ones first
    record: str | None
    keep: list[str]  # the blobs that the record speaks of

    def to_bytes(self) -> bytes:
        steps = [{"path": step.path, "old": step.old, "new": step.new} for step in self.steps]
        return json.dumps(dict(vars(self), steps=steps, format=FORMAT), indent=1).encode() + b"\n"


def read_journal(store: Store, name: str) -> Journal | None:
    """The journal, None where there is none; RecordDamaged where it cannot be trusted."""
    data = store.read_own(name)
    if data is None:
        return None
    try:
        fields = parse_object(data)
        if fields.get("format") == 1:
            fields = of_format_1(fields, store)
        return checked(fields)
    except ValueError as error:
        where = f"{FOLDER}/{name}"
        problem = f"the journal is damaged: {error}"
        raise RecordDamaged(problem, restore_hint(), where) from None


def checked(fields: dict[str, Any]) -> Journal:
    check_keys(fields, JOURNAL_KEYS, "the journal")
    for step in fields["steps"]:
        check_keys(step, STEP_KEYS, "a step")
    run = fields["run"]
    steps = [Step(step["path"], step["old"], step["new"], run) for step in fields["steps"]]
    journal = Journal(**{key: fields[key] for key in fields if key not in ("format", "steps")},
                      steps=steps)
    check_meaning(journal)
    return journal


JOURNAL_KEYS = {
    "format": lambda value: is_number(value) and value == FORMAT,
    "verb": is_match("apply|revert"),
    "run": is_match("(?:[0-9a-f]{16})?"),
    "type_name": is_text,
    "steps": is_list_of(lambda value: isinstance(value, dict)),
    "folders": is_list_of(is_text),
    "record": is_optional(is_text),
    "keep": is_list_of(is_hash),
}
STEP_KEYS = {"path": is_text, "old": is_optional(is_hash), "new": is_optional(is_hash)}


def check_meaning(journal: Journal) -> None:
    naming = Naming(journal.type_name)
    try:
        check_naming(naming)
        if journal.record is not None:
            parse_record(journal.record.encode("utf-8"))
    except (WrongUsage, RecordDamaged) as error:
        raise ValueError(error.problem) from None
    if (journal.record is None) != (journal.verb == "revert"):
        raise ValueError("verb and record do not fit")
    files = [step.path for step in journal.steps if step.path != PROTO]
    check_paths(files, journal.folders, naming)
    protos = [step for step in journal.steps if step.path == PROTO]
    if len(protos) > 1 or any(None in (step.old, step.new) for step in protos):
        raise ValueError("caffe.proto is changed once, and neither made nor removed")
    if any(step.old == step.new for step in journal.steps):
        raise ValueError("a step changes nothing")


# What a kit of 1.0.0 left, which kept modes and owners in it: they are the file system's to say.


def of_format_1(fields: dict[str, Any], store: Store) -> dict[str, Any]:
    check_keys(fields, KEYS_OF_1, "the journal")
    for step in fields["steps"]:
        check_keys(step, {**STEP_KEYS, "mode": is_number, "owner": is_list_of(is_number)}, "a step")
    steps = [{key: step[key] for key in STEP_KEYS} for step in fields["steps"]]
    return {**fields, "format": FORMAT, "run": "", "type_name": type_name(fields, store),
            "steps": steps}


KEYS_OF_1 = {key: check for key, check in JOURNAL_KEYS.items() if key not in ("run", "type_name")}
KEYS_OF_1 = {**KEYS_OF_1, "format": is_number}


def type_name(fields: dict[str, Any], store: Store) -> str:
    if fields["record"] is not None:
        return parse_record(fields["record"].encode("utf-8")).type_name
    record = read_record(store)
    return record.type_name if record else Naming().type_name
