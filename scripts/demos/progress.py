"""A bar of progress, where somebody looks and tqdm is installed."""

from __future__ import annotations

import sys
from typing import Iterable


def progress(steps: Iterable[int], iterations: int = 1) -> Iterable[int]:
    """The same steps, each of so many iterations."""
    if not sys.stderr.isatty():
        return steps
    try:
        from tqdm import tqdm
    except ImportError:
        return steps
    return tqdm(steps, leave=False, unit_scale=iterations, unit=" iterations")
