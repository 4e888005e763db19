"""What a patch script for source trees must survive, one named test each."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from caffe_l1 import VERSION
from caffe_l1.common.errors import Refused
from caffe_l1.patch import commit, payload, plan
from caffe_l1.patch.store import Store
from patch_support import (
    PROTO,
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

HPP, SIMD, CU, CPP, TEST = SOURCES
EUCLIDEAN = "src/caffe/layers/euclidean_loss_layer.cpp"


@pytest.fixture
def caffe(tmp_path):
    return make_checkout(tmp_path / "caffe")


def refused(result, where, problem):
    """One line FILE:LINE: problem; fix: ..., exit 1."""
    assert result.code == 1, result
    assert result.err.startswith(where + ": "), result.err
    assert problem in result.err
    assert "; fix: " in result.err
    assert result.err.count("\n") == 1
    return True


def refused_untouched(root, where, problem, *arguments):
    before = snapshot(root)
    for verb in ("check", "apply"):
        assert refused(kit(verb, root, *arguments), where, problem)
        assert snapshot(root) == before
    assert not (root / STATE).exists()


def line_of(path, text):
    return path.read_bytes().partition(text)[0].count(b"\n") + 1


# Checkout


@pytest.mark.parametrize(
    "landmark", [PROTO, "include/caffe/layer.hpp", "include/caffe/layer_factory.hpp"]
)
def test_a_root_with_a_file_missing_is_wrong_usage_and_names_it(caffe, landmark):
    (caffe / landmark).unlink()
    result = kit("apply", caffe)
    assert result.code == 2
    assert f"{landmark} is missing" in result.err


INTERFACES = [
    ("nvidia 0.16", "Ftype, typename Btype", "<Ftype, Btype>"),
    ("opencl", "Dtype, typename MItype, typename MOtype", "<Dtype, MItype, MOtype>"),
]


@pytest.mark.parametrize(
    "parameters, seen", [i[1:] for i in INTERFACES], ids=[i[0] for i in INTERFACES]
)
def test_layers_of_another_interface_are_refused_by_what_was_seen(caffe, parameters, seen):
    header = caffe / "include/caffe/layer.hpp"
    text = header.read_text()
    old = "template <typename Dtype>\nclass Layer {"
    assert old in text
    header.write_text(text.replace(old, f"template <typename {parameters}>\nclass Layer {{"))
    line = line_of(header, b"template <typename " + parameters.encode())
    refused_untouched(caffe, f"include/caffe/layer.hpp:{line}", seen)


REGISTRATIONS = [
    "REGISTER_LAYER_CLASS(L1Loss);",
    "REGISTER_LAYER_CLASS( L1Loss );",
    "REGISTER_LAYER_CREATOR(L1Loss, GetL1LossLayer);",
    'static LayerRegisterer<float> g("L1Loss", Make);',
]


@pytest.mark.parametrize("registration", REGISTRATIONS)
def test_an_l1loss_of_the_trees_own_is_refused_at_its_register_line(caffe, registration):
    source = caffe / "src/caffe/layers/l1loss_layer.cpp"
    source.write_text(f"namespace caffe {{\n{registration}\n}}\n")
    refused_untouched(caffe, "src/caffe/layers/l1loss_layer.cpp:2", '"L1Loss"')
    assert kit("status", caffe).out == (
        'foreign: "L1Loss" is registered at src/caffe/layers/l1loss_layer.cpp:2\n'
    )


def test_a_registration_in_cuda_code_or_elsewhere_counts(caffe):
    (caffe / "src/caffe/extra.cu").write_text("\n\nREGISTER_LAYER_CLASS(L1Loss);\n")
    refused_untouched(caffe, "src/caffe/extra.cu:3", '"L1Loss"')


@pytest.mark.parametrize(
    "text",
    [
        "// REGISTER_LAYER_CLASS(L1Loss);",
        "/* REGISTER_LAYER_CLASS(L1Loss); */",
        "/* //\n REGISTER_LAYER_CLASS(L1Loss); */",
        "REGISTER_LAYER_CLASS(SmoothL1Loss);",
        "REGISTER_LAYER_CLASS(L1LossExtra);",
    ],
)
def test_a_registration_in_a_comment_or_of_another_name_does_not_count(caffe, text):
    (caffe / "src/caffe/layers/other_layer.cpp").write_text(text + "\n")
    assert kit("apply", caffe).code == 0


def test_a_comment_sign_in_a_string_hides_no_registration(caffe):
    text = 'const char* s = "/*";\nREGISTER_LAYER_CLASS(L1Loss); // */\n'
    (caffe / "src/caffe/layers/other_layer.cpp").write_text(text)
    refused_untouched(caffe, "src/caffe/layers/other_layer.cpp:2", '"L1Loss"')


def test_a_target_with_the_same_bytes_is_adopted_and_stays_on_revert(caffe):
    kit("apply", caffe)
    ours = (caffe / HPP).read_bytes()
    kit("revert", caffe)
    (caffe / HPP).write_bytes(ours)
    before = contents(caffe)
    mtime = os.stat(str(caffe / HPP)).st_mtime_ns
    assert kit("apply", caffe).code == 0
    assert os.stat(str(caffe / HPP)).st_mtime_ns == mtime
    result = kit("revert", caffe)
    assert f"{HPP} was there before apply and stays" in result.out
    assert contents(caffe) == before


def test_a_target_with_other_bytes_is_refused(caffe):
    (caffe / HPP).write_bytes(b"#ifndef MINE\n#endif\n")
    refused_untouched(caffe, f"{HPP}:1", "is there already")
    assert kit("status", caffe).out == f"foreign ({HPP}:1)\n"


def test_l1_loss_param_without_our_record_is_refused_and_foreign(caffe):
    edit(
        caffe / PROTO,
        b"  optional ClipParameter clip_param = 148;\n",
        b"  optional ClipParameter clip_param = 148;\n  optional float l1_loss_param = 151;\n",
    )
    line = line_of(caffe / PROTO, b"l1_loss_param")
    refused_untouched(caffe, f"{PROTO}:{line}", "l1_loss_param is there already")
    assert kit("status", caffe).out == f"foreign ({PROTO}:{line})\n"
    assert refused(kit("revert", caffe), f"{PROTO}:{line}", "the kit did not put it there")


def test_a_message_of_our_name_without_our_record_is_refused(caffe):
    with open(str(caffe / PROTO), "ab") as file:
        file.write(b"message L1LossParameter { optional int32 a = 1; }\n")
    line = line_of(caffe / PROTO, b"message L1LossParameter")
    refused_untouched(caffe, f"{PROTO}:{line}", "L1LossParameter is there already")


# Proto (the edit itself: test_proto_edit.py)


def test_an_invalid_caffe_proto_is_refused_with_protocs_line(caffe):
    edit(caffe / PROTO, b"ClipParameter clip_param = 148;", b"ClipParameter = 148;")
    line = line_of(caffe / PROTO, b"optional ClipParameter = 148;")
    refused_untouched(caffe, f"{PROTO}:{line}", "protoc refuses this file: ")


def test_numbers_are_read_not_the_comment_about_the_next_free_one(caffe):
    edit(caffe / PROTO, b"next available layer-specific ID: 149", b"next available: 1701")
    edit(caffe / PROTO, b"clip_param = 148;", b"clip_param = 6801;")
    assert kit("apply", caffe).code == 0
    assert b"next available: 1701" in (caffe / PROTO).read_bytes()


@pytest.mark.parametrize("reserved", [b"reserved 1700 to 1800;", b"extensions 1000 to max;"])
def test_reserved_numbers_and_extension_ranges_are_refused(caffe, reserved):
    head = b"message LayerParameter {\n"
    edit(caffe / PROTO, head, head + b"  " + reserved + b"\n")
    line = line_of(caffe / PROTO, reserved)
    refused_untouched(caffe, f"{PROTO}:{line}", "field number 1701 is ")


def test_a_crlf_tree_gets_crlf_files_and_is_restored(caffe):
    for path in [*(caffe / "src").rglob("*"), *(caffe / "include").rglob("*")]:
        if path.suffix in (".proto", ".hpp", ".cpp", ".cu"):
            path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    before = contents(caffe)
    assert kit("apply", caffe).code == 0
    for path in TARGETS:
        data = (caffe / path).read_bytes()
        assert data.count(b"\r\n") == data.count(b"\n") > 0, path
    assert kit("revert", caffe).code == 0
    assert contents(caffe) == before


@pytest.mark.parametrize("locale", ["C", "POSIX", "en_US.ISO-8859-1"])
def test_an_ascii_locale_is_no_hindrance(caffe, locale):
    """caffe.proto has a letter that is not ASCII."""
    before = contents(caffe)
    environment = {"PATH": os.environ["PATH"], "LC_ALL": locale, "PYTHONUTF8": "0"}
    environment["PYTHONCOERCECLOCALE"] = "0"
    for verb, code in (("check", 0), ("apply", 0), ("status", 0), ("revert", 0)):
        result = kit_process(verb, caffe, env=environment)
        assert (result.code, result.err) == (code, ""), result
    assert contents(caffe) == before


@pytest.mark.parametrize("implementation", ["python", "cpp"])
def test_a_latin_1_letter_is_no_hindrance_to_any_protobuf_package(caffe, implementation):
    edit(caffe / PROTO, b"message BlobShape {", b"// na\xefve\nmessage BlobShape {")
    before = contents(caffe)
    environment = {**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation}
    for verb in ("check", "apply", "status", "revert"):
        result = kit_process(verb, caffe, env=environment)
        assert (result.code, result.err) == (0, ""), result
    assert contents(caffe) == before


# File system


@pytest.mark.parametrize("path", TARGETS)
def test_a_symlinked_target_is_refused(caffe, tmp_path, path):
    target = caffe / path
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(target.read_bytes() if target.exists() else b"")
    if target.exists():
        target.unlink()
    target.symlink_to(elsewhere)
    refused_untouched(caffe, path, "is a symbolic link")


def test_a_symlink_to_nowhere_is_refused(caffe):
    (caffe / CPP).symlink_to("nowhere")
    refused_untouched(caffe, CPP, "is a symbolic link")


@pytest.mark.parametrize("folder", ["src/caffe/layers", "include/caffe/layers", "src/caffe"])
def test_a_symlinked_folder_on_the_way_is_refused(caffe, tmp_path, folder):
    shutil.move(str(caffe / folder), str(tmp_path / "moved"))
    (caffe / folder).symlink_to(tmp_path / "moved")
    refused_untouched(caffe, folder, "is a symbolic link")


def test_a_hard_linked_caffe_proto_is_refused(caffe, tmp_path):
    os.link(str(caffe / PROTO), str(tmp_path / "link"))
    refused_untouched(caffe, PROTO, "is one of 2 hard links")


def test_a_hard_linked_source_is_refused_on_revert(caffe, tmp_path):
    kit("apply", caffe)
    os.link(str(caffe / CPP), str(tmp_path / "link"))
    before = snapshot(caffe)
    assert refused(kit("revert", caffe), CPP, "is one of 2 hard links")
    assert snapshot(caffe) == before


def test_a_read_only_file_is_refused_at_check_time(caffe):
    (caffe / PROTO).chmod(0o444)
    refused_untouched(caffe, PROTO, "is read-only")


@pytest.mark.parametrize("folder", ["src/caffe/layers", "src/caffe/proto", "include/caffe/layers"])
def test_a_read_only_folder_is_refused_at_check_time(caffe, folder):
    (caffe / folder).chmod(0o555)
    refused_untouched(caffe, folder, "the folder is read-only")
    (caffe / folder).chmod(0o755)


def test_a_folder_where_a_file_goes_is_refused(caffe):
    (caffe / CPP).mkdir()
    refused_untouched(caffe, CPP, "is not a regular file")


@pytest.mark.parametrize("name", ["with space", "é", "a\nb", "a:b", "-dash", "q'u\"ote", "100%s"])
def test_paths_with_odd_letters(tmp_path, name):
    root = make_checkout(tmp_path / name)
    before = contents(root)
    for verb in ("check", "apply", "status", "revert"):
        result = kit_process(verb, "--", name, cwd=str(tmp_path))
        assert result.code == 0, result
        assert result.err == ""
    assert contents(root) == before


@pytest.mark.parametrize("mode", [0o640, 0o600, 0o664, 0o755])
def test_modes_are_kept(caffe, mode):
    (caffe / PROTO).chmod(mode)
    before = contents(caffe)
    kit("apply", caffe)
    assert os.stat(str(caffe / PROTO)).st_mode & 0o7777 == mode
    kit("revert", caffe)
    assert contents(caffe) == before


def test_a_strict_umask_does_not_reach_the_tree(caffe):
    old = os.umask(0o077)
    try:
        assert kit("apply", caffe).code == 0
    finally:
        os.umask(old)
    for path in TARGETS:
        assert os.stat(str(caffe / path)).st_mode & 0o777 == 0o644, path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_makes_belongs_to_the_owner_of_the_folder(caffe):
    for path in [caffe, *caffe.rglob("*")]:
        os.chown(str(path), 1234, 2345)
    assert kit("apply", caffe).code == 0
    for path in [caffe / name for name in TARGETS] + list((caffe / STATE).rglob("*")):
        status = os.stat(str(path))
        assert (status.st_uid, status.st_gid) == (1234, 2345), path
    assert kit("revert", caffe).code == 0
    status = os.stat(str(caffe / PROTO))
    assert (status.st_uid, status.st_gid) == (1234, 2345)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_gits_dubious_ownership_is_no_hindrance(caffe):
    subprocess.run(["git", "init", "-q", str(caffe)], check=True)
    for path in [caffe, *caffe.rglob("*")]:
        os.chown(str(path), 1234, 2345)
    assert kit("apply", caffe).code == 0
    assert kit("status", caffe).code == 0
    assert kit("revert", caffe).code == 0


def test_a_caffe_inside_another_repository_is_patched(tmp_path):
    """`git apply` skips such a file without a word."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    root = make_checkout(tmp_path / "third_party/caffe")
    before = contents(root)
    assert kit("apply", root).code == 0
    assert kit("status", root).code == 0
    assert kit("revert", root).code == 0
    assert contents(root) == before


