"""What the doctor says of a stock Caffe, and of machines on which something is missing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from caffe_l1 import VERSION
from caffe_l1.common import packages
from caffe_l1.common.errors import Refused
from caffe_l1.doctor.finding import LACKS, OK, Finding, judge
from caffe_l1.plugin import installed
from environment import REPO, seeing
from patch_support import edit, kit_process, make_checkout

DOCTOR = [sys.executable, str(REPO / "scripts" / "doctor.py")]
PYTHON_LAYER = str(REPO / "python_layer")
NAMES = ["kit", "pycaffe", "Python layer", "L1Loss", "l1_loss_layer", "compiler", "make", "protoc",
         "libraries", "protobuf", "libcaffe", "CUDA", "Caffe's headers", "checkout",
         "Caffe's sources", "BLAS"]
ROUTES = ["stock", "python", "native", "plugin"]


def doctor(*arguments: object, path: str = PYTHON_LAYER, **environment: str) -> SimpleNamespace:
    """The doctor's lines by what they are about, `ok`, `lacks` or `note` and the text."""
    done = subprocess.run([*DOCTOR, *map(str, arguments)], capture_output=True, text=True,
                          env=seeing(path, **environment))
    assert done.stderr == "", done.stderr
    findings, routes = done.stdout.split("\n\n")
    lines = {}
    for line in findings.splitlines():
        state, rest = line.split(None, 1)
        name, text = rest.split(": ", 1)
        lines.setdefault(name, SimpleNamespace(state=state, text=text))
    said = dict(line.split(": ", 1) for line in routes.splitlines())
    return SimpleNamespace(code=done.returncode, lines=lines, routes=said)


def write_module(folder: Path, text: str) -> str:
    """A package caffe of this text; what to put on PYTHONPATH."""
    (folder / "caffe").mkdir()
    (folder / "caffe" / "__init__.py").write_text(text)
    return f"{folder}:{PYTHON_LAYER}"


# ---- A stock Caffe -----------------------------------------------------------

def test_a_stock_caffe_with_everything_goes_every_route(caffe_source):
    said = doctor(caffe_source)
    assert said.code == 0
    assert list(said.lines) == NAMES
    assert {name: line.state for name, line in said.lines.items() if line.state != "ok"} == {
        "L1Loss": "note"}
    assert all("fix: " not in line.text for line in said.lines.values())
    assert {route: text.split(":")[0] for route, text in said.routes.items()} == dict.fromkeys(
        ROUTES, "works")
    assert said.lines["kit"].text.startswith(f"{VERSION} in {REPO}, run by {sys.executable}")
    assert said.lines["l1_loss_layer"].text == f"{PYTHON_LAYER}/l1_loss_layer.py"
    assert "libcaffe.so" in said.lines["libcaffe"].text


def test_what_it_says_of_it_is_true():
    import caffe
    lines = doctor().lines
    assert os.path.dirname(caffe.__file__) in lines["pycaffe"].text
    assert lines["pycaffe"].text.startswith(caffe.__version__)
    assert "Python" in caffe.layer_type_list() and lines["Python layer"].text == "compiled in"
    version = subprocess.run(["protoc", "--version"], capture_output=True, text=True).stdout
    assert version.strip() in lines["protoc"].text


def test_json_says_the_same(caffe_source):
    said = doctor(caffe_source)
    done = subprocess.run([*DOCTOR, "--json", str(caffe_source)], stdout=subprocess.PIPE,
                          env=seeing(PYTHON_LAYER))
    told = json.loads(done.stdout.decode())
    assert [finding["name"] for finding in told["findings"]] == NAMES
    for finding in told["findings"]:
        assert finding["state"] == said.lines[finding["name"]].state
    assert {route["name"]: route["works"] for route in told["routes"]} == dict.fromkeys(
        ROUTES, True)


def test_a_patched_caffe_needs_no_plugin(native_caffe):
    said = doctor(path=f"{native_caffe}:{PYTHON_LAYER}", CAFFE_ROOT=str(native_caffe.parent))
    assert said.code == 0 and said.lines["L1Loss"].state == "ok"
    assert said.routes["native"] == "works: this Caffe has an L1Loss already"
    assert said.routes["plugin"] == "not needed: this Caffe has an L1Loss already"


# ---- What may be missing -----------------------------------------------------

