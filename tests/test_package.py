"""What pip installs, in fresh virtual environments and other folders, beside a stock Caffe.

scripts/test.sh fetches the wheels of pip and its like, so that nothing here needs the network.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from caffe_l1 import VERSION
from caffe_l1.cli import VERBS
from environment import REPO
from patch_support import make_small_checkout, snapshot

GENERATED = shutil.ignore_patterns(".git", "build", "dist", "*.egg-info", "*.so", "*.pyc",
                                   "__pycache__", ".*_cache", ".hypothesis", ".venv")
NET = """
layer { name: "x" type: "DummyData" top: "x" top: "y" dummy_data_param {
  shape { dim: 2 dim: 3 } data_filler { type: "constant" value: 4 }
  shape { dim: 2 dim: 3 } data_filler { type: "constant" value: 1 } } }
layer { name: "loss" type: "L1Loss" bottom: "x" bottom: "y" top: "loss" }
layer { name: "again" type: "Python" bottom: "x" bottom: "y" top: "again" loss_weight: 1
  python_param { module: "l1_loss_layer" layer: "L1LossLayer" } }
"""
TRAIN = """
import caffe, l1_loss_plugin, sys
assert l1_loss_plugin.load(*sys.argv[2:])
out = caffe.Net(sys.argv[1], caffe.TRAIN).forward()
print(float(out["loss"]), float(out["again"]))
"""


def run(*command: object, **options) -> SimpleNamespace:
    """A command that finds nothing of this checkout by its environment."""
    environment = dict(os.environ, **options.pop("env", {}), GLOG_minloglevel="2")
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True,
                          text=True, **options)
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)


def succeed(*command: object, **options) -> str:
    done = run(*command, **options)
    assert done.code == 0, (command, done.out, done.err)
    return done.out


@pytest.fixture(scope="module")
def wheels(work: Path) -> Path:
    folder = work.parent / "wheels"
    if not folder.is_dir():
        pytest.skip("scripts/test.sh fetches the wheels of pip and setuptools")
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A checkout of its own: building a wheel writes into it."""
    folder = tmp_path_factory.mktemp("source") / "kit"
    shutil.copytree(REPO, folder, ignore=GENERATED)
    return folder


@pytest.fixture(scope="module")
def new_environment(wheels, tmp_path_factory):
    """Make a virtual environment whose pip installs from the wheels at hand alone."""

    def make(name: str, *options: str) -> Path:
        folder = tmp_path_factory.mktemp(name) / "venv"
        succeed(sys.executable, "-m", "venv", "--without-pip", *options, folder)
        [pip] = wheels.glob("pip-*.whl")
        succeed(folder / "bin" / "python", pip / "pip", "install", "--no-index", "-q", pip)
        return folder

    def install(folder: Path, *what: object) -> None:
        succeed(folder / "bin" / "pip", "install", "-q", "--no-index", "--find-links", wheels,
                *what)

    return SimpleNamespace(make=make, install=install)


@pytest.fixture(scope="module")
def wheel(source, wheels, new_environment) -> Path:
    builder = new_environment.make("builder")
    succeed(builder / "bin" / "pip", "wheel", "-q", "--no-index", "--find-links", wheels,
            "--no-deps", "-w", source.parent, source)
    [made] = source.parent.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def clean(wheel, new_environment) -> Path:
    """The kit and protobuf, and no other package: no numpy, no Caffe."""
    folder = new_environment.make("clean")
    new_environment.install(folder, "protobuf")
    new_environment.install(folder, "--no-deps", wheel)
    return folder


@pytest.fixture(scope="module")
def beside_caffe(wheel, new_environment) -> Path:
    """The kit where the system's packages are seen: those it depends on, and pycaffe."""
    folder = new_environment.make("beside", "--system-site-packages")
    new_environment.install(folder, wheel)
    return folder


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def names_in(file: Path) -> set:
    return {name for name in zipfile.ZipFile(file).namelist() if ".dist-info/" not in name}


# ---- What is in it -----------------------------------------------------------

def test_the_wheel_holds_the_kit_as_a_checkout_lays_it_out(wheel, source):
    expected = {path.name for path in (source / "python_layer").glob("*.py")}
    for folder in ("caffe_patch", "prototxt"):
        expected |= {f"caffe_l1_loss/{path.relative_to(source).as_posix()}"
                     for path in (source / folder).rglob("*") if path.is_file()}
    modules = [*(source / "python_layer").glob("*.py"), (source / "scripts" / "caffe_l1")]
    expected |= {f"caffe_l1_loss/{path.relative_to(source).as_posix()}"
                 for folder in modules for path in [folder, *folder.rglob("*")]
                 if path.suffix in (".py", ".hpp", ".cpp", ".map")}
    stubs = {f"{module}-stubs/{file}" for file in ("__init__.pyi", "py.typed")
             for module in ("l1_loss", "l1_loss_layer", "l1_loss_net_spec", "l1_loss_plugin")}
    assert names_in(wheel) == expected | stubs
    for name in expected - {name for name in expected if "/" not in name}:
        kept = zipfile.ZipFile(wheel).read(name)
        assert kept == (source / name.split("/", 1)[1]).read_bytes(), name