# Faults (kills and full disks: test_apply_patch_faults.py)


def test_of_six_runs_at_once_one_works_and_the_others_say_so(caffe):
    command = [sys.executable, str(SCRIPT), "apply", str(caffe)]
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(6)
    ]
    results = [(run.communicate(), run.returncode) for run in runs]
    worked = [out for (out, _), code in results if code == 0 and out.startswith(b"applied: 6")]
    assert len(worked) == 1
    for (_, err), code in results:
        assert code == 0 or (code == 1 and b"another apply_patch.py is at work" in err), err
    assert kit("status", caffe).code == 0


def test_first_runs_at_once_make_the_kits_folder_together(tmp_path):
    """Before any of them has the lock, which lies in it."""
    roots = [tmp_path / str(number) for number in range(50)]
    start = threading.Barrier(6, timeout=10)

    def run(_):
        got = 0
        for root in roots:
            store = Store(root)
            start.wait()
            store.create()
            with contextlib.suppress(Refused), store.locked():
                got += 1
        return got

    for root in roots:
        root.mkdir()
    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(run, range(6))) >= len(roots)
    assert all((root / STATE / ".gitignore").read_bytes() == b"*\n" for root in roots)


def test_a_run_that_holds_the_lock_makes_the_others_say_so(caffe):
    kit("apply", caffe)
    before = snapshot(caffe)
    with open(str(caffe / STATE / "lock"), "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert refused(kit("revert", caffe), STATE, "another apply_patch.py is at work")
        assert "another apply_patch.py" in kit("status", caffe).out
    assert snapshot(caffe) == before
    assert kit("revert", caffe).code == 0


def test_a_file_edited_between_plan_and_write_is_refused_and_keeps_the_users_bytes(
    caffe, monkeypatch
):
    stage = commit.stage
    before = contents(caffe)

    def stage_and_edit(*arguments):
        stage(*arguments)
        (caffe / PROTO).write_bytes(b"// mine\n" + (caffe / PROTO).read_bytes())

    monkeypatch.setattr(commit, "stage", stage_and_edit)
    assert refused(kit("apply", caffe), PROTO, "was edited by someone else just now")
    monkeypatch.undo()
    assert (caffe / PROTO).read_bytes().startswith(b"// mine\n")
    assert {**contents(caffe), PROTO: None} == {**before, PROTO: None}
    assert kit("status", caffe).out == "not applied\n"
    assert kit("apply", caffe).code == 0


def test_a_file_that_appears_between_plan_and_write_is_kept(caffe, monkeypatch):
    check = commit.check_unchanged

    def check_and_create(store, step):
        check(store, step)
        if step.path == CPP:
            (caffe / CPP).write_bytes(b"// mine\n")

    before = contents(caffe)
    monkeypatch.setattr(commit, "check_unchanged", check_and_create)
    assert refused(kit("apply", caffe), CPP, "was edited by someone else just now")
    monkeypatch.undo()
    assert (caffe / CPP).read_bytes() == b"// mine\n"
    (caffe / CPP).unlink()
    assert contents(caffe) == before


@pytest.fixture
def interrupted(caffe, monkeypatch):
    """A checkout in which apply was killed when three of its six files were in place."""
    move = commit.move
    monkeypatch.setattr(
        commit, "move", lambda store, step: os._exit(9) if step.path == CU else move(store, step)
    )
    child = os.fork()
    if child == 0:
        kit("apply", caffe)
        os._exit(0)
    assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 9
    monkeypatch.undo()
    return caffe


@pytest.mark.parametrize("path", [PROTO, HPP, CPP])
def test_a_file_edited_after_a_kill_is_refused_and_keeps_the_users_bytes(interrupted, path):
    with open(str(interrupted / path), "ab") as file:
        file.write(b"// mine\n")
    before = snapshot(interrupted)
    for verb in ("apply", "revert"):
        assert refused(kit(verb, interrupted), path, "edited after the interrupted run")
        assert (interrupted / path).read_bytes().endswith(b"// mine\n")
    assert snapshot(interrupted)[path] == before[path]
    assert kit("status", interrupted).out.startswith("interrupted: apply was killed half-way")


@pytest.mark.parametrize("verb, word", [("apply", "applied"), ("revert", "not applied")])
def test_after_a_kill_status_says_interrupted_and_the_next_run_completes(interrupted, verb, word):
    before = snapshot(interrupted)
    status = kit("status", interrupted)
    assert (status.code, status.out.split(":")[0]) == (1, "interrupted")
    assert kit("check", interrupted).code == 1
    assert snapshot(interrupted) == before
    result = kit(verb, interrupted)
    assert (result.code, result.out.split("\n")[0]) == (0, "took back the interrupted apply")
    assert kit("status", interrupted).out.startswith(word)


def test_after_a_kill_git_clean_takes_nothing_that_is_needed(interrupted, tmp_path):
    """What lies beside the targets is not in git; the kit's own folder tells git to ignore it."""
    for path in interrupted.rglob(".*.l1loss-kit-*"):
        path.unlink()
    assert kit("revert", interrupted).code == 0
    assert contents(interrupted) == contents(make_checkout(tmp_path / "fresh"))


def test_an_edit_after_a_kill_before_any_move_is_in_nobodys_way(caffe, monkeypatch):
    monkeypatch.setattr(commit, "check_unchanged", lambda store, step: os._exit(9))
    child = os.fork()
    if child == 0:
        kit("apply", caffe)
        os._exit(0)
    assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 9
    monkeypatch.undo()
    edit(caffe / PROTO, b"clip_param = 148;\n", b"clip_param = 148;  // mine\n")
    before = contents(caffe)
    assert kit("revert", caffe).out.startswith("took back the interrupted apply\nnot applied, ")
    assert {p: e for p, e in before.items() if "l1loss-kit-" not in p} == contents(caffe)


GARBAGE = [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format": 1}', b'{"format": "1"}']


@pytest.mark.parametrize("data", GARBAGE)
@pytest.mark.parametrize("name", ["record.json", "journal.json"])
def test_a_garbage_record_or_journal_touches_nothing(caffe, name, data):
    kit("apply", caffe)
    (caffe / STATE / name).write_bytes(data)
    before = snapshot(caffe)
    for verb in ("check", "apply", "status", "revert"):
        result = kit(verb, caffe)
        assert result.code == 5, (verb, result)
        assert result.err.startswith(f"{STATE}/{name}: ")
        assert "; fix: " in result.err
        assert snapshot(caffe) == before


def test_a_newer_record_names_the_kit_to_use(caffe):
    kit("apply", caffe)
    record = caffe / STATE / "record.json"
    data = json.loads(record.read_text())
    record.write_text(json.dumps({**data, "format": 2, "news": 1}))
    before = snapshot(caffe)
    for verb in ("check", "apply", "status", "revert"):
        result = kit(verb, caffe)
        assert result.code == 5
        assert "written by a newer kit" in result.err
        assert snapshot(caffe) == before


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "src/../../outside", "README.md"])
def test_a_record_that_points_out_of_the_sources_is_damaged(caffe, path):
    kit("apply", caffe)
    record = caffe / STATE / "record.json"
    data = json.loads(record.read_text())
    data["files"][0]["path"] = path
    record.write_text(json.dumps(data))
    assert kit("revert", caffe).code == 5


