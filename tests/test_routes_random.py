"""Random nets through every route, against loops in double that bound their own error.

CAFFE_L1_FUZZ=N goes on N times as long.
"""

from __future__ import annotations

import os
import random
import time
from itertools import repeat

import numpy as np
import oracle
import pytest
from caffe_l1.route.layer import ROUTES
from caffe_worker import run_in
from l1_nets import LOSS_WEIGHT
from random_cases import Case, random_case

SECONDS = 30  # for each route
NETS = 100  # for a process
LARGEST = float(np.finfo(np.float32).max)
SMALLEST = 1.5e-45  # what a denormal float is rounded by


@pytest.mark.parametrize("route", ROUTES)
def test_random_nets_compute_what_the_oracle_says(route, caffes):
    caffe = caffes[route]
    seed = random.SystemRandom().randrange(2**32)
    nets = 0
    end = time.monotonic() + SECONDS * float(os.environ.get("CAFFE_L1_FUZZ", "1"))
    while time.monotonic() < end:
        names = [f"{seed}/{i}" for i in range(nets, nets + NETS)]
        jobs = [case_of(name, route).job(route) for name in names]
        check(route, names, run_in(caffe.python_path, jobs, caffe.plugin))
        nets += NETS
    print(f"seed {seed}: {nets} random nets, {3 * nets} passes by route {route}, 0 wrong")


def case_of(name: str, route: str) -> Case:
    """The first case of this name that the route can say, and that has a clear result."""
    cases = (random_case(f"{name}/{i}") for i in range(1000))
    return next(case for case in cases if (route != "stock" or case.stock_can_say())
                and all(map(has_clear_divisor, repeat(case), case.passes)))


def has_clear_divisor(case: Case, inputs: dict) -> bool:
    """Where weights cancel to almost nothing, no arithmetic says what their sum is."""
    x, y, weight = inputs["x"], inputs["y"], inputs.get("w")
    if weight is None or case.options.get("reduction") != "WEIGHTED_MEAN":
        return True
    sums = [oracle.divisor(x, y, w, **case.options) for w in (weight, abs(weight))]
    return abs(sums[0]) >= 1e-3 * sums[1]


def check(route: str, names: list, results: list) -> None:
    for name, passes in zip(names, results):
        case = case_of(name, route)
        for step, (inputs, result) in enumerate(zip(case.passes_with(route), passes)):
            problem = compare(route, case.options, inputs, result)
            shapes = [{key: array.shape for key, array in given.items()} for given in case.passes]
            assert not problem, (f"{problem}: route {route}, random_case of {name!r}, pass {step}, "
                                 f"{case.options}, {shapes}, {case.reader}")


def compare(route: str, options: dict, inputs: dict, result: dict) -> str:
    """What is wrong, or nothing."""
    given = (inputs["x"], inputs["y"], inputs.get("w"))
    with np.errstate(all="ignore"):
        loss = oracle.l1_loss(*given, **options)
        sizes = oracle.l1_loss(*given[:2], None if given[2] is None else abs(given[2]), **dict(
            options, reduction="NONE" if options.get("reduction") == "NONE" else "SUM"))
        dx, dy = oracle.l1_loss_grad(*given, top_diff=LOSS_WEIGHT, **options)
    if route == "stock":  # Caffe's own sign of NaN is 0
        dx, dy = np.nan_to_num(dx), np.nan_to_num(dy)
    divisor = oracle.divisor(*given, **options)
    scale = sizes if options.get("reduction") == "NONE" else sizes / (abs(divisor) or 1)
    for name, kind, expected, size in (("loss", "data", loss, scale), ("x", "diff", dx, abs(dx)),
                                       ("y", "diff", dy, abs(dy))):
        actual = result[kind][name]
        if actual.shape != np.shape(expected):
            return f"{name} has shape {actual.shape}, not {np.shape(expected)}"
        wrong = np.argwhere(~close(actual, np.asarray(expected), 1e-6 * size + SMALLEST))
        if wrong.size:
            at = tuple(wrong[0])
            return (f"{len(wrong)} of {actual.size} elements of {name} are wrong, {list(at)} is "
                    f"{actual[at]}, not {np.asarray(expected)[at]}")
    return ""


def close(actual: np.ndarray, expected: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """Where both are NaN, the same infinity, or within the bound, above which float is Inf."""
    with np.errstate(all="ignore"):
        same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
        within = abs(actual.astype(np.float64) - expected) <= bound
        beyond = np.isinf(actual) & (np.sign(actual) == np.sign(expected)) & (
            abs(expected) >= LARGEST * (1 - 1e-6))
    return same | within | beyond
