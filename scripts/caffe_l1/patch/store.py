"""The kit's folder in the tree: lock, journal, record and the bytes they speak of, by hash.

It lies beside src/, not under it, where make's `find` would compile what it holds, and tells git
to ignore it. A clone may bring such a folder along: what is in it is looked at like any input.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import time
from pathlib import Path
from typing import Callable, Iterable, Iterator, TypeVar

from ..common.errors import KitError, RecordDamaged, Refused
from ..common.folder import NEW, Folder, NotAFile, NotAFolder, is_own, no_umask, open_root
from ..common.untrusted import HASH

FOLDER = ".l1loss-kit"
LOCK, RECORD, JOURNAL, STAGING, BLOBS = (
    "lock", "record.json", "journal.json", "journal.staging", "blobs"
)
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF}
PATIENCE = 1.0  # seconds: a reader is done by then, another apply perhaps
Result = TypeVar("Result")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Store:
    """The tree by its descriptor, and the kit's folder in it, once that is there."""

    def __init__(self, root: Path) -> None:
        self.root = open_root(str(root))
        self.folders: dict[str, Folder] = {}

    # Folders of the tree

    def at(self, path: str) -> Folder | None:
        """A folder of the tree, the same one to the end of this run; no link leads to it."""
        if not path:
            return self.root
        if path not in self.folders:
            above, _, name = path.rpartition("/")
            parent = self.at(above)
            found = parent.child(name) if parent else None
            if found is None:
                return None
            self.folders[path] = found
        return self.folders[path]

    def read_target(self, path: str) -> bytes | None:
        folder, _, name = path.rpartition("/")
        there = self.at(folder)
        return there.read(name) if there else None

    # The kit's own

    def ours(self, path: str = FOLDER) -> Folder | None:
        try:
            return self.at(path)
        except NotAFolder:
            link = "is a link, or not a folder"
            raise RecordDamaged(link, f"move {path} away", path) from None

    def exists(self) -> bool:
        return self.ours() is not None

    @property
    def folder(self) -> Folder:
        return present(self.ours(), FOLDER)

    @property
    def blobs(self) -> Folder:
        path = f"{FOLDER}/{BLOBS}"
        return present(self.ours(path), path)

    def create(self) -> None:
        """What the lock lies in; another run may do the same just now."""
        mode = stat.S_IMODE(self.root.own_status().st_mode) & 0o777
        for parent, name in ((self.root, FOLDER), (None, BLOBS)):
            parent = parent or self.folder
            there = self.ours(parent.path(name))
            if there is None or is_own(there.handle):
                self.folders[parent.path(name)] = parent.make_child(name, mode)
                parent.sync()

    @property
    def mode(self) -> int:
        """Whoever may write in the tree may go on with what another began."""
        return self.folder.own_status().st_mode & 0o666

    # The lock

    def has_lock(self) -> bool:
        folder = self.ours()
        return folder is not None and folder.status(LOCK) is not None

    @contextlib.contextmanager
    def locked(self, shared: bool = False) -> Iterator[None]:
        """One writer at a time, or any number of readers.

        The lock file stays, so that all runs lock the same one. Somebody may remove it all the
        same, so the tree's own folder is locked too, where that can be.
        """
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        handle = self.open_lock()
        try:
            take(handle, kind)
            with contextlib.suppress(NoLocks):
                take(self.root.handle, kind)
            if not shared and self.folder.status(".gitignore") is None:
                self.put(self.folder, ".gitignore", b"*\n")
            yield
        finally:
            with contextlib.suppress(OSError):
                fcntl.flock(self.root.handle, fcntl.LOCK_UN)
            os.close(handle)

    def open_lock(self) -> int:
        folder = self.folder
        with folder.named(LOCK):
            try:
                with no_umask():
                    handle = os.open(LOCK, NEW, self.mode, dir_fd=folder.handle)
            except FileExistsError:
                handle = open_there(folder)
            try:
                if os.fstat(handle).st_nlink > 1:
                    raise not_a_lock()
                if is_own(handle):
                    folder.adopt(handle, self.mode)
            except BaseException:
                os.close(handle)
                raise
        return handle

    def consistently(self, work: Callable[[], Result]) -> Result:
        """What work finds while no other run writes.

        Looking leaves no trace: in a tree without a lock it goes without, and anew where a run
        has begun meanwhile.
        """
        while not self.has_lock():
            try:
                result = work()
            except KitError:
                if not self.has_lock():
                    raise
            else:
                if not self.has_lock():
                    return result
        with self.locked(shared=True):
            return work()

    # Files

    def put(self, folder: Folder, name: str, data: bytes) -> None:
        """Write a file of ours whole or not at all."""
        try:
            folder.put(name, data, self.mode)
        except IsADirectoryError:
            path = folder.path(name)
            raise RecordDamaged("is a folder", f"move {path} away", path) from None

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.folder.unlink(name)

    def remove_parts(self) -> None:
        """What a killed run was just writing in this folder."""
        self.folder.remove_parts()
        self.blobs.remove_parts()

    def read_own(self, name: str) -> bytes | None:
        """A file of ours, by whoever may write in this tree; else RecordDamaged."""
        folder = self.ours()
        status = folder.status(name) if folder else None
        if folder is None or status is None:
            return None
        where = f"{FOLDER}/{name}"
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise RecordDamaged("is a link, or not a file", restore_hint(), where)
        if not self.trusts(status):
            foreign = f"belongs to user {status.st_uid}, neither to you nor to the tree's owner"
            raise RecordDamaged(foreign, f"chown it, or {restore_hint()}", where)
        return folder.read(name)

    def trusts(self, status: os.stat_result) -> bool:
        """In a shared checkout the members of the folder's group may write all of it anyway."""
        root = self.root.own_status()
        shared = root.st_mode & 0o022 == 0o020 and status.st_gid == root.st_gid
        return shared or status.st_uid in (0, os.geteuid(), root.st_uid)

    def put_blob(self, data: bytes) -> str:
        name = sha256(data)
        if self.read_blob(name) is None:
            self.put(self.blobs, name, data)
        return name

    def read_blob(self, name: str) -> bytes | None:
        """None where it is missing, or not what its name says."""
        folder = self.ours(f"{FOLDER}/{BLOBS}")
        if folder is None or not folder.is_file(name):
            return None
        data = folder.read(name)
        return data if data is not None and sha256(data) == name else None

    def blob(self, name: str) -> bytes:
        data = self.read_blob(name)
        if data is None:
            where = f"{FOLDER}/{BLOBS}/{name}"
            raise RecordDamaged("is missing or was edited", restore_hint(), where)
        return data

    def keep_blobs(self, names: Iterable[str]) -> None:
        """Remove the other ones; what is not a blob by name and hash is not ours to remove."""
        keep = set(names)
        for name in self.blobs.names():
            if HASH.match(name) and name not in keep and self.read_blob(name) is not None:
                self.blobs.unlink(name)
        self.blobs.sync()


