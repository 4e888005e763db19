"""The mathematics in numpy: tables of values, traps, errors, and shapes."""

from __future__ import annotations

import inspect
import itertools
import math
import warnings
from concurrent.futures import ThreadPoolExecutor

import l1_loss as mathematics
import l1_loss_checks
import numpy as np
import oracle
import pytest
from l1_loss import REDUCTIONS, l1_loss, l1_loss_grad
from param_str_cases import BETA, CASES

INF, NAN = float("inf"), float("nan")
# From the tests of TensorFlow's absolute_difference and Keras's mean_absolute_error.
X = np.array([[4, 8, 12], [8, 1, 3]], np.float32)
Y = np.array([[1, 9, 2], [-5, -2, 6]], np.float32)


def close(actual, expected):
    assert np.shape(actual) == np.shape(expected)
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 16.5),
        ({"reduction": "BATCHMEAN"}, 16.5),
        ({"reduction": "MEAN"}, 5.5),
        ({"reduction": "SUM"}, 33),
        ({"reduction": "VALID_MEAN"}, 5.5),
        ({"reduction": "WEIGHTED_MEAN"}, 5.5),
        ({"reduction": "NONE"}, [[3, 1, 10], [13, 3, 3]]),
        ({"reduction": "NONE", "axis": -1}, [14 / 3, 19 / 3]),
        ({"reduction": "NONE", "axis": 0}, 5.5),
        ({"reduction": "SUM", "ignore_label": 2}, 23),
        ({"reduction": "VALID_MEAN", "ignore_label": 2}, 23 / 5),
        ({"reduction": "WEIGHTED_MEAN", "ignore_label": 2}, 23 / 5),
        ({"reduction": "MEAN", "ignore_label": 2}, 23 / 6),
        ({"ignore_label": 2}, 11.5),
        ({"reduction": "NONE", "beta": 4}, [[9 / 8, 1 / 8, 8], [11, 9 / 8, 9 / 8]]),
        ({"reduction": "SUM", "beta": 4}, 22.5),
        ({"reduction": "SUM", "beta": 0}, 33),
        ({"reduction": "SUM", "beta": 2.0**40}, 297 / 2.0**41),
    ],
)
def test_golden_pair(options, expected):
    close(l1_loss(X, Y, **options), expected)


@pytest.mark.parametrize(
    ("weight", "reduction", "expected"),
    [
        # TensorFlow's testNonZeroLossWithOneDimBatchSpecificWeights and its neighbours.
        ([1.2, 0.0], "VALID_MEAN", 5.6),
        ([[1.2], [3.4]], "VALID_MEAN", (14 * 1.2 + 19 * 3.4) / 6),
        ([[3, 6, 5], [0, 4, 2]], "VALID_MEAN", 16.6),
        ([[0, 0, 0], [0, 0, 2]], "VALID_MEAN", 6.0),
        (2.3, "VALID_MEAN", 5.5 * 2.3),
        ([[3, 6, 5], [0, 4, 2]], "WEIGHTED_MEAN", 83 / 20),
        ([1, 3], "WEIGHTED_MEAN", (14 + 3 * 19) / 12),
        ([1, 3], "BATCHMEAN", (14 + 3 * 19) / 2),
        ([1, 3], "NONE", [[3, 1, 10], [39, 9, 9]]),
        ([[[1]], [[3]]], "SUM", 14 + 3 * 19),
        ([[1, 0, -2]], "SUM", 3 - 20 + 13 - 6),
    ],
)
def test_weighted_golden_pair(weight, reduction, expected):
    close(l1_loss(X, Y, np.array(weight, np.float32), reduction=reduction), expected)


def test_gradients_of_the_golden_pair_carry_top_diff():
    dx, dy = l1_loss_grad(X, Y, np.array([2, 0.5]), reduction="MEAN", top_diff=3.7)
    close(dx, 3.7 / 6 * np.array([[2, -2, 2], [0.5, 0.5, -0.5]]))
    close(dy, -dx)
    dx, dy = l1_loss_grad(X, Y, np.array([2, 0.5]), reduction="MEAN", beta=4, top_diff=3.7)
    close(dx, 3.7 / 6 * np.array([[1.5, -0.5, 2], [0.5, 0.375, -0.375]]))
    close(dy, -dx)


