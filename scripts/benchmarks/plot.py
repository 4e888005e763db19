"""Time over size, log-log: the benchmark's JSON on standard input, a PNG on standard output."""

from __future__ import annotations

import json
import sys

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

STYLES = {"native": "-o", "python": "-s", "limit": "k:"}
LABELS = {"native": "this kit, native", "article": "the article's layer", "limit": "memory's limit",
          "euclidean": "EuclideanLoss", "torch": "PyTorch", "python": "this kit, Python layer",
          "numpy": "plain numpy layer"}


def main() -> None:
    rows = [row for row in json.load(sys.stdin)["rows"] if row["dtype"] == "float32"]
    figure, axes = plt.subplots(1, 2, figsize=(12, 5), sharey=True)
    for axis, direction in zip(axes, ("forward", "backward")):
        for name, label in LABELS.items():
            points = [(row["count"], row["seconds"][name][direction] * 1e3)
                      for row in rows if name in row["seconds"]]
            if points:
                axis.loglog(*zip(*points), STYLES.get(name, "--"), label=label, markersize=4)
        axis.set_title(f"{direction}, float, one thread")
        axis.set_xlabel("elements")
        axis.grid(True, which="major", alpha=0.3)
    axes[0].set_ylabel("milliseconds")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(sys.stdout.buffer, dpi=120, format="png")


if __name__ == "__main__":
    main()
