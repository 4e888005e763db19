"""Look at a file the kit is about to change, and refuse what it could not change safely."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .errors import Refused
from .store import read_if_there


def read_target(root: Path, path: str) -> bytes | None:
    """The bytes, None where there is no file; Refused for links and for what is read-only."""
    file = root / path
    check_folder(root, file.parent)
    try:
        status = os.lstat(str(file))
    except FileNotFoundError:
        return None
    check_file(path, status)
    return read_if_there(file)


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


def check_folder(root: Path, folder: Path) -> None:
    """No folder on the way may be a link out of the tree; the innermost must be writable."""
    relative = folder.relative_to(root)
    where = root
    for part in relative.parts:
        where = where / part
        name = where.relative_to(root).as_posix()
        if where.is_symlink():
            raise Refused("is a symbolic link", "replace it by the folder it points to", name)
        if not where.exists():
            break
        if not where.is_dir():
            raise Refused("is not a folder", "move it away", name)
    existing = where if where.exists() else where.parent
    check_writable(root, existing)


def check_writable(root: Path, folder: Path) -> None:
    name = folder.relative_to(root).as_posix()
    if not os.stat(str(folder)).st_mode & 0o222 or not os.access(str(folder), os.W_OK | os.X_OK):
        raise Refused("the folder is read-only", "chmod u+w it, or become its owner", name)
