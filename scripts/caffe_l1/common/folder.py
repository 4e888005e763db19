"""Files and folders by descriptor: whatever a path leads to later, what is done is done here.

What is in a folder goes by plain names, and no symbolic link is followed. All that the kit writes
into a tree, and each file that it writes whole or not at all, goes through here.
"""

import contextlib
import ctypes
import errno
import os
import re
import stat
from pathlib import Path
from typing import Iterator

from .errors import FileSystemFailed, Refused

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
LOOK = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # no link leads away, no FIFO keeps waiting
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
REFUSED = {errno.EINVAL, errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.EROFS}
NOREPLACE, EXCHANGE = 1, 2  # flags of renameat2
NO_EXCHANGE = ("this file system cannot exchange two files: a kill at the wrong moment takes "
               "caffe.proto out of its place until the next apply or revert")
NO_MODES = "this file system does not keep the modes of files"
NO_SYNC = ("this file system cannot sync folders: run status after a loss of power in the next "
           "minute")
PART = re.compile(r"\.(.+)\.[0-9a-f]{16}\.part\Z", re.DOTALL)
LIBC = ctypes.CDLL(None, use_errno=True)


class NotAFile(Refused):
    def __init__(self, path: str) -> None:
        super().__init__("is a link, or not a file", "replace it by a file", path)


class NotAFolder(Refused):
    def __init__(self, path: str) -> None:
        super().__init__("is a symbolic link, or not a folder", "replace it by a folder", path)


