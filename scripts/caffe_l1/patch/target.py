"""Look at a file the kit is about to change, and refuse what it could not change safely."""

import errno
import os
import stat

from ..common.errors import Refused
from ..common.folder import Folder, attributes, foreign_group
from .store import Store


def read_target(store: Store, path: str) -> "bytes | None":
    """The bytes, None where there is no file; Refused for links and for what is read-only."""
    above, _, name = path.rpartition("/")
    check_writable(innermost(store, above))
    folder = store.at(above)
    status = folder.status(name) if folder else None
    if folder is None or status is None:
        return None
    check_file(path, status)
    check_permission(folder, name, status)
    return folder.read(name)


def innermost(store: Store, path: str) -> Folder:
    """The folder of this path, or where it is not there the one that it will be made in."""
    return store.at(path) or innermost(store, path.rpartition("/")[0])


def check_file(path: str, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise Refused("is a symbolic link", "replace it by the file it points to", path)
    if not stat.S_ISREG(status.st_mode):
        raise Refused("is not a regular file", "move it away", path)
    if status.st_nlink > 1:
        links = f"is one of {status.st_nlink} hard links to the same file"
        raise Refused(links, "break the link: cp -p FILE COPY && mv COPY FILE", path)
    if not status.st_mode & 0o222:
        raise Refused("is read-only", "chmod u+w it", path)


def check_permission(folder: Folder, name: str, status: os.stat_result) -> None:
    """Opened for writing, but not written: that asks permissions, ACLs and attributes alike."""
    path, above, me = folder.path(name), folder.own_status(), os.geteuid()
    try:
        handle = folder.open(name, os.O_WRONLY)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        problem = f"is not yours to write: {(error.strerror or '').lower()}"
        raise Refused(problem, "run this as its owner", path) from None
    has_acl = "system.posix_acl_access" in attributes(handle)
    os.close(handle)
    if me == 0:
        return
    if has_acl and status.st_uid != me:  # the file that takes its place will be ours
        problem = f"has an ACL and belongs to user {status.st_uid}, who could lose access to it"
        raise Refused(problem, "run this as its owner", path)
    inherited = above.st_gid if above.st_mode & stat.S_ISGID else os.getegid()
    if status.st_gid not in {inherited, os.getegid(), *os.getgroups()}:
        raise foreign_group(status.st_gid, path)
    if above.st_mode & stat.S_ISVTX and me not in (above.st_uid, status.st_uid):
        problem = "the sticky folder lets only its owner replace it"
        raise Refused(problem, "run this as its owner", path)


def check_writable(folder: Folder) -> None:
    mode = folder.own_status().st_mode
    if not mode & 0o222 or not os.access(
        ".", os.W_OK | os.X_OK, dir_fd=folder.handle, effective_ids=True
    ):
        fix = "chmod u+w it, or become its owner"
        raise Refused("the folder is read-only", fix, folder.name or ".")
