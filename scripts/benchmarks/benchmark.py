"""How fast the L1 loss is, beside others and beside what the memory allows.

Medians of interleaved repetitions, everything in one run, on one thread; with --threads, what has
threads of its own on several. Runs in the sandbox; with CAFFE_ROOT set, on a copy of that checkout.
PyTorch is compared where --torch names a Python that has it (scripts/test.sh installs one, which is
found by itself).
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

from caffe_l1.runtest.command import positive

from . import table

COUNTS = [1024, 8192, 65536, 524288, 4194304, 33554432]
ACCURACY_COUNT = 100_000_000
PARTS = Path(__file__).resolve().parent
CACHE = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
WORK = Path(os.environ.get("CAFFE_L1_WORK") or f"{CACHE}/caffe-l1-loss/work")
OWN_TORCH = WORK / "venv" / "bin" / "python"
IN_SANDBOX = [] if os.environ.get("CAFFE_ROOT") else [f"{PARTS.parent}/sandbox.sh", "run"]
PYTHON = [*IN_SANDBOX, "python3"]  # one that has a Caffe


def main(arguments: "list[str]") -> int:
    options = parse(arguments)
    if options.markdown:
        return print_markdown(options.markdown)
    workers = make_workers(options.torch)
    rows = []
    for dtype, threads, count in product(("float32", "float64"), options.threads, options.counts):
        print(f"benchmark: {count:,} x {dtype}, {table.on(threads)}", file=sys.stderr)
        rows.append({"dtype": dtype, "threads": threads, "count": count,
                     "seconds": measure(workers, threads, dtype, count, options.repetitions)})
    errors = ask(workers[0], 1, "errors", "L1Loss", ACCURACY_COUNT) if options.accuracy else None
    memory = ask(workers[0], 1, "memory", max(options.counts))
    result = {"date": time.strftime("%Y-%m-%d"), "processor": processor(), "rows": rows,
              "relative_errors_of_1e8_floats": errors, "bytes_beside_the_blobs": memory}
    print(table.render(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    if options.plot:
        plot(result, options.plot)
    return 0


def parse(arguments: "list[str]") -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", metavar="FILE", type=new_file, help="write all figures there too")
    parser.add_argument("--markdown", metavar="FILE", type=Path,
                        help="measure nothing; print such a file as the table in scripts/README.md")
    parser.add_argument("--plot", metavar="FILE.png", type=new_file, help="draw time over size")
    parser.add_argument("--threads", metavar="N", type=positive, nargs="+", default=[1],
                        help="numbers of threads, each measured in turn (default: 1)")
    parser.add_argument("--counts", metavar="N", type=positive, nargs="+", default=COUNTS,
                        help="numbers of elements (default: 1,024 to 33,554,432)")
    parser.add_argument("--repetitions", metavar="N", type=positive, default=11)
    parser.add_argument("--torch", metavar="PYTHON", type=python_with_torch,
                        default=OWN_TORCH if OWN_TORCH.exists() else None,
                        help="a Python that has PyTorch")
    parser.add_argument("--no-accuracy", dest="accuracy", action="store_false",
                        help=f"leave out the error at {ACCURACY_COUNT:,} elements (1.6 GB)")
    return parser.parse_args(arguments)


def new_file(text: str) -> Path:
    """Checked before the minutes of measuring, not after them."""
    file = Path(text)
    if file.is_dir() or not file.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: no file can be written there")
    return file


def python_with_torch(text: str) -> Path:
    try:
        found = subprocess.run([text, "-c", "import torch"], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error.strerror}") from None
    if found.returncode:
        raise argparse.ArgumentTypeError(f"{text} cannot import torch; fix: {text} -m pip install "
                                         "torch")
    return Path(text)


def print_markdown(file: Path) -> int:
    try:
        print(table.markdown(json.loads(file.read_text())))
    except OSError as error:
        sys.exit(f"benchmark: {file}: {error.strerror}")
    except (ValueError, KeyError, TypeError):
        sys.exit(f"benchmark: {file}: not a whole result; fix: make one by --json FILE, without "
                 "--no-accuracy")
    return 0


def make_workers(torch: "Path | None") -> "list[list[str]]":
    """The commands that measure, each with what it measures built."""
    folder = WORK / "bench"
    print("benchmark: compiling; the first time this builds a patched Caffe, about 3 minutes",
          file=sys.stderr)
    built = subprocess.run([*PYTHON, f"{PARTS}/build.py", str(folder)], stdout=sys.stderr)
    if built.returncode:
        sys.exit(built.returncode)
    worker = f"{PARTS}/worker.py"
    pycaffe = ["env", f"PYTHONPATH={folder}/patched/python"]
    workers = [[*IN_SANDBOX, *pycaffe, "python3", worker, "patched", f"{folder}/patched"],
               [*PYTHON, worker, "stock", f"{folder}/stock"]]
    return workers + ([[str(torch), worker, "torch", ""]] if torch else [])


def measure(workers: "list[list[str]]", threads: int, dtype: str, count: int,
            repetitions: int) -> dict:
    """Median seconds per call, by name and direction.

    One process after the other, since the memory that others hold slows them down.
    """
    seconds: dict = {}
    for worker in workers:
        seconds.update(ask(worker, threads, "measure", dtype, count, repetitions))
    return seconds


def ask(worker: "list[str]", threads: int, method: str, *arguments: object) -> Any:
    environment = dict(os.environ, OPENBLAS_NUM_THREADS="1")
    done = subprocess.run([*worker, str(threads), method, json.dumps(arguments)],
                          stdout=subprocess.PIPE, env=environment)
    if done.returncode:
        sys.exit("benchmark: a measuring process failed; see its message above")
    return json.loads(done.stdout)


def processor() -> str:
    found = re.search("model name\\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found.group(1) if found else platform.machine()


def plot(result: dict, file: Path) -> None:
    """Draw with the Python of the sandbox, which has matplotlib."""
    drawn = subprocess.run([*PYTHON, f"{PARTS}/plot.py"], input=json.dumps(result).encode(),
                           stdout=subprocess.PIPE)
    if drawn.returncode:
        sys.exit("benchmark: the plot failed; see the message above")
    file.write_bytes(drawn.stdout)