class Folder:
    def __init__(self, handle: int, name: str, lacks: "set[str]") -> None:
        self.handle = handle
        self.name = name  # for messages: relative to the tree
        self.lacks = lacks  # what the file system turned out not to have, and what that means

    def __del__(self) -> None:
        os.close(self.handle)

    def path(self, name: str) -> str:
        return f"{self.name}/{name}" if self.name else name

    @contextlib.contextmanager
    def named(self, name: str) -> Iterator[None]:
        """Errors name the file by its path in the tree."""
        try:
            yield
        except OSError as error:
            error.filename, error.filename2 = self.path(name), None
            raise

    # Looking

    def child(self, name: str) -> "Folder | None":
        """A folder in this one, None where nothing is; NotAFolder for links and files."""
        with self.named(name):
            try:
                handle = os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=self.handle)
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENOTDIR):
                    raise NotAFolder(self.path(name)) from None
                raise
        return Folder(handle, self.path(name), self.lacks)

    def own_status(self) -> os.stat_result:
        return os.fstat(self.handle)

    def names(self) -> "list[str]":
        return sorted(os.listdir(self.handle))

    def status(self, name: str) -> "os.stat_result | None":
        with self.named(name):
            try:
                return os.stat(name, dir_fd=self.handle, follow_symlinks=False)
            except FileNotFoundError:
                return None

    def is_file(self, name: str) -> bool:
        """An ordinary file that goes by this name alone."""
        status = self.status(name)
        return status is not None and stat.S_ISREG(status.st_mode) and status.st_nlink == 1

    def open(self, name: str, access: int) -> int:
        """A descriptor of a file that is there; NotAFile for anything else."""
        with self.named(name):
            try:
                handle = os.open(name, access | LOOK, dir_fd=self.handle)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                    raise NotAFile(self.path(name)) from None
                raise
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise NotAFile(self.path(name))
        return handle

    def read(self, name: str) -> "bytes | None":
        """The bytes of a file, None where nothing is; NotAFile for anything else."""
        try:
            handle = self.open(name, os.O_RDONLY)
        except FileNotFoundError:
            return None
        with open(handle, "rb") as file, self.named(name):
            return file.read()

    # Making

    def make_child(self, name: str, mode: int) -> "Folder":
        """A new folder that belongs to the owner of this one; another run may make it just now.

        One of our own that is there may have been left by a kill before it was given away.
        """
        with self.named(name), no_umask(), contextlib.suppress(FileExistsError):
            os.mkdir(name, mode, dir_fd=self.handle)
        child = self.child(name)
        if child is None:
            raise removed(self.path(name))
        try:
            if is_own(child.handle):
                with self.named(name):
                    self.adopt(child.handle, mode | child.own_status().st_mode & 0o2000)
        except BaseException:
            self.remove_child(name)
            raise
        return child

    def create(self, name: str, data: bytes, mode: int, like: "str | None" = None) -> None:
        """A new file, on the disk when this returns; never over another.

        `like` is a file in this folder which it is to replace: its mode, owner and extended
        attributes are kept.
        """
        with self.named(name):
            handle = os.open(name, NEW, 0o600, dir_fd=self.handle)
            try:
                write_all(handle, data)
                if like is None:
                    self.adopt(handle, mode)
                else:
                    self.keep_attributes(like, handle)
                os.fsync(handle)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=self.handle)
                raise
            finally:
                os.close(handle)

    def put(self, name: str, data: bytes, mode: int, old: "bytes | None" = None,
            new: bool = False) -> None:
        """Write a file whole or not at all, in the place of any other.

        With `old`, it replaces these bytes alone and keeps their attributes; with `new`, nothing.
        Else FileExistsError.
        """
        part = f".{name}.{random_id()}.part"
        self.create(part, data, mode, None if old is None else name)
        try:
            if old is not None and self.read(name) != old:
                raise FileExistsError(errno.EEXIST, "was changed just now", self.path(name))
            if new:
                self.move(part, name)
            else:
                with self.named(name):
                    os.rename(part, name, src_dir_fd=self.handle, dst_dir_fd=self.handle)
        except BaseException:
            with contextlib.suppress(OSError):
                self.unlink(part)
            raise

    def remove_parts(self, name: "str | None" = None) -> None:
        """What killed runs left of a file that they were writing, or of any."""
        for part in self.names():
            match = PART.match(part)
            if match and name in (None, match.group(1)) and self.is_file(part):
                self.unlink(part)

    def adopt(self, handle: int, mode: int) -> None:
        """What is new here belongs to the folder's owner and group, as far as that can be."""
        try:
            give(handle, self.own_status(), self.name)
        except (OSError, Refused):
            if os.geteuid() == 0:
                raise
        self.set_mode(handle, mode)

    def keep_attributes(self, like: str, handle: int) -> None:
        old = self.open(like, os.O_RDONLY)
        try:
            status = os.fstat(old)
            give(handle, status, self.path(like))
            copy_attributes(old, handle, self.path(like))
            self.set_mode(handle, status.st_mode & 0o777)
        finally:
            os.close(old)

    def set_mode(self, handle: int, mode: int) -> None:
        """Where all files of a mount have one mode, as on FAT, another is refused.

        Setting the mode that is there already could take setgid off, so it is not.
        """
        if stat.S_IMODE(os.fstat(handle).st_mode) == mode:
            return
        try:
            os.fchmod(handle, mode)
        except OSError as error:
            if error.errno not in REFUSED:
                raise
            self.lacks.add(NO_MODES)

    # Moving and removing

    def move(self, old: str, new: str, ours: bool = True) -> None:
        """A rename that never replaces anything: FileExistsError.

        Where the system has none, a file of ours is linked first. A user's is not: what is saved
        under its name between link and unlink would be what the unlink removes.
        """
        with self.named(new):
            try:
                return renameat2(self.handle, old, new, NOREPLACE)
            except OSError as error:
                if error.errno not in REFUSED:
                    raise
            if ours and self.link(old, new):
                os.unlink(old, dir_fd=self.handle)
            elif self.status(new) is None:
                os.rename(old, new, src_dir_fd=self.handle, dst_dir_fd=self.handle)
            else:
                raise FileExistsError(errno.EEXIST, "was created just now")

    def link(self, old: str, new: str) -> bool:
        """Whether this file system has hard links; FileExistsError as usual."""
        try:
            os.link(old, new, src_dir_fd=self.handle, dst_dir_fd=self.handle, follow_symlinks=False)
        except OSError as error:
            if error.errno not in REFUSED | {errno.EMLINK}:
                raise
            return False
        return True

    def exchange(self, ours: str, name: str, free: str) -> None:
        """A file of ours takes the place of a user's, which then lies under one of our names.

        Where the system can, they change places at once. Elsewhere the user's moves to the free
        name first, and a kill may leave nothing in its place; but nothing is ever replaced.
        """
        with self.named(name):
            try:
                return renameat2(self.handle, ours, name, EXCHANGE)
            except OSError as error:
                if error.errno not in REFUSED:
                    raise
        self.lacks.add(NO_EXCHANGE)
        self.move(name, free, ours=False)
        self.move(ours, name)

    def unlink(self, name: str) -> None:
        with self.named(name):
            os.unlink(name, dir_fd=self.handle)

    def remove_child(self, name: str) -> None:
        """Nothing where it is not empty, or gone."""
        with self.named(name):
            try:
                os.rmdir(name, dir_fd=self.handle)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR):
                    raise

    def sync(self) -> None:
        """Make the names in it last; some file systems cannot and say so."""
        try:
            os.fsync(self.handle)
        except OSError as error:
            error.filename = self.name or "."
            if error.errno not in REFUSED:
                raise
            self.lacks.add(NO_SYNC)