def take(handle: int, kind: int) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise at_work() from None
            time.sleep(0.05)
        except OSError as error:
            raise no_locks(error) from None


def check_locks(store: Store, path: str) -> None:
    """Whether this file system can keep two runs apart, tried on a file that is only read."""
    above, _, name = path.rpartition("/")
    folder = present(store.at(above), above)
    handle = folder.open(name, os.O_RDONLY)
    try:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        raise no_locks(error) from None
    finally:
        os.close(handle)


class AtWork(Refused):
    """Another run has the tree."""


def at_work() -> AtWork:
    problem = "another apply_patch.py is at work in this tree"
    return AtWork(problem, "wait until it has ended, then run this again", FOLDER)


class NoLocks(Refused):
    """This file system cannot keep two runs apart."""


def no_locks(error: OSError) -> NoLocks:
    if error.errno not in NO_LOCKS:
        raise error
    return NoLocks(
        f"this file system has no file locks ({error.strerror}), so two runs could meet",
        "work on a copy of the tree on a local disk, or mount it with locks",
        FOLDER,
    )


def not_a_lock() -> RecordDamaged:
    where = f"{FOLDER}/{LOCK}"
    return RecordDamaged("is a link, or not a file", f"remove {where}", where)


def open_there(folder: Folder) -> int:
    """For writing where that may be: over NFS only such a file can be locked for one alone."""
    for access in (os.O_RDWR, os.O_RDONLY):
        try:
            return folder.open(LOCK, access)
        except NotAFile:
            raise not_a_lock() from None
        except OSError as error:
            if access == os.O_RDONLY or error.errno not in (errno.EACCES, errno.EROFS):
                raise
    raise AssertionError


def present(folder: Folder | None, path: str) -> Folder:
    if folder is None:
        raise FileNotFoundError(errno.ENOENT, "was removed just now", path)
    return folder


def restore_hint() -> str:
    """Nothing is lost by it: the originals lie in that folder's blobs."""
    return f"move {FOLDER}/ out of the tree, keep it, and run status"
