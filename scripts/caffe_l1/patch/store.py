"""The kit's folder in the tree: lock, journal, record and the bytes they speak of, by hash.

It lies beside src/, not under it, where make's `find` would compile what it holds, and tells git
to ignore it. A clone may bring such a folder along: what is in it is looked at like any input.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import time
from pathlib import Path
from typing import Callable, Dict, Iterator, TypeVar

from ..common.errors import KitError, RecordDamaged, Refused
from ..common.folder import NEW, Folder, NotAFile, NotAFolder, is_own, no_umask, open_root, removed

FOLDER = ".l1loss-kit"
LOCK, RECORD, JOURNAL, STAGING = "lock", "record.json", "journal.json", "journal.staging"
BLOBS = f"{FOLDER}/blobs"
RESTORE = f"move {FOLDER}/ out of the tree, keep it, and run status"  # the originals are in it
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF}
PATIENCE = 1.0  # seconds: a reader is done by then, another apply perhaps
Result = TypeVar("Result")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Store:
    """The tree by its descriptor, and the kit's folder in it, once that is there."""

    def __init__(self, root: Path) -> None:
        self.root = open_root(root)
        self.folders: Dict[str, Folder] = {}

    # The tree

    def at(self, path: str) -> "Folder | None":
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

    def read_target(self, path: str) -> "bytes | None":
        above, _, name = path.rpartition("/")
        folder = self.at(above)
        return folder.read(name) if folder else None

    # The kit's own

    def ours(self, path: str = FOLDER) -> "Folder | None":
        try:
            return self.at(path)
        except NotAFolder:
            link = "is a link, or not a folder"
            raise RecordDamaged(link, f"move {path} away", path) from None

    @property
    def folder(self) -> Folder:
        return present(self.ours(), FOLDER)

    @property
    def blobs(self) -> Folder:
        return present(self.ours(BLOBS), BLOBS)

    def create(self) -> None:
        """What the lock lies in; another run may do the same just now."""
        mode = self.root.own_status().st_mode & 0o777
        for path in (FOLDER, BLOBS):
            above, _, name = path.rpartition("/")
            parent, there = present(self.at(above), above), self.ours(path)
            if there is None or is_own(there.handle):
                self.folders[path] = parent.make_child(name, mode)
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
        with contextlib.suppress(FileExistsError), folder.named(LOCK), no_umask():
            os.close(os.open(LOCK, NEW, self.mode, dir_fd=folder.handle))
        try:
            handle = open_to_lock(folder)
        except NotAFile as error:
            raise RecordDamaged(error.problem, f"remove {error.file}", error.file) from None
        if is_own(handle):
            folder.adopt(handle, self.mode)
        return handle

    def consistently(self, work: Callable[[], Result]) -> Result:
        """What work finds while no other run writes.

        Looking leaves no trace: in a tree without a lock it goes without, and anew where a run
        has begun meanwhile.
        """
        while not self.has_lock():
            try:
                result = work()
                if not self.has_lock():
                    return result
            except KitError:
                if not self.has_lock():
                    raise
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

    def read_own(self, name: str) -> "bytes | None":
        """A file of ours, by whoever may write in this tree; else RecordDamaged."""
        folder = self.ours()
        status = folder.status(name) if folder else None
        if folder is None or status is None:
            return None
        where = folder.path(name)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise RecordDamaged(NotAFile(where).problem, RESTORE, where)
        if not self.trusts(status):
            foreign = f"belongs to user {status.st_uid}, neither to you nor to the tree's owner"
            raise RecordDamaged(foreign, f"chown it, or {RESTORE}", where)
        return folder.read(name)

    def trusts(self, status: os.stat_result) -> bool:
        """In a shared checkout the members of the folder's group may write all of it anyway."""
        root = self.root.own_status()
        shared = root.st_mode & 0o022 == 0o020 and status.st_gid == root.st_gid
        return shared or status.st_uid in (0, os.geteuid(), root.st_uid)

    def put_blob(self, data: bytes) -> None:
        if self.read_blob(sha256(data)) is None:
            self.put(self.blobs, sha256(data), data)

    def read_blob(self, name: str) -> "bytes | None":
        """None where it is missing, or not what its name says."""
        folder = self.ours(BLOBS)
        if folder is None or not folder.is_file(name):
            return None
        data = folder.read(name)
        return data if data is not None and sha256(data) == name else None

    def blob(self, name: str) -> bytes:
        data = self.read_blob(name)
        if data is None:
            raise RecordDamaged("is missing or was edited", RESTORE, f"{BLOBS}/{name}")
        return data

    def keep_blobs(self, names: "list[str]") -> None:
        """Remove the other ones; what is not a blob by name and hash is not ours to remove."""
        for name in self.blobs.names():
            if name not in names and self.read_blob(name) is not None:
                self.blobs.unlink(name)
        self.blobs.sync()


def present(folder: "Folder | None", path: str) -> Folder:
    if folder is None:
        raise removed(path)
    return folder


def open_to_lock(folder: Folder) -> int:
    """For writing where that may be: over NFS only such a file can be locked for one alone."""
    try:
        handle = folder.open(LOCK, os.O_RDWR)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS):
            raise
        handle = folder.open(LOCK, os.O_RDONLY)
    if os.fstat(handle).st_nlink > 1:
        os.close(handle)
        raise NotAFile(folder.path(LOCK))
    return handle


class AtWork(Refused):
    def __init__(self) -> None:
        super().__init__("another apply_patch.py is at work in this tree",
                         "wait until it has ended, then run this again", FOLDER)


class NoLocks(Refused):
    def __init__(self, reason: str) -> None:
        super().__init__(f"this file system has no file locks ({reason}), so two runs could meet",
                         "work on a copy of the tree on a local disk, or mount it with locks",
                         FOLDER)


def take(handle: int, kind: int, patience: float = PATIENCE) -> None:
    end = time.monotonic() + patience
    while True:
        try:
            return fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise AtWork from None
            time.sleep(0.05)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            raise NoLocks(str(error.strerror)) from None


def check_locks(store: Store, path: str) -> None:
    """Whether this file system can keep two runs apart, tried on a file that is only read."""
    above, _, name = path.rpartition("/")
    handle = present(store.at(above), above).open(name, os.O_RDONLY)
    try:
        with contextlib.suppress(AtWork):
            take(handle, fcntl.LOCK_SH, patience=0)
    finally:
        os.close(handle)