def open_root(path: "str | Path") -> Folder:
    """The tree itself: the one folder that is named by the user, so its links are followed."""
    return Folder(os.open(path, FOLDER), "", set())


def write_file(path: Path, data: bytes, mode: int, old: "bytes | None" = None,
               new: bool = False) -> None:
    """Put a file where a user names it, as Folder.put does."""
    folder = open_root(path.parent)
    folder.remove_parts(path.name)
    folder.put(path.name, data, mode, old, new)
    with contextlib.suppress(OSError):  # the file is in its place
        folder.sync()


def removed(path: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, "was removed just now", path)


def random_id() -> str:
    return os.urandom(8).hex()


def write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def renameat2(folder: int, old: str, new: str, flags: int) -> None:
    """Python has no name for it; where the C library has none, OSError as from an old kernel."""
    function = getattr(LIBC, "renameat2", None)
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if function(folder, os.fsencode(old), folder, os.fsencode(new), flags) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextlib.contextmanager
def no_umask() -> Iterator[None]:
    """What is made has its mode at once: a kill leaves nothing that others cannot use."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def is_own(handle: int) -> bool:
    return os.geteuid() in (0, os.fstat(handle).st_uid)


def give(handle: int, like: os.stat_result, path: str) -> None:
    """To the group of another file, and to its owner what root makes in a user's tree."""
    status = os.fstat(handle)
    owner = like.st_uid if os.geteuid() == 0 else status.st_uid
    if (status.st_uid, status.st_gid) == (owner, like.st_gid):
        return
    try:
        os.fchown(handle, owner, like.st_gid)
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        if os.geteuid() != 0:
            raise foreign_group(like.st_gid, path) from None
        raise FileSystemFailed(
            "root may not give files away on this file system; nothing was changed",
            f"run this as the owner of the tree, user {owner}") from None


def foreign_group(group: int, path: str) -> Refused:
    problem = f"belongs to group {group}, which you cannot give files to"
    return Refused(problem, "run this as its owner, or as a member of the group", path)


def copy_attributes(old: int, new: int, path: str) -> None:
    """Extended attributes, POSIX ACLs among them: those of the old file and no others."""
    wanted, found = attributes(old), attributes(new)
    for name in [n for n in {**wanted, **found} if wanted.get(n) != found.get(n)]:
        try:
            if name in wanted:
                os.setxattr(new, name, wanted[name])
            else:
                os.removexattr(new, name)
        except OSError as error:
            problem = f"its extended attribute {name} cannot be kept: {error.strerror}"
            fix = "take it off (setfattr -x, or setfacl -b), or run this as root"
            raise Refused(problem, fix, path) from None


def attributes(handle: int) -> "dict[str, bytes]":
    if not hasattr(os, "listxattr"):
        return {}
    try:
        return {name: os.getxattr(handle, name) for name in os.listxattr(handle)}
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        return {}
