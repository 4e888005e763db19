"""The Motorcycle stereo pair with its true disparity, and a net that learns it.

Source: D. Scharstein et al., "High-resolution stereo datasets with subpixel-accurate ground truth"
(GCPR 2014), reduced to 500 x 741 pixels, as scikit-image ships it.
"""

import json
import sys
import time
from pathlib import Path

import l1_loss
import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imread
from scipy.ndimage import uniform_filter

from .fetch_motorcycle import FILES, FOLDER
from .picture import finish
from .solver import make_solver, progress

DISPARITIES = 64  # candidates, in pixels; the truth lies between 7 and 60
WINDOWS = (5, 13)  # pixels
BAND = 20  # rows: bands for training and for testing take turns
BATCH = 1024
NET = """
layer {{ name: "data" type: "Input" top: "matches" top: "disparity"
  input_param {{ shape {{ dim: {batch} dim: {inputs} }} shape {{ dim: {batch} dim: 1 }} }} }}
layer {{ name: "fc1" type: "InnerProduct" bottom: "matches" top: "fc1"
  inner_product_param {{ num_output: 64 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "relu1" type: "ReLU" bottom: "fc1" top: "fc1" }}
layer {{ name: "fc2" type: "InnerProduct" bottom: "fc1" top: "fc2"
  inner_product_param {{ num_output: 32 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "relu2" type: "ReLU" bottom: "fc2" top: "fc2" }}
layer {{ name: "prediction" type: "InnerProduct" bottom: "fc2" top: "prediction"
  inner_product_param {{ num_output: 1 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "Python" bottom: "prediction" bottom: "disparity" top: "loss"
  loss_weight: 1
  python_param {{ module: "l1_loss_layer" layer: "L1LossLayer" param_str: '{options}' }} }}
"""
SOLVER = """type: "Adam" base_lr: 0.002 momentum: 0.9 momentum2: 0.999
lr_policy: "poly" power: 1 max_iter: {iterations} display: 0 snapshot_after_train: false
random_seed: 1701 solver_mode: CPU
"""
MASKED = {"reduction": "VALID_MEAN", "ignore_nonfinite_target": True}
UNMASKED = {"reduction": "MEAN"}


def load() -> "tuple[np.ndarray, np.ndarray, np.ndarray]":
    """Left and right image in grey, from 0 to 1, and the left one's disparity in pixels."""
    left, right = (imread(str(FOLDER / name))[..., :3].mean(axis=-1) for name in FILES[:2])
    with np.load(str(FOLDER / FILES[2])) as file:
        disparity = file[file.files[0]]
    return left, right, disparity.astype(np.float32)


def matches(left: np.ndarray, right: np.ndarray, window: int) -> np.ndarray:
    """How well a window around each pixel fits the right image d pixels further left.

    Shape (height, width, DISPARITIES); along the last axis the numbers add up to 1.
    """
    costs = np.full((DISPARITIES, *left.shape), 1.0, np.float32)
    for d in range(DISPARITIES):
        costs[d, :, d:] = np.abs(left[:, d:] - right[:, :left.shape[1] - d])
        costs[d] = uniform_filter(costs[d], window, mode="nearest")
    likelihood = np.exp(-(costs - costs.min(axis=0)) / 0.01)
    return np.moveaxis(likelihood / likelihood.sum(axis=0), 0, -1)


