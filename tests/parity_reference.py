"""What PyTorch, Keras and TensorFlow compute: `parity_reference.py FILE.npz`, for test_parity.py.

Every case is inputs, the options of our layer, the package that was asked, and its loss and both
gradients. Only the package computes: where it has no call for a row of the table, the case is left
out, or, where a row is one of its results over another divisor, that division is all that is added.
Masks are given to a package by handing it the elements that are kept.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import warnings

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ["KERAS_BACKEND"] = "tensorflow"
import keras  # noqa: E402
import tensorflow as tf  # noqa: E402
import torch  # noqa: E402

LOSS_WEIGHT = 3.7
SHAPES = [(7,), (4, 5), (3, 2, 4), (2, 3, 1, 4), (2, 3, 2, 2, 3)]
REDUCTIONS = ["BATCHMEAN", "MEAN", "SUM", "VALID_MEAN", "WEIGHTED_MEAN", "NONE"]
MASKS = [{}, {"ignore_label": -1}, {"ignore_nonfinite_target": True}]
WEIGHTS = ["none", "full", "per sample", "first and last axis 1"]


def pytorch(x, y, w, keep, reduction, axis):
    """Return the loss of tensors by torch.nn.functional.l1_loss, or None."""
    l1 = torch.nn.functional.l1_loss
    full = None if w is None else torch.broadcast_to(w, x.shape)
    xs, ys = x[keep], y[keep]
    ws = None if w is None else full[keep]
    if reduction == "SUM":
        return l1(xs, ys, reduction="sum", weight=ws)
    if reduction == "BATCHMEAN":
        return l1(xs, ys, reduction="sum", weight=ws) / len(x)
    if reduction == "MEAN":
        plain = w is None and bool(keep.all())
        return l1(x, y) if plain else l1(xs, ys, reduction="sum", weight=ws) / x.numel()
    if reduction == "VALID_MEAN":
        return l1(xs, ys) if w is None else None
    if reduction == "WEIGHTED_MEAN":
        return l1(xs, ys, weight=torch.ones_like(xs) if w is None else ws)
    e = torch.zeros_like(x).masked_scatter(keep, l1(xs, ys, reduction="none", weight=ws))
    return e if axis is None else e.flatten(axis).mean(-1)


def tensorflow(x, y, w, keep, reduction, axis):
    """Return the loss of tensors by tf.compat.v1.losses.absolute_difference, or None."""
    names = {"BATCHMEAN": "SUM", "SUM": "SUM", "VALID_MEAN": "SUM_BY_NONZERO_WEIGHTS",
             "WEIGHTED_MEAN": "MEAN", "NONE": "NONE", "MEAN": "SUM_OVER_BATCH_SIZE"}
    size = int(tf.size(x))
    plain = bool(tf.reduce_all(keep))
    weights = 1.0 if w is None else w
    xs, ys = x, y
    if not plain:
        xs, ys = tf.boolean_mask(x, keep), tf.boolean_mask(y, keep)
        weights = 1.0 if w is None else tf.boolean_mask(tf.broadcast_to(w, x.shape), keep)
        names["MEAN"] = "SUM"
    loss = tf.compat.v1.losses.absolute_difference(
        ys, xs, weights, reduction=getattr(tf.compat.v1.losses.Reduction, names[reduction])
    )
    if reduction == "BATCHMEAN":
        return loss / x.shape[0]
    if reduction == "MEAN" and not plain:
        return loss / size
    if reduction != "NONE":
        return loss
    e = loss if plain else tf.scatter_nd(tf.where(keep), loss, x.shape)
    return e if axis is None else tf.reduce_mean(e, axis=list(range(axis % len(x.shape),
                                                                    len(x.shape))))


def keras_(x, y, w, keep, reduction, axis):
    """Return the loss of tensors by keras.losses.MeanAbsoluteError, or None.

    Keras takes the mean over the last axis before it reduces: here that is one axis more.
    """
    size, batch, rank = int(tf.size(x)), x.shape[0], len(x.shape)
    plain = bool(tf.reduce_all(keep))
    if axis is not None:
        if not plain or axis not in (-1, rank - 1):
            return None
        if w is None:
            return keras.losses.mean_absolute_error(y, x)
        return None if w.shape[-1] != 1 or rank == 1 else keras.losses.MeanAbsoluteError(
            reduction=None)(y, x, sample_weight=w[..., 0])
    if reduction == "WEIGHTED_MEAN" and w is not None:
        w = tf.broadcast_to(w, x.shape)
    xs, ys, ws = x, y, w
    if not plain:
        xs, ys = tf.boolean_mask(x, keep), tf.boolean_mask(y, keep)
        ws = None if w is None else tf.boolean_mask(tf.broadcast_to(w, x.shape), keep)
    names = {"BATCHMEAN": "sum", "SUM": "sum", "WEIGHTED_MEAN": "mean_with_sample_weight",
             "MEAN": "sum_over_batch_size" if plain else "sum", "NONE": None,
             "VALID_MEAN": "sum_over_batch_size"}
    if reduction == "VALID_MEAN" and w is not None:
        return None
    loss = keras.losses.MeanAbsoluteError(reduction=names[reduction])(
        ys[..., None], xs[..., None], sample_weight=ws
    )
    if reduction == "BATCHMEAN":
        return loss / batch
    if reduction == "MEAN" and not plain:
        return loss / size
    return loss if plain or reduction != "NONE" else tf.scatter_nd(tf.where(keep), loss, x.shape)


def run_pytorch(x, y, w, keep, **options):
    """Return loss and both gradients, in numpy, or None."""
    tx, ty = (torch.tensor(a, requires_grad=True) for a in (x, y))
    tw = None if w is None else torch.tensor(w)
    loss = pytorch(tx, ty, tw, torch.tensor(keep), **options)
    if loss is None:
        return None
    (LOSS_WEIGHT * loss).sum().backward()
    return loss.detach().numpy(), tx.grad.numpy(), ty.grad.numpy()


def run_in_tensorflow(function, x, y, w, keep, **options):
    """Return loss and both gradients, in numpy, or None."""
    tx, ty = tf.constant(x), tf.constant(y)
    with tf.GradientTape() as tape:
        tape.watch([tx, ty])
        loss = function(tx, ty, None if w is None else tf.constant(w), tf.constant(keep), **options)
        if loss is None:
            return None
        total = tf.reduce_sum(LOSS_WEIGHT * loss)
    gradients = tape.gradient(total, [tx, ty])
    return (loss.numpy(), *[tf.convert_to_tensor(g).numpy() for g in gradients])


PACKAGES = {
    f"PyTorch {torch.__version__.split('+')[0]}": run_pytorch,
    f"Keras {keras.__version__}": lambda *a, **k: run_in_tensorflow(keras_, *a, **k),
    f"TensorFlow {tf.__version__}": lambda *a, **k: run_in_tensorflow(tensorflow, *a, **k),
}


def weight_shape(kind, shape):
    """Return the shape of the weights, with as many axes as x, or None."""
    inner = (1, *shape[1:-1], 1) if len(shape) > 1 else (1,)
    return {"none": None, "full": shape, "per sample": (shape[0],) + (1,) * (len(shape) - 1),
            "first and last axis 1": inner}[kind]


def draw(seed, shape, mask, weights):
    """Return x, y, w or None, and which elements are kept; some x equal their y."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, *shape)).astype(np.float32)
    y.flat[1::5] = x.flat[1::5]
    keep = np.ones(shape, bool)
    if mask:
        keep.flat[::3] = False
        marks = [-1] if "ignore_label" in mask else [np.nan, np.inf, -np.inf]
        y[~keep] = rng.choice(marks, int((~keep).sum()))
    if weights is None:
        return x, y, None, keep
    w = rng.uniform(0.1, 3, weights).astype(np.float32)
    if w.size > 2:
        w.flat[2] = 0
    return x, y, w, keep


