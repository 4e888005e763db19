"""The verbs of the patch script on Caffe's own source."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from caffe_l1 import VERSION
from patch_support import (
    PROTO,
    REPO,
    SCRIPT,
    SOURCES,
    STATE,
    TARGETS,
    contents,
    edit,
    kit,
    kit_process,
    make_checkout,
    snapshot,
)

VERBS = ("check", "apply", "status", "revert", "runtest")


@pytest.fixture
def caffe(tmp_path):
    return make_checkout(tmp_path / "caffe")


def test_apply_puts_in_four_files_and_edits_caffe_proto(caffe):
    before = contents(caffe)
    assert kit("apply", caffe).code == 0
    after = contents(caffe)
    assert sorted(path for path in after if after[path] != before.get(path)) == sorted(TARGETS)
    assert set(after) - set(before) == set(SOURCES)


def test_applied_files_are_those_of_the_kit(caffe):
    kit("apply", caffe)
    for path in SOURCES:
        assert (caffe / path).read_bytes() == (REPO / "caffe_patch" / path).read_bytes()


def test_apply_changes_nothing_but_lines_added_to_caffe_proto(caffe):
    before = (caffe / PROTO).read_bytes().splitlines(True)
    kit("apply", caffe)
    after = (caffe / PROTO).read_bytes().splitlines(True)
    rest = iter(after)
    assert all(line in rest for line in before)
    assert b"  optional L1LossParameter l1_loss_param = 1701;\n" in after


def test_revert_leaves_the_tree_byte_for_byte_as_it_was(caffe):
    before = contents(caffe)
    assert kit("apply", caffe).code == 0
    result = kit("revert", caffe)
    assert result.code == 0
    assert contents(caffe) == before


def test_git_status_is_clean_in_a_patched_and_reverted_checkout(caffe):
    def git(*arguments):
        command = ["git", "-C", str(caffe), "-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            command + list(arguments), check=True, stdout=subprocess.PIPE
        ).stdout.decode()

    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "Caffe")
    kit("apply", caffe)
    assert len(git("status", "--porcelain").splitlines()) == len(TARGETS)
    kit("revert", caffe)
    assert git("status", "--porcelain", "--untracked-files=all") == ""


@pytest.mark.parametrize("verb", ["apply", "revert"])
def test_what_was_built_before_is_named_with_what_to_do(caffe, verb):
    if verb == "revert":
        kit("apply", caffe)
    (caffe / "build").mkdir()
    (caffe / "build/CMakeCache.txt").write_text("")
    (caffe / "python/caffe/_caffe.so").write_text("")
    lines = kit(verb, caffe).out.splitlines()
    assert (f"run cmake again in {caffe / 'build'}: a build alone does not see new or removed "
            "sources") in lines
    assert lines[-1] == (
        "pycaffe was built before this, and crashes after the next make, which does not see it; "
        "fix: make -W python/caffe/_caffe.cpp pycaffe")


def test_nothing_is_said_of_a_pycaffe_that_cmake_made(caffe):
    (caffe / "python/caffe/_caffe.so").symlink_to("../../build/lib/_caffe.so")
    assert "pycaffe" not in kit("apply", caffe).out


def test_apply_twice_is_fine_and_touches_nothing(caffe):
    kit("apply", caffe)
    before = snapshot(caffe)
    result = kit("apply", caffe)
    assert result.code == 0
    assert "already applied" in result.out
    assert snapshot(caffe) == before


def test_revert_twice_is_fine(caffe):
    kit("apply", caffe)
    kit("revert", caffe)
    before = snapshot(caffe)
    result = kit("revert", caffe)
    assert (result.code, result.out) == (0, "not applied, nothing changed\n")
    assert snapshot(caffe) == before


def test_status_says_not_applied_and_applied(caffe):
    assert kit("status", caffe)[:2] == (1, "not applied\n")
    kit("apply", caffe)
    assert kit("status", caffe)[:2] == (0, f"applied (kit {VERSION}, field number 1701)\n")
    kit("revert", caffe)
    assert kit("status", caffe)[:2] == (1, "not applied\n")


@pytest.mark.parametrize("verb", ["check", "status", "revert"])
def test_looking_at_a_tree_leaves_no_trace_in_it(caffe, verb):
    before = snapshot(caffe)
    kit(verb, caffe)
    assert snapshot(caffe) == before
    assert not (caffe / STATE).exists()


def test_check_shows_a_diff_that_patch_can_apply(caffe, tmp_path):
    other = make_checkout(tmp_path / "other")
    result = kit("check", caffe)
    assert result.code == 0
    diff = result.out.encode("utf-8", "surrogateescape")
    subprocess.run(["git", "apply", "-p1"], cwd=str(other), input=diff, check=True)
    kit("apply", caffe)
    assert {p: e[0] for p, e in contents(caffe).items()} == {
        p: e[0] for p, e in contents(other).items()
    }


def test_check_of_a_patched_tree_says_there_is_nothing_to_do(caffe):
    kit("apply", caffe)
    result = kit("check", caffe)
    assert (result.code, result.out) == (0, "already applied, nothing to change\n")


def test_field_id_chooses_another_number_and_revert_knows_it(caffe):
    before = contents(caffe)
    assert kit("apply", "--field-id", 2000, caffe).code == 0
    assert b"l1_loss_param = 2000;" in (caffe / PROTO).read_bytes()
    assert "field number 2000" in kit("status", caffe).out
    assert kit("apply", caffe).code == 0
    assert kit("revert", caffe).code == 0
    assert contents(caffe) == before


def test_another_field_id_on_a_patched_tree_is_refused(caffe):
    kit("apply", caffe)
    before = snapshot(caffe)
    result = kit("apply", "--field-id", 2000, caffe)
    assert result.code == 1
    assert "--field-id 1701" in result.err and "; fix: " in result.err
    assert snapshot(caffe) == before


def test_a_number_in_use_is_refused_with_its_line(caffe):
    edit(caffe / PROTO, b"clip_param = 148;", b"clip_param = 1701;")
    before = snapshot(caffe)
    line = (caffe / PROTO).read_bytes().partition(b"= 1701")[0].count(b"\n") + 1
    result = kit("apply", caffe)
    assert result.code == 1
    assert result.err.startswith(f"{PROTO}:{line}: field number 1701 is taken by clip_param; fix: ")
    assert "--field-id 1702" in result.err
    assert snapshot(caffe) == before
    assert kit("apply", "--field-id", 1702, caffe).code == 0


@pytest.mark.parametrize("number", [0, -1, 19000, 19999, 536870912])
def test_a_number_protobuf_does_not_allow_is_wrong_usage(caffe, number):
    result = kit("apply", caffe, f"--field-id={number}")
    assert result.code == 2
    assert "; fix: " in result.err


@pytest.mark.parametrize("number", [1, 20, 18999, 20000, 536870911])
def test_the_numbers_at_the_edges_are_allowed_where_free(caffe, number):
    result = kit("apply", caffe, "--field-id", number)
    assert result.code == (1 if number == 1 else 0), result


@pytest.mark.parametrize("verb", VERBS)
def test_a_folder_that_is_no_caffe_checkout_is_wrong_usage(tmp_path, verb):
    result = kit(verb, tmp_path)
    assert result.code == 2
    assert result.err.startswith(f"{tmp_path}: not a Caffe source checkout: ")
    assert "src/caffe/proto/caffe.proto is missing; fix: " in result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["apply"], ["frobnicate", "."], ["apply", ".", "--x"]])
def test_wrong_usage_exits_with_2(arguments):
    assert kit(*arguments).code == 2


def test_an_option_has_its_one_name(caffe):
    for option in ("--jso", "--type=L1Loss"):
        result = kit("check", caffe, option)
        assert result.code == 2 and f"unrecognized arguments: {option}" in result.err


@pytest.mark.parametrize("verb", VERBS)
def test_no_protoc_is_one_line_with_the_command_that_installs_it(caffe, verb, tmp_path):
    before = snapshot(caffe)
    result = kit_process(verb, caffe, env={"PATH": str(tmp_path)})
    assert result.code == 1
    assert result.err == (
        "protoc is not on PATH; fix: sudo apt-get install protobuf-compiler\n"
    )
    assert snapshot(caffe) == before


@pytest.mark.parametrize("script, mode, problem", [
    ("#!/bin/sh\n", 0o644, "cannot be run: Permission denied"),
    ("no program", 0o755, "cannot be run: Exec format error"),
    ("#!/bin/sh\n", 0o755, "writes nothing")])
def test_a_protoc_that_does_not_work_is_named(caffe, tmp_path, script, mode, problem):
    protoc = tmp_path / "protoc"
    protoc.write_text(script)
    protoc.chmod(mode)
    result = kit_process("apply", caffe, env={"PATH": str(tmp_path)})
    assert (result.code, result.err) == (
        1, f"{protoc} {problem}; fix: sudo apt-get install --reinstall protobuf-compiler, or take "
           "it from PATH\n")


@pytest.mark.parametrize("raised", [
    "AttributeError(\"module 'collections' has no attribute 'MutableMapping'\")",  # 3.6.1, on 3.10
    "RuntimeError('two versions of it are mixed\\nas you see')", "TypeError()",
    "ModuleNotFoundError(\"No module named 'six'\", name='six')"])
def test_a_protobuf_package_that_cannot_be_used_is_one_line(caffe, tmp_path, raised):
    before = snapshot(caffe)
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nclass Finder:\n  def find_spec(name, path, target=None):\n"
        f"    if name == 'google.protobuf.descriptor_pb2': raise {raised}\n"
        "sys.meta_path.insert(0, Finder)\n")
    for verb in VERBS:
        result = kit_process(verb, caffe, env=dict(os.environ, PYTHONPATH=str(tmp_path)))
        assert result.code == 1
        start = "Python's protobuf package cannot be used: " + raised.partition("(")[0] + ": "
        assert result.err.startswith(start) and result.err.count("\n") == 1, result.err
        assert f"; fix: {sys.executable} -m pip install --upgrade protobuf, or " in result.err
    assert snapshot(caffe) == before


def test_a_real_protobuf_package_that_refuses_to_work_is_one_line(caffe):
    variable = {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION_VERSION": "1"}
    result = kit_process("check", caffe, env=dict(os.environ, **variable))
    assert result.code == 1 and result.err.count("\n") == 1
    assert result.err.startswith("Python's protobuf package cannot be used: ValueError: ")


def test_output_that_nobody_can_take_changes_neither_exit_code_nor_tree(caffe):
    with open("/dev/full", "wb") as full:
        command = [sys.executable, str(SCRIPT), "apply", str(caffe)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 0
    assert done.stderr.startswith(b"standard output could not be written: ")
    assert kit("status", caffe).code == 0


def test_json_has_one_shape_on_every_verb(caffe, tmp_path):
    keys = None
    for verb in VERBS:
        for root in (caffe, tmp_path / "nothing"):
            result = kit(verb, "--json", root)
            report = result.json
            keys = keys or set(report)
            assert set(report) == keys
            assert report["verb"] == verb
            assert report["exit"] == result.code
            assert report["error"] is not None or root == caffe
            if report["error"]:
                assert set(report["error"]) == {"file", "line", "problem", "fix"}


def test_the_readme_names_the_keys_of_json_and_every_exit_code(caffe):
    readme = (REPO / "scripts" / "README.md").read_text(encoding="utf-8")
    keys, codes = (re.findall(r"`([^`]+)`", " ".join(re.findall(r"^\|([^|]*)\|", table, re.M)))
                   for table in re.findall(r"^\| (?:key|exit code) \|.*?\n\n", readme, re.M | re.S))
    assert keys == list(kit("status", caffe, "--json").json)
    assert codes == re.findall(r"^  (\d+)  ", kit("apply", "--help").out, re.M)


def test_json_of_status_says_what_each_file_is(caffe):
    kit("apply", caffe)
    report = kit("status", caffe, "--json").json
    assert [file["path"] for file in report["files"]] == TARGETS
    assert {file["state"] for file in report["files"]} == {"applied"}
    assert (report["state"], report["field_id"], report["kit"]) == ("applied", 1701, VERSION)


@pytest.mark.parametrize("arguments, verb, problem", [
    (["check"], "check", "the following arguments are required: CAFFE_ROOT"),
    (["apply", "--field-id", "x", "."], "apply", "argument --field-id: invalid int value: 'x'"),
    (["status", ".", "more"], "status", "unrecognized arguments: more"),
    (["runtest", "--jobs", "0", "."], "runtest", "argument --jobs: must be at least 1"),
    (["runtest", "--log", "", "."], "runtest", "argument --log: the name is empty"),
    (["runtest", "--build-dir=", "."], "runtest", "argument --build-dir: the name is empty"),
    ([], "", "the following arguments are required: VERB"),
])
def test_wrong_usage_is_json_too_where_that_is_asked_for(arguments, verb, problem):
    result = kit(*arguments, "--json")
    assert (result.code, result.err) == (2, "")
    report = result.json
    assert (report["verb"], report["exit"], report["error"]["problem"]) == (verb, 2, problem)
    assert report["error"]["fix"].startswith("see apply_patch.py ")


def test_a_folder_that_begins_with_a_dash_by_every_name_of_the_script(caffe, monkeypatch):
    monkeypatch.chdir(caffe.parent)
    caffe.rename("-dash")
    monkeypatch.setenv("PYTHONPATH", str(SCRIPT.parent))
    for script in ([str(SCRIPT)], ["-m", "caffe_l1"]):
        command = [sys.executable, *script, "check", "--", "-dash"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert done.stdout.endswith("apply would change 6 files: 5 created, 1 edited\n")
