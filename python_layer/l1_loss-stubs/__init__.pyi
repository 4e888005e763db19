from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

BLOCK: int
REDUCTIONS: tuple[str, ...]

class Options(NamedTuple):
    reduction: str
    axis: int | None
    ignore_label: float | None
    ignore_nonfinite_target: bool

DEFAULTS: Options

def l1_loss(
    x: ArrayLike,
    y: ArrayLike,
    weight: ArrayLike | None = None,
    reduction: str | None = "BATCHMEAN",
    axis: int | None = None,
    ignore_label: float | None = None,
    ignore_nonfinite_target: bool | None = False,
) -> Any: ...  # a number, or with NONE an array
def l1_loss_grad(
    x: ArrayLike,
    y: ArrayLike,
    weight: ArrayLike | None = None,
    reduction: str | None = "BATCHMEAN",
    axis: int | None = None,
    ignore_label: float | None = None,
    ignore_nonfinite_target: bool | None = False,
    top_diff: ArrayLike = 1.0,
) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]: ...
def prefix(error: ValueError, who: str) -> None: ...
def read_options(param_str: str) -> Options: ...
def check_options(
    reduction: str | None = None,
    axis: int | None = None,
    ignore_label: float | None = None,
    ignore_nonfinite_target: bool | None = None,
) -> Options: ...
def check_shapes(
    options: Options,
    x: tuple[int, ...],
    y: tuple[int, ...],
    weight: tuple[int, ...] | None = None,
) -> tuple[int, ...]: ...
def write_loss(
    top: NDArray[Any],
    x: NDArray[Any],
    y: NDArray[Any],
    weight: NDArray[Any] | None,
    options: Options,
) -> float: ...
def write_gradients(
    dx: NDArray[Any] | None,
    dy: NDArray[Any] | None,
    x: NDArray[Any],
    y: NDArray[Any],
    weight: NDArray[Any] | None,
    top_diff: NDArray[Any],
    options: Options,
    z: float | None = None,
) -> None: ...
def divisor(
    shape: tuple[int, ...], y: NDArray[Any], weight: NDArray[Any] | None, options: Options
) -> float: ...
