"""The native layer as a plugin of a stock Caffe that nobody rebuilt."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import l1_loss_plugin
import numpy as np
import pytest
from caffe_l1.common import cuda
from caffe_l1.common.errors import Refused
from caffe_l1.plugin import build, descriptor, installed
from caffe_worker import run_in
from environment import REPO, seeing
from l1_nets import cases, grown, net, relative_error
from param_str_cases import NAMES

BUILD = [sys.executable, str(REPO / "scripts" / "build_plugin.py")]

NET = """
layer { name: "data" type: "DummyData" top: "x" top: "target" dummy_data_param {
  shape { dim: 16 dim: 4 } data_filler { type: "gaussian" }
  shape { dim: 16 dim: 1 } data_filler { type: "constant" value: 3 } } }
layer { name: "fc" type: "InnerProduct" bottom: "x" top: "prediction"
  inner_product_param { num_output: 1 } }
layer { name: "loss" type: "L1Loss" bottom: "prediction" bottom: "target" top: "loss"
  python_param { param_str: '{"reduction": "MEAN"}' } }
"""
FOUND = ("caffe: ", "headers: ")  # what the script says before it builds
SOLVER = """
net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 60 display: 10 snapshot: 0
snapshot_prefix: "net" snapshot_after_train: true random_seed: 1701 solver_mode: CPU
"""


def run(command: list, **kwargs) -> SimpleNamespace:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          **kwargs)
    return SimpleNamespace(code=done.returncode, output=done.stdout)


def in_stock_caffe(script: str, python_path: tuple = (), **environment: str) -> SimpleNamespace:
    """A Python program in a process of its own, since a plugin is never unloaded."""
    return run([sys.executable, "-c", script],
               env=seeing(*python_path, REPO / "python_layer", GLOG_minloglevel="1", **environment))


@pytest.fixture
def training(tmp_path: Path) -> Path:
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    return tmp_path


def test_it_computes_what_the_python_layer_computes(plugin):
    outcome = {route: run_in([REPO / "python_layer"], [
        {"net": net(route, options, inputs), "inputs": [inputs, grown(inputs), inputs]}
        for options, inputs in cases()], str(plugin)) for route in ("python", "plugin")}
    for case, python, native in zip(cases(), outcome["python"], outcome["plugin"]):
        for a, b in zip(python, native):
            for name, kind in (("loss", "data"), ("x", "diff"), ("y", "diff")):
                assert np.isfinite(b[kind][name]).all()
                assert relative_error(a[kind][name], b[kind][name]) <= 1e-6, (case[0], name)


def test_loading_twice_is_fine(plugin):
    done = in_stock_caffe(f"""
import caffe, l1_loss_plugin
assert "L1Loss" not in caffe.layer_type_list()
print([l1_loss_plugin.load({str(plugin)!r}) for _ in range(2)])
print("L1Loss" in caffe.layer_type_list())
""")
    assert done.output.split("\n")[-3:] == ["[True, True]", "True", ""], done.output


def test_a_plugin_that_is_preloaded_is_loaded(plugin, tmp_path):
    (tmp_path / "link.so").symlink_to(plugin)
    for path in (plugin, tmp_path / "link.so"):
        done = in_stock_caffe(f"""
import caffe, l1_loss_plugin
print(l1_loss_plugin.load({str(path)!r}))
""", LD_PRELOAD=str(plugin))
        assert (done.code, done.output) == (0, "True\n")


def test_a_second_plugin_is_not_loaded(plugin, tmp_path):
    shutil.copy2(plugin, tmp_path / "second.so")
    done = in_stock_caffe(f"""
import caffe, l1_loss_plugin
print(l1_loss_plugin.load({str(tmp_path / "second.so")!r}))
""", LD_PRELOAD=str(plugin))
    assert done.code == 0 and done.output.splitlines() == [
        "l1_loss_plugin: another plugin brought L1Loss already, "
        f"{tmp_path}/second.so is not loaded", "False"]


def test_a_plugin_is_loaded_beside_one_for_another_caffe(plugin, tmp_path):
    other = for_another_caffe(plugin, tmp_path / "other.so")
    done = in_stock_caffe(f"""
