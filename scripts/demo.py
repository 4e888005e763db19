#!/usr/bin/env python3
"""Least absolute deviations on Engel's data by every route; demo.sh starts this beside a Caffe."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from caffe_l1.common import output  # noqa: E402
from caffe_l1.common.machine import probe  # noqa: E402
from caffe_l1.runtest.diagnose import diagnose  # noqa: E402
from caffe_l1.runtest.make_config import makefile_config  # noqa: E402
from demos import engel  # noqa: E402

OUTPUT = HERE.parent / "build" / "demo"
APPLY = [sys.executable, str(HERE / "apply_patch.py")]
STAGES = 5
NOT_COPIED = shutil.ignore_patterns(".git", ".build_*", "build", "distribute", "_caffe.so",
                                    "*.caffemodel")


class DemoFailed(Exception):
    """One line that says what went wrong and what to do."""


def main(arguments: list[str]) -> int:
    try:
        demo("--quick" in arguments)
    except DemoFailed as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


def demo(quick: bool) -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    stages = 1 if quick else STAGES
    stage(1, stages, "stock Caffe, untouched, trains through the Python layer")
    stock = stock_pycaffe()
    results = [train(engel.ROUTES[0], stock)]
    if not quick:
        stage(2, stages, "the same Caffe with the native layer as a plugin: nothing is rebuilt")
        plugin = OUTPUT / "plugin.so"
        run([sys.executable, str(HERE / "build_plugin.py"), "-o", str(plugin)], stock)
        results.append(train(engel.ROUTES[1], stock, plugin))
        stage(3, stages, "a copy of Caffe's source gets the native layer, and its tests")
        tree = patched_tree()
        rebuilt = dict(os.environ, PYTHONPATH=str(tree / "python"))
        stage(4, stages, "the rebuilt Caffe trains the same net with type: \"L1Loss\"")
        results.append(train(engel.ROUTES[2], rebuilt))
        stage(5, stages, "and with Caffe's EuclideanLoss, for comparison")
        results.append(train(engel.ROUTES[3], rebuilt))
    report(results)


def stage(number: int, stages: int, text: str) -> None:
    print(f"\n[{number}/{stages}] {text}", flush=True)


def run(command: list[str], environment: dict[str, str] | None = None) -> None:
    if subprocess.run(command, env=environment).returncode:
        raise DemoFailed(f"this command failed, see above: {' '.join(command)}")


def stock_pycaffe() -> dict[str, str]:
    """The environment in which a Caffe nobody patched is imported."""
    root = os.environ.get("CAFFE_ROOT", "")
    own = dict(os.environ, PYTHONPATH=os.pathsep.join(
        filter(None, [f"{root}/python", os.environ.get("PYTHONPATH")])))
    for environment in (dict(os.environ), own):
        if subprocess.run([sys.executable, "-c", "import caffe; caffe.Net"], env=environment,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
            return environment
    tree = copied_tree("stock")
    print(f"no pycaffe is built here: building one in {tree}, in minutes", flush=True)
    config = tree / "Makefile.config"
    if not config.exists():
        config.write_text(makefile_config(probe()))
    make_pycaffe(tree, OUTPUT / "stock.log")
    return dict(os.environ, PYTHONPATH=str(tree / "python"))


def copied_tree(name: str) -> Path:
    """A fresh copy of Caffe's source: the original is never written to."""
    source = os.environ.get("CAFFE_ROOT", "")
    if not Path(source, "src", "caffe").is_dir():
        raise DemoFailed("there is no source of Caffe; fix: set CAFFE_ROOT to a checkout")
    folder = Path(os.environ.get("CAFFE_L1_WORK", str(OUTPUT))) / "demo" / name
    shutil.rmtree(str(folder), ignore_errors=True)
    shutil.copytree(os.path.realpath(source), str(folder), symlinks=True, ignore=NOT_COPIED)
    return folder


def patched_tree() -> Path:
    tree = copied_tree("patched")
    check = subprocess.run([*APPLY, "check", str(tree)], stdout=subprocess.PIPE)
    if check.returncode:
        raise DemoFailed("check refused the tree; its message is above")
    print(check.stdout.decode("utf-8", "replace").splitlines()[-1], flush=True)
    run([*APPLY, "apply", str(tree)])
    run([*APPLY, "runtest", "--quick", "--write-config", str(tree)])
    print("building pycaffe", flush=True)
    make_pycaffe(tree, OUTPUT / "pycaffe.log")
    return tree


def make_pycaffe(tree: Path, log: Path) -> None:
    command = ["make", "-C", str(tree), f"-j{os.cpu_count() or 1}", "pycaffe"]
    with log.open("wb") as file:
        failed = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode
    if failed:
        text = log.read_text("utf-8", "replace")
        raise DemoFailed(str(diagnose(text, str(log), "make pycaffe")))


def train(route: engel.Route, environment: dict[str, str], plugin: Path | None = None) -> dict:
    """One training in a process of its own, since a process has only one Caffe."""
    file = OUTPUT / f"{route.name}.json"
    python_path = [str(HERE.parent / "python_layer"), environment.get("PYTHONPATH", "")]
    environment = dict(environment, PYTHONPATH=os.pathsep.join(filter(None, python_path)),
                       GLOG_minloglevel="2")
    command = [sys.executable, str(HERE / "demos" / "train.py"), route.name, str(file)]
    started = time.monotonic()
    run(command + ([str(plugin)] if plugin else []), environment)
    result = json.loads(file.read_text())
    print(f"{engel.ITERATIONS} iterations in {result['seconds']:.2f} s "
          f"({time.monotonic() - started:.1f} s with starting Caffe)", flush=True)
    return dict(result, title=route.title, name=route.name)


def report(results: list[dict]) -> None:
    from demos import picture
    income, food = engel.load()
    optimum = engel.least_absolute_deviations(income, food)
    print(f"\nEngel's 235 households: food = intercept + slope * income\n\n"
          f"{engel.table(results, optimum)}\n", flush=True)
    file = OUTPUT / "engel.png"
    picture.draw(picture.shown(results), optimum, str(file))
    print(f"picture: {file}")
    problem = engel.verdict(results, optimum)
    if problem:
        raise DemoFailed(problem)
    print("every L1 route is within 1 % of the optimum, and they agree to 1e-4"
          if len(results) > 1 else "the Python layer is within 1 % of the optimum")
    print("next: scripts/doctor.py says which routes work on your machine; the quick starts in "
          "README.md put the loss into your own net")


if __name__ == "__main__":
    sys.exit(output.run(main, sys.argv[1:]))
