"""How a change of a file is shown: as a unified diff, which `git apply` and `patch -p1` read."""

import difflib
import io
import os


def unified_diff(path: str, old: "bytes | None", new: "bytes | None") -> bytes:
    """From one content to the other, None where there is no file."""
    name = os.fsencode(path)
    lines = difflib.diff_bytes(
        difflib.unified_diff, list(io.BytesIO(old or b"")), list(io.BytesIO(new or b"")),
        b"/dev/null" if old is None else b"a/" + name,
        b"/dev/null" if new is None else b"b/" + name)
    return b"".join(line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n"
                    for line in lines)
