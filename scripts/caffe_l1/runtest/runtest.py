"""Build the tree and run the tests of the layer, and only those."""

import argparse
import io
import os
import re
import shlex
import sys
from pathlib import Path
from typing import BinaryIO

from ..common.errors import BuildFailed, Refused, WrongUsage
from ..common.folder import write_file
from ..common.machine import probe
from ..common.process import output, run, terminate_as_interrupt
from ..common.progress import Progress, count_compiled, is_complete
from ..common.tree import CaffeTree, open_tree
from ..patch.naming import Naming
from ..patch.payload import source_files
from ..patch.report import Report
from ..patch.store import FOLDER, Store
from ..patch.verbs import state_of
from .build import CONFIG, Build, Stage, choose
from .diagnose import diagnose
from .make_config import makefile_config

LOG = "runtest.log"
RUNNING = re.compile(r"^\[=+\] Running (\d+) tests? from ")
PASSED = re.compile(r"^\[  PASSED  \] \d+ tests?\.")
RESULT = re.compile(r"^\[ +(OK|FAILED) +\] ([\w/]+)\.\w+.*\(\d+ ms\)$")


class Tally:
    """What gtest printed."""

    def __init__(self, fixture: str) -> None:
        self.fixture = fixture
        self.announced = self.passed = self.failed = self.others = 0
        self.passed_line = self.first_failure = ""

    @property
    def run(self) -> int:
        return self.passed + self.failed

    def line(self, line: str) -> None:
        result = RESULT.match(line)
        if result is None:
            running = RUNNING.match(line)
            if running:
                self.announced = int(running.group(1))
            elif PASSED.match(line):
                self.passed_line = line
            elif not self.first_failure and re.search(r":\d+: Failure", line):
                self.first_failure = line
        elif not result.group(2).startswith(self.fixture):
            self.others += 1
        elif result.group(1) == "OK":
            self.passed += 1
        else:
            self.failed += 1


def runtest(options: argparse.Namespace, report: Report) -> None:
    tree = open_tree(options.root)
    state = state_of(options, report)
    if state.word != "applied":
        raise Refused(state.text, "run apply first", options.root)
    if options.write_config:
        write_config(tree, report)
    build = choose(tree, state.naming, options.jobs or cores(), options.build_dir)
    log_path = Path(options.log).absolute() if options.log else tree.path(f"{FOLDER}/{LOG}")
    report.log = str(log_path)
    if not log_path.parent.is_dir():
        raise WrongUsage("there is no such folder", "create it", str(log_path.parent))
    print(f"the log is {log_path}", file=sys.stderr, flush=True)
    try:
        with open_log(options.log, tree) as log, terminate_as_interrupt():
            tests = build_and_test(build, tree, state.naming, options.quick, log, log_path)
        report.tests = {"run": tests.run, "passed": tests.passed, "failed": tests.failed}
        judge(tests, log_path)
    except (BuildFailed, KeyboardInterrupt):
        report.messages.append(f"the patch stays; to take it out: {revert_command(tree)}")
        raise
    report.messages.append(tests.passed_line)


def open_log(named: "str | None", tree: CaffeTree) -> BinaryIO:
    """To write, and to read again what was written."""
    if not named:
        return default_log(tree)
    try:
        return open(named, "w+b")
    except (io.UnsupportedOperation, IsADirectoryError):
        raise WrongUsage("is not a file", "name another, or one that is not there", named) from None


def default_log(tree: CaffeTree) -> BinaryIO:
    """A new file each time: the old one may be another user's, or a link."""
    store = Store(tree.root)
    store.create()
    with store.locked():
        store.put(store.folder, LOG, b"")
        return open(store.folder.open(LOG, os.O_RDWR), "w+b")


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_config(tree: CaffeTree, report: Report) -> None:
    path = tree.path(CONFIG)
    if path.exists():
        report.messages.append(f"{CONFIG} is there already and stays as it is")
        return
    if not tree.path("Makefile").is_file():
        raise Refused("is not there: this tree builds with CMake", "use --build-dir", "Makefile")
    mode = tree.root.stat().st_mode & 0o666
    try:
        write_file(path, os.fsencode(makefile_config(probe())), mode, new=True)
    except FileExistsError:
        raise Refused("is a link to nothing", "remove it", CONFIG) from None
    report.messages.append(f"wrote {path}")


def build_and_test(
    build: Build, tree: CaffeTree, naming: Naming, quick: bool, log: BinaryIO, log_path: Path
) -> Tally:
    tests = Tally(naming.fixture)
    try:
        for stage in build.stages(quick):
            refuse_other_header(build)
            run_stage(stage, build.folder, log, log_path)
        # The layer is in Caffe's library; what the test program itself is made of:
        paths = [tree.path(path) for path in source_files(tree, naming)]
        refuse_stale(build.binary(quick),
                     [p for p in paths if p.suffix == ".hpp" or p.parent.name == "test"])
        code = run(build.test_command(quick), tree.root, log, tests.line)
    finally:
        if quick and build.finish():
            run(build.finish(), build.folder, log, lambda line: None)
    if code != 0 and tests.failed == 0:
        ending = f"was ended by signal {-code}" if code < 0 else f"ended with exit status {code}"
        raise BuildFailed(f"the test program {ending}", f"see {log_path}")
    return tests


def run_stage(stage: Stage, folder: Path, log: BinaryIO, log_path: Path) -> None:
    if stage.why:
        print(stage.why, file=sys.stderr, flush=True)
    progress = Progress(stage.title, count_compiled(left_to_do(stage, folder)))
    code = run(stage.command, folder, log, progress.line)
    progress.close()
    # A make that is told to go on after errors, or to run nothing, ends well too.
    if code != 0 or not is_complete(left_to_do(stage, folder)):
        log.seek(0)
        raise diagnose(log.read().decode("utf-8", "replace"), str(log_path), stage.title)


def left_to_do(stage: Stage, folder: Path) -> str:
    return output(stage.dry, folder) if stage.dry else ""


def refuse_stale(binary: Path, sources: "list[Path]") -> None:
    """Its tests would pass, but they are not those of the tree."""
    for source in sources:
        if binary.is_file() and binary.stat().st_mtime < source.stat().st_mtime:
            problem = f"is older than {source.name}, though the build ended well"
            raise BuildFailed(problem, "remove it and run this again", str(binary))


def refuse_other_header(build: Build) -> None:
    """A caffe.pb.h that the compiler finds before the one that this build makes."""
    ours = build.header
    for folder in build.include_folders():
        header = folder / "caffe/proto/caffe.pb.h"
        if header.parent.resolve() == ours.parent.resolve():
            return
        if header.is_file() and not (ours.is_file() and header.samefile(ours)):
            raise BuildFailed(f"the compiler finds this caffe.pb.h before {ours}",
                              "move it away, or take its folder out of the include path",
                              str(header))


def judge(tests: Tally, log_path: Path) -> None:
    if tests.failed:
        problem = f"{tests.failed} of {tests.run} tests failed; the first: {tests.first_failure}"
    elif tests.run == 0:
        problem = f"no {tests.fixture} ran"
    elif tests.others:
        problem = f"{tests.others} other tests ran as well"
    elif tests.run != tests.announced or not tests.passed_line:
        problem = f"{tests.run} of {tests.announced} tests ran, and then the program ended"
    else:
        return
    raise BuildFailed(problem, f"see {log_path}")


def revert_command(tree: CaffeTree) -> str:
    return f"{shlex.quote(sys.argv[0])} revert {shlex.quote(str(tree.root))}"
