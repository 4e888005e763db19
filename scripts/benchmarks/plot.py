"""The benchmark's JSON on standard input, a PNG on standard output.

Time over size; below it, if several numbers of threads were measured, speed over threads.
"""

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.table import DIRECTIONS, TITLES, largest, on  # noqa: E402

COLORS = dict(zip(TITLES, (f"C{i}" for i in range(10))), limit="k")
STYLES = {"native": "-o", "python": "-s", "limit": ":"}


def main() -> None:
    result = json.load(sys.stdin)
    fewest, *more = rows = largest(result)
    figure = Figure(figsize=(12, 10 if more else 5), tight_layout=True)
    panels = figure.subplots(2 if more else 1, 2, sharey="row", squeeze=False)
    draw_sizes(panels[0], [row for row in result["rows"] if row["dtype"] == "float32"
                           and row["threads"] == fewest["threads"]])
    if more:
        draw_threads(panels[1], rows)
    figure.savefig(sys.stdout.buffer, dpi=120, format="png")


def draw_sizes(panels: Any, rows: "list[dict]") -> None:
    for axes, direction in zip(panels, DIRECTIONS):
        for name, title in TITLES.items():
            points = [(row["count"], row["seconds"][name][direction] * 1e3)
                      for row in rows if name in row["seconds"]]
            if points:
                axes.loglog(*zip(*points), STYLES.get(name, "--"), color=COLORS[name], label=title,
                            markersize=4)
        finish(axes, f"{direction}, float, {on(rows[0]['threads'])}", "elements")
    panels[0].set_ylabel("milliseconds")


def draw_threads(panels: Any, rows: "list[dict]") -> None:
    for axes, direction in zip(panels, DIRECTIONS):
        for name in rows[-1]["seconds"]:
            points = [(row["threads"], row["count"] / row["seconds"][name][direction] / 1e9)
                      for row in rows]
            axes.plot(*zip(*points), STYLES.get(name, "--"), color=COLORS[name],
                      label=TITLES[name], markersize=4)
        axes.set_xticks([row["threads"] for row in rows])
        axes.set_ylim(bottom=0)
        finish(axes, f"{direction}, {rows[0]['count']:,} floats", "threads")
    panels[0].set_ylabel("billion elements a second")


def finish(axes: Any, title: str, along: str) -> None:
    axes.set(title=title, xlabel=along)
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(fontsize=8)


if __name__ == "__main__":
    main()
