"""Stand between the patch script and the system: something is done before its n-th call."""

from __future__ import annotations

import contextlib
import os
from typing import Callable, Iterator

from caffe_l1.common import folder

CALLS = ("open", "stat", "lstat", "listdir", "write", "fsync", "fchmod", "fchown", "mkdir", "rmdir",
         "rename", "replace", "link", "unlink")


@contextlib.contextmanager
def before_each_call(act: Callable[[str, tuple, dict], None]) -> Iterator[None]:
    """act(name, arguments, options) before every call; what it does itself does not count."""
    acting = False

    def watched(name: str, real: Callable) -> Callable:
        def call(*arguments, **options):
            nonlocal acting
            if not acting:
                acting = True
                try:
                    act(name, arguments, options)
                finally:
                    acting = False
            return real(*arguments, **options)

        return call

    real = {name: getattr(os, name) for name in CALLS}
    real_renameat2 = folder.renameat2
    try:
        for name, function in real.items():
            setattr(os, name, watched(name, function))
        folder.renameat2 = watched("renameat2", real_renameat2)
        yield
    finally:
        for name, function in real.items():
            setattr(os, name, function)
        folder.renameat2 = real_renameat2
