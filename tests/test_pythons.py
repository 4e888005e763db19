"""The scripts on the oldest Python that they promise, on others in use, and on those too old.

Of these versions the ones that are found are tried: on PATH, and in pyenv's folder. What none of
them has is looked for by vermin, in scripts/test.sh.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from environment import REPO, seeing
from patch_support import CAFFE, SOURCES, STATE, contents, kit, kit_process, make_small_checkout

SCRIPTS = REPO / "scripts"
ENTRIES = sorted(path.name for path in SCRIPTS.glob("*.py"))
VERSIONS = ("3.6", "3.7", "3.9", "3.13")
TOO_OLD = ("2.7", "3.5")
PYENV = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
# scripts/test.sh unpacks protobuf for Python 3.6 there, which newer ones can use too.
PROTOBUF = Path(os.environ.get("CAFFE_L1_WORK", "")) / "python36"
IN_SANDBOX = [sys.executable, str(REPO / "tests" / "machine_libraries.py")]
NET = REPO / "prototxt" / "plain_native.prototxt"
MESSAGE = ("this needs Python 3.6 or newer, and this is {}; fix: run it by another Python, or "
           "patch without: elsewhere, scripts/apply_patch.py check CAFFE_ROOT > l1.patch; here, "
           "cd CAFFE_ROOT && patch -p1 < l1.patch\n")


def find(version: str) -> list:
    """The command that starts this Python, empty where there is none."""
    on_path = shutil.which(f"python{version}")
    if on_path:
        return [on_path]
    for python in sorted(PYENV.glob(f"{version}.*/bin/python")):
        if os.environ.get("CAFFE_L1_SANDBOX"):
            return ["unshare", "-rm", *IN_SANDBOX, str(python)]
        return [str(python)]
    return []


def those_found(*versions: str) -> list:
    return [version for version in versions if find(version)]


FOUND = those_found(*VERSIONS)


def run(version: str, *arguments: object, **options: object) -> subprocess.CompletedProcess:
    environment = seeing(PROTOBUF, SCRIPTS)
    return subprocess.run([*find(version), *map(str, arguments)], env=environment, text=True,
                          capture_output=True, **options)


def test_a_python_is_found_that_runs_the_scripts():
    assert FOUND


@pytest.mark.parametrize("version", FOUND)
def test_the_patch_script_does_the_same_on_each_python(version, tmp_path):
    theirs, ours = tmp_path / "theirs" / "caffe", tmp_path / "ours" / "caffe"
    for tree in (theirs, ours):
        make_small_checkout(tree)
    script = SCRIPTS / "apply_patch.py"
    for verb in ("check", "apply", "status", "apply", "revert", "status"):
        done, expected = run(version, script, verb, theirs), kit_process(verb, ours)
        assert (done.returncode, done.stdout, done.stderr) == expected, verb
        assert contents(theirs) == contents(ours)
        assert record_of(theirs) == record_of(ours)


def record_of(tree: Path) -> bytes | None:
    file = tree / STATE / "record.json"
    return file.read_bytes() if file.exists() else None


@pytest.mark.parametrize("version", FOUND)
def test_a_net_is_switched_by_each_python(version, tmp_path):
    shutil.copy(NET, tmp_path / "net.prototxt")
    done = run(version, SCRIPTS / "switch_route.py", "net.prototxt", "--to", "python", "--in-place",
               cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        0, "switch_route: net.prototxt: 1 of 1 L1 layer switched to python, written\n")


@pytest.mark.parametrize("version", sorted({*FOUND[:1], *FOUND[-1:]}))
def test_the_doctor_and_the_plugin_work_on_the_oldest_and_the_newest(version, tmp_path):
    done = run(version, "-m", "caffe_l1", "doctor", CAFFE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nnative: works" in done.stdout and "\nplugin: works" in done.stdout
    done = run(version, SCRIPTS / "build_plugin.py", "-o", tmp_path / "plugin.so")
    assert done.returncode == 0, done.stdout + done.stderr
    load = "import sys, caffe, l1_loss_plugin as p; assert p.load(sys.argv[1]) is True"
    subprocess.run([sys.executable, "-c", load, str(tmp_path / "plugin.so")], check=True,
                   env=seeing(REPO / "python_layer"))


@pytest.mark.parametrize("version", those_found(*TOO_OLD))
@pytest.mark.parametrize("entry", [*ENTRIES, "caffe_l1"])
def test_a_python_that_is_too_old_says_so_in_one_line(version, entry):
    start = ["-m", entry] if entry == "caffe_l1" else [SCRIPTS / entry]
    done = run(version, *start)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", MESSAGE.format(version))


# ---- Without such a Python: the diff that another machine wrote -----------------

PATCHED = {"patch": ["patch", "-p1", "-i"], "git apply": ["git", "apply"]}


@pytest.fixture
def trees(tmp_path):
    for name in ("here", "elsewhere"):
        make_small_checkout(tmp_path / name)
    return tmp_path / "here", tmp_path / "elsewhere"


def patch_by(program: str, here: Path, elsewhere: Path) -> None:
    patch = elsewhere.parent / "l1.patch"
    patch.write_bytes(kit_process("check", elsewhere).out.encode("utf-8", "surrogateescape"))
    # git gives a file that it changes the permissions of a new one.
    subprocess.run(["sh", "-c", 'umask 022 && exec "$@"', "sh", *PATCHED[program], str(patch)],
                   cwd=here, check=True, capture_output=True)


@pytest.mark.parametrize("line_ends", [b"\n", b"\r\n"])
@pytest.mark.parametrize("program", PATCHED)
def test_what_check_prints_patches_a_tree_as_apply_does(program, line_ends, trees):
    here, elsewhere = trees
    for file in [file for tree in trees for file in tree.rglob("*") if file.is_file()]:
        file.write_bytes(file.read_bytes().replace(b"\n", line_ends))
    before = contents(here)
    patch_by(program, here, elsewhere)
    kit("apply", elsewhere)
    assert {path: entry[0] for path, entry in contents(here).items()} == {
        path: entry[0] for path, entry in contents(elsewhere).items()}
    assert kit("status", here).out == "applied (without a record, field number 1701)\n"
    assert kit("revert", here).code == 0
    assert contents(here) == before
    assert set(SOURCES).isdisjoint(before)
