"""Every entry script, where its output is closed, full, or a pipe that nobody reads."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from environment import REPO, seeing
from patch_support import kit, make_small_checkout

SCRIPTS = REPO / "scripts"
NET = REPO / "prototxt" / "plain_native.prototxt"
PICTURES = REPO / "build" / "demo"

# What each script is to do, its exit code, and the file that it must have made by then.
CASES = {
    "apply_patch apply": (["apply_patch.py", "apply", "caffe"], 0,
                          "caffe/include/caffe/layers/l1_loss_layer.hpp"),
    "apply_patch check": (["apply_patch.py", "check", "caffe"], 0, None),
    "apply_patch status": (["apply_patch.py", "status", "--json", "caffe"], 1, None),
    "apply_patch wrong": (["apply_patch.py", "aply", "caffe"], 2, None),
    "build_plugin": (["build_plugin.py", "-o", "plugin.so"], 0, "plugin.so"),
    "build_plugin refused": (["build_plugin.py", "-o", "none/plugin.so"], 1, None),
    "doctor": (["doctor.py", "--python", "/nowhere", "caffe"], 1, None),
    "switch_route": (["switch_route.py", "net.prototxt", "--to", "python", "--in-place"], 0, None),
    "switch_route refused": (["switch_route.py", "none.prototxt", "--to", "python"], 1, None),
    "benchmark": (["benchmark.py", "--markdown", str(SCRIPTS / "benchmarks/figures.json")], 0,
                  None),
    "benchmark refused": (["benchmark.py", "--markdown", "none.json"], 1, None),
    "demo": (["demo.py", "--quick"], 0, PICTURES / "engel.png"),
    "demo_stereo help": (["demo_stereo.py", "--help"], 0, None),
    "demo_stereo": (["demo_stereo.py", "--iterations", "3"], 1, PICTURES / "stereo.png"),
    "caffe-l1": (["caffe_l1", "apply", "caffe"], 0,
                 "caffe/include/caffe/layers/l1_loss_layer.hpp"),
    "caffe-l1 path": (["caffe_l1", "path"], 0, None),
    "caffe-l1 help": (["caffe_l1", "--help"], 0, None),
    "caffe-l1 wrong": (["caffe_l1", "bild"], 2, None),
}
# A shell's redirections; `pipe` is a pipe whose reader has gone.
STREAMS = {
    "stdout closed": ">&-",
    "stderr closed": "2>&-",
    "all closed": "<&- >&- 2>&-",
    "stdout full": ">/dev/full",
    "stderr full": "2>/dev/full",
    "stdout unread": ">&$pipe",
    "stderr unread": "2>&$pipe",
}
PIPE = 1 << 16  # what a pipe of Linux holds
FULL = "standard output could not be written: No space left on device; fix: send it elsewhere"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    make_small_checkout(tmp_path / "caffe")
    shutil.copy(str(NET), str(tmp_path / "net.prototxt"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def program(script: str) -> list[str]:
    return ["-m", script] if script == "caffe_l1" else [str(SCRIPTS / script)]


def run(redirections: str, script: str, *arguments: str) -> SimpleNamespace:
    reader, pipe = os.pipe()
    os.close(reader)
    shell = ["bash", "-c", f'pipe={pipe}; "$@" {redirections}', "bash"]
    try:
        done = subprocess.run([*shell, sys.executable, *program(script), *arguments],
                              pass_fds=[pipe], capture_output=True, text=True,
                              env=seeing(REPO / "python_layer", SCRIPTS))
    finally:
        os.close(pipe)
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)


def enough(case: str, streams: str) -> bool:
    """What takes seconds is done once, where a script without care stops at its first word."""
    return case not in ("build_plugin", "demo_stereo") or streams == "stdout unread"


@pytest.mark.parametrize("case, streams", [(c, s) for c in CASES for s in STREAMS if enough(c, s)])
def test_the_work_is_done_whoever_reads_what_it_says(folder, case, streams):
    command, code, made = CASES[case]
    if isinstance(made, Path) and made.exists():
        made.unlink()
    done = run(STREAMS[streams], *command)
    assert done.code == code, done.err
    assert "Traceback" not in done.err and "Exception" not in done.err
    said = case not in ("apply_patch wrong", "benchmark refused", "caffe-l1 wrong",
                        "switch_route refused")  # on standard output
    assert (FULL in done.err.splitlines()) == (said and streams == "stdout full")
    assert made is None or os.path.getsize(str(made)) > 0


def test_what_can_be_read_is_whole(folder):
    usual = run("", "apply_patch.py", "check", "caffe")
    assert usual.out and usual.out == run("2>&-", "apply_patch.py", "check", "caffe").out
    refused = run("", "apply_patch.py", "check", "none")
    assert refused.err == run(">&-", "apply_patch.py", "check", "none").err != ""


def test_a_closed_stream_is_not_the_place_of_the_next_file(folder):
    """The file that is opened next would take the lowest free number."""
    before = NET.read_bytes()
    assert run("<&- >&- 2>&-", "switch_route.py", "net.prototxt", "--to", "python",
               "--in-place").code == 0
    assert run("<&- >&- 2>&-", "switch_route.py", "net.prototxt", "--to", "native",
               "--in-place").code == 0
    assert Path("net.prototxt").read_bytes() == before


def test_a_pipe_that_does_not_block_gets_all_of_it(folder):
    with open("net.prototxt", "a") as net:
        net.write(f"layer {{ type: 'L1Loss' name: '{'x' * 2000}' }}\n" * 100)
    command = [sys.executable, str(SCRIPTS / "switch_route.py"), "net.prototxt", "--to", "python"]
    usual = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    reader, pipe = os.pipe()
    os.set_blocking(pipe, False)
    process = subprocess.Popen(command, stdout=pipe, stderr=subprocess.PIPE)
    os.close(pipe)
    while process.poll() is None and waiting(reader) < PIPE:
        time.sleep(0.01)
    with open(reader, "rb") as file:
        found = file.read()
    assert (process.communicate()[1].count(b"\n"), process.returncode) == (1, 0)
    assert found == usual and len(found) > 2 * PIPE


def waiting(pipe: int) -> int:
    """How many bytes can be read from it."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.parametrize("encoding, said", [
    ("ascii", b"\\xe9 \\udcff"), ("utf-8:strict", b"\xc3\xa9 \\udcff"),
    ("utf-8:surrogateescape", b"\xc3\xa9 \xff")])
