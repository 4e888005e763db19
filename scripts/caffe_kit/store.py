"""The kit's folder in the tree: lock, journal, record and the bytes they speak of, by hash.

It lies beside src/, not under it, where make's `find` would compile what it holds, and tells git
to ignore it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
from pathlib import Path
from typing import Iterable, Iterator, Optional, Tuple

from .errors import RecordDamaged, Refused

FOLDER = ".l1loss-kit"
PART = ".part"
Owner = Optional[Tuple[int, int]]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Store:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / FOLDER
        self.lock = self.folder / "lock"
        self.record = self.folder / "record.json"
        self.journal = self.folder / "journal.json"
        self.staging = self.folder / "journal.staging"
        self.blobs = self.folder / "blobs"

    def exists(self) -> bool:
        if self.folder.is_symlink():
            raise RecordDamaged("is a symbolic link", "remove it", FOLDER)
        return self.folder.is_dir()

    def create(self) -> None:
        """What the lock lies in; another run may do the same just now."""
        owner = owner_of(self.root)
        for folder in (self.folder, self.blobs):
            if not folder.is_dir():
                folder.mkdir(exist_ok=True)
                give(folder, owner)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One run at a time; the lock file stays, so that all runs lock the same one."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(str(self.lock), flags, 0o666)
        try:
            give(self.lock, owner_of(self.folder))
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Refused(
                    "another apply_patch.py is at work in this tree",
                    "wait until it has ended, then run this again",
                    FOLDER,
                ) from None
            ignore = self.folder / ".gitignore"
            if not ignore.exists():
                self.put(ignore, b"*\n")
            yield
        finally:
            os.close(handle)

    def put(self, path: Path, data: bytes) -> None:
        """Write a file of ours whole or not at all."""
        part = path.with_name(path.name + PART)
        remove_if_there(part)
        try:
            write_new(part, data, 0o644, owner_of(self.folder))
            os.rename(str(part), str(path))
        except BaseException:
            with contextlib.suppress(OSError):
                remove_if_there(part)
            raise

    def remove_parts(self) -> None:
        """What a killed run was just writing in this folder."""
        for folder in (self.folder, self.blobs):
            for path in folder.glob("*" + PART):
                os.unlink(str(path))

    def put_blob(self, data: bytes) -> str:
        name = sha256(data)
        if not (self.blobs / name).is_file():
            self.put(self.blobs / name, data)
        return name

    def blob(self, name: str) -> bytes:
        path = self.blobs / name
        data = read_if_there(path)
        if data is None or sha256(data) != name:
            where = f"{FOLDER}/blobs/{name}"
            raise RecordDamaged("is missing or was edited", restore_hint(), where)
        return data

    def keep_blobs(self, names: Iterable[str]) -> None:
        keep = set(names)
        for path in self.blobs.iterdir():
            if path.name not in keep:
                os.unlink(str(path))


def restore_hint() -> str:
    return f"restore src/ and include/ from your own copy or git, then remove {FOLDER}/"


def write_new(path: Path, data: bytes, mode: int, owner: Owner) -> None:
    """A new file with these bytes, on the disk when this returns; never over another file."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(str(path), flags, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        if owner and os.geteuid() == 0:
            os.fchown(handle, *owner)
        os.fchmod(handle, mode)
        os.fsync(handle)
    finally:
        os.close(handle)


def owner_of(path: Path) -> Owner:
    status = os.stat(str(path))
    return status.st_uid, status.st_gid


def give(path: Path, owner: Owner) -> None:
    """What root makes in a user's tree belongs to the user."""
    if owner and os.geteuid() == 0:
        os.chown(str(path), *owner)


def read_if_there(path: Path) -> bytes | None:
    """The bytes of a regular file, None where nothing is; symbolic links are not followed."""
    try:
        handle = os.open(str(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read()


def remove_if_there(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(str(path))


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last; some file systems cannot and say EINVAL."""
    handle = os.open(str(folder), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(handle)