def test_the_source_distribution_holds_all_that_a_checkout_does(source, wheel, wheels,
                                                                new_environment):
    [setuptools] = wheels.glob("setuptools-*.whl")
    script = "import setuptools.build_meta as b; print(b.build_sdist('..'))"
    made = succeed(sys.executable, "-c", script, cwd=source, env={"PYTHONPATH": str(setuptools)})
    archive = source.parent / made.splitlines()[-1]
    with tarfile.open(archive) as tar:
        held = {name.split("/", 1)[1]: mode for name, mode in
                ((member.name, member.mode) for member in tar if member.isfile())}
    tracked = {path.relative_to(REPO).as_posix(): path.stat().st_mode & 0o777
               for path in tracked_files()}
    assert set(tracked) - set(held) == set()
    assert {name for name in tracked if held[name] & 0o111 != tracked[name] & 0o111} == set()
    builder = new_environment.make("from-sdist")
    target = source.parent / "from-sdist"
    succeed(builder / "bin" / "pip", "wheel", "-q", "--no-index", "--find-links", wheels,
            "--no-deps", "-w", target, archive)
    assert names_in(next(target.glob("*.whl"))) == names_in(wheel)


def tracked_files() -> list:
    listing = [path for path in REPO.rglob("*") if path.is_file()]
    ignored = re.compile(r"(^|/)(\.git|build|dist|\.\w+_cache|\.hypothesis|\.venv|__pycache__|"
                         r"\S*\.egg-info)/|\.(pyc|so)$")
    return [path for path in listing if not ignored.search(path.relative_to(REPO).as_posix())]


def test_the_version_is_said_once(wheel, clean, elsewhere):
    assert f"caffe_l1_loss-{VERSION}-py3-none-any.whl" == wheel.name
    assert succeed(clean / "bin" / "caffe-l1", "--version") == VERSION + "\n"
    said = re.compile(re.escape(VERSION))
    assert not said.search((REPO / "pyproject.toml").read_text())
    assert (REPO / "CHANGELOG.md").read_text().split("## ")[1].startswith(VERSION)


# ---- The command -------------------------------------------------------------

def test_a_checkout_is_patched_and_restored(clean, elsewhere, tmp_path):
    tree = tmp_path / "caffe"
    make_small_checkout(tree)
    before = snapshot(tree)
    command = clean / "bin" / "caffe-l1"
    assert "+REGISTER_LAYER_CLASS(L1Loss);" in succeed(command, "check", tree)
    assert "applied: 6 files: 5 created, 1 edited" in succeed(command, "apply", tree)
    assert "applied" in succeed(command, "status", tree)
    assert (tree / "include/caffe/layers/l1_loss_layer.hpp").exists()
    assert "reverted: 6 files" in succeed(command, "revert", "../caffe")
    assert snapshot(tree).keys() == before.keys()
    assert {name: entry[0] for name, entry in snapshot(tree).items()} == {
        name: entry[0] for name, entry in before.items()}
    assert run(command, "status", tree).code == 1


def test_what_it_patches_is_what_a_checkout_of_the_kit_patches(clean, source, tmp_path):
    trees = [tmp_path / "by-wheel", tmp_path / "by-script"]
    scripts = [[clean / "bin" / "caffe-l1"], [sys.executable, source / "scripts/apply_patch.py"]]
    for tree, script in zip(trees, scripts):
        make_small_checkout(tree)
        succeed(*script, "apply", tree)
    first, second = ({name: entry[0] for name, entry in snapshot(tree).items()} for tree in trees)
    assert first == second


def test_the_plugin_is_built_without_pycaffe_and_loaded_by_another_python(clean, elsewhere):
    command = clean / "bin" / "caffe-l1"
    built = succeed(command, "build-plugin", "-o", "plugin.so")
    assert re.search(r"built plugin.so in [\d.]+ s", built)
    (elsewhere / "net.prototxt").write_text(NET)
    path = succeed(command, "path").strip()
    assert {"l1_loss.py", "l1_loss_layer.py", "l1_loss_plugin.py"} <= set(os.listdir(path))
    out = succeed(sys.executable, "-c", TRAIN, "net.prototxt", "plugin.so",
                  env={"PYTHONPATH": os.pathsep.join([path, os.environ.get("PYTHONPATH", "")])})
    assert out.splitlines()[-1] == "9.0 9.0"