SHAPES = [(1,), (4,), (3, 1), (2, 3), (1, 5), (2, 3, 4), (2, 1, 3), (3, 2, 2, 2), (2, 3, 1, 2, 2)]
MASKS = [
    {},
    {"ignore_label": 1},
    {"ignore_nonfinite_target": True},
    {"ignore_label": -1, "ignore_nonfinite_target": True},
    {"beta": 1.5, "ignore_nonfinite_target": True},
]


def weight_shapes(shape):
    """Return every weight shape that fits, of up to as many axes."""
    return [
        tuple(n if full else 1 for n, full in zip(shape, pattern))
        for axes in range(len(shape) + 1)
        for pattern in itertools.product([True, False], repeat=axes)
    ]


def draw(shape, seed, masks):
    rng = np.random.RandomState(seed)
    x = rng.randint(-2, 3, shape) + rng.randint(0, 2, shape) * 0.37
    y = rng.randint(-2, 3, shape).astype(np.float64)
    if masks.get("ignore_nonfinite_target"):
        y[rng.uniform(size=shape) < 0.3] = rng.choice([NAN, INF, -INF])
    return x.astype(np.float32), y.astype(np.float32)


def agree(x, y, weight, top_seed=5, **options):
    expected = oracle.l1_loss(x, y, weight, **options)
    close(l1_loss(x, y, weight, **options), expected)
    top_diff = 3.7 * np.random.RandomState(top_seed).uniform(0.5, 1.5, np.shape(expected))
    actual = l1_loss_grad(x, y, weight, top_diff=top_diff, **options)
    for a, e in zip(actual, oracle.l1_loss_grad(x, y, weight, top_diff=top_diff, **options)):
        close(a, e)


@pytest.mark.parametrize("block", [1, 5, 131072])
@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_reduction_weight_and_mask_agrees_with_loops(monkeypatch, shape, masks, block):
    monkeypatch.setattr(mathematics, "BLOCK", block)
    x, y = draw(shape, len(shape), masks)
    every_axis = [("NONE", axis) for axis in range(-len(shape), len(shape))]
    for number, weights in enumerate([None, *weight_shapes(shape)]):
        weight = None
        if weights is not None:
            rng = np.random.RandomState(number)
            weight = rng.choice([0, 0.5, 1, 2.25], weights).astype(np.float32)
        for reduction, axis in [(r, None) for r in REDUCTIONS] + every_axis:
            agree(x, y, weight, reduction=reduction, axis=axis, **masks)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.float16])
def test_every_dtype_agrees_with_loops(dtype):
    x, y = X.astype(dtype), Y.astype(dtype)
    weight = np.array([[1], [3]], dtype)
    agree(x, y, weight, reduction="WEIGHTED_MEAN", ignore_label=2)


@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 200000), (3, 140000), (3, 131072), (70000, 1), (70000, 3), (9, 9000)]
)
def test_arrays_larger_than_a_block(rows, columns):
    rng = np.random.RandomState(0)
    x = rng.normal(size=(rows, columns)).astype(np.float32)
    y = rng.normal(size=(rows, columns)).astype(np.float32)
    e = np.abs(x.astype(np.float64) - y)
    close(l1_loss(x, y, reduction="SUM"), e.sum())
    close(l1_loss(x, y, reduction="NONE", axis=1), e.mean(axis=1))
    close(l1_loss(x, y, np.arange(rows), reduction="SUM"), e.sum(axis=1) @ np.arange(rows))
    dx, _ = l1_loss_grad(x, y, top_diff=3.7)
    close(dx, 3.7 * np.sign(x.astype(np.float64) - y) / rows)


@pytest.mark.parametrize("value", [0.1, 0.7, 1 / 3, 5.1e-6])
def test_the_sum_of_many_floats_is_accurate(value):
    """Equal numbers, because their roundings do not cancel."""
    x = np.full(2**22 + 48, value, np.float32)
    close(l1_loss(x, np.zeros_like(x), reduction="MEAN"), float(np.float32(value)))


@pytest.mark.parametrize("count", [2, 100, 4096])
def test_the_sum_of_few_floats_is_exact(count):
    """In single precision the ones would vanish beside the first difference."""
    x = np.ones(count, np.float32)
    x[0] = 2 ** 25
    assert l1_loss(x, np.zeros_like(x), reduction="SUM") == 2 ** 25 + count - 1


def test_sums_beyond_the_range_of_float():
    x = np.full(16384, 3e38, np.float32)
    close(l1_loss(x, np.zeros_like(x), reduction="MEAN"), float(np.float32(3e38)))


