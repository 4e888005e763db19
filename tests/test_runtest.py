"""runtest: builds by make and by CMake, what it counts, and what it says when something fails."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from caffe_l1.common import machine
from caffe_l1.common.errors import BuildFailed
from caffe_l1.common.machine import Machine, Python
from caffe_l1.common.process import run
from caffe_l1.common.progress import Progress, compiled_file, count_compiled, is_complete
from caffe_l1.common.tree import open_tree
from caffe_l1.patch.naming import Naming
from caffe_l1.runtest.build import CMakeBuild, MakeBuild
from caffe_l1.runtest.diagnose import diagnose
from caffe_l1.runtest.make_config import cmake_options, makefile_config
from caffe_l1.runtest.runtest import Tally, refuse_stale, revert_command
from patch_support import SCRIPT, STATE, contents, edit, kit, make_checkout, snapshot

HEADER = "include/caffe/layers/l1_loss_layer.hpp"
PASSED = re.compile(r"^\[  PASSED  \] (\d+) tests\.$", re.MULTILINE)


@pytest.fixture
def caffe(tmp_path):
    return make_checkout(tmp_path / "caffe")


@pytest.fixture(scope="module")
def own_tree(patched_tree, tmp_path_factory):
    """The built tree once more, for what breaks sources and builds while other tests run Caffe."""
    root = tmp_path_factory.mktemp("own") / "native"
    shutil.copytree(str(patched_tree.root), str(root), symlinks=True)
    return SimpleNamespace(root=root, runtest=patched_tree.runtest)


@pytest.fixture(scope="module")
def cmake_folder(own_tree, work):
    """An out-of-source CMake build of the same tree, fresh; what runtest said of it."""
    folder = work / "cmake"
    shutil.rmtree(str(folder), ignore_errors=True)
    return folder, kit("runtest", "--quick", "--build-dir", folder, own_tree.root)


# Real builds, the one by make shared with the other tests


def test_make_builds_and_runs_only_our_tests(own_tree):
    output = own_tree.runtest
    assert int(PASSED.search(output).group(1)) > 0
    assert re.search(r"^make: \d+ of (\d+) files, \S+, \d+ s$", output, re.MULTILINE)
    log = (own_tree.root / STATE / "runtest.log").read_text()
    fixtures = set(re.findall(r"^\[       OK \] (\w+)/", log, re.MULTILINE))
    assert fixtures == {"L1LossLayerTest"}


def test_a_second_run_compiles_nothing(own_tree):
    result = kit("runtest", "--quick", own_tree.root)
    assert result.code == 0
    assert "files compiled" not in result.err
    assert PASSED.search(result.out)


def test_json_counts_the_tests(own_tree):
    report = kit("runtest", "--quick", "--json", own_tree.root).json
    tests = report["tests"]
    assert tests["run"] == tests["passed"] > 0 == tests["failed"]
    assert report["log"] == str(own_tree.root / STATE / "runtest.log")


def test_a_pycaffe_built_before_the_messages_changed_is_built_again(own_tree):
    """make sees no need to, and such a pycaffe is killed by the first net with our layer."""
    subprocess.run(["make", "pycaffe"], cwd=str(own_tree.root), stdout=subprocess.PIPE, check=True)
    library = own_tree.root / "python/caffe/_caffe.so"
    header = own_tree.root / ".build_release/src/caffe/proto/caffe.pb.h"
    older = header.stat().st_mtime - 0.1
    os.utime(str(library), (older, older))
    make = subprocess.run(["make", "pycaffe"], cwd=str(own_tree.root), stdout=subprocess.PIPE)
    assert make.returncode == 0 and b"_caffe.so" not in make.stdout
    result = kit("runtest", "--quick", own_tree.root)
    assert result.code == 0, result.err
    assert library.stat().st_mtime > header.stat().st_mtime
    again = kit("runtest", "--quick", own_tree.root)
    assert "making pycaffe again" in result.err and "pycaffe" not in again.err


def test_cmake_builds_and_runs_only_our_tests_in_a_fresh_folder(own_tree, cmake_folder):
    folder, result = cmake_folder
    assert result.code == 0, result.err
    assert PASSED.search(result.out)
    assert re.search(r"^build test.testbin: \d+ files compiled", result.err, re.MULTILINE)
    log = (own_tree.root / STATE / "runtest.log").read_text()
    assert "Running 0 tests" not in log
    assert not (own_tree.root / "a.out").exists()


def test_an_older_cmake_folder_is_configured_again_and_keeps_its_choice(
    own_tree, cmake_folder
):
    """Caffe's CMake lists the sources only when it configures."""
    folder, _ = cmake_folder
    choose_tests(folder, "blob")
    result = kit("runtest", "--quick", "--build-dir", folder, own_tree.root)
    assert result.code == 0, result.err
    assert PASSED.search(result.out)
    assert "BUILD_only_tests:STRING=blob\n" in (folder / "CMakeCache.txt").read_text()


