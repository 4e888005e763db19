from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["REDUCTIONS", "l1_loss", "l1_loss_grad"]

REDUCTIONS: tuple[str, ...]

def l1_loss(
    x: ArrayLike, y: ArrayLike, weight: ArrayLike | None = None,
    reduction: str | None = "BATCHMEAN", axis: int | None = None,
    ignore_label: float | None = None, ignore_nonfinite_target: bool | None = False,
    beta: float | None = 0.0,
) -> Any: ...  # a number, or with NONE an array
def l1_loss_grad(
    x: ArrayLike, y: ArrayLike, weight: ArrayLike | None = None,
    reduction: str | None = "BATCHMEAN", axis: int | None = None,
    ignore_label: float | None = None, ignore_nonfinite_target: bool | None = False,
    beta: float | None = 0.0, top_diff: ArrayLike = 1.0,
) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]: ...