def test_a_missing_original_is_worked_out_from_the_tree(caffe):
    """The record's own copies are a convenience: with them gone, revert needs none of them."""
    before = contents(caffe)
    kit("apply", caffe)
    shutil.rmtree(str(caffe / STATE / "blobs"))
    assert kit("status", caffe).code == 0
    assert kit("revert", caffe).code == 0
    assert contents(caffe) == before


def test_a_deleted_record_status_reads_the_tree_and_revert_is_the_exact_inverse(caffe):
    before = contents(caffe)
    kit("apply", caffe, "--field-id", 1888)
    shutil.rmtree(str(caffe / STATE))
    assert kit("status", caffe).out == "applied (without a record, field number 1888)\n"
    assert kit("revert", caffe).code == 0
    assert contents(caffe) == before


def test_a_deleted_record_and_an_edit_in_our_lines_is_not_reverted(caffe):
    kit("apply", caffe)
    shutil.rmtree(str(caffe / STATE))
    edit(caffe / PROTO, b"    SUM = 2;", b"    SUM = 2; // mine")
    before = snapshot(caffe)
    result = kit("revert", caffe)
    assert result.code == 1
    assert result.err.startswith(PROTO + ":")
    assert snapshot(caffe) == before


def test_git_clean_after_apply_is_partial_and_both_ways_work(caffe):
    before = contents(caffe)
    kit("apply", caffe)
    applied = contents(caffe)
    shutil.rmtree(str(caffe / STATE))
    for path in SOURCES:
        (caffe / path).unlink()
    assert kit("status", caffe).out.startswith("partial 1/6 (missing: ")
    assert kit("apply", caffe).code == 0
    assert contents(caffe) == applied
    assert kit("revert", caffe).code == 0
    assert contents(caffe) == before


