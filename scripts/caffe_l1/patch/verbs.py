"""check, apply, status and revert: open the tree, plan, and make the plan."""

from __future__ import annotations

import argparse
import contextlib
import os
from pathlib import Path
from typing import Iterator

from .. import VERSION
from ..common.errors import Refused, WrongUsage
from ..common.tree import MAKE_PYCAFFE, PYCAFFE, CaffeTree, open_tree
from .commit import commit, interrupted, recover
from .naming import Naming, check_naming
from .plan import Context, Plan, diff, naming_for, plan_apply, plan_revert
from .record import read_record
from .report import Report
from .status import State, read_state
from .store import AtWork, Store

NAMING_OPTIONS = ("type_name", "field_name", "field_id")


def asked_naming(options: argparse.Namespace) -> Naming:
    given = {name: getattr(options, name) for name in given_names(options)}
    naming = Naming(**given)
    check_naming(naming)
    return naming


def given_names(options: argparse.Namespace) -> list[str]:
    return [name for name in NAMING_OPTIONS if getattr(options, name, None) is not None]


def load(tree: CaffeTree, store: Store) -> Context:
    return Context(tree, store, read_record(store))


def check(options: argparse.Namespace, report: Report) -> None:
    """What apply would do, as a unified diff; nothing is changed."""
    naming = asked_naming(options)
    tree = tree_of(options)
    store = Store(tree.root)

    def look() -> tuple[Context, Plan]:
        refuse_interrupted(store)
        context = load(tree, store)
        return context, planned_apply(context, naming, options, report)

    context, plan = store.consistently(look)
    report.diff = diff(plan)
    report.files = files_of(plan)
    if up_to_date(context, plan):
        report.state = "applied"
        report.messages.append("already applied, nothing to change")
    else:
        report.state = "not applied"
        report.messages.append(f"apply would change {counted(plan)}")


def apply(options: argparse.Namespace, report: Report) -> None:
    naming = asked_naming(options)
    tree = repaired_tree(options, report)
    store = Store(tree.root)
    if is_new(store):
        store.consistently(lambda: planned_apply(load(tree, store), naming, options, report))
    with exclusive(store, report):
        context = load(tree, store)
        plan = planned_apply(context, naming, options, report)
        report.state = "applied"
        if up_to_date(context, plan):
            report.messages.append("already applied, nothing changed")
            return
        make(store, "apply", plan, report)
    if not plan.changes:
        report.messages.append("already applied; the record of it was out of date and is renewed")
        return
    where = f'type: "{report.type_name}", {report.field_name} = {report.field_id}'
    report.messages.append(f"applied: {counted(plan)} ({where})")
    note_cmake(tree, report)
    note_pycaffe(tree, report)


def planned_apply(
    context: Context, asked: Naming, options: argparse.Namespace, report: Report
) -> Plan:
    naming = naming_for(context.record, asked, given_names(options))
    report.set_naming(naming)
    report.kit = VERSION
    return plan_apply(context, naming)


def up_to_date(context: Context, plan: Plan) -> bool:
    """The tree is as wanted, and the record too."""
    old, new = context.record, plan.record
    if plan.changes or old is None or new is None:
        return False
    return (old.kit, old.files) == (new.kit, new.files)


def revert(options: argparse.Namespace, report: Report) -> None:
    naming = asked_naming(options)
    tree = repaired_tree(options, report)
    store = Store(tree.root)

    def look() -> Plan | None:
        context = load(tree, store)
        plan = planned_revert(context, naming, options, report)
        return plan if plan.changes or context.record else None

    plan = store.consistently(look) if is_new(store) else Plan()
    if plan is not None:
        with exclusive(store, report):
            plan = look()
            if plan is not None:
                make(store, "revert", plan, report)
    report.state = "not applied"
    if plan is None:
        report.messages.append("not applied, nothing changed")
        return
    report.messages += plan.notes
    report.messages.append(f"reverted: {counted(plan)}")
    note_cmake(tree, report)
    note_pycaffe(tree, report)


def planned_revert(
    context: Context, asked: Naming, options: argparse.Namespace, report: Report
) -> Plan:
    naming = naming_for(context.record, asked, given_names(options))
    report.set_naming(naming)
    report.kit = context.record.kit if context.record else None
    return plan_revert(context, naming)


def status(options: argparse.Namespace, report: Report) -> None:
    state = state_of(options, report)
    report.messages.append(state.text)
    report.exit = 0 if state.word == "applied" else 1


def state_of(options: argparse.Namespace, report: Report) -> State:
    """The state of the tree, entered into the report as well."""
    naming = asked_naming(options)
    tree = tree_of(options)
    store = Store(tree.root)
    try:
        state = store.consistently(lambda: read_state(load(tree, store), naming))
    except AtWork as error:
        state = State("busy", error.problem, [], naming)
    report.set_naming(state.naming)
    report.state = state.word
    report.kit = state.kit
    report.files = [dict(vars(file)) for file in state.files]
    return state


# Around the plan


def tree_of(options: argparse.Namespace) -> CaffeTree:
    """Where a killed run has left no caffe.proto in its place, the tree is one after its repair."""
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


def is_new(store: Store) -> bool:
    """Whether no run was ever in this tree: then a refusal is to leave no trace of this one."""
    return not store.has_lock() and interrupted(store) is None


@contextlib.contextmanager
def exclusive(store: Store, report: Report) -> Iterator[None]:
    """The tree for this run alone, with what a killed run began brought to its end."""
    store.create()
    with store.locked():
        report.messages += recover(store)
        yield


def make(store: Store, verb: str, plan: Plan, report: Report) -> None:
    record = plan.record.to_bytes() if plan.record else None
    report.messages += commit(
        store, verb, plan.changes, plan.folders, record, plan.blobs, report.type_name
    )
    report.files = files_of(plan)
    report.messages += sorted(store.root.lacks)


def files_of(plan: Plan) -> list[dict[str, object]]:
    return [{"path": c.path, "state": kind(c), "line": 0} for c in plan.changes]


class Interrupted(Refused):
    """A run was killed half-way; apply and revert complete it."""


def refuse_interrupted(store: Store) -> None:
    verb: str | None = interrupted(store)
    if verb is not None:
        problem = f"an earlier {verb} was killed half-way"
        raise Interrupted(problem, "run apply or revert: it completes")


def kind(change) -> str:
    if change.old is None:
        return "created"
    return "deleted" if change.new is None else "edited"


def counted(plan: Plan) -> str:
    words = [kind(change) for change in plan.changes]
    parts = [f"{words.count(w)} {w}" for w in ("created", "edited", "deleted") if w in words]
    return f"{len(words)} files: {', '.join(parts)}" if words else "0 files"


def note_cmake(tree: CaffeTree, report: Report) -> None:
    """CMake lists the sources when it configures, not when it builds."""
    for folder in (tree.root, tree.root / "build"):
        if (folder / "CMakeCache.txt").is_file():
            report.messages.append(f"run cmake again in {folder}: it lists sources only then")


def note_pycaffe(tree: CaffeTree, report: Report) -> None:
    """One that CMake built is a link here, and made anew in time."""
    library = tree.path(PYCAFFE)
    if library.is_file() and not library.is_symlink():
        report.messages.append(
            "pycaffe was built before this, and crashes after the next make, which does not see "
            f"it; fix: {' '.join(MAKE_PYCAFFE)}"
        )