def test_a_pycaffe_beside_it_needs_no_path_and_no_name_of_the_plugin(beside_caffe, elsewhere):
    succeed(beside_caffe / "bin" / "caffe-l1", "build-plugin")
    (elsewhere / "net.prototxt").write_text(NET)
    out = succeed(beside_caffe / "bin" / "python", "-c", TRAIN, "net.prototxt")
    assert out.splitlines()[-1] == "9.0 9.0"


def test_a_net_is_switched_from_one_route_to_another(clean, elsewhere):
    nets = Path(succeed(clean / "bin" / "caffe-l1", "path", "prototxt").strip())
    shutil.copy(str(nets / "plain_python.prototxt"), "net.prototxt")
    succeed(clean / "bin" / "caffe-l1", "switch-route", "net.prototxt", "--to", "native",
            "--in-place")
    assert 'type: "L1Loss"' in Path("net.prototxt").read_text()


def test_the_doctor_finds_its_own_module_beside_pycaffe(beside_caffe, elsewhere):
    said = succeed(beside_caffe / "bin" / "caffe-l1", "doctor")
    site = next((beside_caffe / "lib").glob("python*/site-packages"))
    assert f"ok     l1_loss_layer: {site}/l1_loss_layer.py\n" in said
    assert "\npython: works\n" in said and "\nplugin: works" in said


def test_it_says_where_nets_and_sources_are(clean, elsewhere):
    nets = Path(succeed(clean / "bin" / "caffe-l1", "path", "prototxt").strip())
    assert {path.name for path in nets.glob("*.prototxt")} == {
        path.name for path in (REPO / "prototxt").glob("*.prototxt")}
    patch = Path(succeed(clean / "bin" / "caffe-l1", "path", "patch").strip())
    assert (patch / "src/caffe/layers/l1_loss_layer.cu").exists()


def test_exit_codes_and_messages_come_through(clean, elsewhere):
    command = clean / "bin" / "caffe-l1"
    refused = run(command, "build-plugin", "-o", "none/plugin.so")
    assert refused.code == 1 and refused.err.count("\n") == 1 and "; fix: " in refused.err
    for wrong in ([], ["patch"], ["apply"], ["build-plugin", "--fast"], ["path", "home"]):
        done = run(command, *wrong)
        assert done.code == 2 and "usage: " in done.err, wrong
    listed = succeed(command, "--help")
    for verb in VERBS:
        assert re.search(rf"^  {verb} +\w", listed, re.M)
        assert "usage: caffe-l1" in succeed(command, verb, "--help")


def test_an_editable_install_shows_its_types_and_finds_its_plugin(source, wheels, new_environment,
                                                                  tmp_path):
    kit = tmp_path / "kit"
    shutil.copytree(source, kit, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    folder = new_environment.make("editable")
    new_environment.install(folder, "protobuf")
    new_environment.install(folder, "--no-deps", "-e", kit)
    # What a type checker sees, which imports nothing: the folders that .pth files name.
    site = next((folder / "lib").glob("python*/site-packages"))
    path = [Path(line) for file in site.glob("*.pth") for line in file.read_text().splitlines()
            if not line.startswith("import ")]
    for module in ("l1_loss", "l1_loss_layer", "l1_loss_net_spec", "l1_loss_plugin"):
        assert [place for place in path if (place / f"{module}-stubs" / "py.typed").exists()
                and (place / f"{module}-stubs" / "__init__.pyi").exists()], module
    assert succeed(folder / "bin" / "caffe-l1", "path").strip() == str(kit / "python_layer")
    default = succeed(folder / "bin" / "python", "-c",
                      "import l1_loss_plugin; print(l1_loss_plugin.default_path())")
    assert default == f"{kit}/python_layer/libl1_loss_plugin.so\n"


def test_nothing_of_it_stays_when_it_is_uninstalled(wheel, new_environment):
    folder = new_environment.make("short")
    new_environment.install(folder, "--no-deps", wheel)
    site = next((folder / "lib").glob("python*/site-packages"))
    succeed(folder / "bin" / "pip", "uninstall", "-q", "-y", "caffe-l1-loss")
    left = [path for path in site.rglob("*") if "l1_loss" in str(path) and path.is_file()]
    assert left == [] and not (folder / "bin" / "caffe-l1").exists()