# Life


def test_revert_gives_caffe_proto_a_new_time(caffe):
    """An old one would leave a stale caffe.pb.h."""
    old = 1500000000
    os.utime(str(caffe / PROTO), (old, old))
    kit("apply", caffe)
    applied = os.stat(str(caffe / PROTO)).st_mtime
    time.sleep(0.05)
    kit("revert", caffe)
    assert os.stat(str(caffe / PROTO)).st_mtime > applied > old


def test_edits_elsewhere_in_caffe_proto_are_kept(caffe):
    kit("apply", caffe)
    mine = b"clip_param = 148;  // mine\n  optional int32 my_param = 999;\n"
    late = b"l1_loss_param = 1701;\n  optional int32 z = 998;\n"
    edit(caffe / PROTO, b"clip_param = 148;\n", mine)
    edit(caffe / PROTO, b"l1_loss_param = 1701;\n", late)
    assert kit("status", caffe).code == 0
    before = snapshot(caffe)
    assert kit("apply", caffe).code == 0
    assert snapshot(caffe) == before
    assert kit("revert", caffe).code == 0
    text = (caffe / PROTO).read_bytes()
    assert mine in text and b"z = 998" in text and b"L1Loss" not in text


def test_edits_inside_our_lines_are_refused_with_the_line(caffe):
    kit("apply", caffe)
    edit(caffe / PROTO, b"    SUM = 2;", b"    SUM = 2;  // mine")
    line = line_of(caffe / PROTO, b"SUM = 2;  // mine")
    before = snapshot(caffe)
    for verb in ("revert", "apply", "check"):
        assert refused(kit(verb, caffe), f"{PROTO}:{line}", "edited here")
    assert kit("status", caffe).out == f"modified ({PROTO}:{line})\n"
    assert snapshot(caffe) == before