def test_a_letter_that_the_output_cannot_hold_ends_no_work(encoding, said):
    script = (f"import sys; sys.path.insert(0, {str(SCRIPTS)!r})\n"
              "from caffe_l1.common.output import run\n"
              "sys.exit(run(lambda arguments: print('\\xe9 \\udcff') or 3, []))")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True,
                          env=dict(os.environ, PYTHONIOENCODING=encoding))
    assert (done.returncode, done.stdout, done.stderr) == (3, said + b"\n", b"")


def test_ctrl_c_is_130_without_a_traceback():
    script = (f"import sys; sys.path.insert(0, {str(SCRIPTS)!r})\n"
              "from caffe_l1.common.output import run\n"
              "def main(arguments): raise KeyboardInterrupt\n"
              "sys.exit(run(main, []))")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")


def test_a_full_disk_is_one_line(tmp_path):
    """As a limit on the size of files fails too, in the plugin's scratch folder."""
    command = [sys.executable, str(SCRIPTS / "build_plugin.py"), "-o", str(tmp_path / "x.so")]
    done = subprocess.run(["bash", "-c", 'ulimit -f 1 && exec "$@"', "bash", *command],
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 4 and done.stderr.count("\n") == 1
    assert "File too large; fix: look at the space" in done.stderr


# ---- A working folder that was deleted ---------------------------------------

@pytest.mark.parametrize("command", [
    ["apply_patch.py", "status", "caffe"], ["apply_patch.py", "runtest", "caffe"],
    ["caffe_l1", "check", "caffe"], ["build_plugin.py", "-o", ""],
    ["demo_stereo.py", "--iterations", "none"], ["benchmark.py", "--markdown", "none.json"]])
def test_in_a_deleted_folder_a_script_says_so_or_does_its_work(tmp_path, command):
    gone = tmp_path / "gone"
    gone.mkdir()
    shell = f'cd "{gone}" && rmdir "{gone}" && exec "$@"'
    done = subprocess.run(["bash", "-c", shell, "bash", sys.executable, *program(command[0]),
                           *command[1:]], capture_output=True, text=True, env=seeing(SCRIPTS))
    assert "Traceback" not in done.stderr
    assert done.returncode in (1, 2)


def test_a_deleted_folder_is_named(folder, monkeypatch):
    Path("gone").mkdir()
    monkeypatch.chdir("gone")
    os.rmdir(str(folder / "gone"))
    result = kit("check", "--json", "caffe")
    assert result.code == 2 and result.json["exit"] == 2
    assert result.json["error"] == {
        "file": "", "line": 0, "problem": "the working folder was deleted",
        "fix": "cd to a folder that is there"}
    assert kit("check", folder / "caffe").code == 0
