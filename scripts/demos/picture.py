"""Engel's households, the fitted lines, and how the training went, as one picture."""

import json

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from . import engel

STYLES = {"stock": ("#ff7f0e", "-", 4.5), "python": ("#1f77b4", "-", 2.5),
          "plugin": ("#17becf", "--", 2.0), "native": ("#2ca02c", ":", 3.0),
          "euclidean": ("#d62728", "-", 1.5)}


def shown(results: "list[dict]") -> dict:
    """What the picture shows of the results, by route, to fewer digits than a pixel tells."""
    return {result["name"]: dict(intercept=round(result["intercept"], 3),
                                 slope=round(result["slope"], 5),
                                 curve=[[step, round(mean, 2)] for step, mean in result["curve"]])
            for result in results}


def draw(results: dict, optimum: engel.Line, file: str) -> None:
    """Draw what shown() returns; the file keeps it as text, which tells whether it is stale."""
    income, food = engel.load()
    figure = FigureCanvasAgg(Figure(figsize=(13, 5.2))).figure
    left, right = figure.subplots(1, 2)
    left.scatter(income, food, s=12, color="0.6", edgecolors="none", label="235 households")
    ends = [income.min(), income.max()]
    for name, result in results.items():
        color, style, width = STYLES[name]
        look = dict(color=color, linewidth=width, label=engel.ROUTES[name].title)
        left.plot(ends, [result["intercept"] + result["slope"] * end for end in ends], style,
                  **look)
        right.plot(*zip(*result["curve"]), style, **look)
    least = engel.mean_absolute(optimum, income, food)
    left.plot(ends, [optimum.intercept + optimum.slope * end for end in ends], color="k",
              linewidth=0.8, label="least absolute deviations (LP)")
    right.axhline(least, color="k", linewidth=0.8, label=f"the least possible, {least:.2f}")
    left.set(xlabel="income, francs a year", ylabel="food expenditure, francs a year",
             title="What the nets learned")
    right.set(xlabel="iteration", ylabel="mean |r|, francs", title="How they learned it",
              xlim=(0, 500), ylim=(least * 0.95, least * 2.2))
    finish(left, right)
    figure.tight_layout()
    figure.savefig(file, dpi=80, metadata={"Description": json.dumps(results)})


def finish(*axes) -> None:
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.legend(fontsize=9, frameon=False)
        axis.spines["top"].set_visible(False)
        axis.spines["right"].set_visible(False)
