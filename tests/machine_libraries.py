"""`unshare -rm python3 machine_libraries.py COMMAND...`: a program of the machine, in the sandbox.

A Python of the machine needs its C library, which is newer than Debian 11's. The new one runs the
sandbox's programs too, so this command and its children all get it: its loader lies in the place
of the sandbox's own, and finds the libraries in a folder of links. The sandbox's linker cannot
read the new loader, and is shown a copy of the old one.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
from pathlib import Path

MACHINE = Path("/machine/lib")  # scripts/sandbox.sh binds it there
LOADER = Path("/lib64/ld-linux-x86-64.so.2")
LINKER_SCRIPT = Path("/usr/lib/x86_64-linux-gnu/libc.so")
LIBRARIES = ("libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1",
             "libutil.so.1", "libresolv.so.2", "libffi.so.8", "libcrypto.so.3", "libssl.so.3")
MS_BIND = 4096


def main(command: list) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in LIBRARIES:
            Path(folder, name).symlink_to(MACHINE / name)
        script = Path(folder, LINKER_SCRIPT.name)
        script.write_text(LINKER_SCRIPT.read_text().replace(str(LOADER), f"{folder}/{LOADER.name}"))
        shutil.copy2(LOADER, folder)
        bind(script, LINKER_SCRIPT)
        bind(MACHINE / LOADER.name, LOADER)
        environment = dict(os.environ, LD_LIBRARY_PATH=folder)
        sys.exit(os.spawnvpe(os.P_WAIT, command[0], command, environment))


def bind(new: Path, old: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(os.fsencode(new.resolve()), os.fsencode(old.resolve()), None, MS_BIND, None):
        raise OSError(ctypes.get_errno(), "cannot be bound", str(old))


if __name__ == "__main__":
    main(sys.argv[1:])
