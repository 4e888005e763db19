"""The Python layer as one module; tests/test_python_layer.py runs all its nets with it too."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from caffe_l1 import cli, single_file
from environment import REPO

NAME = "digits_python_layers.py"
ALLOWED = {"caffe", "numpy", "collections", "functools", "gc", "itertools", "json", "numbers",
           "operator", "re", "sys", "threading", "warnings"}
TRAIN = """
import sys, caffe
solver = caffe.get_solver("solver.prototxt")
solver.step(50)
print([name for name in sorted(sys.modules) if name.startswith("l1_loss")])
for blobs in solver.net.params.values():
    for blob in blobs:
        print(blob.data.tobytes().hex())
"""


def run(*arguments: object) -> int:
    return cli.main(["single-file", *map(str, arguments)], "caffe-l1", tuple(cli.VERBS))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_imports_nothing_but_caffe_and_numpy(folder):
    assert run("-o", NAME) == 0
    tree = ast.parse(Path(NAME).read_text())
    imported = {name for node in ast.walk(tree) for name in (
        [alias.name for alias in node.names] if isinstance(node, ast.Import) else
        [node.module] if isinstance(node, ast.ImportFrom) else [])}
    assert imported == ALLOWED


def test_no_name_of_one_module_hides_one_of_another(folder):
    names: Counter = Counter()
    for module in single_file.MODULES:
        tree = ast.parse((REPO / "python_layer" / f"{module}.py").read_text())
        names.update({node.name for node in tree.body if hasattr(node, "name")} | {
            target.id for node in tree.body if isinstance(node, ast.Assign)
            for target in node.targets})
    assert [name for name, count in names.items() if count > 1] == []


def test_python_27_reads_it(folder, python27):
    run("-o", NAME)
    subprocess.run([python27, "-c", f"compile(open('{NAME}').read(), '{NAME}', 'exec')"],
                   check=True)


def test_standard_output_gets_the_same(folder, capsys):
    assert run("-o", NAME) == 0
    capsys.readouterr()
    assert run() == 0
    assert capsys.readouterr().out == Path(NAME).read_text()


def train(folder: Path, module: str, path: str) -> list:
    net = (REPO / "prototxt" / "plain_python.prototxt").read_text()
    (folder / "net.prototxt").write_text(net.replace('"l1_loss_layer"', f'"{module}"'))
    solver = (REPO / "prototxt" / "solver.prototxt").read_text()
    (folder / "solver.prototxt").write_text(f"{solver}random_seed: 7\n")
    done = subprocess.run([sys.executable, "-c", TRAIN], cwd=folder, text=True, capture_output=True,
                          env=dict(os.environ, PYTHONPATH=path))
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n", 1)


def test_a_net_is_trained_with_nothing_else_on_the_path(folder):
    """The same to the last bit as by the modules."""
    alone = folder / "alone"
    alone.mkdir()
    assert run("-o", alone / NAME) == 0
    others = os.environ.get("PYTHONPATH", "")  # which may hold the user's own pycaffe
    ours, weights = train(alone, NAME[:-3], others)
    theirs, expected = train(folder, "l1_loss_layer", f"{REPO / 'python_layer'}:{others}")
    assert (ours, theirs) == ("[]", "['l1_loss', 'l1_loss_checks', 'l1_loss_layer']")
    assert weights == expected != ""


def test_a_file_that_holds_something_else_stays(folder, capsys):
    Path(NAME).write_text("mine\n")
    assert run("-o", NAME) == 1
    assert capsys.readouterr().err == (f"{NAME}: is there already, with other content; fix: move "
                                       "it away, or name another with -o\n")
    assert Path(NAME).read_text() == "mine\n"
    assert os.listdir() == [NAME]


def test_a_second_run_has_nothing_to_do(folder, capsys):
    assert [run("-o", NAME), run("-o", NAME)] == [0, 0]
    assert capsys.readouterr().out == f"wrote {NAME}\n{NAME} is there already, nothing to do\n"


@pytest.mark.parametrize(("output", "code", "line"), [
    ("none/layer.py", 1, "none/layer.py: no such file or directory; fix: name another place with "
                         "-o\n"),
    ("", 2, ": Python cannot import a file of this name; fix: -o digits_python_layers.py\n"),
    ("a-b.py", 2, "a-b.py: Python cannot import a file of this name; fix: -o "
                  "digits_python_layers.py\n"),
    ("caffe", 2, "caffe: Python cannot import a file of this name; fix: -o "
                 "digits_python_layers.py\n"),
])
def test_where_no_such_file_can_be_one_line_says_so(folder, capsys, output, code, line):
    assert run("-o", output) == code
    assert capsys.readouterr().err == line.lstrip(": ")
    assert os.listdir() == []
