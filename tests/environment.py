"""Where the repository is, and what processes that tests start see: modules, and so which Caffe."""

from __future__ import annotations

import os
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent


def seeing(*folders: object, **variables: str) -> dict:
    """This process's environment with these folders first on PYTHONPATH.

    Those that are there stay, since a stock pycaffe of the user's own is found by them.
    """
    path = [*map(str, folders), os.environ.get("PYTHONPATH", "")]
    return dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, path)), **variables)