def test_a_broken_pythonpath(tmp_path):
    said = doctor(path=str(tmp_path / "nowhere"))
    line = said.lines["l1_loss_layer"]
    assert line.state == "lacks" and "No module named 'l1_loss_layer'" in line.text
    assert line.text.endswith(f"; fix: export PYTHONPATH={PYTHON_LAYER}:$PYTHONPATH")
    assert said.routes["python"] == "lacks l1_loss_layer"
    assert said.routes["plugin"].startswith("works")


def test_nothing_to_build_with(tmp_path):
    said = doctor(PATH=str(tmp_path))
    for name, program, package in (("compiler", "g++", "g++"), ("make", "make", "make"),
                                   ("protoc", "protoc", "protobuf-compiler")):
        line = said.lines[name]
        assert (line.state, line.text) == (
            "lacks", f"{program} is not on PATH; fix: sudo apt-get install {package}")
    assert said.routes["plugin"].startswith("lacks compiler, protoc")
    assert said.routes["python"] == "works" and said.code == 0


def test_no_route_at_all_is_exit_code_1(tmp_path):
    said = doctor("--python", "/nowhere", path="", PATH=str(tmp_path))
    assert said.code == 1
    assert all(text.startswith("lacks ") for text in said.routes.values())
    assert said.routes["stock"] == "lacks Caffe: neither pycaffe nor libcaffe was found"


def test_where_nothing_can_be_built_or_imported_the_stock_route_works(tmp_path):
    """A Caffe without Python layers, and no compiler."""
    types = "Net = __version__ = ''; layer_type_list = lambda: ['Reduction']"
    said = doctor(path=write_module(tmp_path, types).split(":")[0], PATH=str(tmp_path / "none"))
    assert said.code == 0 and said.routes["stock"] == (
        "works: switch-route writes Caffe's own layers, nothing is installed")
    assert all(said.routes[route].startswith("lacks ") for route in ROUTES if route != "stock")


def test_a_caffe_from_before_reduction(tmp_path):
    """Which came in June 2015."""
    said = doctor(path=write_module(
        tmp_path, "Net = __version__ = ''; layer_type_list = lambda: ['Python', 'Eltwise']"))
    assert said.lines["Reduction"].state == "lacks" and said.routes["stock"] == "lacks Reduction"


def test_the_empty_package_that_pip_install_caffe_brings(tmp_path):
    said = doctor(path=write_module(tmp_path, ""))
    line = said.lines["pycaffe"]
    assert line.state == "lacks" and f"{tmp_path}/caffe for caffe, which is not Caffe" in line.text
    assert "; fix: remove it (pip uninstall caffe, if pip brought it), then " in line.text
    assert said.routes["python"] == "lacks pycaffe" and "Python layer" not in said.lines


def test_a_folder_named_caffe_without_a_module(tmp_path):
    """For a Python without a Caffe among its packages, which would go before the folder."""
    (tmp_path / "caffe").mkdir()
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    said = doctor("--python", python, path=str(tmp_path))
    line = said.lines["pycaffe"]
    assert line.state == "lacks" and f"{tmp_path}/caffe for caffe, which is not Caffe" in line.text
    assert said.routes["python"] == "lacks pycaffe"


def test_a_caffe_without_python_layers(tmp_path):
    said = doctor(path=write_module(
        tmp_path, "__version__ = '1.0'\nNet = 0\ndef layer_type_list(): return ['Data']"))
    line = said.lines["Python layer"]
    assert line.state == "lacks" and "set WITH_PYTHON_LAYER := 1" in line.text
    assert said.routes["python"].startswith("lacks Python layer")


@pytest.mark.parametrize("death, told", [
    ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "was ended by SIGSEGV"),
    ("import os; os.abort()", "was ended by SIGABRT"),
    ("import os; os._exit(0)", "ended with exit code 0"),
    ("raise ImportError('libboost.so: cannot open')", "ImportError: libboost.so: cannot open"),
    ("import ctypes; ctypes.string_at(0)", "was ended by SIGSEGV"),
    ("import atexit, os; Net = __version__ = ''; atexit.register(os.abort)", "by SIGABRT"),
])
def test_a_caffe_that_dies_when_it_is_imported(tmp_path, death, told):
    said = doctor(path=write_module(tmp_path, death))
    assert said.lines["pycaffe"].state == "lacks" and told in said.lines["pycaffe"].text
    assert said.routes["python"] == "lacks pycaffe"
    assert said.lines["libcaffe"].state == "ok"  # the system's, and the plugin of its own tool
    assert said.routes["plugin"].startswith("works")


