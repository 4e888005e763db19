"""The environment of processes that tests start: which modules, and so which Caffe, they see."""

from __future__ import annotations

import os


def seeing(*folders: object, **variables: str) -> dict:
    """This process's environment with these folders first on PYTHONPATH.

    Those that are there stay, since a stock pycaffe of the user's own is found by them.
    """
    path = [*map(str, folders), os.environ.get("PYTHONPATH", "")]
    return dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, path)), **variables)