import caffe, l1_loss_plugin
print(l1_loss_plugin.load({str(plugin)!r}), "L1Loss" in list(caffe.layer_type_list()))
""", LD_PRELOAD=str(other))
    assert done.code == 0 and done.output.endswith("\nTrue True\n"), done.output
    assert f"{other}: this plugin was built for another Caffe" in done.output


def test_a_plugin_that_registers_nothing_is_not_called_loaded(plugin, tmp_path):
    mark = l1_loss_plugin.MARK.search(plugin.read_bytes()).group(0).decode()
    idle = tmp_path / "idle.so"
    subprocess.run(["gcc", "-shared", "-x", "c", "-", "-o", str(idle)], check=True, text=True,
                   input=f'const char l1_loss_plugin_built_for[] = "{mark}";')
    done = in_stock_caffe(f"import caffe, l1_loss_plugin; l1_loss_plugin.load({str(idle)!r})")
    assert done.code == 1
    assert f"{idle}: it is loaded, but this Caffe knows no L1Loss; fix: build" in done.output


def test_a_caffe_with_an_l1_loss_keeps_its_own(plugin, native_caffe):
    done = in_stock_caffe(f"""
import caffe, l1_loss_plugin
print(l1_loss_plugin.load({str(plugin)!r}))
""", (native_caffe,))
    line, answer = done.output.splitlines()
    assert (done.code, answer) == (0, "False")
    assert line.startswith("l1_loss_plugin: this Caffe has an L1Loss layer already, ")
    assert "it reads l1_loss_param and refuses python_param { param_str }" in line
    assert "; fix: scripts/switch_route.py FILE --to native " in line


def test_another_caffe_computes_as_ever_beside_a_preloaded_plugin(plugin, native_caffe, training):
    """Its messages have another layout, which the plugin's copies of Caffe's templates do not."""
    (training / "net.prototxt").write_text(re.sub("python_param {.*?' }", "", NET))
    library = (native_caffe.parent / "build" / "lib").resolve()
    script = """
import caffe
caffe.set_random_seed(1)
net = caffe.Net("net.prototxt", caffe.TRAIN)
net.forward(), net.backward()
print(caffe.__file__, float(net.blobs["loss"].data), abs(net.params["fc"][0].diff).sum())
"""
    alone, beside = (subprocess.run(
        [sys.executable, "-c", script], cwd=str(training), capture_output=True, text=True,
        env=seeing(native_caffe, GLOG_minloglevel="1", **more))
        for more in ({}, {"LD_PRELOAD": str(plugin), "LD_LIBRARY_PATH": str(library)}))
    assert alone.returncode == 0 and f"{native_caffe}/caffe/__init__.py" in alone.stdout
    assert (beside.returncode, beside.stdout) == (0, alone.stdout), beside.stderr
    assert beside.stderr.startswith(f"{plugin}: this plugin was built for another Caffe than ")


def test_it_exports_the_registry_and_its_mark_alone(plugin):
    """Whatever else it exported would replace what another Caffe calls by that name."""
    names = run(["nm", "-DC", "--defined-only", str(plugin)]).output.splitlines()
    registry = "caffe::LayerRegistry<{}>::Registry[abi:cxx11]()::g_registry_"
    assert sorted(line.split(None, 1)[1] for line in names) == sorted([
        "R l1_loss_plugin_built_for",
        *(f"u {guard}{registry.format(dtype)}" for dtype in ("float", "double")
          for guard in ("", "guard variable for "))])


def test_a_caffe_with_an_l1_loss_gets_no_plugin(native_caffe, tmp_path):
    line = failure(["-o", str(tmp_path / "x.so")], CAFFE_ROOT=str(native_caffe.parent))
    assert "this Caffe has an L1Loss layer already, and needs no plugin; fix: " in line


def test_it_trains_in_pycaffe(plugin, training):
    done = in_stock_caffe(f"""
import os, caffe, l1_loss_plugin
l1_loss_plugin.load({str(plugin)!r})
os.chdir({str(training)!r})
solver = caffe.get_solver("solver.prototxt")
solver.step(1)
before = float(solver.net.blobs["loss"].data)
solver.step(59)
print(before, float(solver.net.blobs["loss"].data))
""")
    before, after = map(float, done.output.split("\n")[-2].split())
    assert before > 2 and after < 0.5, done.output


def test_the_command_line_tool_trains_tests_and_times_with_it(plugin, training):
    def caffe(*arguments: str) -> SimpleNamespace:
        return run(["caffe", *arguments], cwd=training,
                   env=dict(os.environ, LD_PRELOAD=str(plugin), GLOG_minloglevel="0"))

    train = caffe("train", "-solver", "solver.prototxt")
    assert train.code == 0, train.output
    losses = [float(loss) for loss in re.findall(r"Iteration \d+.*, loss = (\S+)", train.output)]
    assert losses[0] > 2 and losses[-1] < 0.5, losses
    test = caffe("test", "-model", "net.prototxt", "-weights", "net_iter_60.caffemodel",
                 "-iterations", "5")
    assert test.code == 0 and float(re.findall(r"Loss: (\S+)", test.output)[-1]) < 0.5, test.output
    timing = caffe("time", "-model", "net.prototxt", "-iterations", "2")
    assert timing.code == 0 and re.search(r"loss\s+backward: ", timing.output), timing.output


def test_a_wrong_option_is_one_line_that_lists_the_allowed_ones(plugin, training):
    (training / "net.prototxt").write_text(NET.replace("reduction", "reductoin"))
    done = in_stock_caffe(f"""
