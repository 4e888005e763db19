"""check, apply, status and revert: open the tree, plan, and make the plan."""

import argparse
import contextlib
import os
from pathlib import Path
from typing import Any, Callable, Iterator

from .. import VERSION
from ..common.diff import unified_diff
from ..common.errors import Refused, WrongUsage
from ..common.tree import MAKE_PYCAFFE, PYCAFFE, CaffeTree, open_tree
from .commit import Change, commit, interrupted, recover
from .naming import Naming, check_naming
from .plan import Context, Plan, naming_for, plan_apply, plan_revert
from .record import read_record
from .report import Report
from .status import State, read_state
from .store import AtWork, Store


def check(options: argparse.Namespace, report: Report) -> None:
    """What apply would do, as a unified diff; nothing is changed."""
    given = asked_names(options)
    tree = tree_of(options)
    store = Store(tree.root)

    def look() -> Plan:
        refuse_interrupted(store)
        return plan_apply(opened(tree, store, given, report))

    plan = store.consistently(look)
    report.kit = VERSION
    diff = b"".join(unified_diff(c.path, c.old, c.new) for c in plan.changes)
    report.diff = diff.decode("utf-8", "surrogateescape")
    report.files = files_of(plan)
    report.state = "applied" if plan.done else "not applied"
    report.messages.append("already applied, nothing to change" if plan.done
                           else f"apply would change {counted(plan)}")


def apply(options: argparse.Namespace, report: Report) -> None:
    plan = carry_out("apply", plan_apply, options, report)
    report.state, report.kit = "applied", VERSION
    if plan.done:
        report.messages.append("already applied, nothing changed")
    elif not plan.changes:
        report.messages.append("already applied; the record of it was out of date and is renewed")
    else:
        where = f'type: "{report.type_name}", {report.field_name} = {report.field_id}'
        report.messages.append(f"applied: {counted(plan)} ({where})")
        note_builds(Path(report.root), report)


def revert(options: argparse.Namespace, report: Report) -> None:
    plan = carry_out("revert", plan_revert, options, report)
    report.state = "not applied"
    if plan.done:
        report.messages.append("not applied, nothing changed")
    else:
        report.messages += [*plan.notes, f"reverted: {counted(plan)}"]
        note_builds(Path(report.root), report)


def carry_out(
    verb: str, planned: Callable[[Context], Plan], options: argparse.Namespace, report: Report
) -> Plan:
    """Plan, and make the plan; the plan."""
    given = asked_names(options)
    tree = repaired_tree(options, report)
    store = Store(tree.root)

    def look() -> Plan:
        return planned(opened(tree, store, given, report))

    if not store.has_lock() and interrupted(store) is None:
        # No run was ever in this tree: then a refusal is to leave no trace of this one.
        plan = store.consistently(look)
        if plan.done:
            return plan
    with exclusive(store, report):
        plan = look()
        if not plan.done:
            record = plan.record.to_bytes() if plan.record else None
            report.messages += commit(store, verb, plan.changes, plan.folders, record, plan.blobs,
                                      report.type_name)
            report.files = files_of(plan)
            report.messages += sorted(store.root.lacks)
    return plan


def status(options: argparse.Namespace, report: Report) -> None:
    state = state_of(options, report)
    report.messages.append(state.text)
    report.exit = 0 if state.word == "applied" else 1


def state_of(options: argparse.Namespace, report: Report) -> State:
    """The state of the tree, entered into the report as well."""
    asked = Naming(**asked_names(options))
    tree = tree_of(options)
    store = Store(tree.root)

    def look() -> State:
        record = read_record(store)
        return read_state(Context(tree, store, record, record.naming if record else asked))

    try:
        state = store.consistently(look)
    except AtWork as error:
        state = State("busy", error.problem, [], asked)
    report.set_naming(state.naming)
    report.state, report.kit = state.word, state.kit
    report.files = [file._asdict() for file in state.files]
    return state


# Around the plan


def asked_names(options: argparse.Namespace) -> "dict[str, Any]":
    """What is given of --type-name, --field-name and --field-id."""
    given = {name: getattr(options, name) for name in Naming._fields}
    given = {name: value for name, value in given.items() if value is not None}
    check_naming(Naming(**given))
    return given


def opened(tree: CaffeTree, store: Store, given: "dict[str, Any]", report: Report) -> Context:
    record = read_record(store)
    naming = naming_for(record, given)
    report.set_naming(naming)
    report.kit = record.kit if record else None
    return Context(tree, store, record, naming)


def tree_of(options: argparse.Namespace) -> CaffeTree:
    """A tree from which a killed run has moved caffe.proto is one again after the repair."""
    try:
        return open_tree(options.root)
    except WrongUsage:
        if os.path.isdir(options.root):
            store = Store(Path(options.root))
            store.consistently(lambda: refuse_interrupted(store))
        raise


def repaired_tree(options: argparse.Namespace, report: Report) -> CaffeTree:
    try:
        return tree_of(options)
    except Interrupted:
        with exclusive(Store(Path(options.root)), report):
            return open_tree(options.root)


@contextlib.contextmanager
def exclusive(store: Store, report: Report) -> Iterator[None]:
    """The tree for this run alone, with what a killed run began brought to its end."""
    store.create()
    with store.locked():
        report.messages += recover(store)
        yield


class Interrupted(Refused):
    """A run was killed half-way; apply and revert put the tree right."""


def refuse_interrupted(store: Store) -> None:
    verb = interrupted(store)
    if verb is not None:
        raise Interrupted(f"an earlier {verb} was killed half-way",
                          "run apply or revert, which puts the tree right")


def kind(change: Change) -> str:
    if change.old is None:
        return "created"
    return "deleted" if change.new is None else "edited"


def files_of(plan: Plan) -> "list[dict[str, Any]]":
    return [{"path": change.path, "state": kind(change), "line": 0} for change in plan.changes]


def counted(plan: Plan) -> str:
    words = [kind(change) for change in plan.changes]
    parts = [f"{words.count(w)} {w}" for w in ("created", "edited", "deleted") if w in words]
    return f"{len(words)} files: {', '.join(parts)}" if words else "0 files"


def note_builds(root: Path, report: Report) -> None:
    """What was built before this run, and what to do with it.

    A pycaffe that CMake built is a link here, and made anew in time.
    """
    for folder in (root, root / "build"):
        if (folder / "CMakeCache.txt").is_file():
            report.messages.append(
                f"run cmake again in {folder}: a build alone does not see new or removed sources")
    library = root / PYCAFFE
    if library.is_file() and not library.is_symlink():
        report.messages.append("pycaffe was built before this, and crashes after the next make, "
                               f"which does not see it; fix: {' '.join(MAKE_PYCAFFE)}")