@pytest.mark.parametrize("path", SOURCES)
def test_edits_inside_our_files_are_refused_with_the_line(caffe, path):
    kit("apply", caffe)
    data = (caffe / path).read_bytes().split(b"\n")
    data[6] += b" // mine"
    (caffe / path).write_bytes(b"\n".join(data))
    before = snapshot(caffe)
    for verb in ("revert", "apply", "check"):
        assert refused(kit(verb, caffe), f"{path}:7", "was edited")
    assert kit("status", caffe).out == f"modified ({path}:7)\n"
    assert snapshot(caffe) == before


@pytest.mark.parametrize("ours_alone", [True, False])
def test_other_line_ends_are_no_edit(caffe, ours_alone):
    """As git's autocrlf makes them when a patched tree is checked out anew."""
    before = contents(caffe)
    kit("apply", caffe)
    paths = SOURCES if ours_alone else [p for p in contents(caffe) if p.startswith(("src", "incl"))]
    for path in paths:
        data = (caffe / path).read_bytes()
        (caffe / path).write_bytes(data.replace(b"\n", b"\r\n"))
    assert kit("status", caffe).code == 0
    assert kit("apply", caffe).code == 0
    assert kit("status", caffe).code == 0
    assert kit("revert", caffe).code == 0
    assert set(contents(caffe)) == set(before)
    assert b"L1Loss" not in (caffe / PROTO).read_bytes()