import caffe, l1_loss_plugin
l1_loss_plugin.load({str(plugin)!r})
caffe.Net({str(training / "net.prototxt")!r}, caffe.TRAIN)
""")
    line = next(line for line in done.output.splitlines() if "L1Loss layer" in line)
    assert line.endswith('L1Loss layer "loss": unknown option "reductoin"; ' + NAMES)


# ---- Every core ---------------------------------------------------------------

LARGE = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 300 dim: 1001 } } }
layer { name: "y" type: "Input" top: "y" input_param { shape { dim: 300 dim: 1001 } } }
layer { name: "loss" type: "L1Loss" bottom: "x" bottom: "y" top: "loss" loss_weight: 1
  propagate_down: true propagate_down: true }
"""
BITS = """
import hashlib, os, sys, numpy
import caffe, l1_loss_plugin
l1_loss_plugin.load({plugin!r})
net = caffe.Net({net!r}, caffe.TRAIN)
for name in "xy":
    net.blobs[name].data[...] = numpy.random.RandomState(ord(name)).randn(300, 1001)
def bits():
    net.forward(), net.backward()
    return hashlib.sha256(net.blobs["loss"].data.tobytes() + net.blobs["x"].diff.tobytes()
                          + net.blobs["y"].diff.tobytes()).hexdigest()
print(bits())
"""


@pytest.fixture(scope="session")
def plugin_of_one_core(work: Path) -> Path:
    path = work / "plugin_of_one_core.so"
    built = run([*BUILD, "--no-openmp", "-o", str(path)])
    assert built.code == 0, built.output
    return path


def uses_openmp(plugin: Path) -> bool:
    return "libgomp.so" in run(["readelf", "-d", str(plugin)]).output


def test_no_openmp_is_a_plugin_of_one_core_with_the_same_bits(plugin, plugin_of_one_core,
                                                              tmp_path):
    assert uses_openmp(plugin) and not uses_openmp(plugin_of_one_core)
    (tmp_path / "net.prototxt").write_text(LARGE)
    outputs = {in_stock_caffe(BITS.format(plugin=str(path), net=str(tmp_path / "net.prototxt")),
                              OMP_NUM_THREADS=threads).output
               for path, threads in ((plugin_of_one_core, "1"), (plugin, "1"), (plugin, "2"),
                                     (plugin, "3"), (plugin, "8"))}
    assert len(outputs) == 1 and re.match(r"[0-9a-f]{64}\n\Z", outputs.pop())


def test_a_child_that_was_forked_after_a_pass_computes_too(plugin, tmp_path):
    (tmp_path / "net.prototxt").write_text(LARGE)
    script = BITS.format(plugin=str(plugin), net=str(tmp_path / "net.prototxt")) + """
sys.stdout.flush()
if os.fork() == 0:
    print(bits())
    sys.stdout.flush()
    os._exit(0)
os.wait()
"""
    done = run(["timeout", "60", sys.executable, "-c", script],
               env=seeing(REPO / "python_layer", GLOG_minloglevel="1", OMP_NUM_THREADS="3"))
    assert done.code == 0, done.output
    here, child = done.output.split()
    assert here == child


def test_a_compiler_without_openmp(tmp_path):
    (tmp_path / "g++").write_text("#!/bin/sh\ncase \"$*\" in *-fopenmp*) exit 1 ;; esac\n"
                                  'exec /usr/bin/g++ "$@"\n')
    (tmp_path / "g++").chmod(0o755)
    built = run([*BUILD, "-o", str(tmp_path / "x.so")],
                env=dict(os.environ, PATH=f"{tmp_path}:{os.environ['PATH']}"))
    assert built.code == 0, built.output
    assert "\nopenmp: this g++ has none, so the plugin uses one core\n" in built.output
    assert not uses_openmp(tmp_path / "x.so")


# ---- What cannot be loaded is refused before it is ---------------------------

def refusal(path: Path) -> str:
    with pytest.raises(l1_loss_plugin.PluginError) as error:
        l1_loss_plugin.load(str(path))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_plugin(tmp_path):
    assert "none.so: no such file; fix: build" in refusal(tmp_path / "none.so")


def test_a_library_that_is_no_plugin(tmp_path):
    (tmp_path / "other.so").write_bytes(b"\x7fELF" + bytes(1000))
    assert "other.so: this is no L1Loss plugin; fix: " in refusal(tmp_path / "other.so")


