"""What a verb has to say, once for people and once for machines (--json)."""

import json
from typing import Any, Dict, List, Optional

from ..common.errors import KitError
from .naming import Naming


class Report:
    """The one shape of --json; what a verb does not know stays empty or null."""

    def __init__(self, verb: str, root: str) -> None:
        self.verb = verb
        self.root = root
        self.exit = 0
        self.state = ""
        self.kit: Optional[str] = None
        self.type_name = ""
        self.field_name = ""
        self.field_id = 0
        self.files: List[Dict[str, Any]] = []  # path, state, line
        self.diff = ""
        self.log = ""
        self.tests: Optional[Dict[str, int]] = None  # run, passed, failed
        self.messages: List[str] = []
        self.error: Optional[Dict[str, Any]] = None  # file, line, problem, fix

    def set_naming(self, naming: Naming) -> None:
        self.type_name, self.field_name = naming.type_name, naming.field_name
        self.field_id = naming.field_id

    def set_error(self, error: KitError) -> None:
        self.exit = error.code
        self.error = {name: getattr(error, name) for name in ("file", "line", "problem", "fix")}

    def to_json(self) -> str:
        return json.dumps(vars(self), indent=1)
