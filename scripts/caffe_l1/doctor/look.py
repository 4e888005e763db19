"""Look at the machine: one function for each thing a route may need."""

import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Iterator

from .. import HOME, VERSION
from ..common.errors import KitError, Refused
from ..common.machine import compiler, has_header, hdf5_includes
from ..common.packages import install, install_protobuf, need, packages_for
from ..common.tree import PROTO, CaffeTree, open_tree
from ..patch.protoc import need_protobuf
from ..plugin import build, installed
from ..plugin.ask import ask
from ..runtest.build import CONFIG, ask_make
from ..runtest.diagnose import diagnose
from .finding import LACKS, NOTE, OK, Finding, finding, findings, lacking

# What Caffe's own sources include, whichever of its switches are off.
HEADERS = ("boost/shared_ptr.hpp", "glog/logging.h", "gflags/gflags.h",
           "google/protobuf/message.h", "hdf5.h")
# The sources that newer libraries break: Caffe's use of protobuf, and its include of the BLAS.
TRIED = {
    "Caffe's sources": "src/caffe/util/io.cpp",
    "BLAS": "include/caffe/util/mkl_alternate.hpp",
}
NO_PYCAFFE = (f"put the python folder of a built Caffe on PYTHONPATH, {install('python3-caffe')} "
              "on Debian 11, or name the Python that has it with --python")
# Questions to a Python, which may be 2.7.
PYTHON = "import sys; answer = sys.executable, '.'.join(map(str, sys.version_info[:3]))"
PYCAFFE = """
import caffe
answer = {
    'place': (list(getattr(caffe, '__path__', [])) or [caffe.__file__])[0],
    'version': getattr(caffe, '__version__', ''),
    'real': hasattr(caffe, 'Net'),
    'types': list(caffe.layer_type_list()) if hasattr(caffe, 'layer_type_list') else None,
}
"""
LAYER = "import os, l1_loss_layer; answer = os.path.abspath(l1_loss_layer.__file__)"
PROTOBUF = "import google.protobuf, l1_loss_parameter_pb2; answer = google.protobuf.__version__"


def look(python: str, root: "str | None") -> "list[Finding]":
    """All there is to say about this machine and that Python."""
    return [finding("kit", kit), *pycaffe(python), *tools(), *protobuf(python), *library(python),
            *findings("checkout", checkout(root))]


def kit() -> str:
    need_protobuf()
    import google.protobuf
    return (f"{VERSION} in {HOME}, run by {sys.executable}, "
            f"protobuf {google.protobuf.__version__}")


# ---- Python ------------------------------------------------------------------

def pycaffe(python: str) -> Iterator[Finding]:
    name = python
    try:
        name = "{} (Python {})".format(*ask(python, PYTHON))
        caffe = ask(python, PYCAFFE)
    except Refused as refused:
        yield lacking("pycaffe", Refused(refused.problem, refused.fix or NO_PYCAFFE, name))
        return
    if not caffe["real"]:
        yield Finding("pycaffe", LACKS, f"{name} takes {caffe['place']} for caffe, which is not "
                      "Caffe: pip install caffe brings an empty package",
                      f"remove it (pip uninstall caffe, if pip brought it), then {NO_PYCAFFE}")
        return
    yield Finding("pycaffe", OK, f"{caffe['version']} in {caffe['place']}, for {name}")
    yield finding("Python layer", python_layer, caffe["types"])
    if caffe["types"] and "Reduction" not in caffe["types"]:
        yield Finding("Reduction", LACKS, "not a layer type of this Caffe",
                      "take a Caffe of June 2015 or later, or another route")
    if "L1Loss" in (caffe["types"] or []):
        yield Finding("L1Loss", OK, "this Caffe has the layer type")
    else:
        yield Finding("L1Loss", NOTE, "not a layer type of this Caffe, until it is patched or "
                                      "loads the plugin")
    yield finding("l1_loss_layer", ask, python, LAYER,
                  fix=f"export PYTHONPATH={HOME / 'python_layer'}:$PYTHONPATH")


def python_layer(types: "list[str] | None") -> str:
    if types and "Python" not in types:
        raise Refused("this Caffe was built without it", "set WITH_PYTHON_LAYER := 1 in "
                      "Makefile.config and rebuild, or use the plugin")
    return "compiled in" if types else "assumed: this Caffe is too old to list its layers"


# ---- What builds -------------------------------------------------------------

def tools() -> Iterator[Finding]:
    yield finding("compiler", tool, "g++", "-dumpfullversion", "-dumpversion")
    yield finding("make", tool, "make", "--version")
    yield finding("protoc", tool, "protoc", "--version")
    if shutil.which("g++"):
        yield finding("libraries", libraries)