def test_an_edit_beside_other_line_ends_is_named_by_its_line(caffe):
    kit("apply", caffe)
    lines = (caffe / CPP).read_bytes().split(b"\n")
    lines[6] += b" // mine"
    (caffe / CPP).write_bytes(b"\r\n".join(lines))
    assert kit("status", caffe).out == f"modified ({CPP}:7)\n"
    assert refused(kit("revert", caffe), f"{CPP}:7", "was edited")


def test_git_checkout_after_apply_is_partial_5_of_6_and_apply_completes(caffe):
    original = (caffe / PROTO).read_bytes()
    before = contents(caffe)
    kit("apply", caffe)
    applied = contents(caffe)
    (caffe / PROTO).write_bytes(original)
    assert kit("status", caffe).out == f"partial 5/6 (missing: {PROTO})\n"
    assert kit("apply", caffe).code == 0
    assert contents(caffe) == applied
    (caffe / PROTO).write_bytes(original)
    assert kit("revert", caffe).code == 0
    assert contents(caffe) == before


def test_a_deleted_source_is_partial_and_apply_completes(caffe):
    before = contents(caffe)
    kit("apply", caffe)
    (caffe / CU).unlink()
    assert kit("status", caffe).out == f"partial 5/6 (missing: {CU})\n"
    assert kit("apply", caffe).code == 0
    assert kit("status", caffe).code == 0
    (caffe / CU).unlink()
    assert kit("revert", caffe).code == 0
    assert contents(caffe) == before


