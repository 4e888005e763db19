"""The Motorcycle stereo pair with its true disparity, and what a net is shown of it. No Caffe.

Source: D. Scharstein et al., "High-resolution stereo datasets with subpixel-accurate ground truth"
(GCPR 2014), reduced to 500 x 741 pixels, as scikit-image ships it.
"""

from __future__ import annotations

import numpy as np

from .fetch_motorcycle import FILES, folder

DISPARITIES = 64  # candidates, in pixels; the truth lies between 7 and 60
WINDOWS = (5, 13)  # pixels
BAND = 20  # rows: bands for training and for testing take turns


def load() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left and right image in grey, from 0 to 1, and the left one's disparity in pixels."""
    from matplotlib.image import imread
    left, right = (imread(str(folder() / name))[..., :3].mean(axis=-1) for name in FILES[:2])
    with np.load(str(folder() / FILES[2])) as file:
        disparity = file[file.files[0]]
    return left, right, disparity.astype(np.float32)


def matches(left: np.ndarray, right: np.ndarray, window: int) -> np.ndarray:
    """How well a window around each pixel fits the right image d pixels further left.

    Shape (height, width, DISPARITIES); along the last axis the numbers add up to 1.
    """
    costs = np.full((DISPARITIES, *left.shape), 1.0, np.float32)
    for d in range(DISPARITIES):
        costs[d, :, d:] = np.abs(left[:, d:] - right[:, :left.shape[1] - d])
        costs[d] = box_mean(costs[d], window)
    likelihood = np.exp(-(costs - costs.min(axis=0)) / 0.01)
    return np.moveaxis(likelihood / likelihood.sum(axis=0), 0, -1)


def box_mean(image: np.ndarray, window: int) -> np.ndarray:
    """The mean over a square around each pixel, by sums of sums."""
    padded = np.pad(image, window // 2 + 1, mode="edge").astype(np.float64)
    sums = padded.cumsum(axis=0).cumsum(axis=1)
    height, width = image.shape
    below, right = slice(window, window + height), slice(window, window + width)
    above, left = slice(height), slice(width)
    total = sums[below, right] - sums[above, right] - sums[below, left] + sums[above, left]
    return total / window ** 2


def features(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """What the net sees of each pixel: shape (height, width, DISPARITIES * len(WINDOWS))."""
    return np.concatenate([matches(left, right, window) for window in WINDOWS], axis=-1)


def is_for_testing(height: int) -> np.ndarray:
    """Which rows the net is never trained on."""
    return np.arange(height) // BAND % 2 == 1
