"""Which Caffe each route runs in: the stock one, the stock one with the plugin, the patched one."""

from __future__ import annotations

import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

REPO = Path(__file__).resolve().parent.parent


class RouteCaffe(NamedTuple):
    python_path: list
    plugin: str


def caffes(work: Path, native_caffe: Path) -> dict:
    here = REPO / "python_layer"
    return {"python": RouteCaffe([here], ""), "plugin": RouteCaffe([here], built_plugin(work)),
            "native": RouteCaffe([native_caffe, here], "")}


@lru_cache(maxsize=None)
def built_plugin(work: Path) -> str:
    path = str(work / "plugin_of_routes.so")
    subprocess.run([sys.executable, str(REPO / "scripts" / "build_plugin.py"), "-o", path],
                   check=True)
    return path
