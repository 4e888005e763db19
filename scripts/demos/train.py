"""Fits Engel's data by Caffe's own solver: `train.py ROUTE RESULT.json [PLUGIN]`."""

import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from caffe_l1.route.switch import switch  # noqa: E402

from demos import engel  # noqa: E402
from demos.solver import make_solver, progress  # noqa: E402

STEP = 10  # iterations from one point of the curve to the next


def main(name: str, result: str, plugin: str = "") -> None:
    if plugin:
        import l1_loss_plugin
        l1_loss_plugin.load(plugin)
    income, food = engel.load()
    # The solver works with numbers around 1; the line is taken back to francs afterwards.
    middle, spread, unit = income.mean(), income.std(), food.std()
    net = engel.NET.format(count=len(income), layer=engel.ROUTES[name].layer)
    if name == "stock":
        net = switch(net.encode(), "stock").data.decode()
    solver = make_solver(net, engel.SOLVER)
    solver.net.blobs["income"].data[:, 0] = (income - middle) / spread
    solver.net.blobs["food"].data[:, 0] = food / unit

    def line() -> engel.Line:
        weight, bias = (float(blob.data.ravel()[0]) for blob in solver.net.params["line"])
        slope = weight * unit / spread
        return engel.Line(bias * unit - slope * middle, slope)

    curve, seconds = [engel.mean_absolute(line(), income, food)], 0.0
    for _ in progress(range(0, engel.ITERATIONS, STEP), STEP):
        started = time.perf_counter()
        solver.step(STEP)
        seconds += time.perf_counter() - started
        curve.append(engel.mean_absolute(line(), income, food))
    with open(result, "w") as file:
        json.dump(dict(line()._asdict(), mean_absolute=curve[-1], seconds=seconds,
                       curve=list(zip(np.linspace(0, engel.ITERATIONS, len(curve)), curve))), file)


if __name__ == "__main__":
    main(*sys.argv[1:])