def test_a_text_file_and_another_library_are_no_plugins(tmp_path):
    (tmp_path / "text.so").write_text("INPUT(libl1_loss_plugin.so)")
    for path in (tmp_path / "text.so", installed.find().library):
        assert f"{path}: this is no L1Loss plugin; fix: " in refusal(path)


def test_a_folder_is_no_plugin(tmp_path):
    assert f"{tmp_path}: no such file; fix: build the plugin with scripts/" in refusal(tmp_path)


def test_a_plugin_of_another_machine(plugin, tmp_path):
    data = bytearray(plugin.read_bytes())
    data[18] = 0xB7  # the machine an ELF file is for: AArch64
    (tmp_path / "arm.so").write_bytes(data)
    line = refusal(tmp_path / "arm.so")
    assert line.startswith(f"{tmp_path}/arm.so: ") and "; fix: build the plugin again" in line


def test_a_plugin_in_the_empty_package_caffe(plugin, tmp_path):
    (tmp_path / "caffe").mkdir()
    (tmp_path / "caffe" / "__init__.py").write_text("")
    done = in_stock_caffe(f"import l1_loss_plugin; l1_loss_plugin.load({str(plugin)!r})",
                          (tmp_path,))
    line = done.output.splitlines()[-1]
    assert done.code == 1 and "caffe/__init__.py: this is no pycaffe" in line and "; fix: " in line


def test_the_plugin_of_the_environment_is_loaded_by_default(plugin):
    done = in_stock_caffe("import caffe, l1_loss_plugin; print(l1_loss_plugin.load())",
                          L1_LOSS_PLUGIN=str(plugin))
    assert done.output.endswith("True\n"), done.output


def for_another_caffe(plugin: Path, other: Path) -> Path:
    """The plugin with the fingerprint of another Caffe wherever it has its own's."""
    mark = l1_loss_plugin.MARK.search(plugin.read_bytes()).group(1)
    size, checksum = mark.split(b"-")
    other.write_bytes(re.sub(size + b"([-_])" + checksum, size + rb"\g<1>" + b"0" * 8,
                             plugin.read_bytes()))
    return other


def test_a_plugin_for_another_caffe(plugin, tmp_path):
    assert "was built for another Caffe than" in refusal(
        for_another_caffe(plugin, tmp_path / "other.so"))


def test_a_preloaded_plugin_for_another_caffe_says_so_and_does_nothing(plugin, training):
    library = installed.find().library
    other = training / library.name
    other.write_bytes(library.read_bytes() + b"\0")
    environment = dict(os.environ, LD_PRELOAD=str(plugin), LD_LIBRARY_PATH=str(training))
    time = run(["caffe", "time", "-model", "net.prototxt"], cwd=training, env=environment)
    assert f"{plugin}: this plugin was built for another Caffe than {other}" in time.output
    assert "Unknown layer type: L1Loss" in time.output
    assert run(["caffe", "--version"], env=environment).code == 0


# ---- What cannot be built ----------------------------------------------------

def failure(arguments: list, **environment: str) -> str:
    done = run([*BUILD, *arguments], env=dict(os.environ, **environment))
    assert done.code == 1, done.output
    lines = [line for line in done.output.splitlines() if not line.startswith(FOUND)]
    assert len(lines) == 1, done.output
    return lines[0]


def only(folder: Path, *tools: str) -> str:
    """A PATH with these programs alone."""
    for tool in tools:
        (folder / tool).symlink_to(next(path for path in (f"/usr/bin/{tool}", f"/bin/{tool}")
                                        if os.path.exists(path)))
    return str(folder)


@pytest.mark.parametrize("missing, package", [("g++", "g++"), ("protoc", "protobuf-compiler")])
def test_without_a_tool(tmp_path, missing, package):
    tools = {"ldd", "nm", "readelf", "g++", "protoc", "sh", "bash"} - {missing}
    line = failure(["-o", str(tmp_path / "x.so")], PATH=only(tmp_path, *tools))
    assert line == f"{missing} is not on PATH; fix: sudo apt-get install {package}"
    assert not (tmp_path / "x.so").exists()


def test_without_binutils(tmp_path):
    line = failure(["-o", str(tmp_path / "x.so")], PATH=only(tmp_path, "g++", "protoc"))
    assert line in [f"{tool} is not on PATH; fix: sudo apt-get install binutils libc-bin"
                    for tool in ("ldd", "nm")]


def test_into_a_folder_that_is_not_there(tmp_path):
    line = failure(["-o", str(tmp_path / "none" / "x.so")])
    assert line.endswith("none: no such folder; fix: make it first, or name another with -o")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("kept"),
                                  lambda path: path.symlink_to("missing")],
                         ids=["folder", "fifo", "link", "broken link"])
