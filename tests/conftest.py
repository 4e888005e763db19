"""What every test shares: import paths, a patched and built Caffe, and no skips in CI."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from environment import REPO

for folder in (REPO / "python_layer", REPO / "scripts", REPO / "tests"):
    sys.path.insert(0, str(folder))
os.environ.setdefault("GLOG_minloglevel", "2")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI nothing may be skipped: what a test needs, scripts/test.sh installs."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where nothing may be: {report.longrepr}"


LONGEST = ("test_apply_patch_faults.py", "test_cuda_on_cpu.py", "test_memory_safety.py",
           "test_runtest.py")


def pytest_collection_modifyitems(items):
    """The longest files first: else one process is left with them alone at the end."""
    items.sort(key=lambda item: os.path.basename(str(item.fspath)) not in LONGEST)


@pytest.fixture
def say(request):
    """What a test has counted or measured, shown at the end of the run."""
    return lambda text: request.node.user_properties.append(("said", text))


def pytest_terminal_summary(terminalreporter):
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    for report in reports:
        if getattr(report, "when", "") == "teardown":
            for _, text in report.user_properties:
                terminalreporter.line(text)


@pytest.fixture(scope="session")
def of_this_run(request) -> str:
    """What the processes that share the tests (pytest -n) have in common, and no other run."""
    uid = getattr(request.config, "workerinput", {}).get("testrunuid")
    return uid or os.urandom(8).hex()


@contextlib.contextmanager
def one_at_a_time(file: Path):
    with open(str(file), "a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def apply_patch(*args: object) -> subprocess.CompletedProcess:
    """Runs the patch script as a user does."""
    command = [sys.executable, str(REPO / "scripts" / "apply_patch.py"), *map(str, args)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="session")
def work() -> Path:
    """A folder on disk for trees that are built: /tmp may be memory."""
    folder = Path(os.environ.get("CAFFE_L1_WORK", "/tmp")) / "tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def python27() -> str:
    """The program; the sandbox has it, a machine of today often has not."""
    if not shutil.which("python2.7"):
        pytest.skip("no python2.7 here; leave CAFFE_ROOT unset")
    return "python2.7"


@pytest.fixture(scope="session")
def caffe_source() -> Path:
    """The source of a Caffe nobody patched; it is not to be written to."""
    root = os.environ.get("CAFFE_ROOT")
    if not root:
        pytest.skip("set CAFFE_ROOT to a source checkout of Caffe, or use scripts/test.sh")
    return Path(root).resolve()


@pytest.fixture(scope="session")
def patched_tree(work: Path, caffe_source: Path, of_this_run: str) -> SimpleNamespace:
    """A copy of Caffe's source with the kit applied and its tests built and run by make.

    root is the tree, apply and runtest are what these verbs printed. With CAFFE_L1_NATIVE=PATH a
    tree that is built already takes its place, for a quick look at one test.
    """
    built = os.environ.get("CAFFE_L1_NATIVE")
    if built:
        return SimpleNamespace(root=Path(built), apply=None, runtest=None)
    said = work / f"native-{of_this_run}.json"
    with one_at_a_time(work / "native.lock"):
        if not said.exists():
            said.write_text(json.dumps(make_patched_tree(work / "native", caffe_source)))
    return SimpleNamespace(root=work / "native", **json.loads(said.read_text()))


def make_patched_tree(root: Path, caffe_source: Path) -> dict:
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(caffe_source, root, symlinks=True)
    apply = apply_patch("apply", root)
    assert apply.returncode == 0, apply.stdout
    runtest = apply_patch("runtest", "--quick", "--write-config", root)
    assert runtest.returncode == 0, runtest.stdout
    return {"apply": apply.stdout, "runtest": runtest.stdout}


@pytest.fixture(scope="session")
def native_caffe(patched_tree: SimpleNamespace, work: Path) -> Path:
    """The folder to put on PYTHONPATH for the pycaffe of a patched Caffe."""
    jobs = os.cpu_count() or 1
    with one_at_a_time(work / "native.lock"):
        make = subprocess.run(["make", f"-j{jobs}", "pycaffe"], cwd=patched_tree.root,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert make.returncode == 0, make.stdout[-3000:]
    return patched_tree.root / "python"


@pytest.fixture(scope="session")
def plugin(work: Path, of_this_run: str) -> Path:
    """The plugin for the Caffe that is installed here, as the script builds it."""
    path, built_by = work / "plugin.so", work / "plugin.run"
    with one_at_a_time(work / "plugin.lock"):
        if not built_by.exists() or built_by.read_text() != of_this_run:
            script = REPO / "scripts" / "build_plugin.py"
            subprocess.run([sys.executable, str(script), "-o", str(path)], check=True)
            built_by.write_text(of_this_run)
    return path


class RouteCaffe(NamedTuple):
    python_path: list
    plugin: str


@pytest.fixture(scope="session")
def caffes(plugin: Path, native_caffe: Path) -> dict:
    """What each route runs in: the stock Caffe, that with the plugin, the patched Caffe."""
    here = REPO / "python_layer"
    return {"stock": RouteCaffe([], ""), "python": RouteCaffe([here], ""),
            "plugin": RouteCaffe([here], str(plugin)),
            "native": RouteCaffe([native_caffe, here], "")}
