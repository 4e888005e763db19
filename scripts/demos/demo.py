"""Least absolute deviations on Engel's data by every route; demo.sh starts this beside a Caffe."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Mapping

from caffe_l1 import HOME
from caffe_l1.common.errors import KitError
from caffe_l1.common.machine import probe
from caffe_l1.runtest.diagnose import diagnose
from caffe_l1.runtest.make_config import makefile_config

from . import engel

SCRIPTS = HOME / "scripts"
OUTPUT = HOME / "build" / "demo"
APPLY = [sys.executable, str(SCRIPTS / "apply_patch.py")]
NOT_COPIED = shutil.ignore_patterns(".git", ".build_*", "build", "distribute", "_caffe.so",
                                    "*.caffemodel")


def main(arguments: "list[str]") -> int:
    try:
        demo("--quick" in arguments)
    except KitError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


def demo(quick: bool) -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    stock, results = stock_pycaffe(), []
    if not quick:
        print("\n[1/6] stock Caffe, untouched, trains by layers of its own")
        results.append(train("stock", stock))
    step = "1/1" if quick else "2/6"
    print(f"\n[{step}] stock Caffe, untouched, trains through the Python layer")
    results.append(train("python", stock))
    if not quick:
        print("\n[3/6] the same Caffe with the native layer as a plugin: nothing is rebuilt")
        plugin = str(OUTPUT / "plugin.so")
        run([sys.executable, str(SCRIPTS / "build_plugin.py"), "-o", plugin], stock)
        results.append(train("plugin", stock, plugin))
        print("\n[4/6] a copy of Caffe's source gets the native layer, and its tests")
        rebuilt = seeing(patched_tree() / "python")
        print('\n[5/6] the rebuilt Caffe trains the same net with type: "L1Loss"')
        results.append(train("native", rebuilt))
        print("\n[6/6] and with Caffe's EuclideanLoss, for comparison")
        results.append(train("euclidean", rebuilt))
    report(results)


def run(command: "list[str]", environment: Mapping[str, str] = os.environ) -> None:
    if subprocess.run(command, env=environment).returncode:
        raise KitError(f"{' '.join(command)} failed", "see its message above")


def seeing(folder: Path, environment: Mapping[str, str] = os.environ) -> "dict[str, str]":
    """The environment in which Python finds the modules of a folder first."""
    path = [str(folder), environment.get("PYTHONPATH")]
    return dict(environment, PYTHONPATH=os.pathsep.join(filter(None, path)))


def stock_pycaffe() -> Mapping[str, str]:
    """The environment in which a Caffe nobody patched is imported."""
    for environment in (os.environ, seeing(Path(os.environ.get("CAFFE_ROOT", ""), "python"))):
        if subprocess.run([sys.executable, "-c", "import caffe; caffe.Net"], env=environment,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
            return environment
    tree = copied_tree("stock")
    print(f"no pycaffe is built here: building one in {tree}, in minutes")
    config = tree / "Makefile.config"
    if not config.exists():
        config.write_text(makefile_config(probe()))
    make_pycaffe(tree)
    return seeing(tree / "python")


def copied_tree(name: str) -> Path:
    """A fresh copy of Caffe's source: the original is never written to."""
    source = os.environ.get("CAFFE_ROOT", "")
    if not Path(source, "src", "caffe").is_dir():
        raise KitError("there is no source of Caffe", "set CAFFE_ROOT to a checkout")
    folder = Path(os.environ.get("CAFFE_L1_WORK", str(OUTPUT))) / "demo" / name
    shutil.rmtree(str(folder), ignore_errors=True)
    shutil.copytree(os.path.realpath(source), str(folder), symlinks=True, ignore=NOT_COPIED)
    return folder


def patched_tree() -> Path:
    tree = copied_tree("patched")
    check = subprocess.run([*APPLY, "check", str(tree)], stdout=subprocess.PIPE)
    if check.returncode:
        raise KitError("check refused the tree", "see its message above")
    print(check.stdout.decode("utf-8", "replace").splitlines()[-1])
    run([*APPLY, "apply", str(tree)])
    run([*APPLY, "runtest", "--quick", "--write-config", str(tree)])
    print("building pycaffe")
    make_pycaffe(tree)
    return tree


def make_pycaffe(tree: Path) -> None:
    log = OUTPUT / f"{tree.name}.log"
    with log.open("wb") as file:
        failed = subprocess.run(["make", "-C", str(tree), f"-j{os.cpu_count() or 1}", "pycaffe"],
                                stdout=file, stderr=subprocess.STDOUT).returncode
    if failed:
        raise diagnose(log.read_text("utf-8", "replace"), str(log), "make pycaffe")


def train(route: str, environment: Mapping[str, str], *plugin: str) -> dict:
    """One training in a process of its own, since a process has only one Caffe."""
    file = OUTPUT / f"{route}.json"
    environment = dict(seeing(HOME / "python_layer", environment), GLOG_minloglevel="2")
    started = time.monotonic()
    train = SCRIPTS / "demos" / "train.py"
    run([sys.executable, str(train), route, str(file), *plugin], environment)
    result = json.loads(file.read_text())
    print(f"{engel.ITERATIONS} iterations in {result['seconds']:.2f} s "
          f"({time.monotonic() - started:.1f} s with starting Caffe)")
    return dict(result, title=engel.ROUTES[route].title, name=route)


def report(results: "list[dict]") -> None:
    from . import picture
    optimum = engel.least_absolute_deviations(*engel.load())
    print(f"\nEngel's 235 households: food = intercept + slope * income\n\n"
          f"{engel.table(results, optimum)}\n")
    file = OUTPUT / "engel.png"
    picture.draw(picture.shown(results), optimum, str(file))
    print(f"picture: {file}")
    problem = engel.verdict(results, optimum)
    if problem:
        raise KitError(problem)
    print("every L1 route is within 1 % of the optimum, and they agree to 1e-4"
          if len(results) > 1 else "the Python layer is within 1 % of the optimum")
    print("next: scripts/doctor.py says which routes work on your machine; the quick starts in "
          "README.md put the loss into your own net")