def tool(program: str, *version: str) -> str:
    need(program)
    first = installed.output([program, *version]).split("\n")[0]
    return f"{shutil.which(program)}, {first}"


def libraries() -> str:
    missing = [header for header in HEADERS if not any(
        has_header(header, folder) for folder in (hdf5_includes() if "hdf5" in header else [""]))]
    if missing:
        raise Refused(f"headers that Caffe is built with are missing: {', '.join(missing)}",
                      install(*(packages_for(header)[0] for header in missing)))
    return "the headers that Caffe is built with"


def protobuf(python: str) -> Iterator[Finding]:
    """No route needs it, only a pycaffe that is built here."""
    if shutil.which("protoc"):
        found = finding("protobuf", reads_what_protoc_writes, python)
        yield found if found.state == OK else found._replace(
            state=NOTE, text=f"{python} cannot import a pycaffe that is built here: {found.text}")


def reads_what_protoc_writes(python: str) -> str:
    with tempfile.TemporaryDirectory(prefix="l1-loss-doctor-") as scratch:
        build.protoc(f"-I{build.MESSAGE.parent}", f"--python_out={scratch}", build.MESSAGE.name)
        version = ask(python, PROTOBUF, scratch,
                      fix=f"{install_protobuf(python)}, in the version of protoc")
    return f"{version} for {python}, reads what protoc writes"


# ---- Caffe, installed and as source ------------------------------------------

def library(python: str) -> Iterator[Finding]:
    try:
        caffe = installed.find(python)
    except KitError as error:
        yield lacking("Caffe's headers" if "headers" in error.problem else "libcaffe", error)
        return
    yield finding("libcaffe", shared_library, caffe)
    if caffe.has_l1_loss:
        yield Finding("L1Loss", OK, f"in {caffe.library}")
    yield finding("CUDA", cuda, caffe)
    if can_compile():
        yield finding("Caffe's headers", headers, caffe)


def can_compile() -> bool:
    """Whether both tools are there; if not, the findings about them say so."""
    return bool(shutil.which("g++") and shutil.which("protoc"))


def shared_library(caffe: installed.Caffe) -> str:
    if shutil.which("g++"):
        build.need_same_libraries(caffe)
    return str(caffe)


def cuda(caffe: installed.Caffe) -> str:
    return "not needed, this Caffe is CPU only" if caffe.cpu_only else f"in {build.cuda_home()}"


def headers(caffe: installed.Caffe) -> str:
    """What the plugin is compiled with, preprocessed as for the plugin."""
    with tempfile.TemporaryDirectory(prefix="l1-loss-doctor-") as scratch:
        build.generate_messages(caffe, Path(scratch))
        build.fit_sources(caffe, Path(scratch))
        build.need_headers(caffe, Path(scratch))
    return f"{caffe.include}, fit this compiler and protoc"


def checkout(root: "str | None") -> Iterator[Finding]:
    if not root:
        raise Refused("no source of Caffe to patch was named",
                      "name its folder: caffe-l1 doctor CAFFE_ROOT")
    tree = open_tree(root)
    yield Finding("checkout", OK, root)
    if can_compile():
        yield from findings("Caffe's sources", sources(tree))


def sources(tree: CaffeTree) -> Iterator[Finding]:
    """Whether this machine compiles a checkout, with its caffe.pb.h made as the build makes it."""
    with tempfile.TemporaryDirectory(prefix="l1-loss-doctor-") as scratch:
        folder = Path(scratch, "caffe", "proto")
        folder.mkdir(parents=True)
        proto = tree.path(PROTO)
        build.protoc(f"-I{proto.parent}", f"--cpp_out={folder}", proto.name)
        flags = [f"-I{scratch}", *compiler_flags(tree)]
        for name, file in TRIED.items():
            yield finding(name, try_source, tree, file, flags)


def compiler_flags(tree: CaffeTree) -> "list[str]":
    """Those of the checkout's own Makefile.config, else what a CPU-only build needs."""
    if tree.path(CONFIG).is_file() and tree.path("Makefile").is_file():
        return shlex.split(ask_make(tree.root, "$(COMMON_FLAGS)"))
    return ["-DCPU_ONLY", "-Iinclude", *(f"-I{folder}" for folder in hdf5_includes() if folder)]


def try_source(tree: CaffeTree, file: str, flags: "list[str]") -> str:
    if not tree.path(file).is_file():
        raise Refused("is missing", "restore this file of Caffe's", file)
    # The header of the BLAS calls glog's macros without including it.
    command = [*compiler(), "-fsyntax-only", "-w", "-include", "glog/logging.h", *flags,
               "-x", "c++", file]
    done = subprocess.run(command, cwd=str(tree.root), stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise diagnose(done.stdout.decode("utf-8", "replace"), "", file)
    return f"{file} compiles"
