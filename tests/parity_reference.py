"""What PyTorch, Keras, TensorFlow and optax compute: `parity_reference.py FILE`, for test_parity.

Every case is inputs, the options of our layer, the package that was asked, and its loss and both
gradients. Only the package computes: where it has no call for a row of the table, the case is left
out, or, where a row is one of its results over another divisor, that division is all that is added.
Masks are given to a package by handing it the elements that are kept. Huber losses are divided by
their delta. Fast R-CNN's SmoothL1Loss, which is in no package, is written out.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import warnings
from functools import partial

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["JAX_PLATFORMS"] = "cpu"
import jax  # noqa: E402
import keras  # noqa: E402
import optax  # noqa: E402
import tensorflow as tf  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

LOSS_WEIGHT = 3.7
SHAPES = [(7,), (4, 5), (3, 2, 4), (2, 3, 1, 4), (2, 3, 2, 2, 3)]
REDUCTIONS = ["BATCHMEAN", "MEAN", "SUM", "VALID_MEAN", "WEIGHTED_MEAN", "NONE"]
MASKS = [{}, {"ignore_label": -1}, {"ignore_nonfinite_target": True}]
WEIGHTS = ["none", "full", "per sample", "first and last axis 1"]
BETAS = [0.5, 1.0, 2.3]


def pytorch(x, y, w, keep, reduction, axis, l1=F.l1_loss):
    """Return the loss of tensors by a function of torch.nn.functional, or None."""
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


def tensorflow(x, y, w, keep, reduction, axis, l1=tf.compat.v1.losses.absolute_difference):
    """Return the loss of tensors by a function of tf.compat.v1.losses, or None."""
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
    loss = l1(ys, xs, weights,
              reduction=getattr(tf.compat.v1.losses.Reduction, names[reduction]))
    if reduction == "BATCHMEAN":
        return loss / x.shape[0]
    if reduction == "MEAN" and not plain:
        return loss / size
    if reduction != "NONE":
        return loss
    e = loss if plain else tf.scatter_nd(tf.where(keep), loss, x.shape)
    return e if axis is None else tf.reduce_mean(e, axis=list(range(axis % len(x.shape),
                                                                    len(x.shape))))


def keras_(x, y, w, keep, reduction, axis, l1=keras.losses.MeanAbsoluteError):
    """Return the loss of tensors by a class of keras.losses, or None.

    Keras takes the mean over the last axis before it reduces: here that is one axis more.
    """
    size, batch, rank = int(tf.size(x)), x.shape[0], len(x.shape)
    plain = bool(tf.reduce_all(keep))
    if axis is not None:
        if not plain or axis not in (-1, rank - 1):
            return None
        if w is None:
            return l1(reduction=None)(y, x)
        return None if w.shape[-1] != 1 or rank == 1 else l1(reduction=None)(
            y, x, sample_weight=w[..., 0])
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
    loss = l1(reduction=names[reduction])(ys[..., None], xs[..., None], sample_weight=ws)
    if reduction == "BATCHMEAN":
        return loss / batch
    if reduction == "MEAN" and not plain:
        return loss / size
    return loss if plain or reduction != "NONE" else tf.scatter_nd(tf.where(keep), loss, x.shape)


def run_pytorch(x, y, w, keep, over=1, **options):
    """Return loss and both gradients, over a number, in numpy, or None."""
    tx, ty = (torch.tensor(a, requires_grad=True) for a in (x, y))
    tw = None if w is None else torch.tensor(w)
    loss = pytorch(tx, ty, tw, torch.tensor(keep), **options)
    if loss is None:
        return None
    loss = loss / over
    (LOSS_WEIGHT * loss).sum().backward()
    return loss.detach().numpy(), tx.grad.numpy(), ty.grad.numpy()


def run_in_tensorflow(function, x, y, w, keep, over=1, **options):
    """Return loss and both gradients, over a number, in numpy, or None."""
    tx, ty = tf.constant(x), tf.constant(y)
    with tf.GradientTape() as tape:
        tape.watch([tx, ty])
        loss = function(tx, ty, None if w is None else tf.constant(w), tf.constant(keep), **options)
        if loss is None:
            return None
        loss = loss / over
        total = tf.reduce_sum(LOSS_WEIGHT * loss)
    gradients = tape.gradient(total, [tx, ty])
    return (loss.numpy(), *[tf.convert_to_tensor(g).numpy() for g in gradients])


PACKAGES = {
    f"PyTorch {torch.__version__.split('+')[0]}": run_pytorch,
    f"Keras {keras.__version__}": partial(run_in_tensorflow, keras_),
    f"TensorFlow {tf.__version__}": partial(run_in_tensorflow, tensorflow),
}


def run_smooth_l1(x, y, w, keep, reduction, axis, beta):
    """That of PyTorch, which takes no weights."""
    def l1(x, y, reduction="mean", weight=None):
        return F.smooth_l1_loss(x, y, reduction=reduction, beta=beta)

    if w is not None or reduction == "WEIGHTED_MEAN":
        return None
    return run_pytorch(x, y, w, keep, reduction=reduction, axis=axis, l1=l1)


def run_torch_huber(x, y, w, keep, reduction, axis, beta):
    """Unlike l1_loss, its mean is not one over the weights."""
    if w is not None and reduction == "WEIGHTED_MEAN":
        return None
    return run_pytorch(x, y, w, keep, reduction=reduction, axis=axis, over=beta,
                       l1=partial(F.huber_loss, delta=beta))


def run_optax(x, y, w, keep, reduction, axis, beta):
    """It has neither weights nor reductions."""
    reduce = {"MEAN": jax.numpy.mean, "SUM": jax.numpy.sum, "NONE": lambda e: e}.get(reduction)
    if w is not None or reduce is None or axis is not None or not keep.all():
        return None

    def loss(x, y):
        return reduce(optax.huber_loss(x, y, delta=beta)) / beta

    def total(x, y):
        return LOSS_WEIGHT * loss(x, y).sum()

    return (loss(x, y), *jax.grad(total, (0, 1))(x, y))


def run_fast_r_cnn(x, y, w, keep, reduction, axis, beta):
    """SmoothL1Loss of Fast R-CNN, with w as outside weights, and as inside weights what is kept.

    For a single inside weight a, in the end, beta is 1 / (a sigma^2), and a is in the weights too.
    """
    if w is None or reduction != "BATCHMEAN":
        return None
    x, y, outside = x.astype(float), y.astype(float), np.broadcast_to(w, x.shape).astype(float)
    inside = keep.astype(float)
    if keep.all():
        inside *= 1.7
        outside = outside / 1.7
        beta *= 1.7
    sigma2 = 1 / beta
    loss, dx = 0, np.zeros_like(x)
    for i in np.flatnonzero(inside):
        d = inside.flat[i] * (x.flat[i] - y.flat[i])
        near = abs(d) < 1 / sigma2
        loss += outside.flat[i] * (0.5 * sigma2 * d * d if near else abs(d) - 0.5 / sigma2)
        slope = sigma2 * d if near else np.sign(d)
        dx.flat[i] = LOSS_WEIGHT * inside.flat[i] * outside.flat[i] * slope / len(x)
    return tuple(np.float32(result) for result in (loss / len(x), dx, -dx))


def smooth(beta):
    """Return what is smooth below this, by its name."""
    torch_, keras_name, tf_ = PACKAGES
    huber = tf.compat.v1.losses.huber_loss
    of_keras = partial(run_in_tensorflow, keras_, l1=partial(keras.losses.Huber, delta=beta),
                       over=beta)
    of_tensorflow = partial(run_in_tensorflow, tensorflow, l1=partial(huber, delta=beta), over=beta)
    return {
        f"{torch_} smooth_l1_loss(beta)": partial(run_smooth_l1, beta=beta),
        f"{torch_} huber_loss(delta)": partial(run_torch_huber, beta=beta),
        f"{keras_name} Huber(delta)": of_keras,
        f"{tf_} huber_loss(delta)": of_tensorflow,
        f"optax {optax.__version__} huber_loss(delta)": partial(run_optax, beta=beta),
        "Fast R-CNN SmoothL1Loss { sigma }": partial(run_fast_r_cnn, beta=beta),
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
    """Yield inputs, what is kept, the case as it is written to the file, and who is asked."""
    yield from grid(SHAPES, [0, 0])
    yield from grid(SHAPES[1:4:2], BETAS)


def grid(shapes, betas):
    rows = [(reduction, None) for reduction in REDUCTIONS] + [("NONE", -1), ("NONE", "any")]
    points = itertools.product(rows, shapes, MASKS, WEIGHTS, betas)
    for seed, ((reduction, axis), shape, mask, kind, beta) in enumerate(points):
        if axis == "any":
            axis = seed % len(shape)
        x, y, w, keep = draw(seed, shape, mask, weight_shape(kind, shape))
        options = {"reduction": reduction, **({} if axis is None else {"axis": axis}), **mask,
                   **({"beta": beta} if beta else {})}
        case = {"seed": seed, "options": options, "weights": kind}
        yield (x, y, w, keep), case, smooth(beta) if beta else PACKAGES


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
    for inputs, case, packages in cases():
        for package, run in packages.items():
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
    packages = ", ".join(dict.fromkeys(case["package"] for case in described))
    print(f"parity: {len(described)} cases of {packages} in {path}")


if __name__ == "__main__":
    main(sys.argv[1])
