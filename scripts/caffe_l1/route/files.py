"""Read a net and put another in its place: whole or not at all."""

import os
from pathlib import Path

from ..common.errors import KitError
from ..common.folder import write_file
from .text_format import Problem


def read(path: Path) -> bytes:
    """The bytes of a regular file, or Problem."""
    try:
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise Problem(f"is {kind}; fix: give the path of a .prototxt file")
        return path.read_bytes()
    except OSError as error:
        raise Problem(f"{reason(error)}; fix: give the path of a file that you can read") from None


def write(path: Path, old: bytes, new: bytes) -> None:
    """Replace old by new, whole or not at all. A symbolic link stays one."""
    target = Path(os.path.realpath(str(path)))
    try:
        write_file(target, new, 0o644, old=old)
    except FileExistsError:
        raise Problem("was changed by another program just now, nothing was written; "
                      "fix: run this again") from None
    except OSError as error:
        raise Problem(f"cannot write the file, nothing was changed: {reason(error)}; fix: check "
                      f"that you may write to {target.parent}, and that its disk has space"
                      ) from None
    except KitError as error:
        raise Problem(f"cannot write the file, nothing was changed: it {error.problem}; "
                      f"fix: {error.fix}") from None


def reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
