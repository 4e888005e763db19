#!/usr/bin/env python3
"""A net that learns stereo disparity from ground truth with holes, by the L1 loss with a mask.

The true disparity of the Motorcycle pair is infinite in 7.35 % of its pixels, where nobody could
measure it. With ignore_nonfinite_target the net learns from the others; without, the loss is
infinite. Runs in a stock Caffe, by the Python layer: yours, or that of scripts/sandbox.sh.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "python_layer")]
os.environ.setdefault("GLOG_minloglevel", "2")

from caffe_l1.common.output import run  # noqa: E402
from demos import fetch_motorcycle  # noqa: E402

PICTURE = HERE.parent / "build" / "demo" / "stereo.png"
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
SOLVER = """net: "{net}" type: "Adam" base_lr: 0.002 momentum: 0.9 momentum2: 0.999
lr_policy: "poly" power: 1 max_iter: {iterations} display: 0 snapshot_after_train: false
random_seed: 1701 solver_mode: CPU
"""
MASKED = {"reduction": "VALID_MEAN", "ignore_nonfinite_target": True}
UNMASKED = {"reduction": "MEAN"}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--iterations", metavar="N", type=int, default=3000)
    parser.add_argument("--fetch", action="store_true", help="fetch the images and end")
    options = parser.parse_args(arguments)
    if not has_caffe():
        return in_sandbox(options.fetch, arguments)
    fetch_motorcycle.fetch()
    if options.fetch:
        return 0
    demo(options.iterations)
    return 0


def has_caffe() -> bool:
    try:
        import caffe
    except ImportError:
        return False
    return hasattr(caffe, "Net")  # the empty package of that name has none


def in_sandbox(only_fetch: bool, arguments: list[str]) -> int:
    """Fetch the images here, where pip is; the rest happens beside a Caffe."""
    fetch_motorcycle.fetch()
    if only_fetch:
        return 0
    return subprocess.run([str(HERE / "sandbox.sh"), "run", "python3", str(Path(__file__)),
                           *arguments]).returncode


def demo(iterations: int) -> None:
    import numpy as np
    from demos import motorcycle
    left, right, disparity = motorcycle.load()
    missing = ~np.isfinite(disparity)
    print(f"true disparity: {disparity.shape[0]} x {disparity.shape[1]} pixels, "
          f"{missing.mean():.2%} of it infinite", flush=True)
    inputs = motorcycle.features(left, right)
    test = motorcycle.is_for_testing(disparity.shape[0])

    loss = make_solver(UNMASKED, inputs.shape[-1], iterations)
    feed(loss.net, inputs[missing][:BATCH // 2], disparity[missing][:BATCH // 2])
    print(f"without the mask, the loss of a batch that meets such pixels is "
          f"{float(loss.net.forward()['loss']):g}: nothing could be learned", flush=True)

    solver = make_solver(MASKED, inputs.shape[-1], iterations)
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
    draw(disparity, predicted)
    print(f"picture: {PICTURE}")
    if ours >= plain:
        sys.exit("demo_stereo: the net is no better than the median; fix: more --iterations")


def make_solver(options: dict, inputs: int, iterations: int):
    import caffe
    with tempfile.TemporaryDirectory() as folder:
        net, solver = Path(folder, "net"), Path(folder, "solver")
        net.write_text(NET.format(batch=BATCH, inputs=inputs, options=json.dumps(options)))
        solver.write_text(SOLVER.format(net=net, iterations=iterations))
        return caffe.get_solver(str(solver))


def feed(net, matches, disparity) -> None:
    """Fill a batch; what is missing at its end stays as it was."""
    from demos.motorcycle import DISPARITIES
    net.blobs["matches"].data[:len(matches)] = matches
    net.blobs["disparity"].data[:len(matches), 0] = disparity / DISPARITIES


def train(solver, inputs, disparity, iterations: int) -> None:
    """On pixels drawn at random, the infinite ones among them."""
    import numpy as np
    from demos.progress import progress
    inputs, disparity = inputs.reshape(-1, inputs.shape[-1]), disparity.reshape(-1)
    generator = np.random.RandomState(1701)
    for _ in progress(range(iterations)):
        drawn = generator.randint(len(disparity), size=BATCH)
        feed(solver.net, inputs[drawn], disparity[drawn])
        solver.step(1)


def predict(net, inputs):
    import numpy as np
    from demos.motorcycle import DISPARITIES
    flat = inputs.reshape(-1, inputs.shape[-1])
    result = np.empty(len(flat), np.float32)
    for begin in range(0, len(flat), BATCH):
        part = flat[begin:begin + BATCH]
        feed(net, part, np.zeros(len(part)))
        net.forward(end="prediction")
        result[begin:begin + BATCH] = net.blobs["prediction"].data[:len(part), 0]
    return result.reshape(inputs.shape[:2]) * DISPARITIES


def draw(disparity, predicted) -> None:
    import matplotlib
    import numpy as np
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    figure, axes = plt.subplots(1, 3, figsize=(16, 4.2))
    missing = ~np.isfinite(disparity)
    true = np.ma.masked_where(missing, disparity)
    panels = [("true disparity (grey: not known)", true, "viridis", 60),
              ("predicted disparity", predicted, "viridis", 60),
              ("|error|", np.abs(predicted - true), "magma", 10)]
    for axis, (title, image, colors, most) in zip(axes, panels):
        axis.set_facecolor("0.6")
        shown = axis.imshow(image, cmap=colors, vmin=0, vmax=most)
        axis.set(title=title, xticks=[], yticks=[])
        figure.colorbar(shown, ax=axis, fraction=0.032, label="pixels")
    figure.tight_layout()
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(str(PICTURE), dpi=110)


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