@pytest.mark.parametrize("reduction", ["SUM", "BATCHMEAN", "WEIGHTED_MEAN"])
@pytest.mark.parametrize("shape", [(2**20,), (1024, 1024)])
def test_weights_that_cancel_are_summed_in_double(shape, reduction):
    rng = np.random.RandomState(3)
    x, y = rng.randint(-64, 64, (2, *shape)).astype(np.float32) / 8
    weight = rng.normal(size=shape).astype(np.float32)
    weight -= weight.mean(dtype=np.float64).astype(np.float32)
    e = weight.astype(np.float64) * np.abs(x - y)
    z = {"SUM": 1, "BATCHMEAN": shape[0], "WEIGHTED_MEAN": math.fsum(weight.ravel())}[reduction]
    bound = 1e-13 * np.abs(e).sum() / abs(z)
    loss = l1_loss(x, y, weight, reduction=reduction)
    assert abs(loss - math.fsum(e.ravel()) / z) < bound * (1 + abs(loss))
    dx, _ = l1_loss_grad(x, y, weight, reduction=reduction, top_diff=3.7)
    close(dx, 3.7 * weight.astype(np.float64) * np.sign(x - y) / z)
    if len(shape) == 2:
        rows = l1_loss(x, y, weight, reduction="NONE", axis=1)
        np.testing.assert_allclose(rows, e.mean(axis=1), rtol=3e-7)


@pytest.mark.parametrize(("count", "reduction", "expected"), [
    (1024, "SUM", 992), (1024, "WEIGHTED_MEAN", 1), (131072, "WEIGHTED_MEAN", 1)])
def test_large_weights_that_cancel_leave_the_small_ones(count, reduction, expected):
    weight = np.ones(count, np.float32)
    weight[:32] = [1e8, -1e8] * 16
    np.random.RandomState(0).shuffle(weight)
    assert l1_loss(weight * 0 + 1, weight * 0, weight, reduction=reduction) == expected
    inputs = (weight.reshape(1, -1) * 0 + 1, weight.reshape(1, -1) * 0, weight.reshape(1, -1))
    if reduction == "SUM":
        assert l1_loss(*inputs, reduction="NONE", axis=1) * count == expected


def test_the_sum_of_terms_that_cannot_be_negative_keeps_its_bound():
    """Fifteen additions of half a unit in the last place of 1, all of them rounded down."""
    x = np.full(131072, 2.0**-24, np.float32)
    x[:8192] = 1
    exact = 8192 * (1 + 15 * 2.0**-24)
    assert abs(l1_loss(x, np.zeros_like(x), reduction="SUM") - exact) <= 15 * 2.0**-24 * exact


@pytest.mark.parametrize("options", [{"reduction": "SUM"}, {"reduction": "WEIGHTED_MEAN"},
                                     {"reduction": "NONE", "axis": 1}])
@pytest.mark.parametrize(("weight", "difference"), [
    (3e38, 10.0), (1e-41, 1.0), (1e-44, 1e30), (3e38, 1e-40), (1e-20, 1e-20), (-1e-30, 1e-10)])
def test_products_and_gradients_outside_of_floats_range_are_right(weight, difference, options):
    """The sums are in double, and so is lambda / Z when it meets the weights."""
    weight, x = np.full((2, 50), weight, np.float32), np.full((2, 50), difference, np.float32)
    inputs = (x.astype(np.float64), np.zeros((2, 50)), weight.astype(np.float64))
    expected = oracle.l1_loss(*inputs, **options)
    with np.errstate(over="ignore", under="ignore"):
        expected = expected.astype(np.float32) if np.shape(expected) else expected
    np.testing.assert_allclose(l1_loss(x, np.zeros_like(x), weight, **options), expected, 1e-6)
    for expected, actual in zip(oracle.l1_loss_grad(*inputs, top_diff=3.7, **options),
                                l1_loss_grad(x, np.zeros_like(x), weight, top_diff=3.7, **options)):
        with np.errstate(over="ignore", under="ignore"):
            np.testing.assert_allclose(actual, expected.astype(np.float32), 1e-6)


@pytest.mark.parametrize(("weight", "count"), [
    (np.float32(1e-41), 8), (np.float32(3e38), 10000), (np.float64(1e-310), 8),
    (np.float64(1e300), 10000)])
def test_weights_at_the_ends_of_their_range_share_the_gradient(weight, count):
    weight = np.full(count, weight)
    dx, _ = l1_loss_grad(weight * 0 + 1, weight * 0, weight, reduction="WEIGHTED_MEAN")
    np.testing.assert_allclose(dx, 1 / count, 1e-6)