def test_over_what_is_no_ordinary_file(tmp_path, make):
    (tmp_path / "kept").write_text("kept")
    make(tmp_path / "x.so")
    kind = os.lstat(tmp_path / "x.so").st_mode
    line = failure(["-o", str(tmp_path / "x.so")])
    assert line == (f"{tmp_path}/x.so: this is there and no ordinary file; fix: name another with "
                    "-o")
    assert os.lstat(tmp_path / "x.so").st_mode == kind
    assert (tmp_path / "kept").read_text() == "kept" and len(os.listdir(tmp_path)) == 2


def test_over_a_device():
    before = os.lstat("/dev/null")
    assert "/dev/null: this is there and no ordinary file; fix: " in failure(["-o", "/dev/null"])
    assert os.lstat("/dev/null") == before


def test_links_that_were_planted_are_not_followed(tmp_path):
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "x.so.partial").symlink_to("kept")
    (tmp_path / "staged").write_bytes(b"plugin")
    (tmp_path / "staged").chmod(0o755)
    (tmp_path / "x.so").write_text("as it was")
    build.place(tmp_path / "staged", tmp_path / "x.so")
    assert (tmp_path / "x.so").read_bytes() == b"plugin" and os.access(tmp_path / "x.so", os.X_OK)
    assert (tmp_path / "kept").read_text() == "kept"
    assert sorted(os.listdir(tmp_path)) == ["kept", "staged", "x.so", "x.so.partial"]


def test_where_it_cannot_be_put_nothing_is_left(tmp_path):
    (tmp_path / "staged").write_bytes(b"plugin")
    (tmp_path / "x.so").mkdir()
    with pytest.raises(Refused, match=r"x.so: Is a directory; fix: name another place with -o"):
        build.place(tmp_path / "staged", tmp_path / "x.so")
    assert sorted(os.listdir(tmp_path)) == ["staged", "x.so"]


def test_an_empty_name_is_wrong_usage():
    done = run([*BUILD, "-o", ""])
    assert (done.code, done.output) == (2, "-o names no file; fix: -o FILE.so\n")


def test_a_compiler_that_says_what_is_not_utf_8(tmp_path):
    path = protoc_that(tmp_path, 'exec /usr/bin/protoc "$@"')
    (tmp_path / "g++").write_text("#!/bin/sh\nprintf 'caf\\351.h: error: no\\n'; exit 1\n")
    (tmp_path / "g++").chmod(0o755)
    line = failure(["-o", str(tmp_path / "x.so")], PATH=path)
    assert line.startswith("a header is missing: caf\ufffd.h: error: no; fix: ")


def protoc_that(folder: Path, does: str) -> str:
    """A PATH whose first protoc does that with "$@"."""
    (folder / "protoc").write_text(f"#!/bin/sh\n{does}\n")
    (folder / "protoc").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_with_a_protoc_of_protobuf_2(tmp_path):
    path = protoc_that(tmp_path, "echo Unknown flag: --descriptor_set_in; exit 1")
    line = failure(["-o", str(tmp_path / "x.so")], PATH=path)
    assert line.startswith("protoc failed: Unknown flag: --descriptor_set_in; fix: ")
    assert sorted(os.listdir(tmp_path)) == ["protoc"]


@pytest.mark.parametrize("edit, age", [("s/VERSION < 3/VERSION < 9/", "new"),
                                       ("s/[0-9]* < PROTOBUF_MIN/0 < PROTOBUF_MIN/", "old")])
def test_with_a_protoc_that_does_not_fit_the_headers(tmp_path, edit, age):
    # What protoc writes compares the versions itself; here it writes those of another one.
    path = protoc_that(tmp_path, '/usr/bin/protoc "$@" || exit\n'
                       'for a; do case $a in --cpp_out=*) out=${a#*=} ;; esac; done\n'
                       'if [ -n "$out" ]; then '
                       f"find $out -name '*.pb.h' -exec sed -i '{edit}' '{{}}' +; fi")
    line = failure(["-o", str(tmp_path / "x.so")], PATH=path)
    assert re.match(rf"libprotoc \S+ is too {age} for the headers of protobuf; fix: put the ", line)
    assert sorted(os.listdir(tmp_path)) == ["protoc"]


# ---- A Caffe that it cannot match --------------------------------------------

@pytest.fixture
def root(tmp_path) -> Path:
    """A folder that a Caffe was installed into, for CAFFE_ROOT."""
    (tmp_path / "prefix" / "lib").mkdir(parents=True)
    (tmp_path / "prefix" / "include").symlink_to(installed.find().include)
    return tmp_path / "prefix"


