"""What a verb has to say, once for people and once for machines (--json)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from ..common.errors import KitError
from .naming import Naming


@dataclass
class Report:
    """The one shape of --json; what a verb does not know stays empty or null."""

    verb: str
    root: str
    exit: int = 0
    state: str = ""
    kit: str | None = None
    type_name: str = ""
    field_name: str = ""
    field_id: int = 0
    files: list[dict[str, Any]] = field(default_factory=list)  # path, state, line
    diff: str = ""
    log: str = ""
    tests: dict[str, int] | None = None  # run, passed, failed
    messages: list[str] = field(default_factory=list)
    error: dict[str, Any] | None = None  # file, line, problem, fix

    def set_naming(self, naming: Naming) -> None:
        self.type_name, self.field_name = naming.type_name, naming.field_name
        self.field_id = naming.field_id

    def set_error(self, error: KitError) -> None:
        self.exit = error.code
        self.error = {name: getattr(error, name) for name in ("file", "line", "problem", "fix")}

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)