def test_a_gradient_beyond_the_range_of_float_is_0_where_there_is_no_difference():
    x, y = np.array([[1, 1, 0]], np.float32), np.array([[1, 0, 1]], np.float32)
    dx, dy = l1_loss_grad(x, y, np.full((1, 3), 1.5e38, np.float32), reduction="NONE",
                          top_diff=np.float32(3.7))
    np.testing.assert_array_equal(dx, [[0, np.inf, -np.inf]])
    np.testing.assert_array_equal(dy, -dx)


@pytest.mark.parametrize("weight", [np.inf, -np.inf, np.nan])
def test_the_gradient_of_equals_is_0_whatever_the_weight(weight):
    x, y = np.array([[1, 1, 0]], np.float32), np.array([[1, 0, 1]], np.float32)
    dx, dy = l1_loss_grad(x, y, np.full((1, 3), weight, np.float32), reduction="SUM")
    np.testing.assert_array_equal(dx, [[0, weight, -weight]])
    np.testing.assert_array_equal(dy, -dx)


def test_a_difference_beyond_the_range_of_float_is_summed_in_double():
    x, y = np.full((2, 4), 3e38, np.float32), np.full((2, 4), -3e38, np.float32)
    close(l1_loss(x, y, reduction="SUM"), 16 * float(np.float32(3e38)))
    close(l1_loss(x, y, np.full((2, 4), 0.25), reduction="NONE"), np.full((2, 4), x / 2))


NUMBERS = [0, 1e-45, 1e-38, 1e-20, 0.3, 1, 7, 1e8, 1e18, 1e30, 3e38]