def test_a_cmake_that_refuses_what_caffe_asks_for_configures_it(
    caffe_source, tmp_path, work, monkeypatch
):
    cmake = work.parent / "cmake" / "cmake" / "data" / "bin"
    if not cmake.is_dir():
        pytest.skip("scripts/test.sh fetches CMake 4")
    monkeypatch.setenv("PATH", f"{cmake}:{os.environ['PATH']}")
    tree, folder = open_tree(str(caffe_source)), tmp_path / "build"
    stage = CMakeBuild(tree, Naming("L1Loss", "l1_loss_param", 1701), 1, folder).configure(False)
    done = subprocess.run(
        stage.command, cwd=str(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    kept = (folder / "CMakeCache.txt").read_text()
    assert "CMAKE_CACHE_MAJOR_VERSION:INTERNAL=4\n" in kept
    mine = kept.replace("MINIMUM:UNINITIALIZED=3.5", "MINIMUM:UNINITIALIZED=3.10")
    assert mine != kept
    (folder / "CMakeCache.txt").write_text(mine)
    again = CMakeBuild(tree, Naming("L1Loss", "l1_loss_param", 1701), 1, folder).configure(False)
    assert not [part for part in again.command if "POLICY" in part]


def choose_tests(folder: Path, names: str) -> None:
    command = ["cmake", f"-DBUILD_only_tests={names}", str(folder)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command, check=True, cwd=str(folder), **quiet)


def test_a_filter_that_matches_nothing_is_a_failure(own_tree):
    """gtest itself exits with 0 then."""
    binary = own_tree.root / ".build_release/test/test_l1_loss_layer.testbin"
    kept = binary.with_name("kept")
    binary.rename(kept)
    script = f'#!/bin/sh\nexec "{kept}" --gtest_filter=NothingOfThisName*\n'
    try:
        binary.write_text(script)
        binary.chmod(0o755)
        result = kit("runtest", "--quick", own_tree.root)
    finally:
        kept.replace(binary)
    assert result.code == 3
    assert result.err.splitlines()[-1].startswith("no L1LossLayerTest ran; fix: see ")


def test_the_compilers_first_error_is_shown(own_tree):
    source = own_tree.root / "src/caffe/util/benchmark.cpp"
    original = source.read_bytes()
    try:
        source.write_bytes(original.replace(b"namespace caffe {", b"namespace caffe {\nint 1x;", 1))
        result = kit("runtest", "--quick", own_tree.root)
    finally:
        source.write_bytes(original)
    assert result.code == 3
    line = original[: original.index(b"namespace caffe {")].count(b"\n") + 2
    last = result.err.splitlines()[-1]
    assert last.startswith(f"src/caffe/util/benchmark.cpp:{line}: error: ")
    assert "runtest.log" in last
    assert f"revert {own_tree.root}" in result.out
    assert kit("status", own_tree.root).code == 0


def test_interrupted_runs_leave_no_children_and_keep_the_patch(own_tree):
    source = own_tree.root / "src/caffe/util/benchmark.cpp"
    os.utime(str(source))
    command = [sys.executable, str(SCRIPT), "runtest", "--quick", str(own_tree.root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: running_in(own_tree.root, "cc1plus"))
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"the patch stays; to take it out: " in out
    assert running_in(own_tree.root) == []
    assert kit("status", own_tree.root).code == 0
    assert kit("runtest", "--quick", own_tree.root).code == 0


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP])
def test_whatever_ends_it_ends_a_child_in_a_session_of_its_own_too(own_tree, number):
    """A tool may start a server of its own; the recipe of make here is such a tool."""
    makefile = own_tree.root / "Makefile"
    original = makefile.read_bytes()
    command = [sys.executable, str(SCRIPT), "runtest", "--quick", str(own_tree.root)]
    try:
        makefile.write_bytes(original + b"\nproto: stray\nstray:\n\t(setsid sleep 600 &); "
                                        b"sleep 600\n")
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wait_for(lambda: len(running_in(own_tree.root, "sleep")) == 2)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    finally:
        makefile.write_bytes(original)
        left = running_in(own_tree.root)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    assert (process.returncode, left) == (130, []), err
    assert b"the patch stays; to take it out: " in out


@pytest.mark.parametrize("variable, flags", [
    ("GNUMAKEFLAGS", "-i"), ("GNUMAKEFLAGS", "-t"), ("MAKEFLAGS", "n"), ("MAKEFILES", "flags.mk")])
def test_flags_for_make_in_the_environment_hide_no_error(
    own_tree, monkeypatch, variable, flags, tmp_path
):
    if variable == "MAKEFILES":
        (tmp_path / flags).write_text("MAKEFLAGS += -i\n")
        flags = str(tmp_path / flags)
    monkeypatch.setenv(variable, flags)
    with broken(own_tree.root / "src/caffe/util/benchmark.cpp"):
        result = kit("runtest", "--quick", own_tree.root)
    assert result.code == 3
    assert result.err.splitlines()[-1].startswith("src/caffe/util/benchmark.cpp:")
    assert not (own_tree.root / "l1loss-kit-ask").exists()


@contextlib.contextmanager
def broken(source: Path):
    original = source.read_bytes()
    source.write_bytes(original.replace(b"namespace caffe {", b"namespace caffe {\nint 1x;", 1))
    try:
        yield
    finally:
        source.write_bytes(original)


@contextlib.contextmanager
def added(config: Path, text: str):
    original = config.read_bytes()
    config.write_bytes(original + text.encode())
    try:
        yield
    finally:
        config.write_bytes(original)


@pytest.mark.parametrize("flag", ["-i", "-n", "-q"])
def test_a_make_that_ends_well_without_having_compiled_is_a_failure(own_tree, flag):
    """As a Makefile.config may tell it to."""
    root = own_tree.root
    with added(root / "Makefile.config", f"MAKEFLAGS += {flag}\n"), broken(
        root / "src/caffe/util/benchmark.cpp"
    ):
        result = kit("runtest", "--quick", root)
    assert result.code == 3, result.out


def test_a_library_that_was_not_linked_again_is_not_tested(own_tree, tmp_path):
    root, compiler = own_tree.root, tmp_path / "g++"
    compiler.write_text('#!/bin/sh\ncase " $* " in *" -shared "*) exit 1; esac\nexec g++ "$@"\n')
    compiler.chmod(0o755)
    assert kit("runtest", "--quick", root).code == 0
    os.utime(str(root / "src/caffe/layers/l1_loss_layer.cpp"))
    flags = f"MAKEFLAGS += -i\nCUSTOM_CXX := {compiler}\n"
    for _ in range(2):  # the second time, there is nothing to compile
        with added(root / "Makefile.config", flags):
            result = kit("runtest", "--quick", root)
        assert result.code == 3, result.out
        assert result.err.splitlines()[-1].startswith("make failed; fix: see ")
    assert kit("runtest", "--quick", root).code == 0


def test_a_make_that_touches_leaves_no_file_behind(own_tree):
    """It is asked for its variables by a target that is no file."""
    with added(own_tree.root / "Makefile.config", "MAKEFLAGS += -t\n"):
        kit("runtest", "--quick", own_tree.root)
    assert not (own_tree.root / "l1loss-kit-ask").exists()


def test_a_binary_older_than_its_sources_does_not_count(own_tree):
    """Here make is told to put `:` in front of the command that links it."""
    binary = own_tree.root / ".build_release/test/test_l1_loss_layer.testbin"
    assert kit("runtest", "--quick", own_tree.root).code == 0  # all but that is up to date
    now = binary.stat().st_mtime
    try:
        os.utime(str(binary), (0, 0))
        with added(own_tree.root / "Makefile.config", "Q := @: $(NOTHING)\n"):
            result = kit("runtest", "--quick", own_tree.root)
    finally:
        os.utime(str(binary), (now, now))
    assert result.code == 3, result.out
    assert result.err.splitlines()[-1].startswith("make failed; fix: see ")


def test_a_program_older_than_its_sources_is_named(tmp_path):
    program, header = tmp_path / "test.testbin", tmp_path / "l1_loss_layer.hpp"
    program.write_bytes(b"")
    header.write_bytes(b"")
    refuse_stale(program, [header])
    os.utime(str(program), (0, 0))
    with pytest.raises(BuildFailed) as error:
        refuse_stale(program, [header])
    assert str(error.value) == (f"{program}: is older than l1_loss_layer.hpp, though the build "
                                "ended well; fix: remove it and run this again")


# What stands in the place of the test program, and what is said of it.
PROGRAMS = {
    "cut off": ("exec {kept} \"$@\" | head -n 40", " tests ran, and then the program ended"),
    "without its last line": ("exec {kept} \"$@\" | grep -v PASSED",
                              " tests ran, and then the program ended"),
    "one test less": ("exec {kept} \"$@\" | sed '0,/ OK /{{/ OK /d}}'",
                      " tests ran, and then the program ended"),
    "silent": ("exit 0", "no L1LossLayerTest ran"),
    "killed": ("kill -SEGV $$", "the test program was ended by signal 11"),
}


@pytest.mark.parametrize("what", PROGRAMS)
def test_a_program_that_does_not_run_all_its_tests_is_a_failure(own_tree, what):
    script, problem = PROGRAMS[what]
    with replaced_binary(own_tree.root, "#!/bin/sh\n" + script + "\n", 0o755):
        result = kit("runtest", "--quick", own_tree.root)
    assert result.code == 3
    assert problem in result.err.splitlines()[-1]


@pytest.mark.parametrize("text, mode, reason", [
    ("#!/nowhere/sh\n", 0o755, "No such file or directory"),
    ("#!/bin/sh\n", 0o644, "Permission denied"),
    ("neither a script nor a program", 0o755, "Exec format error")])
def test_a_program_that_cannot_be_executed_is_a_failure(own_tree, text, mode, reason):
    with replaced_binary(own_tree.root, text, mode) as binary:
        result = kit("runtest", "--quick", own_tree.root)
    assert result.code == 3
    assert result.err.splitlines()[-1] == (
        f"{binary}: cannot be run: {reason}; fix: run it by hand to see why")


@contextlib.contextmanager
def replaced_binary(root: Path, text: str, mode: int):
    binary = root / ".build_release/test/test_l1_loss_layer.testbin"
    kept = binary.with_name("kept")
    binary.rename(kept)
    try:
        binary.write_text(text.replace("{kept}", f'"{kept}"').replace("{{", "{").replace("}}", "}"))
        binary.chmod(mode)
        yield binary
    finally:
        kept.replace(binary)


def wait_for(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def running_in(folder: Path, name: str = "") -> list:
    """The processes of this name whose working folder this is, as make's are."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                command = (process / "comm").read_text().strip()
                where = os.readlink(str(process / "cwd"))
            except OSError:  # it has ended
                continue
            if where == str(folder) and name in ("", command):
                found.append(int(process.name))
    return found


def test_another_caffe_pb_h_earlier_on_the_include_path_is_named(own_tree, tmp_path):
    header = tmp_path / "caffe/proto/caffe.pb.h"
    header.parent.mkdir(parents=True)
    header.write_text("// of another Caffe\n")
    config = own_tree.root / "Makefile.config"
    original = config.read_text()
    try:
        config.write_text(original.replace("INCLUDE_DIRS := ", f"INCLUDE_DIRS := {tmp_path} "))
        result = kit("runtest", "--quick", own_tree.root)
    finally:
        config.write_text(original)
    assert result.code == 3
    assert str(header) in result.err
    assert ".build_release/src/caffe/proto/caffe.pb.h" in result.err


# Without a build


def test_a_tree_that_is_not_patched_is_refused(caffe):
    before = snapshot(caffe)
    result = kit("runtest", "--quick", caffe)
    assert result.code == 1
    assert result.err == f"{caffe}: not applied; fix: run apply first\n"
    assert snapshot(caffe) == before


def test_a_missing_makefile_config_says_what_to_do(caffe):
    kit("apply", caffe)
    before = snapshot(caffe)
    result = kit("runtest", "--quick", caffe)
    assert result.code == 1
    assert result.err.startswith("Makefile.config: is not there, and make needs it; fix: ")
    assert "--write-config" in result.err and "--build-dir" in result.err
    assert snapshot(caffe) == before


def test_write_config_leaves_an_existing_one_alone(caffe):
    kit("apply", caffe)
    (caffe / "Makefile.config").write_text("$(error this is mine)\n")
    before = contents(caffe)
    result = kit("runtest", "--quick", "--write-config", caffe)
    assert result.code == 3
    assert "stays as it is" in result.out
    assert contents(caffe) == before


def test_write_config_writes_through_no_link(caffe, tmp_path):
    kit("apply", caffe)
    (caffe / "Makefile").write_text("$(error not to be built)\n")
    (caffe / "Makefile.config").symlink_to("../outside")
    result = kit("runtest", "--quick", "--write-config", caffe)
    assert (result.code, result.err) == (
        1, "Makefile.config: is a link to nothing; fix: remove it\n")
    assert not (tmp_path / "outside").exists()


def test_cmake_builds_in_no_folder_that_a_link_in_the_tree_leads_to(caffe, tmp_path):
    kit("apply", caffe)
    (caffe / "Makefile").unlink()
    (caffe / "CMakeLists.txt").write_text("message(FATAL_ERROR no)\n")
    (tmp_path / "outside").mkdir()
    (caffe / "build").symlink_to("../outside")
    result = kit("runtest", "--quick", caffe)
    assert (result.code, result.err) == (
        1, "build: is a link; fix: remove it, or name another folder with --build-dir\n")
    assert not list((tmp_path / "outside").iterdir())


def test_a_cmake_folder_of_another_tree_is_refused(own_tree, cmake_folder, caffe):
    kit("apply", caffe)
    result = kit("runtest", "--quick", "--build-dir", cmake_folder[0], caffe)
    assert result.code == 1
    assert f"this CMake folder builds {own_tree.root}" in result.err


@pytest.fixture
def make_build(caffe):
    (caffe / "Makefile.config").write_text(makefile_config(MACHINE))
    return MakeBuild(open_tree(str(caffe)), Naming(), 1)


def test_a_makefile_that_prints_something_is_understood(make_build):
    with open(str(make_build.root / "Makefile.config"), "a") as config:
        config.write("$(info BUILD_DIR is $(BUILD_DIR))\n")
    assert make_build.ask("$(TEST_BIN_DIR)") == ".build_release/test"


FLAGS = ["i", "-i", "-k", "n", "--just-print", "-q", "-t", "--debug", " -- BUILD_DIR=elsewhere"]


@pytest.mark.parametrize("variable", ["MAKEFLAGS", "GNUMAKEFLAGS"])
@pytest.mark.parametrize("flags", FLAGS)
def test_flags_for_make_in_the_environment_change_nothing(
    make_build, monkeypatch, variable, flags
):
    usual = make_build.ask("$(firstword $(MAKEFLAGS)) $(TEST_BIN_DIR)")
    monkeypatch.setenv(variable, flags)
    assert make_build.ask("$(firstword $(MAKEFLAGS)) $(TEST_BIN_DIR)") == usual
    assert not (make_build.root / "l1loss-kit-ask").exists()


def test_a_makefile_that_asks_where_it_is_is_told_its_own_tree(make_build):
    with open(str(make_build.root / "Makefile.config"), "a") as config:
        config.write("HERE := $(PWD)\n")
    assert make_build.ask("$(HERE)") == str(make_build.root)


@pytest.mark.parametrize("quick", [True, False])
def test_the_messages_are_made_before_anything_is_compiled(make_build, quick):
    """In older Makefiles it was a race, which an installed caffe.pb.h could win."""
    first, *others = make_build.stages(quick)
    assert not make_build.header.exists()
    made = subprocess.run(first.command, cwd=str(make_build.root), stdout=subprocess.PIPE)
    assert made.returncode == 0 and make_build.header.exists()
    assert b"CXX" not in made.stdout
    assert len(others) == (1 if quick else 2)


def test_a_log_in_no_folder_is_wrong_usage(caffe, tmp_path):
    kit("apply", caffe)
    (caffe / "Makefile.config").write_text("CPU_ONLY := 1\n")
    result = kit("runtest", "--quick", "--log", tmp_path / "no/where.log", caffe)
    assert result.code == 2


def test_a_server_that_a_build_started_is_not_waited_for(tmp_path):
    said: list = []
    script = "setsid sleep 10 & printf 'a\\n\\nb'; exit 3"
    with open(str(tmp_path / "log"), "w+b") as log:
        code = run(["sh", "-c", script], tmp_path, log, said.append)
        log.seek(0)
        assert log.read().endswith(b"\na\n\nb")
    wait_for(lambda: running_in(tmp_path, "sleep"))  # setsid may not have started it yet
    [left] = running_in(tmp_path, "sleep")
    os.kill(left, signal.SIGKILL)
    assert (code, said) == (3, ["a", "", "b"])


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_a_log_that_is_no_file_is_wrong_usage(caffe, tmp_path, make):
    kit("apply", caffe)
    (caffe / "Makefile.config").write_text("CPU_ONLY := 1\n")
    make(str(tmp_path / "log"))
    done = subprocess.run([sys.executable, str(SCRIPT), "runtest", "--log", str(tmp_path / "log"),
                           str(caffe)], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2, f"{tmp_path}/log: is not a file; fix: name another, or one that is not there")


def test_edits_inside_our_files_are_no_reason_to_build(caffe):
    kit("apply", caffe)
    edit(caffe / HEADER, b"namespace caffe", b"namespace  caffe")
    result = kit("runtest", "--quick", caffe)
    assert result.code == 1
    assert HEADER in result.err


MACHINE = Machine(
    cuda=None,
    opencv=0,
    leveldb=False,
    lmdb=True,
    hdf5=True,
    blas="open",
    include=["/usr/include/hdf5/serial"],
    library_folders=["/usr/lib/hdf5"],
    python=Python(["/usr/include/python3.9"], ["boost_python39", "python3.9"], "/usr/lib"),
)


def test_a_written_config_says_what_the_machine_has():
    lines = makefile_config(MACHINE).splitlines()
    for line in (
        "CPU_ONLY := 1",
        "USE_OPENCV := 0",
        "USE_LMDB := 1",
        "BLAS := open",
        "PYTHON_LIBRARIES := boost_python39 python3.9",
        "WITH_PYTHON_LAYER := 1",
        "INCLUDE_DIRS := $(PYTHON_INCLUDE) /usr/local/include /usr/include/hdf5/serial",
    ):
        assert line in lines


def test_a_written_config_uses_cuda_where_it_is():
    text = makefile_config(MACHINE._replace(cuda="/opt/cuda", gencodes=["arch=a,code=b", "c=d"]))
    assert "CPU_ONLY" not in text and "COMMON_FLAGS" not in text
    assert "CUDA_DIR := /opt/cuda\n" in text
    assert "CUDA_ARCH := -gencode arch=a,code=b -gencode c=d\n" in text


def test_cmake_gets_the_same_choices():
    options = cmake_options(MACHINE)
    assert "-DCPU_ONLY=ON" in options
    assert "-DUSE_OPENCV=OFF" in options
    assert "-DUSE_LMDB=ON" in options
    assert "-DBLAS=Open" in options


COMPILED = [
    ("CXX src/caffe/blob.cpp", "src/caffe/blob.cpp"),
    ("echo CXX src/caffe/blob.cpp", "src/caffe/blob.cpp"),
    ("NVCC src/caffe/layers/l1_loss_layer.cu", "src/caffe/layers/l1_loss_layer.cu"),
    ("CXX .build_release/caffe.pb.cc", ".build_release/caffe.pb.cc"),
    ("CXX/LD -o .build_release/tools/caffe.bin", None),
    ("LD -o .build_release/lib/libcaffe.so.1.0.0", None),
    ("[ 12%] Building CXX object src/CMakeFiles/blob.cpp.o", "src/CMakeFiles/blob.cpp.o"),
    ("[3/9] Building CXX object a/b.o", "a/b.o"),
    ("[ 12%] Linking CXX shared library ../lib/libcaffe.so", None),
]


@pytest.mark.parametrize("line, name", COMPILED)
def test_progress_knows_a_compiled_file(line, name):
    assert compiled_file(line) == name


def test_a_dry_run_is_counted_once_per_file():
    text = "echo CXX a.cpp\ng++ a.cpp -o a.o\necho CXX b.cpp\necho CXX b.cpp\necho LD x\n"
    assert count_compiled(text) == 2


@pytest.mark.parametrize("line", [
    "echo LD -o .build_release/lib/libcaffe.so.1.0.0", "echo CXX/LD -o .build_release/tools/x.bin",
    "[ 97%] Linking CXX shared library ../../lib/libcaffe.so",
    'cmake -E cmake_echo_color --progress-num=78 "Linking CXX static library lib/libproto.a"',
    "[3/9] Linking CXX executable test/test.testbin", "echo CXX src/caffe/blob.cpp"])
def test_a_build_that_would_still_link_or_compile_is_not_complete(line):
    assert not is_complete("make: entering\n" + line + "\n")
    assert is_complete("make: entering\necho mkdir -p LD\n")


def test_progress_tells_of_a_hundred_links_now_and_then():
    stream = io.StringIO()
    progress = Progress("make", 1, stream)
    progress.line("CXX src/caffe/blob.cpp")
    for name in "abc":
        progress.line(f"LD .build_release/src/caffe/test/test_{name}.o")
    progress.last_shown -= 11  # seconds
    progress.line("[ 97%] Linking CXX executable ../../test/test.testbin")
    assert re.sub(r", \d+ s$", "", stream.getvalue(), flags=re.MULTILINE).splitlines() == [
        "make: 1 of 1 files, blob.cpp", "make: 1 of 1 files, linking test.testbin"]


ERRORS = [
    ("x\n./a/b.hpp:7:3: error: no x\nc.cpp:1:1: error: y\n", "./a/b.hpp:7: error: no x; fix: "),
    ("a.cpp:3:10: fatal error: lmdb.h: No such file or directory\n", "liblmdb-dev"),
    ("a.cpp:3:10: fatal error: gflags/gflags.h: No such file or directory\n", "libgflags-dev"),
    ("a.cpp:3:10: fatal error: hdf5.h: No such file or directory\n", "libhdf5-dev"),
    ("a.cpp:3:10: fatal error: cblas.h: No such file or directory\n", "libopenblas-dev"),
    ("a.cpp:3:10: fatal error: Python.h: No such file or directory\n", "python3-dev"),
    ("src/caffe/util/io.cpp:57:34: error: no matching function for call to "
     "‘google::protobuf::io::CodedInputStream::SetTotalBytesLimit(const int&, int)’\n",
     "src/caffe/util/io.cpp:57: SetTotalBytesLimit takes one argument in this protobuf; fix: "
     "remove the second argument, 536870912, there"),
    ("src/caffe/common.cpp:194:59: error: ‘struct cudaDeviceProp’ has no member named "
     "‘clockRate’\n",
     "src/caffe/common.cpp:194: this CUDA has no such field any more; fix: COMMON_FLAGS += "
     "-DclockRate=tccDriver -DdeviceOverlap=asyncEngineCount "
     "-DkernelExecTimeoutEnabled=tccDriver in Makefile.config, as --write-config writes it"),
    ("/usr/bin/ld: cannot find -lopencv_core\n", "libopencv-dev"),
    ("/usr/bin/ld: cannot find -lboost_python\n", "libboost-python-dev"),
    ("/usr/bin/ld: cannot find -lsnappy\n", "libsnappy-dev"),
    ("  Could NOT find Protobuf (missing: PROTOBUF_INCLUDE_DIR)\n", "libprotobuf-dev"),
    ("/bin/sh: 1: protoc: not found\n", "protobuf-compiler"),
    ("a.o: in function `f': undefined reference to `g()'\n", "undefined reference to `g()'"),
    ("src/caffe.proto:4:3: Expected \";\".\n", "src/caffe.proto:4: error: Expected"),
    ("make: *** [Makefile:5: all] Error 2\n", "[Makefile:5: all] Error 2"),
    ("nothing of note\n", "make failed; fix: see the.log"),
]


@pytest.mark.parametrize("words", ["g++ -m64", "ccache g++", " g++", "'{folder}/a b/c++' -O0"])
def test_a_compiler_of_several_words_is_read_as_make_reads_it(tmp_path, monkeypatch, words):
    for name in ("ccache", "a b/c++"):  # what ccache is to make: a program that runs the next word
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('#!/bin/sh\n[ "$1" != g++ ] || shift\nexec g++ "$@"\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("CXX", words.format(folder=tmp_path))
    assert machine.has_header("glog/logging.h") and not machine.has_header("no/such.h")
    assert machine.has_library(["glog"]) and not machine.has_library(["no_such_library"])


@pytest.mark.parametrize("words", ["no-such-compiler", "'", "false", "$(exit 1)"])
def test_a_compiler_that_is_none_has_nothing(monkeypatch, words):
    monkeypatch.setenv("CXX", words)
    assert not machine.has_header("glog/logging.h")


@pytest.mark.parametrize("log, said", ERRORS)
def test_the_first_error_of_a_log_and_its_package(log, said):
    assert said in str(diagnose(log, "the.log", "make"))


def test_counting_what_gtest_prints():
    tests = Tally("L1LossLayerTest")
    for line in (
        "[==========] Running 3 tests from 2 test cases.",
        "[ RUN      ] L1LossLayerTest/0.TestA",
        "[       OK ] L1LossLayerTest/0.TestA (3 ms)",
        "a.cpp:3: Failure",
        "[  FAILED  ] L1LossLayerTest/1.TestA, where TypeParam = double (0 ms)",
        "[       OK ] BlobSimpleTest/0.TestB (0 ms)",
        "[  PASSED  ] 2 tests.",
        "[  FAILED  ] L1LossLayerTest/1.TestA, where TypeParam = double",
    ):
        tests.line(line)
    assert (tests.announced, tests.passed, tests.failed, tests.others) == (3, 1, 1, 1)
    assert tests.passed_line == "[  PASSED  ] 2 tests."
    assert tests.first_failure == "a.cpp:3: Failure"


def test_the_revert_command_can_be_pasted_into_a_shell(tmp_path, monkeypatch):
    tree = open_tree(str(make_checkout(tmp_path / "my $HOME's caffe")))
    monkeypatch.setattr(sys, "argv", ["/home/me/a kit/scripts/apply_patch.py", "runtest"])
    done = subprocess.run(["bash", "-c", f"printf '%s|' {revert_command(tree)}"],
                          stdout=subprocess.PIPE)
    assert done.stdout.decode() == f"{sys.argv[0]}|revert|{tree.root}|"


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_a_compiler_that_speaks_no_utf_8(caffe, locale):
    kit("apply", caffe)
    (caffe / "Makefile.config").write_bytes(
        b"CPU_ONLY := 1\nproto: fail\n"
        b"fail:\n\t@printf 'a\\351.cpp:7:1: error: \\351\\200\\n'; false\n")
    command = [sys.executable, str(SCRIPT), "runtest", "--quick", str(caffe)]
    done = subprocess.run(command, capture_output=True, env=dict(os.environ, LC_ALL=locale))
    assert done.returncode == 3
    assert done.stderr.decode().splitlines()[-1].startswith("a\ufffd.cpp:7: error: \ufffd")