def refused(root: Path) -> str:
    line = failure(["-o", str(root / "x.so")], CAFFE_ROOT=str(root))
    assert line.startswith(f"{root}/lib/libcaffe.") and "; fix: " in line
    assert sorted(os.listdir(root)) == ["include", "lib"]
    return line


def test_a_caffe_that_is_only_a_static_library(root):
    subprocess.run(["ar", "rc", str(root / "lib" / "libcaffe.a")], check=True)
    assert "this Caffe has no libcaffe.so: it is linked statically" in refused(root)


def test_a_pycaffe_that_caffe_is_linked_into_statically(tmp_path):
    import _ctypes  # a compiled module that is not linked to libcaffe.so
    (tmp_path / "caffe").mkdir()
    (tmp_path / "caffe" / "__init__.py").write_text(
        "import sys, _ctypes\n_caffe = sys.modules['caffe._caffe'] = _ctypes\n")
    line = failure(["-o", str(tmp_path / "x.so")], PYTHONPATH=str(tmp_path), CAFFE_ROOT="")
    assert line.startswith(f"{_ctypes.__file__}: this Caffe has no libcaffe.so: it is linked stat")


def test_a_caffe_with_the_old_strings_of_the_library(root, caffe_source, tmp_path):
    """A source of Caffe, as a compiler older than GCC 5 would have compiled it."""
    caffe = installed.find()
    build.generate_messages(caffe, tmp_path / "made")
    build.run(["g++", "-D_GLIBCXX_USE_CXX11_ABI=0", "-shared", "-w",
               *build.compiler_flags(caffe, tmp_path / "made"),
               str(caffe_source / "src/caffe/util/insert_splits.cpp"),
               "-o", str(root / "lib" / "libcaffe.so")])
    assert "it was compiled with the old strings of the C++ library" in refused(root)


def test_a_caffe_whose_registry_has_the_name_that_clang_gives_it(root):
    """As far as the length of the name allows."""
    library = installed.find().library.read_bytes()
    (root / "lib" / "libcaffe.so").write_bytes(
        library.replace(b"RegistryB5cxx11EvE11g_registry_\0", b"RegistryEvE11g_registry_B5cxx11\0"))
    assert "its registry of layers does not have the name that g++ gives it" in refused(root)


def test_a_caffe_that_runs_on_another_protobuf(root):
    library = installed.find().library.read_bytes()
    [ours] = re.findall(rb"\0(libprotobuf\.so\.\d\d)\0", library)
    (root / "lib" / "libcaffe.so").write_bytes(library.replace(ours, b"libprotobuf.so.99"))
    assert f"it uses libprotobuf.so.99, but g++ links {ours.decode()}, and a" in refused(root)


def test_a_caffe_without_headers(monkeypatch, tmp_path):
    monkeypatch.setattr(installed, "INCLUDE_FOLDERS", ())
    with pytest.raises(Refused, match="the headers of Caffe are missing; fix: sudo apt-get"):
        installed.find_include(None, tmp_path / "lib" / "libcaffe.so")


def test_a_header_that_caffes_own_include_is_missing(tmp_path):
    """The compiler is told to look nowhere for the system's headers."""
    path = protoc_that(tmp_path, 'exec /usr/bin/protoc "$@"')
    (tmp_path / "g++").write_text('#!/bin/sh\nexec /usr/bin/g++ -nostdinc++ -nostdinc "$@"\n')
    (tmp_path / "g++").chmod(0o755)
    line = failure(["-o", str(tmp_path / "x.so")], PATH=path)
    assert line.startswith("a header is missing: ")
    assert line.endswith("No such file or directory; fix: install the package that holds it")


def test_a_header_of_a_library_is_missing(tmp_path):
    """Whatever the name of the file that includes it: here boost is in that too."""
    (tmp_path / "boost" / "glog").mkdir(parents=True)
    (tmp_path / "boost" / "glog" / "logging.h").write_text("#include <glog/gone.h>\n")
    line = failure(["-o", str(tmp_path / "x.so")], CPATH=str(tmp_path / "boost"))
    assert line.endswith("glog/gone.h: No such file or directory; "
                         "fix: sudo apt-get install libgoogle-glog-dev")


def test_no_caffe_at_all(monkeypatch):
    monkeypatch.setattr(installed, "LIBRARY_FOLDERS", ())
    with pytest.raises(Refused, match="no libcaffe.so is installed here; fix: sudo apt-get inst"):
        installed.find_library(None, "")


# ---- Which Caffe it is for ---------------------------------------------------