def test_half_of_our_lines_in_caffe_proto_is_refused(caffe):
    kit("apply", caffe)
    edit(caffe / PROTO, b"  optional L1LossParameter l1_loss_param = 1701;\n", b"")
    line = line_of(caffe / PROTO, b"message L1LossParameter")
    for verb in ("revert", "apply"):
        assert refused(kit(verb, caffe), f"{PROTO}:{line}", "l1_loss_param is gone")
    assert kit("status", caffe).out == f"modified ({PROTO}:{line})\n"


@pytest.fixture
def older_kit(tmp_path, monkeypatch):
    """An older kit: another version number, message and sources, and a file this one lacks."""
    old = tmp_path / "older"
    shutil.copytree(str(payload.PATCH), str(old))
    edit(old / payload.MESSAGE, b"  // Elements whose target", b"  // Older. Elements whose target")
    edit(old / CPP, b"\n", b"\n// older\n")
    (old / "src/caffe/layers/l1_loss_old.cpp").write_bytes(b"// older\n")
    sources, message = plan.source_files, plan.message_text
    monkeypatch.setattr(plan, "VERSION", "0.9.0")
    monkeypatch.setattr(plan, "source_files", lambda tree, naming: sources(tree, naming, old))
    monkeypatch.setattr(plan, "message_text", lambda naming: message(naming, old))
    return monkeypatch