@pytest.mark.parametrize("seed", range(60))
def test_any_magnitude_is_right_and_makes_numpy_warn_of_nothing(seed):
    rng = np.random.RandomState(seed)
    shape = tuple(rng.randint(1, 5, rng.randint(1, 4)))
    x, y, weight = (rng.choice([-1, 1], shape) * rng.choice(NUMBERS, shape) for _ in range(3))
    x, y, weight = (a.astype(np.float32) for a in (x, y, weight))
    weight = weight if rng.randint(3) else None
    options = {"reduction": rng.choice(REDUCTIONS), "ignore_label": rng.choice([None, 7, 0.3]),
               "beta": rng.choice([0, 0, 1e-20, 0.3, 1e8])}
    if options["reduction"] == "NONE" and rng.randint(2):
        options["axis"] = int(rng.randint(len(shape)))
    if options["reduction"] == "WEIGHTED_MEAN" and weight is not None:
        weight = np.abs(weight)
    top_diff = 0.37
    with np.errstate(all="ignore"):
        expected, *gradients = (
            np.asarray(a).astype(np.float32 if np.shape(a) else np.float64)
            for a in (oracle.l1_loss(x, y, weight, **options),
                      *oracle.l1_loss_grad(x, y, weight, top_diff=top_diff, **options)))
        # The terms may cancel. Each has a rounding of the difference, in float.
        size = oracle.l1_loss(x, y, np.abs(1 if weight is None else weight), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss = l1_loss(x, y, weight, **options)
        actual = l1_loss_grad(x, y, weight, top_diff=top_diff, **options)
    with np.errstate(all="ignore"):
        near = np.abs(loss - expected) <= 1e-6 * size + 2e-45
        # That of (x - y) / beta, which may be the smallest float.
        rounding = 2e-45 * (1 + np.abs(oracle.l1_loss_grad(
            x, y, weight, top_diff=top_diff, **dict(options, beta=0))))
    assert (near | (loss == expected)).all()
    for a, e, bound in zip(actual, gradients, rounding):
        assert ((np.abs(a - e) <= 1e-6 * np.abs(e) + bound) | (a == e)).all()


# beta


def test_the_default_of_every_option_is_said_once():
    for function in (l1_loss, l1_loss_grad):
        names = inspect.signature(function).parameters
        assert [names[name].default for name in l1_loss_checks.Options._fields] == list(
            l1_loss_checks.DEFAULTS)


@pytest.mark.parametrize("beta", [1e-45, 3e-45, 1e-38, 1e-10])
def test_a_beta_below_all_differences_is_the_plain_loss(beta):
    """Also where beta / 2 is 0."""
    assert l1_loss(X, Y, reduction="SUM", beta=beta) == 33
    np.testing.assert_array_equal(l1_loss_grad(X, Y, beta=beta), l1_loss_grad(X, Y))


def test_a_beta_that_is_0_in_the_type_of_the_inputs_is_none():
    np.testing.assert_array_equal(l1_loss_grad(X, X, beta=1e-300), np.zeros((2, 2, 3)))
    assert l1_loss(X, Y, beta=1e-300) == 16.5
    x = np.array([1e-300, 5e-301])
    np.testing.assert_allclose(l1_loss(x, x * 0, reduction="NONE", beta=1e-300),
                               [5e-301, 1.25e-301])


@pytest.mark.parametrize("weight", [None, np.float32(0.5)])
@pytest.mark.parametrize(("difference", "beta", "loss", "slope"), [
    (1e38, 1, 1e38, 1),
    (3.4e38, 3.4e38, 1.7e38, 1),
    (1e38, 2e38, 2.5e37, 0.5),
    (1, 1e30, 5e-31, 1e-30),
    (1e-38, 1, 0, 1e-38),
    (4e-45, 8e-45, 1e-45, 0.5),
    (INF, 1, INF, 1),
    (INF, 3.4e38, INF, 1),
    (NAN, 1, NAN, NAN),
    (0, 1, 0, 0),
    (0, 1e-45, 0, 0),
])
def test_the_smooth_loss_at_the_ends_of_the_range_of_float(difference, beta, loss, slope, weight):
    x = np.float32([difference, -difference])
    factor = 1 if weight is None else weight
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        actual = l1_loss(x, np.zeros(2, np.float32), weight, reduction="NONE", beta=beta)
        dx, dy = l1_loss_grad(x, np.zeros(2, np.float32), weight, reduction="SUM", beta=beta)
    np.testing.assert_allclose(actual, factor * np.float32([loss, loss]), 1e-6, 1.5e-45)
    np.testing.assert_allclose(dx, factor * np.float32([slope, -slope]), 1e-6, 1.5e-45)
    np.testing.assert_array_equal(dy, -dx)


def test_a_smooth_difference_beyond_the_range_of_float_is_summed_in_double():
    x, y = np.full((2, 4), 3e38, np.float32), np.full((2, 4), -3e38, np.float32)
    close(l1_loss(x, y, reduction="SUM", beta=3e38), 12 * float(np.float32(3e38)))
    np.testing.assert_array_equal(l1_loss_grad(x, y, reduction="SUM", beta=3e38)[0], x * 0 + 1)


@pytest.mark.parametrize("weight", [np.inf, -np.inf, np.nan])
def test_the_smooth_gradient_of_equals_is_0_whatever_the_weight(weight):
    x, y = np.array([[1, 1, 0]], np.float32), np.array([[1, 0, 1]], np.float32)
    dx, _ = l1_loss_grad(x, y, np.full((1, 3), weight, np.float32), reduction="SUM", beta=4)
    np.testing.assert_array_equal(dx, [[0, weight, -weight]])


# NaN, Inf and nothing


def test_nan_in_a_prediction_reaches_loss_and_gradient():
    x, y = np.array([[NAN, 1]]), np.array([[0, 0]])
    assert np.isnan(l1_loss(x, y))
    dx, dy = l1_loss_grad(x, y)
    np.testing.assert_array_equal(dx, [[NAN, 1]])
    np.testing.assert_array_equal(dy, [[NAN, -1]])


@pytest.mark.parametrize("weight", [None, np.array([[0.0, 1.0]])])
def test_nan_in_a_target_reaches_loss_and_gradient_unless_ignored(weight):
    x, y = np.array([[0.0, 3.0]]), np.array([[NAN, 1.0]])
    assert np.isnan(l1_loss(x, y, weight))
    assert np.isnan(l1_loss_grad(x, y, weight)[0][0, 0])
    assert l1_loss(x, y, weight, ignore_nonfinite_target=True) == 2
    dx, _ = l1_loss_grad(x, y, weight, ignore_nonfinite_target=True)
    np.testing.assert_array_equal(dx, [[0, 1]])


def test_inf_in_a_prediction_gives_inf_and_a_finite_gradient():
    x, y = np.array([[INF, -INF, 1]]), np.zeros((1, 3))
    assert l1_loss(x, y) == INF
    np.testing.assert_array_equal(l1_loss_grad(x, y)[0], [[1, -1, 1]])


def test_inf_minus_inf_is_nan():
    x = y = np.array([[INF, 1.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        assert np.isnan(l1_loss(x, y))
        np.testing.assert_array_equal(l1_loss_grad(x, y)[0], [[NAN, 0]])


def test_a_prediction_that_is_nan_is_seen_through_a_mask_on_other_elements():
    x, y = np.array([[NAN, 1.0, NAN]]), np.array([[INF, 0.0, 0.0]])
    assert np.isnan(l1_loss(x, y, ignore_nonfinite_target=True))
    dx, _ = l1_loss_grad(x, y, ignore_nonfinite_target=True)
    np.testing.assert_array_equal(dx, [[0, 1, NAN]])


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_an_ignored_element_gives_exactly_0_whatever_it_holds(bad, reduction):
    """NaN and Inf in target, weight and prediction: selected away, not multiplied with 0."""
    x, y = np.array([[5.0, bad], [3.0, 1.0]]), np.array([[NAN, bad], [1.0, 1.0]])
    weight = np.array([[bad, bad], [2.0, 1.0]])
    options = {"reduction": reduction, "ignore_nonfinite_target": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        loss, (dx, _) = l1_loss(x, y, weight, **options), l1_loss_grad(x, y, weight, **options)
    divisor = {"BATCHMEAN": 2, "MEAN": 4, "SUM": 1, "VALID_MEAN": 2, "WEIGHTED_MEAN": 3, "NONE": 1}
    expected = np.array([[0, 0], [4, 0]]) / divisor[reduction]
    close(loss, expected if reduction == "NONE" else expected.sum())
    np.testing.assert_allclose(dx, [[0, 0], [2 / divisor[reduction], 0]])


def test_masked_and_plain_training_data_make_numpy_warn_of_nothing():
    x, y = np.array([[1.0, 2, 3, NAN]]), np.array([[INF, NAN, 1, 2]])
    weight = np.array([[0.0, 0, 1, 1]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        l1_loss(x, y, weight, ignore_nonfinite_target=True)
        l1_loss_grad(x, y, weight, ignore_nonfinite_target=True, ignore_label=1e300)


@pytest.mark.parametrize("reduction", ["VALID_MEAN", "WEIGHTED_MEAN"])
def test_a_zero_divisor_gives_0(reduction):
    for options in (
        {"weight": np.zeros((2, 3))},
        {"weight": np.zeros(2), "ignore_label": 77},
        {"y": np.full((2, 3), NAN), "ignore_nonfinite_target": True},
        {"y": np.full((2, 3), 7.0), "ignore_label": 7},
    ):
        given = {"x": np.where(X == 4, NAN, X), "y": Y, "reduction": reduction, **options}
        assert l1_loss(**given) == 0
        for gradient in l1_loss_grad(**given):
            np.testing.assert_array_equal(gradient, np.zeros((2, 3)))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0), (2, 0, 3)])
def test_nothing_in_gives_0(shape, reduction):
    x = np.zeros(shape, np.float32)
    loss = l1_loss(x, x, reduction=reduction)
    close(loss, np.zeros(shape if reduction == "NONE" else ()))
    assert [g.shape for g in l1_loss_grad(x, x, reduction=reduction)] == [shape, shape]


def test_means_over_nothing_are_0():
    close(l1_loss(np.zeros((2, 0)), np.zeros((2, 0)), reduction="NONE", axis=1), np.zeros(2))


def test_the_label_is_compared_in_the_precision_of_the_target():
    y = np.array([0.1, 0.5], np.float32)
    assert l1_loss(y + 1, y, reduction="VALID_MEAN", ignore_label=0.1) == 1
    assert l1_loss(y + 1, y, reduction="SUM", ignore_label=0.1) == 1
    y[0] = INF
    assert l1_loss(np.ones_like(y), y, reduction="SUM", ignore_label=1e300) == 0.5


@pytest.mark.parametrize("x_type", [np.float16, np.float32, np.float64, np.int64])
@pytest.mark.parametrize("weight", [None, np.float32(1), np.float64(1)])
@pytest.mark.parametrize(("y_type", "label", "ignored"), [
    (np.float16, 0.1, [0]), (np.float32, 0.1, [0]), (np.float64, 0.1, [0]),
    (np.float16, 1.0001, [1]), (np.float32, 1.0001, []), (np.float16, 1e300, []),
    (np.int32, 0.1, []), (np.int32, 1, [1]), (np.uint8, 255, [2]), (np.uint8, -1, []),
    (np.int16, 1 + 1e-9, []), (np.int64, 2.0**31, []), (np.bool_, 1, [0, 1, 2])])
def test_the_label_is_compared_as_the_targets_have_it(x_type, weight, y_type, label, ignored):
    y = np.array([0.1, 1, 255]).astype(y_type)
    dx, _ = l1_loss_grad(np.full(3, 3, x_type), y, weight, ignore_label=label)
    np.testing.assert_array_equal(np.flatnonzero(dx == 0), ignored)


def test_threads_do_not_share_scratch():
    """numpy lets other threads run while it computes."""
    arrays = [np.full(200000, value, np.float32) for value in range(8)]

    def sums(array):
        return [l1_loss(array, np.zeros_like(array), reduction="MEAN") for _ in range(50)]

    with ThreadPoolExecutor(8) as pool:
        for value, means in enumerate(pool.map(sums, arrays)):
            assert means == [value] * 50


# Shapes


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ((2, 1), (2,)),
        ((2,), (2, 1, 1)),
        ((2, 12), (2, 3, 4)),
        ((2, 3, 4), (2, 12)),
        ((2, 3, 4, 5), (2, 12, 5)),
        ((2, 3, 4, 5), (2, 3, 20)),
        ((2, 1, 3, 1, 4), (2, 12)),
        ((1, 3), (1, 1, 3)),
        ((2, 3, 2), (2, 6)),
        ((0, 3, 4), (0, 12)),
        ((0, 3, 0), (0,)),
        ((2, 0, 5), (2, 0)),
        ((2, 4, 0), (2, 0)),
        ((2, 0), (2, 4, 0)),
        ((2, 0, 3, 0, 4), (2, 0, 0)),
        ((2, 3, 0, 1, 4), (2, 3, 0)),
        ((0, 0), (0,)),
        ((2, *[0] * 30), (2, *[0] * 15)),
    ],
)
def test_merged_axes_match(x, y):
    a = np.arange(np.prod(x), dtype=np.float32)
    b = a[::-1]
    expected = l1_loss_grad(a, b, reduction="SUM")[0]
    assert l1_loss(a.reshape(x), b.reshape(y), reduction="SUM") == np.abs(a - b).sum()
    dx, dy = l1_loss_grad(a.reshape(x), b.reshape(y), reduction="SUM")
    np.testing.assert_array_equal(dx, expected.reshape(x))
    np.testing.assert_array_equal(dy, -expected.reshape(y))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ((2, 3, 4), (2, 4, 3)),
        ((2, 3), (3, 2)),
        ((2,), (3,)),
        ((6,), (2, 3)),
        ((1, 6), (6,)),
        ((2, 6, 2), (2, 3, 4)),
        ((2, 4, 3), (2, 2, 6)),
        ((2, 3), ()),
        ((0, 3), (0, 4)),
        ((0, 3), (3, 0)),
        ((2, 0), (0, 2)),
        ((2, 3, 0), (2, 4, 0)),
        ((2, 0, 3), (2, 0, 4)),
        ((2, 0, 3), (2, 3, 0)),
        # Which of the zeros is which may be chosen in more ways than can be tried.
        ((2, *[0] * 29, 3), (2, *[0] * 15, 5)),
    ],
)
def test_other_shapes_are_refused_with_both(x, y):
    with pytest.raises(ValueError) as error:
        l1_loss(np.zeros(x), np.zeros(y))
    assert str(error.value) == (
        f"l1_loss: predictions {x} and targets {y} do not match; fix: give both the same shape, "
        "or one with neighbouring axes of the other merged"
    )