def test_caffe_root_may_be_where_caffe_was_installed(root):
    shutil.copy2(str(installed.find().library), str(root / "lib" / "libcaffe.so.1.0.0"))
    (root / "lib" / "libcaffe.so").symlink_to("libcaffe.so.1.0.0")
    built = run([*BUILD, "-o", str(root / "x.so")], env=dict(os.environ, CAFFE_ROOT=str(root)))
    assert built.code == 0, built.output
    said, headers, ended = built.output.splitlines()
    assert said == f"caffe: {root}/lib/libcaffe.so.1.0.0 (CPU only)"
    assert headers == f"headers: {root}/include"
    assert re.fullmatch(rf"built {root}/x.so in [\d.]+ s", ended)


def with_library(root: Path, pattern: bytes, other: bytes) -> None:
    """The stock library with other names in its messages."""
    library = installed.find().library
    (root / "lib" / library.name).write_bytes(re.sub(pattern, other, library.read_bytes()))
    (root / "lib" / "libcaffe.so").symlink_to(library.name)


def test_a_caffe_of_2015_gets_a_plugin_that_is_fitted_to_it(root, training):
    """One header for all losses, and a LossParameter without the normalization of today."""
    with_library(root, rb"(?<=[\x0d\x11.])([Nn])ormalization", rb"\1ormalisation")
    caffe = root / "include" / "caffe"
    caffe.parent.unlink()
    shutil.copytree(str(installed.find().include / "caffe"), str(caffe))
    nested = (caffe / "layers" / "loss_layer.hpp").read_text()
    (caffe / "loss_layers.hpp").write_text(
        nested + '__attribute__((used)) static const char kFlat[] = "from loss_layers.hpp";\n')
    shutil.rmtree(str(caffe / "layers"))
    built = run([*BUILD, "-o", str(training / "x.so")], env=dict(os.environ, CAFFE_ROOT=str(root)))
    assert built.code == 0, built.output
    assert b"from loss_layers.hpp" in (training / "x.so").read_bytes()
    done = run(["caffe", "train", "-solver", "solver.prototxt"], cwd=training, env=dict(
        os.environ, LD_LIBRARY_PATH=str(root / "lib"), LD_PRELOAD=str(training / "x.so"),
        GLOG_minloglevel="0"))
    losses = [float(loss) for loss in re.findall(r"Iteration \d+.*, loss = ([\d.]+)", done.output)]
    assert done.code == 0 and losses[0] > 2 and losses[-1] < 0.5, done.output


def test_a_caffe_whose_python_param_has_no_options(root):
    with_library(root, rb"(?<=\x0a\x09)param_str", rb"param_txt")
    line = failure(["-o", str(root / "x.so")], CAFFE_ROOT=str(root))
    assert line.startswith(f"{root}/include: python_param has no param_str in this Caffe, and the ")
    assert not (root / "x.so").exists()


def test_programs_without_caffe_run_beside_a_plugin_for_one_in_a_folder_of_its_own(root, training):
    """The stock library and tool under a name that the loader finds nowhere by itself."""
    library, tool = installed.find().library, Path(shutil.which("caffe")).resolve()
    mine = (library.name[:-1] + "7").encode()
    (root / "lib" / mine.decode()).write_bytes(
        library.read_bytes().replace(library.name.encode() + b"\0", mine + b"\0"))
    (root / "lib" / "libcaffe.so").symlink_to(mine.decode())
    (root / "caffe").write_bytes(
        tool.read_bytes().replace(library.name.encode() + b"\0", mine + b"\0"))
    (root / "caffe").chmod(0o755)
    built = run([*BUILD, "-o", str(training / "x.so")], env=dict(os.environ, CAFFE_ROOT=str(root)))
    assert built.code == 0, built.output
    done = run(["sh", "-c", f"ls net.prototxt && LD_LIBRARY_PATH={root}/lib {root}/caffe time "
                            "-model net.prototxt -iterations 2"], cwd=training,
               env=dict(os.environ, LD_PRELOAD=str(training / "x.so"), GLOG_minloglevel="0"))
    assert done.code == 0 and done.output.startswith("net.prototxt\n"), done.output
    assert re.search(r"loss\s+backward: ", done.output), done.output


def test_a_caffe_of_the_system_is_not_recorded(plugin):
    assert "PATH" not in run(["readelf", "-d", str(plugin)]).output


def test_a_checkout_built_by_make_is_found(native_caffe):
    library = installed.find_library(str(native_caffe.parent), "")
    assert library == (native_caffe.parent / ".build_release/lib/libcaffe.so").resolve()
    include = installed.find_include(str(native_caffe.parent), library)
    assert include == native_caffe.parent.resolve() / "include"


