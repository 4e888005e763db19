"""Make what the benchmark measures: `build.py FOLDER`.

FOLDER/patched is a Caffe with the kit applied, built with OpenMP by its own Makefile with its own
flags, -O2; FOLDER/stock holds the plugin for the Caffe that is installed. A harness lies in each.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from caffe_l1.common.errors import BuildFailed, KitError  # noqa: E402
from caffe_l1.plugin import build, installed  # noqa: E402

HARNESS = [HERE / "harness.cpp", HERE / "article_l1_loss_layer.cpp"]
KIT = HERE.parent.parent / "caffe_patch"


def main(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        make_patched(Path(os.environ["CAFFE_ROOT"]), folder / "patched")
        make_stock(folder / "stock")
    except KitError as error:
        print(error, file=sys.stderr)
        return error.code
    return 0


def make_patched(source: Path, tree: Path) -> None:
    """Once for each version of the sources; a harness each time."""
    stamp = tree / "benchmark.stamp"
    if not stamp.exists() or stamp.read_text() != digest():
        shutil.rmtree(tree, ignore_errors=True)
        shutil.copytree(str(source.resolve()), str(tree), symlinks=True)
        environment = dict(os.environ, CXXFLAGS="-fopenmp", LINKFLAGS="-fopenmp")
        script = [sys.executable, str(HERE.parent / "apply_patch.py")]
        for command in ([*script, "apply", str(tree)],
                        [*script, "runtest", "--quick", "--write-config", str(tree)],
                        ["make", "-C", str(tree), f"-j{os.cpu_count() or 1}", "pycaffe"]):
            if subprocess.run(command, env=environment).returncode:
                raise BuildFailed(f"{' '.join(command)} failed", "see its message above")
        stamp.write_text(digest())
    os.environ["CAFFE_ROOT"] = str(tree)
    build.build_beside(installed.find(), HARNESS, tree / "harness.so")


def make_stock(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    del os.environ["CAFFE_ROOT"]
    caffe = installed.find()
    build.build(caffe, folder / "plugin.so")
    build.build_beside(caffe, HARNESS, folder / "harness.so")


def digest() -> str:
    files = sorted(path for path in KIT.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