def wrapped_protoc(folder: Path, after: str) -> str:
    """The real protoc, and then a command upon what it wrote; a PATH on which it is first."""
    (folder / "protoc").write_text(
        '#!/bin/sh\n/usr/bin/protoc "$@" || exit\n'
        'for a; do case $a in --*_out=*) out=${a#*=} ;; esac; done\n'
        f'[ -z "$out" ] || {after}\n')
    (folder / "protoc").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_a_protoc_that_the_protobuf_package_cannot_read(tmp_path):
    line = 'from google.protobuf.internal import builder_of_tomorrow'
    said = doctor(PATH=wrapped_protoc(tmp_path, f"find $out -name '*_pb2.py' "
                                         f"-exec sed -i '$a {line}' '{{}}' +"))
    protobuf = said.lines["protobuf"]
    assert protobuf.state == "note"
    assert " cannot import a pycaffe that is built here: " in protobuf.text
    assert "builder_of_tomorrow" in protobuf.text
    assert all(text.startswith("works") for text in said.routes.values())


def test_a_pair_of_protoc_and_protobuf_that_only_a_pycaffe_needs_does_not_end_the_native_route(
    tmp_path, caffe_source
):
    """With that pair apply writes the layer, and everything but a pycaffe is built."""
    tree = make_checkout(tmp_path / "caffe")
    path = wrapped_protoc(tmp_path, "find $out -name '*_pb2.py' -exec sed -i '$a raise OSError' "
                                    "'{}' +")
    assert doctor(tree, PATH=path).routes["native"].startswith("works: ")
    assert doctor("--python", "/nowhere", tree).routes["native"].startswith("works: ")
    assert kit_process("apply", tree, env=dict(os.environ, PATH=path)).code == 0


def test_a_protobuf_package_that_does_not_work_with_this_python():
    said = doctor(PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION_VERSION="1")
    line = said.lines["kit"]
    assert line.state == "lacks"
    assert "Python's protobuf package cannot be used: ValueError: unsupported PROTOCOL" in line.text
    assert "kit" in said.routes["native"]


@pytest.mark.parametrize("edit, age", [("VERSION < 3", "new"), ("< PROTOBUF_MIN", "old")])
def test_a_protoc_that_does_not_fit_the_headers(tmp_path, edit, age):
    worse = {"new": "VERSION < 9", "old": "< 9000000 || 0 < PROTOBUF_MIN"}[age]
    after = f"find $out -name '*.pb.h' -exec sed -i 's/{edit}/{worse}/' '{{}}' +"
    said = doctor(PATH=wrapped_protoc(tmp_path, after))
    line = said.lines["Caffe's headers"]
    assert line.state == "lacks" and f"is too {age} for the headers of protobuf" in line.text
    assert said.routes["plugin"] == "lacks Caffe's headers"


def test_a_caffe_that_runs_on_another_protobuf(tmp_path):
    caffe = installed.find()
    library = caffe.library.read_bytes()
    [ours] = re.findall(rb"\0(libprotobuf\.so\.\d\d)\0", library)
    (tmp_path / "include").symlink_to(caffe.include)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libcaffe.so").write_bytes(library.replace(ours, b"libprotobuf.so.99"))
    said = doctor(CAFFE_ROOT=str(tmp_path))
    assert "it uses libprotobuf.so.99, but g++ links" in said.lines["libcaffe"].text
    assert said.routes["plugin"] == "lacks libcaffe"


def test_a_checkout_that_is_none(tmp_path):
    assert "not a Caffe source checkout" in doctor(tmp_path).lines["checkout"].text
    line = doctor(CAFFE_ROOT="").lines["checkout"]
    assert line.text.endswith("; fix: name its folder: caffe-l1 doctor CAFFE_ROOT")


@pytest.fixture
def tree(caffe_source, tmp_path) -> Path:
    """A checkout whose sources a test may spoil."""
    return make_checkout(tmp_path / "tree")


def test_a_checkout_that_this_protobuf_does_not_compile(tree):
    """With an argument too many here, as the two that upstream passes are since protobuf 3.21."""
    io = tree / "src/caffe/util/io.cpp"
    call = "SetTotalBytesLimit(kProtoReadBytesLimit, "
    number = 1 + io.read_text().split(call)[0].count("\n")
    edit(io, call.encode(), f"{call}0, ".encode())
    said = doctor(tree)
    line = said.lines["Caffe's sources"]
    assert (line.state, line.text) == (
        "lacks",
        f"src/caffe/util/io.cpp:{number}: SetTotalBytesLimit takes one argument in this protobuf; "
        "fix: remove the second argument, 536870912, there")
    assert said.routes["native"] == "lacks Caffe's sources" and said.lines["BLAS"].state == "ok"