def features(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """What the net sees of each pixel: shape (height, width, DISPARITIES * len(WINDOWS))."""
    return np.concatenate([matches(left, right, window) for window in WINDOWS], axis=-1)


def demo(iterations: int, picture: Path) -> None:
    left, right, disparity = load()
    missing = ~np.isfinite(disparity)
    print(f"true disparity: {disparity.shape[0]} x {disparity.shape[1]} pixels, "
          f"{missing.mean():.2%} of it infinite")
    inputs = features(left, right)
    test = np.arange(len(disparity)) // BAND % 2 == 1  # rows that it never trains on

    loss = solver_of(UNMASKED, inputs.shape[-1], iterations)
    feed(loss.net, inputs[missing][:BATCH // 2], disparity[missing][:BATCH // 2])
    print(f"without the mask, the loss of a batch that meets such pixels is "
          f"{float(loss.net.forward()['loss']):g}: nothing could be learned")

    solver = solver_of(MASKED, inputs.shape[-1], iterations)
    started = time.monotonic()
    train(solver, inputs[~test], disparity[~test], iterations)
    predicted = predict(solver.net, inputs)
    print(f"with the mask: {iterations} iterations of {BATCH} pixels in "
          f"{time.monotonic() - started:.0f} s")

    seen = ~missing & test[:, None]
    median = np.median(disparity[~missing & ~test[:, None]])
    ours, plain = (np.abs(guess - disparity)[seen].mean() for guess in (predicted, median))
    print(f"mean |error| on rows it never saw: {ours:.2f} pixels; predicting the median: "
          f"{plain:.2f} pixels, {plain / ours:.1f} times as much")
    draw(disparity, predicted, picture)
    print(f"picture: {picture}")
    if ours >= plain:
        sys.exit("demo_stereo: the net is no better than the median; fix: more --iterations")


def solver_of(options: dict, inputs: int, iterations: int):
    return make_solver(NET.format(batch=BATCH, inputs=inputs, options=json.dumps(options)),
                       SOLVER.format(iterations=iterations))


def feed(net, inputs, disparity) -> None:
    """Fill a batch; what is missing at its end stays as it was."""
    net.blobs["matches"].data[:len(inputs)] = inputs
    net.blobs["disparity"].data[:len(inputs), 0] = disparity / DISPARITIES


def train(solver, inputs, disparity, iterations: int) -> None:
    """On pixels drawn at random, the infinite ones among them."""
    inputs, disparity = inputs.reshape(-1, inputs.shape[-1]), disparity.reshape(-1)
    generator = np.random.RandomState(1701)
    for _ in progress(range(iterations)):
        drawn = generator.randint(len(disparity), size=BATCH)
        feed(solver.net, inputs[drawn], disparity[drawn])
        solver.step(1)


def predict(net, inputs) -> np.ndarray:
    rows = []
    for row in inputs:  # which is shorter than a batch
        net.blobs["matches"].data[:len(row)] = row
        net.forward(end="prediction")
        rows.append(net.blobs["prediction"].data[:len(row), 0] * DISPARITIES)
    return np.array(rows)


def draw(disparity: np.ndarray, predicted: np.ndarray, file: Path) -> None:
    figure = Figure(figsize=(16, 8), tight_layout=True)
    grid = figure.add_gridspec(2, 6)
    true = np.ma.masked_invalid(disparity)
    panels = [("true disparity (grey: not known)", true, "viridis", 60),
              ("predicted disparity", predicted, "viridis", 60),
              ("|error|", np.abs(predicted - true), "magma", 10)]
    for column, (title, image, colors, most) in enumerate(panels):
        axis = figure.add_subplot(grid[0, 2 * column:2 * column + 2])
        axis.set_facecolor("0.6")
        shown = axis.imshow(image, cmap=colors, vmin=0, vmax=most)
        axis.set(title=title, xticks=[], yticks=[])
        figure.colorbar(shown, ax=axis, fraction=0.032, label="pixels")
    draw_losses(figure.add_subplot(grid[1, :3]), figure.add_subplot(grid[1, 3:]))
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(str(file), dpi=110)


def draw_losses(left, right) -> None:
    """Loss and gradient over x - y: of L1, of L1 with two betas, and of half the square."""
    x = np.linspace(-3, 3, 601)
    for beta, color, style in ((0, "#1f77b4", "-"), (0.5, "#17becf", "--"), (1, "#2ca02c", "-")):
        look = dict(color=color, linestyle=style, linewidth=2,
                    label=f"L1, beta: {beta}" if beta else "L1")
        left.plot(x, l1_loss.l1_loss(x, 0 * x, reduction="NONE", beta=beta), **look)
        right.plot(x, l1_loss.l1_loss_grad(x, 0 * x, reduction="SUM", beta=beta)[0], **look)
    square = dict(color="#d62728", linewidth=1.5, label="L2, as EuclideanLoss")
    left.plot(x, x**2 / 2, **square)
    right.plot(x, x, **square)
    left.set(xlabel="x - y", title="Loss of one element", xlim=(-3, 3), ylim=(0, 3))
    right.set(xlabel="x - y", title="Its gradient", xlim=(-3, 3), ylim=(-2, 2))
    finish(left, right)
