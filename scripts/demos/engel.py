"""Engel's data, the net that fits it, and what its answer must be. No Caffe in here.

engel.csv: income and food expenditure of 235 Belgian working-class households, in francs a year.
Source: E. Engel (1857), as given by R. Koenker and G. Bassett, "Robust Tests of Heteroscedasticity
Based on Regression Quantiles", Econometrica 50 (1982); public domain, taken from the statsmodels
package (statsmodels.datasets.engel).
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

ITERATIONS = 2000


class Line(NamedTuple):
    """food = intercept + slope * income"""

    intercept: float
    slope: float


class Route(NamedTuple):
    """One way to a loss: how its layer is written."""

    title: str
    layer: str


ROUTES = {
    "stock": Route("Caffe's own layers, stock Caffe", 'type: "L1Loss"'),  # switched by train.py
    "python": Route("Python layer, stock Caffe", """type: "Python" loss_weight: 1
      python_param { module: "l1_loss_layer" layer: "L1LossLayer" }"""),
    "plugin": Route("plugin, stock Caffe", 'type: "L1Loss"'),
    "native": Route("native layer, rebuilt Caffe", 'type: "L1Loss"'),
    "euclidean": Route("EuclideanLoss, for comparison", 'type: "EuclideanLoss"'),
}

NET = """
layer {{ name: "data" type: "Input" top: "income" top: "food"
  input_param {{ shape {{ dim: {count} dim: 1 }} }} }}
layer {{ name: "line" type: "InnerProduct" bottom: "income" top: "prediction"
  inner_product_param {{ num_output: 1 weight_filler {{ type: "constant" value: 0 }} }} }}
layer {{ name: "loss" bottom: "prediction" bottom: "food" top: "loss"
  {layer} }}
"""

# The sign of a residual does not shrink with it, so the steps must: linearly, down to 0.
SOLVER = f"""type: "SGD" base_lr: 0.002 lr_policy: "poly" power: 1 momentum: 0.9
max_iter: {ITERATIONS} display: 0 snapshot: 0 snapshot_after_train: false solver_mode: CPU
random_seed: 1701
"""


def load() -> "tuple[np.ndarray, np.ndarray]":
    """Income and food expenditure in francs."""
    table = np.loadtxt(str(Path(__file__).parent / "engel.csv"), delimiter=",", skiprows=1)
    return table[:, 0], table[:, 1]


def least_absolute_deviations(income: np.ndarray, food: np.ndarray) -> Line:
    """The line with the least mean |r|, by linear programming.

    Minimises sum(u + v) over intercept, slope, u >= 0 and v >= 0, where
    intercept + slope * income + u - v = food.
    """
    from scipy.optimize import linprog
    n = len(income)
    design = np.hstack([np.ones((n, 1)), income[:, None], np.eye(n), -np.eye(n)])
    costs = np.concatenate([np.zeros(2), np.ones(2 * n)])
    bounds = [(None, None)] * 2 + [(0, None)] * (2 * n)
    solution = linprog(costs, A_eq=design, b_eq=food, bounds=bounds, method="highs")
    return Line(*solution.x[:2])


def mean_absolute(line: Line, income: np.ndarray, food: np.ndarray) -> float:
    return float(np.abs(food - line.intercept - line.slope * income).mean())


def table(results: "list[dict]", optimum: Line) -> str:
    rows = [f"{'':34}  intercept     slope  mean |r|  seconds"]
    best = dict(optimum._asdict(), title="the optimum, by linear programming",
                mean_absolute=mean_absolute(optimum, *load()))
    for each in [*results, best]:
        seconds = f"{each['seconds']:9.2f}" if "seconds" in each else ""
        rows.append(f"{each['title']:34}{each['intercept']:11.4f}{each['slope']:10.6f}"
                    f"{each['mean_absolute']:10.4f}{seconds}")
    return "\n".join(rows)


def verdict(results: "list[dict]", optimum: Line) -> str:
    """What is wrong with the results, or nothing."""
    lines = {result["name"]: Line(result["intercept"], result["slope"]) for result in results
             if result["name"] != "euclidean"}
    for name, line in lines.items():
        for what, actual, best, python in zip(Line._fields, line, optimum, lines["python"]):
            if abs(actual / best - 1) > 0.01:
                return f"{name}: the {what} {actual} is more than 1 % off the optimum {best}"
            if abs(actual / python - 1) > 1e-4:
                return f"{name}: the {what} {actual} is not the Python layer's {python}"
    return ""
