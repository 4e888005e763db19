"""The figures of a benchmark as text. Pure: a result in, lines out."""

from itertools import compress

DIRECTIONS = ("forward", "backward")
# Bytes that a call moves for each element of 4 bytes, read and written, by what it must do:
# ours reads x and y, and writes both gradients; the article's also goes through its buffer.
BYTES = {"native": {"forward": 8, "backward": 16}, "article": {"forward": 16, "backward": 48}}
# Whose figures a result holds, and what they are called in scripts/README.md.
TITLES = {
    "native": "native layer", "plugin": "plugin",
    "limit": "the memory: reading both arrays; memcpy of both", "article": "the article's layer",
    "euclidean": "Caffe's EuclideanLoss", "torch": "PyTorch", "python": "Python layer",
    "stock": "Caffe's own layers",
    "numpy": "a plain numpy Python layer"}


def render(result: dict) -> str:
    lines = [f"{result['processor']}, {result['date']}; medians; "
             "ratios are times relative to the native layer, so 2.0x means: ours is twice as fast"]
    for dtype, threads in sorted({(row["dtype"], row["threads"]) for row in result["rows"]}):
        rows = [row for row in result["rows"]
                if row["dtype"] == dtype and row["threads"] == threads]
        for direction in DIRECTIONS:
            lines += ["", f"{direction}, {dtype}, {on(threads)}", *columns(rows, direction, dtype)]
    lines += ["", *variants(result)]
    errors, beside = result["relative_errors_of_1e8_floats"], result["bytes_beside_the_blobs"]
    if errors:
        lines += ["", "relative error of 100,000,000 floats: "
                      f"loss {errors['forward']:.1e}, gradients {errors['backward']:.1e}"]
    taken = ", ".join(f"{name} {value:.2f}" for name, value in beside.items())
    return "\n".join([*lines, "", f"bytes per element taken beside the blobs, at most: {taken}"])


def markdown(result: dict) -> str:
    """The largest size in float on each number of threads, for scripts/README.md."""
    lines = []
    for row in largest(result):
        lines += [f"| {row['count']:,} floats, {on(row['threads'])} | forward | "
                  "backward, both |", "|---|---|---|"]
        for name, title in TITLES.items():
            if name in row["seconds"]:
                own, native = row["seconds"][name], row["seconds"]["native"]
                cells = [f"{own[way] * 1e3:.1f} ms ({own[way] / native[way]:.1f}x)"
                         for way in DIRECTIONS]
                lines.append(f"| {title} | {' | '.join(cells)} |")
        lines.append("")
    errors, beside = result["relative_errors_of_1e8_floats"], result["bytes_beside_the_blobs"]
    return "\n".join([
        *lines,
        f"{result['processor']}, {result['date']}; in brackets relative to the native layer. "
        "Error of the native layer at", f"100,000,000 floats: {errors['forward']:.0e} of the loss, "
        f"{errors['backward']:.0f} of the gradients. Memory beside the blobs: native "
        f"{beside['native']:.0f} bytes", f"per element, the article's {beside['article']:.0f}, "
        f"Python layer {beside['python']:.0f}, plain numpy {beside['numpy']:.0f}."])


def columns(rows: list, direction: str, dtype: str) -> "list[str]":
    limit = "read both" if direction == "forward" else "memcpy both"
    native, article = (BYTES[name][direction] * (1 if dtype == "float32" else 2) for name in BYTES)
    lines = [["elements", "native", "bytes/el.", "GB/s", f"over {limit}", "article's",
              "bytes/el.", "plugin", "Euclidean", "PyTorch", "Caffe's own", "Python layer",
              "plain numpy"]]
    for row in rows:
        seconds = {name: both[direction] for name, both in row["seconds"].items()}
        speed = native * row["count"] / seconds["native"] / 1e9
        lines.append([
            f"{row['count']:,}", duration(seconds["native"]), str(native), f"{speed:.1f}",
            f"{seconds['native'] / seconds['limit']:.2f}x", ratio(seconds, "article"),
            str(article) if "article" in seconds else "-",
            ratio(seconds, "plugin"), ratio(seconds, "euclidean"), ratio(seconds, "torch"),
            ratio(seconds, "stock"), duration(seconds.get("python")),
            ratio(seconds, "numpy", "python")])
    measured = [set(column) != {"-"} for column in zip(*lines[1:])]
    return align([list(compress(line, measured)) for line in lines])


def variants(result: dict) -> "list[str]":
    """What the options cost, at the largest size in float."""
    row = largest(result)[0]
    lines = [["native, by option", "forward", "over plain", "backward", "over plain"]]
    for name, both in sorted(row["seconds"].items()):
        if name.startswith("native"):
            lines.append([name[len("native "):] or "plain"])
            for way in DIRECTIONS:
                over = both[way] / row["seconds"]["native"][way]
                lines[-1] += [duration(both[way]), f"{over:.2f}x"]
    return [f"{row['count']:,} elements, float32", *align(lines)]


def largest(result: dict) -> "list[dict]":
    """The rows of the largest size in float, by the number of threads."""
    rows = [row for row in result["rows"] if row["dtype"] == "float32"]
    size = max(row["count"] for row in rows)
    return sorted((row for row in rows if row["count"] == size), key=lambda row: row["threads"])


def on(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"


def ratio(seconds: dict, name: str, base: str = "native") -> str:
    return f"{seconds[name] / seconds[base]:.1f}x" if {name, base} <= set(seconds) else "-"


def duration(seconds: "float | None") -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


def align(lines: "list[list[str]]") -> "list[str]":
    widths = [max(map(len, column)) for column in zip(*lines)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines]