@pytest.mark.parametrize("name, file", [("Caffe's sources", "src/caffe/util/io.cpp"),
                                        ("BLAS", "include/caffe/util/mkl_alternate.hpp")])
def test_a_checkout_that_lost_a_file(tree, name, file):
    (tree / file).unlink()
    said = doctor(tree)
    line = said.lines[name]
    assert (line.state, line.text) == (
        "lacks", f"{file}: is missing; fix: restore this file of Caffe's")
    assert name in said.routes["native"]


def test_a_checkout_whose_blas_is_not_here(tree):
    edit(tree / "include/caffe/util/mkl_alternate.hpp", b"<cblas.h>", b"<none/cblas.h>")
    said = doctor(tree)
    assert said.lines["BLAS"].text == (
        "include/caffe/util/mkl_alternate.hpp:14: error: none/cblas.h: No such file or directory; "
        "fix: sudo apt-get install libopenblas-dev (and BLAS := open)")
    assert "BLAS" in said.routes["native"]


def test_a_checkout_is_tried_as_its_own_makefile_config_has_it(tree):
    (tree / "Makefile.config").write_text(
        "CPU_ONLY := 1\nBLAS := open\nUSE_OPENCV := 0\nINCLUDE_DIRS := /usr/include/hdf5/serial\n"
        "BLAS_INCLUDE := /none\nCUSTOM_CXX := g++\n")
    assert doctor(tree).routes["native"].startswith("works")
    (tree / "Makefile.config").write_text("INCLUDE_DIRS := /usr/include/hdf5/serial\n")
    line = doctor(tree).lines["Caffe's sources"]
    assert line.state == "lacks" and "No such file or directory; fix: sudo apt-get" in line.text


def test_a_python_that_is_not_there():
    said = doctor("--python", "/nowhere/python")
    assert said.lines["pycaffe"].text.startswith("/nowhere/python: No such file or directory; fix:")
    assert said.routes["python"] == "lacks pycaffe"


def test_another_python_is_asked_and_not_this_one(python27):
    said = doctor("--python", python27)
    assert "(Python 2.7." in said.lines["pycaffe"].text
    assert "ImportError: No module named caffe" in said.lines["pycaffe"].text


def test_one_table_knows_the_packages_and_spells_the_command_that_installs_them():
    files = [*REPO.glob("scripts/**/*.py"), *REPO.glob("python_layer/**/*.py")]
    assert [file.name for file in files if "apt-get" in file.read_text("utf-8")] == ["packages.py"]


@pytest.mark.parametrize("program, package", [
    ("g++", "g++"), ("protoc", "protobuf-compiler"), ("make", "make"), ("cmake", "cmake"),
    ("nm", "binutils libc-bin"), ("nvcc", "nvidia-cuda-toolkit")])
def test_the_package_of_a_program_that_is_not_on_path(program, package, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Refused) as refused:
        packages.need("/bin/sh", program)
    assert str(refused.value) == (
        f"{program} is not on PATH; fix: sudo apt-get install {package}")


def test_wrong_usage():
    assert subprocess.run([*DOCTOR, "--fix-all"], stderr=subprocess.PIPE).returncode == 2


# ---- From findings to routes -------------------------------------------------

@pytest.mark.parametrize("route, name", [
    ("stock", "Reduction"),
    ("python", "pycaffe"), ("python", "Python layer"), ("python", "l1_loss_layer"),
    ("native", "kit"), ("native", "checkout"), ("native", "make"), ("native", "libraries"),
    ("native", "Caffe's sources"), ("native", "BLAS"),
    ("plugin", "libcaffe"), ("plugin", "CUDA"), ("plugin", "Caffe's headers")])
def test_each_need_ends_its_own_route_alone(route, name):
    routes = {r.name: r for r in judge([Finding(n, LACKS if n == name else OK, "")
                                        for n in [*NAMES, "Reduction"] if n != "L1Loss"])}
    assert [r for r in ROUTES if not routes[r].works] == [route]
    assert routes[route].lacks == [name] and routes[route].text == f"lacks {name}"
