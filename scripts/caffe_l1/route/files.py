"""Read a net and put another in its place: whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from ..patch.store import owner_of, remove_if_there, sync_folder, write_new
from .errors import Problem


def read(path: Path) -> bytes:
    """The bytes of a regular file, or Problem."""
    try:
        if path.is_dir():
            raise Problem("is a folder; fix: give the path of a .prototxt file")
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            raise Problem("is not a regular file; fix: give the path of a .prototxt file")
        return path.read_bytes()
    except OSError as error:
        raise Problem(f"{reason(error)}; fix: give the path of a file that you can read") from None


def write(path: Path, old: bytes, new: bytes) -> None:
    """Replace old by new: staged beside the file, then one rename. A symbolic link stays one."""
    target = Path(os.path.realpath(str(path)))
    staged = target.with_name(f".{target.name}.switch_route-new")
    try:
        put(target, staged, old, new)
    except OSError as error:
        raise Problem(f"cannot write the file, nothing was changed: {reason(error)}; fix: check "
                      f"that you may write to {target.parent}, and that its disk has space"
                      ) from None


def put(target: Path, staged: Path, old: bytes, new: bytes) -> None:
    try:
        remove_if_there(staged)  # a killed run's
        write_new(staged, new, target.stat().st_mode & 0o7777, owner_of(target))
        if target.read_bytes() != old:
            raise Problem("was changed by another program just now, nothing was written; "
                          "fix: run this again")
        os.replace(str(staged), str(target))
    except BaseException:
        with contextlib.suppress(OSError):
            remove_if_there(staged)
        raise
    with contextlib.suppress(OSError):  # the file is in its place; a folder may be unreadable
        sync_folder(target.parent)


def reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