@pytest.mark.parametrize("weight", [(5,), (2, 4), (3,), (1, 1, 5), (2, 3, 4, 2), (4, 3, 2)])
def test_weights_of_another_shape_are_refused(weight):
    with pytest.raises(ValueError) as error:
        l1_loss_grad(np.zeros((2, 3, 4)), np.zeros((2, 3, 4)), np.zeros(weight))
    assert str(error.value) == (
        f"l1_loss_grad: weights {weight} do not match predictions (2, 3, 4); fix: every axis of "
        "the weights must equal that of the predictions or be 1, from the first axis on"
    )


def test_weights_may_have_further_axes_of_length_1():
    close(l1_loss(X, Y, np.full((2, 1, 1, 1), 2.0)), 33)


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": "MAEN"}, 'option "reduction" is "MAEN"; allowed: ' + ", ".join(REDUCTIONS)),
        ({"reduction": "mean"}, 'option "reduction" is "mean"; allowed: ' + ", ".join(REDUCTIONS)),
        ({"reduction": 1}, 'option "reduction" is 1; allowed: ' + ", ".join(REDUCTIONS)),
        ({"reduction": ["MEAN"]}, 'option "reduction" is [...]; allowed: '
         + ", ".join(REDUCTIONS)),
        ({"axis": "one"}, 'option "axis" is "one"; allowed: an integer'),
        ({"axis": 1.5}, 'option "axis" is 1.5; allowed: an integer'),
        ({"axis": True}, 'option "axis" is true; allowed: an integer'),
        ({"axis": np.float32(1)}, 'option "axis" is 1.0; allowed: an integer'),
        ({"axis": 2**31}, 'option "axis" is 2147483648; allowed: an integer'),
        ({"ignore_label": "a"}, 'option "ignore_label" is "a"; allowed: a finite number'),
        ({"ignore_label": False}, 'option "ignore_label" is false; allowed: a finite number'),
        ({"ignore_label": {}}, 'option "ignore_label" is {...}; allowed: a finite number'),
        ({"ignore_label": (1,)}, 'option "ignore_label" is [...]; allowed: a finite number'),
        ({"ignore_label": np.float32(NAN)}, 'option "ignore_label" is NaN; allowed: a finite '
         "number"),
        ({"ignore_label": -INF}, 'option "ignore_label" is -Infinity; allowed: a finite number'),
        ({"ignore_label": 10**400}, f'option "ignore_label" is 1{"0" * 400}; allowed: a finite '
         "number"),
        ({"ignore_nonfinite_target": 1},
         'option "ignore_nonfinite_target" is 1; allowed: true or false'),
        ({"ignore_nonfinite_target": "yes"},
         'option "ignore_nonfinite_target" is "yes"; allowed: true or false'),
        ({"beta": -1}, f'option "beta" is -1; {BETA}'),
        ({"beta": NAN}, f'option "beta" is NaN; {BETA}'),
        ({"beta": np.float64(INF)}, f'option "beta" is Infinity; {BETA}'),
        ({"beta": 10**400}, f'option "beta" is 1{"0" * 400}; {BETA}'),
        ({"beta": "1"}, f'option "beta" is "1"; {BETA}'),
        ({"beta": True}, f'option "beta" is true; {BETA}'),
        ({"beta": (1,)}, f'option "beta" is [...]; {BETA}'),
        ({"axis": 1}, 'option "axis" needs "reduction": "NONE", not "BATCHMEAN"'),
        ({"axis": 0, "reduction": "SUM"}, 'option "axis" needs "reduction": "NONE", not "SUM"'),
        ({"axis": 2, "reduction": "NONE"},
         'option "axis" is 2; allowed: -2 to 1 for predictions of shape (2, 3)'),
        ({"axis": -3, "reduction": "NONE"},
         'option "axis" is -3; allowed: -2 to 1 for predictions of shape (2, 3)'),
    ],
)
def test_options_that_are_refused(options, message):
    for function in (l1_loss, l1_loss_grad):
        with pytest.raises(ValueError) as error:
            function(X, Y, **options)
        assert str(error.value) == f"{function.__name__}: {message}"