def test_caffe_proto_is_read_out_of_the_library():
    from caffe.proto import caffe_pb2
    from google.protobuf.descriptor_pb2 import FileDescriptorProto
    name, data = descriptor.descriptor_in(installed.find().library)
    held = FileDescriptorProto.FromString(data)
    of_pycaffe = FileDescriptorProto.FromString(caffe_pb2.DESCRIPTOR.serialized_pb)
    assert name == held.name and held.name.endswith("caffe.proto")
    held.name = of_pycaffe.name  # make and CMake call protoc in different folders
    assert held == of_pycaffe


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 16384, 2**31])
def test_varints_are_those_of_protobuf(number):
    from google.protobuf.internal.encoder import _VarintBytes
    assert descriptor.varint(b"x" + _VarintBytes(number), 1) == (number, 1 + len(
        _VarintBytes(number)))


@pytest.mark.parametrize("size", [0, 127, 128, 16384, 1 << 21, (1 << 24) + 5])
def test_a_descriptor_of_any_size_becomes_a_set(size):
    from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
    file = FileDescriptorProto(name="n" * size)
    made = FileDescriptorSet.FromString(descriptor.descriptor_set(file.SerializeToString()))
    assert made == FileDescriptorSet(file=[file])


def test_a_library_without_caffe_proto(tmp_path):
    (tmp_path / "libcaffe.so").write_bytes(b"\x7fELF caffe.proto")
    with pytest.raises(Refused, match="libcaffe.so: it does not hold caffe.proto, .*; fix: use a "):
        descriptor.descriptor_in(tmp_path / "libcaffe.so")


def test_a_pycaffe_of_another_python_is_asked(tmp_path):
    line = failure(["-o", str(tmp_path / "x.so"), "--python", "/nowhere/python"])
    assert line == "/nowhere/python: No such file or directory; fix: name a Python with --python"


# ---- A Caffe with CUDA -------------------------------------------------------

needs_nvcc = pytest.mark.parametrize(
    "nvcc", [f"{cuda.find_cuda()}/bin/nvcc"] if cuda.find_cuda() else [])


def test_nvcc_compiles_for_the_gpus_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "cuda_architectures", lambda: ["61", "75"])
    monkeypatch.setattr(build, "cuda_home", lambda: "/nowhere/cuda")
    assert build.nvcc_command(["-O2", "-fPIC", "-Iinclude"], tmp_path) == [
        "/nowhere/cuda/bin/nvcc", "-gencode=arch=compute_61,code=sm_61",
        "-gencode=arch=compute_75,code=sm_75", "-O2", "-Xcompiler=-fPIC", "-Iinclude", "-c",
        str(tmp_path / "src/caffe/layers/l1_loss_layer.cu"), "-o", str(tmp_path / "gpu.o")]


def test_a_caffe_with_cuda_needs_nvcc(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "find_cuda", lambda: None)
    with pytest.raises(Refused, match="this Caffe has CUDA, but nvcc is not on PATH; fix: put "):
        build.build(installed.find()._replace(cpu_only=False), tmp_path / "x.so")
    assert os.listdir(tmp_path) == []


@needs_nvcc
def test_nvcc_builds_the_plugin_of_a_caffe_with_cuda(nvcc, tmp_path, monkeypatch):
    """For stock Caffe, which exports all that the GPU twin calls, taken for one with CUDA."""
    # cuBLAS's and cuRAND's headers, which Caffe's own include; scripts/test.sh fetches them
    monkeypatch.setenv("CPATH", os.path.join(os.environ["CAFFE_L1_WORK"], "cuda_include"))
    build.build(installed.find()._replace(cpu_only=False), tmp_path / "gpu.so")
    names = run(["nm", "-C", str(tmp_path / "gpu.so")]).output
    for dtype in ("float", "double"):
        for method in ("Forward_gpu", "Backward_gpu", "Forward_cpu"):
            name = rf"caffe::L1LossLayerPlugin<{dtype}>::{method}\("
            assert re.search(rf"^\w+ t {name}", names, re.M), name
    assert "libcudart" in run(["ldd", str(tmp_path / "gpu.so")]).output


@needs_nvcc
def test_a_caffe_with_cuda_is_recognised(nvcc, root, caffe_source, tmp_path, monkeypatch):
    """By a source of Caffe's own that only nvcc compiles."""
    caffe = installed.find()
    build.generate_messages(caffe, tmp_path / "made")
    headers = os.path.join(os.environ["CAFFE_L1_WORK"], "cuda_include")
    source = caffe_source / "src/caffe/util/math_functions.cu"
    build.run([nvcc, "-std=c++17", "-shared", "-w", "-Xcompiler=-fPIC", f"-I{tmp_path / 'made'}",
               f"-I{headers}", f"-I{caffe.include}", str(source),
               "-o", str(root / "lib" / "libcaffe.so")])
    monkeypatch.setenv("CAFFE_ROOT", str(root))
    found = installed.find()
    assert found.library == root / "lib" / "libcaffe.so" and not found.cpu_only
    assert caffe.cpu_only
