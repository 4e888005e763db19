"""What the documents tell readers to type works as it stands there, in a fresh shell.

~/caffe is the tree that the tests of the native layer have patched and built: a snippet about it
finds some of its work done.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from environment import REPO
from patch_support import make_checkout

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = ["README.md", "README.zh-CN.md", "scripts/README.md", "caffe_patch/README.md",
         "python_layer/README.md", "python_layer/RECIPES.md", "prototxt/README.md"]
# What cannot be run here, by its first words, and why.
NOT_RUN = {
    "scripts/demo.sh": "it makes the sandbox that this runs in; CI runs scripts/test.sh itself",
    "pipx install": "it installs from the network; test_package.py installs from wheels at hand",
    "export PYTHONPATH=$(caffe-l1": "it needs that installed command; test_package.py asks it",
    "ok     pycaffe": "it is what the doctor prints; test_doctor.py runs it",
    "scripts/apply_patch.py check ~/caffe      #": "runtest without --quick compiles all of "
        "Caffe's own tests, for half an hour; the README's has --quick, test_runtest.py all verbs",
    "scripts/apply_patch.py check caffe >": "test_pythons.py does it, and the patch with it",
    "patch -p1 <": "the same",
    "scripts/host_packages.sh": "it makes the sandbox; test_shell.py has a mirror of its own",
    "scripts/gpu_bundle.sh": "it wants a GPU; test_gpu_bundle.py builds and runs it",
    "COMMON_FLAGS +=": "test_cuda_compiles.py compiles Caffe with what a written config says",
    "make -j$(nproc) && make": "make test compiles all of Caffe's own tests, for half an hour",
}
# What the page has told to do before, by the first words of the snippet.
BEFORE = {
    "make -j$(nproc) tools": "cd ~/caffe",
    "scripts/switch_route.py": "cp prototxt/plain_python.prototxt net.prototxt",
    "export PYTHONPATH=$PWD/python_layer:$PYTHONPATH    #":
        "cp prototxt/plain_python.prototxt net.prototxt",
    "from l1_loss_net_spec": """
import caffe
n = caffe.NetSpec()
n.prediction, n.target = caffe.layers.DummyData(shape=[dict(dim=[2, 3])] * 2, ntop=2)
""",
    "import caffe, l1_loss_plugin": """
import subprocess
subprocess.check_call(["scripts/build_plugin.py", "-o", "libl1_loss_plugin.so"])
""",
}
NET = """
layer { name: "data" type: "DummyData" top: "prediction" top: "target" dummy_data_param {
  shape { dim: 2 dim: 3 } data_filler { type: "constant" value: 4 }
  shape { dim: 2 dim: 3 } data_filler { type: "constant" value: 1 } } }
"""
LOSS = "import caffe, sys; print(float(caffe.Net(sys.argv[1], caffe.TRAIN).forward()['loss']))"


def of_page(page: str) -> list:
    """The language and the text of each snippet."""
    return FENCE.findall((REPO / page).read_text(encoding="utf-8"))


def by_first_words(table: dict, text: str) -> str:
    """The entry for this snippet; of several, the one with the most words."""
    return table.get(max((words for words in table if text.startswith(words)), key=len,
                         default=""), "")


def to_run() -> list:
    return [pytest.param(language, text, id=f"{page}:{number}") for page in PAGES
            for number, (language, text) in enumerate(of_page(page), 1)
            if not by_first_words(NOT_RUN, text)]


@pytest.fixture(scope="module")
def kit(tmp_path_factory) -> Path:
    """A checkout of this repository, which snippets may write to."""
    folder = tmp_path_factory.mktemp("snippets") / "kit"
    for name in ("caffe_patch", "prototxt", "python_layer", "scripts"):
        shutil.copytree(str(REPO / name), str(folder / name),
                        ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    return folder


@pytest.fixture
def caffe_of(request):
    """Make the ~/caffe that a snippet speaks of: one that may be built, or a fresh one."""
    def make(text: str, place: Path) -> None:
        if "--type-name" in text:
            make_checkout(place)
        elif "~/caffe" in text + by_first_words(BEFORE, text):
            place.symlink_to(request.getfixturevalue("native_caffe").parent)
    return make


def fresh(home: Path, **variables: str) -> dict:
    """The environment of a new login, where only a Caffe of the user's own is set up."""
    own = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH", "LD_LIBRARY_PATH")
           if name in os.environ}
    return dict(own, HOME=str(home), **variables)


def assert_reaches_compiler_and_linker(lines: str, caffe: Path, config: Path) -> None:
    config.write_text((caffe / "Makefile.config").read_text() + lines)
    command = ["make", "-n", "-W", "src/caffe/blob.cpp", f"CONFIG_FILE={config}", "lib"]
    done = subprocess.run(command, cwd=str(caffe), stdout=subprocess.PIPE, text=True, check=True)
    [compiled] = re.findall(r"g\+\+ src/caffe/blob\.cpp .*", done.stdout)
    [linked] = re.findall(r"g\+\+ -shared .*", done.stdout)
    assert all("-fopenmp" in line for line in (compiled, linked))


@pytest.mark.parametrize("language, text", to_run())
def test_a_snippet_works_as_it_stands(language, text, kit, caffe_of, tmp_path, request):
    if text.startswith("layer {"):
        assert loss_of(text, kit, tmp_path, request) == 3
        return
    if language == "make":
        assert_reaches_compiler_and_linker(text, request.getfixturevalue("native_caffe").parent,
                                           tmp_path / "Makefile.config")
        return
    caffe_of(text, tmp_path / "caffe")
    script = f"{by_first_words(BEFORE, text)}\n{text}"
    if language == "python":
        command, variables = [sys.executable, "-c", script], {"PYTHONPATH": path(kit)}
    else:
        assert language == "sh", "say what to do with it: a row in NOT_RUN"
        command, variables = ["bash", "-ec", script], {}
    done = subprocess.run(command, cwd=str(kit), env=fresh(tmp_path, **variables), text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout[-3000:]
    if "solver.prototxt" in text:
        losses = re.findall(r"Iteration \d+.*, loss = (\S+)", done.stdout)
        assert 0 < float(losses[-1]) < 0.8 * float(losses[0]), done.stdout[-3000:]


def path(*folders: Path) -> str:
    """The modules of the kit, and the pycaffe that is there or is given first."""
    own = [str(folder / "python_layer") for folder in folders]
    return os.pathsep.join(filter(None, [*own, os.environ.get("PYTHONPATH", "")]))


def loss_of(layer: str, kit: Path, folder: Path, request) -> float:
    """Computed in the Caffe that the layer is for."""
    net = folder / "net.prototxt"
    net.write_text(NET + layer, encoding="utf-8")
    native = "l1_loss_param" in layer
    caffe = [str(request.getfixturevalue("native_caffe"))] if native else []
    done = subprocess.run([sys.executable, "-c", LOSS, str(net)], stdout=subprocess.PIPE, text=True,
                          env=fresh(folder, PYTHONPATH=os.pathsep.join([*caffe, path(kit)]),
                                    GLOG_minloglevel="2"))
    return float(done.stdout)


def test_what_is_not_run_and_what_comes_before_is_in_a_page():
    texts = [text for page in PAGES for _, text in of_page(page)]
    for words in [*NOT_RUN, *BEFORE]:
        assert any(text.startswith(words) for text in texts), words


@pytest.mark.parametrize("page", PAGES[:2])
def test_a_quick_start_has_at_most_six_lines(page):
    quick = [text for _, text in of_page(page) if "solver.prototxt" in text]
    assert len(quick) == 3
    assert max(text.count("\n") for text in quick) <= 6
