"""What must hold of the mathematics for whatever arrays and options."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from l1_loss import REDUCTIONS, l1_loss, l1_loss_grad

SCALARS = [name for name in REDUCTIONS if name != "NONE"]
# Multiples of 1/8: sums and differences of them are exact.
NUMBERS = st.integers(-64, 64).map(lambda n: n / 8)
WEIGHTS = st.integers(0, 16).map(lambda n: n / 4)
BETAS = [0, 0.125, 1, 3.7, 64]
WILD = st.floats(allow_nan=True, allow_infinity=True, width=32)
SETTINGS = settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow]
)


@st.composite
def weight_shapes(draw, shape):
    axes = draw(st.integers(0, len(shape)))
    return tuple(n if draw(st.booleans()) else 1 for n in shape[:axes])


@st.composite
def cases(draw, numbers=NUMBERS, targets=NUMBERS, reductions=REDUCTIONS, weights=WEIGHTS,
          betas=BETAS):
    """Draw x, y, a weight or None, and options without a mask."""
    shape = draw(array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4))
    x = draw(arrays(np.float64, shape, elements=numbers))
    y = draw(arrays(np.float64, shape, elements=targets))
    weight = None
    if draw(st.booleans()):
        weight = draw(arrays(np.float64, draw(weight_shapes(shape)), elements=weights))
    options = {"reduction": draw(st.sampled_from(reductions))}
    if options["reduction"] == "NONE" and draw(st.booleans()):
        options["axis"] = draw(st.integers(-len(shape), len(shape) - 1))
    if draw(st.booleans()):
        options["beta"] = draw(st.sampled_from(betas))
    return x, y, weight, options


def same(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


@SETTINGS
@given(cases())
def test_swapping_the_bottoms_swaps_the_gradients(case):
    x, y, weight, options = case
    same(l1_loss(x, y, weight, **options), l1_loss(y, x, weight, **options))
    dx, dy = l1_loss_grad(x, y, weight, **options)
    swapped = l1_loss_grad(y, x, weight, **options)
    same(swapped[0], -dx)
    same(swapped[1], -dy)
    same(dy, -dx)


@SETTINGS
@given(cases(betas=[0]), st.sampled_from([0.125, 0.5, 2, 16]))
def test_scaling_both_scales_the_loss_and_keeps_the_gradient(case, factor):
    x, y, weight, options = case
    same(l1_loss(factor * x, factor * y, weight, **options),
         factor * l1_loss(x, y, weight, **options))
    same(l1_loss_grad(factor * x, factor * y, weight, **options),
         l1_loss_grad(x, y, weight, **options))


@SETTINGS
@given(cases(), st.sampled_from([0.5, 2, 16]))
def test_scaling_the_weights_scales_all_but_the_weighted_mean(case, factor):
    x, y, weight, options = case
    weight = np.ones(1) if weight is None else weight
    expected = l1_loss(x, y, weight, **options)
    if options["reduction"] != "WEIGHTED_MEAN":
        expected = factor * expected
    same(l1_loss(x, y, factor * weight, **options), expected)


@SETTINGS
@given(cases(), st.sampled_from([-2, 0.25, 3.7]))
def test_gradients_are_proportional_to_top_diff(case, factor):
    x, y, weight, options = case
    same(l1_loss_grad(x, y, weight, top_diff=factor, **options),
         factor * np.array(l1_loss_grad(x, y, weight, **options)))


@SETTINGS
@given(cases(), st.randoms(use_true_random=False))
def test_permuting_the_samples_permutes_the_gradients(case, random):
    x, y, weight, options = case
    order = list(range(len(x)))
    random.shuffle(order)
    by_sample = weight is not None and weight.ndim and len(weight) == len(x)
    shuffled = weight[order] if by_sample else weight
    loss = l1_loss(x, y, weight, **options)
    expected = loss[order] if np.ndim(loss) else loss
    same(l1_loss(x[order], y[order], shuffled, **options), expected)
    dx, dy = l1_loss_grad(x, y, weight, **options)
    permuted = l1_loss_grad(x[order], y[order], shuffled, **options)
    same(permuted, (dx[order], dy[order]))


@SETTINGS
@given(cases(reductions=["SUM", "VALID_MEAN", "WEIGHTED_MEAN", "NONE"]), st.data())
def test_weights_of_0_equal_ignoring(case, data):
    x, y, weight, options = case
    dropped = data.draw(arrays(np.bool_, x.shape))
    shape = np.shape(weight) + (1,) * (x.ndim - np.ndim(weight))
    full = np.ones(x.shape) if weight is None else np.broadcast_to(weight.reshape(shape), x.shape)
    zeros, masked = np.where(dropped, 0, full), np.where(dropped, np.nan, y)
    same(l1_loss(x, masked, full, ignore_nonfinite_target=True, **options),
         l1_loss(x, y, zeros, **options))
    same(l1_loss_grad(x, masked, full, ignore_nonfinite_target=True, **options),
         l1_loss_grad(x, y, zeros, **options))
    labelled = np.where(dropped, 1000, y)
    same(l1_loss(x, labelled, full, ignore_label=1000, **options),
         l1_loss(x, y, zeros, **options))


@SETTINGS
@given(cases(reductions=SCALARS, betas=[0]))
def test_the_gradient_is_the_numeric_derivative_off_the_kink(case):
    x, y, weight, options = case
    x = np.where(x == y, x + 1, x)
    check_gradients(x, y, weight, options, 1 / 64, 1e-9)


def check_gradients(x, y, weight, options, step, tolerance):
    dx, dy = l1_loss_grad(x, y, weight, **options)
    for gradient, bottom in ((dx, 0), (dy, 1)):
        for index in np.ndindex(*x.shape):
            up, down = [x.copy(), y.copy()], [x.copy(), y.copy()]
            up[bottom][index] += step
            down[bottom][index] -= step
            slope = l1_loss(*up, weight, **options) - l1_loss(*down, weight, **options)
            np.testing.assert_allclose(gradient[index], slope / (2 * step), atol=tolerance)


SMOOTH = [0.125, 1, 3.7, 64]


@SETTINGS
@given(cases(reductions=SCALARS), st.sampled_from(SMOOTH))
def test_the_smooth_gradient_is_the_numeric_derivative_everywhere(case, beta):
    """Where x meets y too, and where |x - y| is beta."""
    x, y, weight, options = case
    check_gradients(x, y, weight, {**options, "beta": beta}, 2.0**-20, 3e-5)


@SETTINGS
@given(cases())
def test_a_huge_beta_makes_it_half_the_mean_square(case):
    x, y, weight, options = case
    beta, squares = 2.0**40, (x - y)**2
    plain = {**options, "beta": 0}
    same(2 * beta * l1_loss(x, y, weight, **{**options, "beta": beta}),
         l1_loss(squares, squares * 0, weight, **plain))
    slopes = beta * l1_loss_grad(x, y, weight, **{**options, "beta": beta})[0]
    same(slopes, (x - y) * l1_loss_grad(x * 0 + 1, x * 0, weight, **plain)[0])


FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@SETTINGS
@given(arrays(np.float32, 5, elements=FLOATS), arrays(np.float32, 5, elements=FLOATS),
       st.floats(0, float(np.finfo(np.float32).max), width=32))
def test_of_any_floats_the_smooth_loss_is_between_0_and_the_plain_one(x, y, beta):
    e, plain = (l1_loss(x, y, reduction="NONE", beta=b) for b in (beta, 0))
    assert (e >= 0).all() and (e <= plain).all()
    slope, sign = (l1_loss_grad(x, y, reduction="SUM", beta=b)[0] for b in (beta, 0))
    assert (np.abs(slope) <= 1).all() and (slope * sign >= 0).all()
    far = np.abs(x.astype(np.float64) - y) >= beta
    np.testing.assert_array_equal(slope[far], sign[far])


@SETTINGS
@given(st.floats(2.0**-100, 2.0**100, width=32), st.sampled_from([-1, 1]))
def test_loss_and_gradient_have_no_step_where_the_difference_is_beta(beta, sign):
    x = np.float32(sign * beta) * np.float32([1 - 2.0**-24, 1, 1 + 2.0**-23])
    np.testing.assert_allclose(l1_loss(x, x * 0, reduction="NONE", beta=beta), beta / 2, 4e-7)
    dx = l1_loss_grad(x, x * 0, reduction="SUM", beta=beta)[0]
    np.testing.assert_allclose(dx, [sign] * 3, 2e-7)
    assert (dx[1:] == sign).all()


@SETTINGS
@given(cases(reductions=["NONE"]))
def test_none_summed_equals_sum(case):
    x, y, weight, options = case
    columns = np.prod(x.shape[options["axis"]:]) if "axis" in options else 1
    summed = {"reduction": "SUM", "beta": options.get("beta")}
    same(np.sum(l1_loss(x, y, weight, **options)) * columns, l1_loss(x, y, weight, **summed))
    same(l1_loss_grad(x, y, weight, top_diff=columns, **options),
         l1_loss_grad(x, y, weight, **summed))


@SETTINGS
@given(cases(targets=WILD), st.sampled_from([None, 0.5]))
def test_inputs_are_not_written(case, label):
    x, y, weight, options = case
    options = {**options, "ignore_nonfinite_target": True, "ignore_label": label}
    given_arrays = [a for a in (x, y, weight) if a is not None]
    before = [a.copy() for a in given_arrays]
    l1_loss(x, y, weight, **options)
    l1_loss_grad(x, y, weight, **options)
    for array, copy in zip(given_arrays, before):
        np.testing.assert_array_equal(array, copy)


@SETTINGS
@given(cases(targets=WILD))
def test_no_nan_comes_out_of_targets_that_are_ignored(case):
    x, y, weight, options = case
    loss = l1_loss(x, y, weight, ignore_nonfinite_target=True, **options)
    gradients = l1_loss_grad(x, y, weight, ignore_nonfinite_target=True, **options)
    for result in (loss, *gradients):
        assert np.isfinite(result).all()
    for gradient in gradients:
        assert (gradient[~np.isfinite(y)] == 0).all()


@SETTINGS
@given(cases(numbers=WILD, targets=NUMBERS, reductions=SCALARS, weights=st.just(1.0)))
def test_nan_and_inf_of_a_prediction_come_out(case):
    x, y, weight, options = case
    loss = l1_loss(x, y, weight, **options)
    if np.isfinite(x).all():
        assert np.isfinite(loss)
    else:
        assert np.isnan(loss) if np.isnan(x).any() else loss == np.inf
    dx, dy = l1_loss_grad(x, y, weight, **options)
    np.testing.assert_array_equal(np.isnan(dx), np.isnan(x))
    np.testing.assert_array_equal(np.isnan(dy), np.isnan(x))