def test_upgrade_from_an_older_kit_keeps_the_field_number(caffe, tmp_path, older_kit):
    before = contents(caffe)
    assert kit("apply", caffe, "--field-id", 1777).code == 0
    assert (caffe / "src/caffe/layers/l1_loss_old.cpp").exists()
    older_kit.undo()
    assert kit("status", caffe).out == "applied (kit 0.9.0, field number 1777)\n"
    assert kit("apply", caffe).code == 0
    assert kit("status", caffe).out == f"applied (kit {VERSION}, field number 1777)\n"
    fresh = make_checkout(tmp_path / "fresh")
    kit("apply", fresh, "--field-id", 1777)
    assert contents(caffe) == contents(fresh)
    assert kit("revert", caffe).code == 0
    assert contents(caffe) == before


def test_revert_takes_out_what_an_older_kit_put_in(caffe, older_kit):
    before = contents(caffe)
    assert kit("apply", caffe).code == 0
    older_kit.undo()
    assert kit("revert", caffe).code == 0
    assert contents(caffe) == before


def test_upgrade_refuses_a_file_that_was_edited(caffe, older_kit):
    assert kit("apply", caffe).code == 0
    older_kit.undo()
    edit(caffe / CPP, b"\n// older\n", b"\n// older and mine\n")
    before = snapshot(caffe)
    assert refused(kit("apply", caffe), f"{CPP}:2", "was edited")
    assert snapshot(caffe) == before


def test_a_newer_file_copied_in_by_hand_is_ours_after_apply(caffe, monkeypatch):
    """Of a kit of the same version, as a checkout of the kit is from one day to the next."""
    before = contents(caffe)
    sources = plan.source_files
    monkeypatch.setattr(plan, "source_files", lambda tree, naming: {
        path: data + b"// older\n" * (path == CPP) for path, data in sources(tree, naming).items()})
    assert kit("apply", caffe).code == 0
    monkeypatch.undo()
    shutil.copy(str(payload.PATCH / CPP), str(caffe / CPP))
    assert kit("status", caffe).out.startswith(f"modified ({CPP}:")
    assert kit("check", caffe).out == "apply would change 0 files\n"
    files = snapshot(caffe)
    assert kit("apply", caffe).out == (
        "already applied; the record of it was out of date and is renewed\n")
    assert snapshot(caffe) == files
    assert kit("status", caffe).code == 0
    assert kit("apply", caffe).out == "already applied, nothing changed\n"
    assert kit("revert", caffe).code == 0
    assert contents(caffe) == before


@pytest.mark.parametrize("verb", ["check", "apply", "status", "revert", "runtest"])
def test_an_empty_name_is_not_the_folder_one_stands_in(caffe, monkeypatch, verb):
    monkeypatch.chdir(str(caffe))
    before = snapshot(caffe)
    result = kit(verb, "")
    assert (result.code, result.err) == (
        2, "the name of the folder is empty; fix: give a Caffe source checkout\n"
    )
    assert snapshot(caffe) == before


def test_what_a_terminal_would_obey_is_printed_escaped(caffe):
    odd = caffe / "src/caffe/layers/\x1b[31mred\x9b.cpp"
    odd.write_text("REGISTER_LAYER_CLASS(L1Loss);\n")
    for verb in ("check", "apply", "status"):
        result = kit(verb, caffe)
        assert result.code == 1
        assert "\\x1b[31mred\\x9b.cpp:1" in result.out + result.err
        assert "\x1b" not in result.out + result.err


# Build (make and CMake: test_runtest.py)


def test_nothing_of_ours_lies_where_make_would_compile_it(caffe):
    kit("apply", caffe)
    files = {p.relative_to(caffe).as_posix() for p in caffe.rglob("*") if "l1" in p.name.lower()}
    assert {f for f in files if not f.startswith(STATE)} == set(SOURCES)