def test_predictions_without_axes_are_refused():
    with pytest.raises(ValueError) as error:
        l1_loss(1.0, 2.0)
    assert str(error.value) == (
        "l1_loss: predictions () have no axes; fix: give them at least one, the batch"
    )


@pytest.mark.parametrize(("param_str", "expected"), CASES, ids=[c[0][:60] for c in CASES])
def test_a_param_str_means_or_is_refused_as_listed(param_str, expected):
    if isinstance(expected, dict):
        options = l1_loss_checks.read_options(param_str)
        assert options == l1_loss_checks.DEFAULTS._replace(**expected)
        types = (str, (int, type(None)), (float, type(None)), bool, float)
        assert all(type(a) in np.atleast_1d(t) for a, t in zip(options, types))
    else:
        with pytest.raises(ValueError) as error:
            l1_loss_checks.read_options(param_str)
        assert str(error.value) == expected


# Inputs


def test_inputs_are_not_written_and_may_lie_anyhow():
    x, y, weight = X.T.copy().T, np.repeat(Y, 2, axis=1)[:, ::2], np.array([1.0, 3.0])[:, None]
    before = [a.copy() for a in (x, y, weight)]
    for array in (x, y, weight):
        array.setflags(write=False)
    assert l1_loss(x, y, weight, reduction="SUM", ignore_label=2) == 14 - 10 + 3 * 19
    l1_loss_grad(x, y, weight)
    for array, copy in zip((x, y, weight), before):
        np.testing.assert_array_equal(array, copy)


def test_lists_are_arrays_too():
    assert l1_loss([1, 2], [3, 5], reduction="SUM") == 5
