"""Time over size, log-log: the benchmark's JSON on standard input, a PNG on standard output."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.table import DIRECTIONS, TITLES  # noqa: E402

STYLES = {"native": "-o", "python": "-s", "limit": "k:"}


def main() -> None:
    rows = [row for row in json.load(sys.stdin)["rows"] if row["dtype"] == "float32"]
    figure = Figure(figsize=(12, 5), tight_layout=True)
    axes = figure.subplots(1, 2, sharey=True)
    for axis, direction in zip(axes, DIRECTIONS):
        for name, title in TITLES.items():
            points = [(row["count"], row["seconds"][name][direction] * 1e3)
                      for row in rows if name in row["seconds"]]
            if points:
                axis.loglog(*zip(*points), STYLES.get(name, "--"), label=title, markersize=4)
        axis.set(title=f"{direction}, float, one thread", xlabel="elements")
        axis.grid(True, which="major", alpha=0.3)
    axes[0].set_ylabel("milliseconds")
    axes[0].legend(fontsize=8)
    figure.savefig(sys.stdout.buffer, dpi=120, format="png")


if __name__ == "__main__":
    main()
