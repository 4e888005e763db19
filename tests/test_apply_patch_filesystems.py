"""File systems that lack something, and trees that several users share.

What is missing is taken away call by call, with strace or in this process. CAFFE_L1_THOROUGH=1
kills a run before every call where links or exchanges are missing, not before every third.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import struct
import subprocess
import sys
from pathlib import Path

import patch_support
import pytest
from caffe_l1.patch import commit
from patch_support import (
    PROTO,
    SOURCES,
    STATE,
    TARGETS,
    Result,
    contents,
    edit,
    kit,
    make_small_checkout,
    snapshot,
)
from system_calls import before_each_call

THOROUGH = os.environ.get("CAFFE_L1_THOROUGH") == "1"
HPP, SIMD, CU, CPP, TEST = SOURCES
NO_EXCHANGE = ("renameat2:error=EINVAL",)
NO_LINKS = (*NO_EXCHANGE, "linkat:error=EPERM")  # FAT
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trees")
    for name in ("unpatched", "patched"):
        make_small_checkout(folder / name)
    assert kit("apply", folder / "patched").code == 0
    return folder


@pytest.fixture
def caffe(tmp_path):
    make_small_checkout(tmp_path / "caffe")
    return tmp_path / "caffe"


def copy_of(tree: Path, folder: Path) -> Path:
    shutil.rmtree(str(folder), ignore_errors=True)
    return Path(shutil.copytree(str(tree), str(folder), symlinks=True))


def run_without(rules: tuple, verb: str, root: Path, trace: Path) -> Result:
    """A run to which the system refuses what the rules say; each refusal was asked for."""
    calls = ",".join(rule.partition(":")[0] for rule in rules)
    command = ["strace", "-o", str(trace), "-e", "trace=" + calls]
    command += [word for rule in rules for word in ("-e", "inject=" + rule)]
    command += [sys.executable, str(patch_support.SCRIPT), verb, str(root)]
    done = subprocess.run(command, capture_output=True)
    lines = trace.read_text("utf-8", "replace").splitlines()
    for rule in rules:
        name = rule.partition(":")[0]
        assert any(li.startswith(name) and "INJECTED" in li for li in lines), (rule, done)
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


@contextlib.contextmanager
def refused(*names: str, number: int = errno.EPERM, when=lambda name, arguments: True):
    """In this process, every call of these names."""

    def refuse(name: str, arguments: tuple, options: dict) -> None:
        if name in names and when(name, arguments):
            raise OSError(number, os.strerror(number))

    with before_each_call(refuse):
        yield


# Without exchanges, without hard links


@pytest.mark.parametrize("rules", [NO_EXCHANGE, NO_LINKS], ids=["no exchange", "no hard links"])
def test_apply_and_revert_work_without(trees, tmp_path, rules):
    root = copy_of(trees / "unpatched", tmp_path / "caffe")
    applied = run_without(rules, "apply", root, tmp_path / "trace")
    assert (applied.code, applied.err) == (0, "")
    assert "this file system cannot exchange two files: " in applied.out
    assert contents(root) == contents(trees / "patched")
    reverted = run_without(rules, "revert", root, tmp_path / "trace")
    assert (reverted.code, reverted.err) == (0, "")
    assert contents(root) == contents(trees / "unpatched")
    assert not [path for path in root.rglob("*") if "l1loss-kit-" in path.name]


@pytest.mark.parametrize("lacking", [("renameat2",), ("renameat2", "link")],
                         ids=["no exchange", "no hard links"])
@pytest.mark.parametrize("verb", ["apply", "revert"])
def test_a_kill_before_any_move_is_recovered_from_without(trees, tmp_path, verb, lacking, say):
    """The same for an error, which rolls back."""
    state = {"apply": "unpatched", "revert": "patched"}[verb]
    old, new = (contents(trees / n) for n in ("unpatched", "patched"))
    total = moves(copy_of(trees / state, tmp_path / "caffe"), verb, lacking, 0)
    numbers = range(1, total + 1, 1 if THOROUGH else 3)
    for number in numbers:
        for again, wanted in (("apply", new), ("revert", old)):
            root = copy_of(trees / state, tmp_path / "caffe")
            child = os.fork()
            if child == 0:
                moves(root, verb, lacking, number)
                os._exit(0)
            assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 9
            for look in ("status", "check"):
                said = kit(look, root)
                assert (said.code, "was killed half-way" in said.out + said.err) == (1, True), said
            with refused(*lacking):
                result = kit(again, root)
            assert (result.code, contents(root)) == (0, wanted), (number, again, result)
        root = copy_of(trees / state, tmp_path / "caffe")
        before = contents(root)
        result = moves(root, verb, lacking, number, fail=True)
        assert result.code in (0, 4), (number, result)
        if result.code:
            assert contents(root) == before, (number, result)
        assert not list((root / STATE).glob("journal*")) or result.code == 0
    say(f"without {' and '.join(lacking)}: {total} moves of {verb}, {len(numbers)} kills "
        f"and errors, each recovered from")
    assert total > 5


def moves(root: Path, verb: str, lacking: tuple, number: int, fail: bool = False):
    """Run it; before the n-th call that moves something beside its target, end or fail once.

    Without a number: how many there are.
    """
    count = 0

    def act(name: str, arguments: tuple, options: dict) -> None:
        nonlocal count
        if name in lacking:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        if name in ("rename", "link", "unlink") and ".l1loss-kit-" in "".join(arguments[:2]):
            count += 1
            if count == number and fail:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            if count == number:
                os._exit(9)

    with before_each_call(act):
        result = kit(verb, root)
    return result if number else count


# Without locks, without folders that sync, without chown


def test_check_says_beforehand_that_there_are_no_locks(caffe, tmp_path):
    before = snapshot(caffe)
    for verb in ("check", "apply"):
        result = run_without(("flock:error=ENOLCK",), verb, caffe, tmp_path / "trace")
        assert result.code == 1
        assert "this file system has no file locks" in result.err and "; fix: " in result.err
        assert snapshot(caffe) == before
        assert not (caffe / STATE).exists()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EPERM, errno.EROFS])
def test_folders_that_cannot_be_synced_are_said_and_no_hindrance(caffe, number):
    def is_folder(name: str, arguments: tuple) -> bool:
        return stat.S_ISDIR(os.fstat(arguments[0]).st_mode)

    before = contents(caffe)
    for verb in ("apply", "revert"):
        with refused("fsync", number=number, when=is_folder):
            result = kit(verb, caffe)
        assert (result.code, result.err) == (0, "")
        assert "this file system cannot sync folders: " in result.out
    assert contents(caffe) == before


def test_modes_that_are_those_of_the_mount_are_said_and_no_hindrance(caffe):
    """As on FAT."""
    with refused("fchmod"):
        result = kit("apply", caffe)
    assert (result.code, result.err) == (0, "")
    assert "this file system does not keep the modes of files" in result.out
    assert kit("status", caffe).code == 0


@root_only
def test_root_that_may_not_give_files_away_is_told_who_should_run_it(caffe):
    for path in [caffe, *caffe.rglob("*")]:
        os.chown(str(path), 1234, 2345)
    before = snapshot(caffe)
    with refused("fchown"):
        result = kit("apply", caffe)
    assert result.code == 4
    assert "root may not give files away" in result.err
    assert "run this as the owner of the tree, user 1234" in result.err
    assert snapshot(caffe) == before


def test_no_error_is_blamed_on_lack_of_room_but_the_lack_of_room(trees, tmp_path):
    root = copy_of(trees / "unpatched", tmp_path / "caffe")
    with refused("write", number=errno.EIO, when=lambda name, arguments: arguments[0] > 2):
        result = kit("apply", root)
    assert result.code == 4
    assert "make room" not in result.err


# The file system fails twice


def test_a_rollback_that_fails_too_is_an_exit_code_of_its_own(trees, tmp_path, monkeypatch):
    """As where a disk turns read-only for good in the middle of it."""
    root = copy_of(trees / "unpatched", tmp_path / "caffe")
    move = commit.move

    def fail_from_the_third_on(store, step):
        if step.path == CU:
            calls.enter_context(
                refused("renameat2", "rename", "link", "unlink", "open", number=errno.EROFS,
                        when=is_change)
            )
        move(store, step)

    with contextlib.ExitStack() as calls:
        monkeypatch.setattr(commit, "move", fail_from_the_third_on)
        result = kit("apply", root)
    monkeypatch.undo()
    assert result.code == 6, result
    assert "the tree is mixed" in result.err and "; fix: " in result.err
    assert result.err.count("\n") == 1
    assert kit("status", root).out.startswith("interrupted: apply")
    assert kit("revert", root).code == 0
    assert contents(root) == contents(trees / "unpatched")


def is_change(name: str, arguments: tuple) -> bool:
    return name != "open" or bool(arguments[1] & os.O_CREAT)


@pytest.mark.parametrize("name", ["rmdir", "unlink", "fsync"])
def test_a_fault_leaves_no_empty_folder_behind(tmp_path, name):
    """On a flat tree, where apply makes include/caffe/layers and revert removes it."""
    make_small_checkout(tmp_path / "flat")
    layers = tmp_path / "flat/include/caffe/layers"
    (layers / "loss_layer.hpp").rename(layers.parent / "loss_layers.hpp")
    layers.rmdir()
    patched = copy_of(tmp_path / "flat", tmp_path / "patched")
    assert kit("apply", patched).code == 0
    kit("revert", copy_of(patched, tmp_path / "caffe"))  # protoc's answers are remembered now
    number, fired = 0, True
    while fired:
        number += 1
        root = copy_of(patched, tmp_path / "caffe")
        fired = fail_once(name, number, root)
        assert kit("revert", root).code == 0
        assert not (root / "include/caffe/layers").exists(), number
        assert contents(root) == contents(tmp_path / "flat")
    assert number > 1


def fail_once(name: str, number: int, root: Path) -> bool:
    """Revert with an error at the n-th call of this name; whether there was one."""
    count = 0

    def is_it(name: str, arguments: tuple) -> bool:
        nonlocal count
        count += 1
        return count == number

    with refused(name, number=errno.EIO, when=is_it):
        kit("revert", root)
    return count >= number


# Attributes and ACLs


ACL = "system.posix_acl_access"


def acl_for(user: int) -> bytes:
    """rw for the owner and this user, r for the rest, as the kernel has it."""
    entries = [(0x01, 6, -1), (0x02, 6, user), (0x04, 4, -1), (0x10, 6, -1), (0x20, 4, -1)]
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, permissions, who & 0xFFFFFFFF)
        for tag, permissions, who in entries
    )


def set_attribute(path: Path, name: str, value: bytes) -> None:
    try:
        os.setxattr(str(path), name, value)
    except OSError as error:
        pytest.skip(f"no {name} on the file system of the tests: {error}")


@pytest.mark.parametrize("name, value", [("user.note", b"mine"), (ACL, acl_for(1234))])
def test_attributes_and_acls_of_caffe_proto_are_kept(caffe, name, value):
    set_attribute(caffe / PROTO, name, value)
    mode = os.stat(str(caffe / PROTO)).st_mode
    for verb in ("apply", "revert"):
        assert kit(verb, caffe).code == 0
        assert os.getxattr(str(caffe / PROTO), name) == value
        assert os.stat(str(caffe / PROTO)).st_mode == mode


def test_an_attribute_that_cannot_be_kept_is_said_and_nothing_changed(caffe, monkeypatch):
    set_attribute(caffe / PROTO, "user.note", b"mine")
    before = snapshot(caffe)

    def fail(*arguments):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "setxattr", fail)
    result = kit("apply", caffe)
    monkeypatch.undo()
    assert result.code == 1
    assert result.err.startswith(f"{PROTO}: its extended attribute user.note cannot be kept: ")
    assert snapshot(caffe) == before


# Several users


def as_user(user: int, groups: list[int], umask: int, *command: object) -> int:
    """The exit status of a command of another user."""

    def become() -> None:
        os.umask(umask)
        os.setgroups(groups)
        os.setgid(groups[0])
        os.setuid(user)

    return subprocess.run(list(map(str, command)), preexec_fn=become).returncode


def shared(root: Path, folder_mode: int) -> Path:
    """A checkout of user 1001 that the group 2000 may write."""
    for path in [root, *root.rglob("*")]:
        os.chown(str(path), 1001, 2000)
        path.chmod(folder_mode if path.is_dir() else 0o664)
    return root


@pytest.fixture
def others(tmp_path):
    """A checkout, and the command of a copy of the kit, to which other users get."""
    for folder in [tmp_path, *tmp_path.parents][:-1]:
        with contextlib.suppress(PermissionError):
            folder.chmod(folder.stat().st_mode | 0o055)
    make_small_checkout(tmp_path / "caffe")
    shutil.copytree(str(patch_support.REPO / "caffe_patch"), str(tmp_path / "kit/caffe_patch"))
    scripts = Path(shutil.copytree(str(patch_support.SCRIPT.parent / "caffe_l1"),
                                   str(tmp_path / "kit/scripts/caffe_l1"))).parent
    script = shutil.copy2(str(patch_support.SCRIPT), str(scripts))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    return tmp_path / "caffe", ("env", f"TMPDIR={tmp_path / 'tmp'}", sys.executable, script)


@root_only
@pytest.mark.parametrize("umask", [0o022, 0o077])
@pytest.mark.parametrize("folder_mode", [0o2775, 0o775])
def test_what_one_of_a_group_applies_the_owner_can_edit_and_revert(others, folder_mode, umask):
    root, kit_command = shared(others[0], folder_mode), others[1]
    before = contents(root)
    assert as_user(1002, [1002, 2000], umask, *kit_command, "apply", root) == 0
    for path in TARGETS:
        status = os.stat(str(root / path))
        assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (2000, 0o664), path
    owner = (1001, [1001, 2000], umask)
    assert as_user(*owner, "sh", "-c", f"echo // mine >> {root / PROTO}") == 0
    assert as_user(*owner, *kit_command, "status", root) == 0
    assert as_user(*owner, *kit_command, "revert", root) == 0
    edit(root / PROTO, b"// mine\n", b"")
    assert contents(root) == before


@root_only
def test_whoever_may_write_in_the_tree_may_run_its_tests_again(others):
    root, kit_command = others
    (root / "Makefile").write_text("proto:\n\tfalse\n")
    (root / "Makefile.config").touch()
    shared(root, 0o2775)
    for user, group in ((1002, 2000), (0, 0), (1001, 2000)):
        groups, log = [user, group], root / STATE / "runtest.log"
        assert as_user(user, groups, 0o022, *kit_command, "apply", root) == 0
        assert as_user(user, groups, 0o022, *kit_command, "runtest", root) == 3
        assert (log.stat().st_gid, stat.S_IMODE(log.stat().st_mode)) == (2000, 0o664)
        assert log.stat().st_uid != 0
        assert log.read_text().startswith("+ make -j")


def test_a_folder_in_the_place_of_the_log_is_named(others):
    root, _ = others
    (root / "Makefile.config").touch()
    (root / "Makefile").touch()
    kit("apply", root)
    (root / STATE / "runtest.log").mkdir()
    result = kit("runtest", root)
    assert (result.code, result.err.splitlines()[-1]) == (
        5, f"{STATE}/runtest.log: is a folder; fix: move {STATE}/runtest.log away")


@root_only
def test_a_proto_that_is_not_ours_to_write_is_refused_at_check_time(others):
    root, kit_command = shared(others[0], 0o775), others[1]
    (root / PROTO).chmod(0o644)
    for verb in ("check", "apply"):
        assert as_user(1002, [1002, 2000], 0o022, *kit_command, verb, root) == 1
    assert not (root / STATE).exists()


@root_only
def test_root_in_a_users_tree_gives_the_lock_and_no_link_away(caffe, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"root's\n")
    for path in [caffe, *caffe.rglob("*")]:
        os.chown(str(path), 1234, 2345)
    kit("apply", caffe)
    (caffe / STATE / "lock").unlink()
    (caffe / STATE / "lock").symlink_to(secret)
    kit("apply", caffe)
    kit("revert", caffe)
    assert os.stat(str(secret)).st_uid == 0


@pytest.mark.parametrize("verb, state", [("apply", "unpatched"), ("revert", "patched")])
@pytest.mark.parametrize("swapped", ["src/caffe/layers", "src/caffe", STATE, STATE + "/blobs"])
def test_a_folder_swapped_for_a_link_after_the_plan_leads_nowhere(
    trees, tmp_path, monkeypatch, verb, state, swapped
):
    root = copy_of(trees / state, tmp_path / "caffe")
    outside = copy_of(trees / state, tmp_path / "outside")
    before = snapshot(outside), sorted(p.name for p in outside.rglob("*"))
    stage = commit.stage

    def swap_and_stage(store, journal, changes, blobs):
        shutil.move(str(root / swapped), str(tmp_path / "moved"))
        (root / swapped).symlink_to(outside / swapped)
        stage(store, journal, changes, blobs)

    monkeypatch.setattr(commit, "stage", swap_and_stage)
    assert kit(verb, root).code in (0, 1, 4, 5)
    assert (snapshot(outside), sorted(p.name for p in outside.rglob("*"))) == before


@root_only
def test_a_folder_that_a_killed_run_of_root_left_is_given_away_by_the_next(others):
    root, command = others
    for path in [root, *root.rglob("*")]:
        os.chown(str(path), 1001, 1001)
    for name in (".l1loss-kit", ".l1loss-kit/blobs"):
        (root / name).mkdir(0o700)
    (root / ".l1loss-kit" / "lock").write_bytes(b"")
    done = kit("apply", root)
    assert done.code == 0, done
    for path in (root / ".l1loss-kit").rglob("*"):
        assert path.stat().st_uid == 1001, path
    assert as_user(1001, [1001], 0o022, *command, "revert", root) == 0


@root_only
def test_what_another_user_may_not_enter_is_told_with_what_to_do(others):
    root, command = others
    for path in [root, *root.rglob("*")]:
        os.chown(str(path), 1001, 1001)
    (root / ".l1loss-kit").mkdir(0o700)
    done = subprocess.run([*map(str, command), "apply", str(root)], capture_output=True, text=True,
                          preexec_fn=lambda: (os.setgroups([]), os.setgid(1001), os.setuid(1001)))
    assert done.returncode == 4 and done.stderr.endswith(
        "; fix: run this as its owner, or move .l1loss-kit/ out of the tree\n")


@root_only
@pytest.mark.parametrize("verb", ["check", "apply"])
def test_a_file_with_an_acl_is_not_taken_from_its_owner(others, verb):
    root, command = others
    shared(root, 0o2775)
    set_attribute(root / PROTO, ACL, acl_for(1002))
    before = snapshot(root)
    assert as_user(1002, [2000], 0o022, *command, verb, root) == 1
    assert snapshot(root) == before
    assert as_user(1001, [2000], 0o022, *command, verb, root) == 0


@root_only
def test_a_group_that_cannot_be_kept_is_told_by_check(others):
    root, command = others
    shared(root, 0o777)
    os.chown(str(root / PROTO), 1001, 3000)
    (root / PROTO).chmod(0o666)
    assert as_user(1002, [2000], 0o022, *command, "check", root) == 1


@root_only
def test_someone_outside_of_the_group_leaves_setgid_on_the_folders(others):
    root, command = others
    shared(root, 0o2777)
    assert as_user(1002, [1002], 0o022, *command, "status", root) == 1
    os.chown(str(root / PROTO), 1002, 2000)
    (root / PROTO).chmod(0o666)
    assert as_user(1002, [1002], 0o022, *command, "apply", root) in (0, 1)
    kits = root / ".l1loss-kit"
    assert not kits.exists() or kits.stat().st_mode & 0o2000