def cases():
    """Yield inputs, what is kept, and the case as it is written to the file, without an answer."""
    rows = [(reduction, None) for reduction in REDUCTIONS] + [("NONE", -1), ("NONE", "any")]
    grid = itertools.product(rows, SHAPES, MASKS, WEIGHTS, range(2))
    for seed, ((reduction, axis), shape, mask, kind, _) in enumerate(grid):
        if axis == "any":
            axis = seed % len(shape)
        x, y, w, keep = draw(seed, shape, mask, weight_shape(kind, shape))
        options = {"reduction": reduction, **({} if axis is None else {"axis": axis}), **mask}
        yield (x, y, w, keep), {"seed": seed, "options": options, "weights": kind}


def traps():
    """Return what the packages do where we do something else, as said in test_parity.py."""
    x, y = np.float32([[4, 8, 12], [8, 1, 3]]), np.float32([[1, 9, 2], [-5, -2, 6]])
    mae = keras.losses.MeanAbsoluteError
    weighted = mae(reduction="mean_with_sample_weight")(
        y[..., None], x[..., None], sample_weight=np.float32([[1], [3]]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        broadcast = torch.nn.functional.l1_loss(torch.tensor(x[:, :1]), torch.tensor(y[:, 0]))
    at_nan = torch.tensor([float("nan"), 1.0], requires_grad=True)
    torch.nn.functional.l1_loss(at_nan, torch.zeros(2), reduction="sum").backward()
    return {
        "keras mean_with_sample_weight": float(weighted),
        "keras sum": float(mae(reduction="sum")(y, x)),
        "torch broadcast": float(broadcast),
        "torch broadcast warning": str(caught[0].message),
        "torch gradient at nan": at_nan.grad.tolist(),
    }


def main(path):
    arrays, described = {}, []
    for inputs, case in cases():
        for package, run in PACKAGES.items():
            axis = case["options"].get("axis")
            answer = run(*inputs, reduction=case["options"]["reduction"], axis=axis)
            if answer is None:
                continue
            for name, array in zip(("x", "y", "w", "keep", "loss", "dx", "dy"), (*inputs, *answer)):
                if array is not None:
                    arrays[f"{len(described)} {name}"] = array
            described.append({**case, "package": package})
    about = {"loss_weight": LOSS_WEIGHT, "cases": described, "traps": traps()}
    partial = f"{path}.partial.npz"
    np.savez(partial, about=json.dumps(about), **arrays)
    os.replace(partial, path)
    print(f"parity: {len(described)} cases of {', '.join(PACKAGES)} in {path}")


if __name__ == "__main__":
    main(sys.argv[1])
