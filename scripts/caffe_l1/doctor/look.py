"""Look at the machine: one function for each thing a route may need."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Iterator

from .. import HOME, VERSION
from ..common.errors import KitError, Refused
from ..common.machine import find_cuda, has_header, hdf5_includes
from ..common.packages import PROTOBUF, install, not_on_path, packages_for
from ..common.tree import open_tree
from ..patch.protoc import need_protobuf
from ..plugin import build, installed
from . import ask
from .finding import LACKS, NOTE, OK, Finding
from .sources import lacking, sources

PYTHON_LAYER = HOME / "python_layer"
# What Caffe's own sources include, whichever of its switches are off.
HEADERS = ("boost/shared_ptr.hpp", "glog/logging.h", "gflags/gflags.h",
           "google/protobuf/message.h", "hdf5.h")
NO_PYCAFFE = (f"put the python folder of a built Caffe on PYTHONPATH, {install('python3-caffe')} "
              "on Debian 11, or name the Python that has it with --python")


def look(python: str, root: str | None) -> list[Finding]:
    """All there is to say about this machine and that Python."""
    return [*kit(), *pycaffe(python), *tools(), *protobuf(python), *library(python),
            *checkout(root)]


def kit() -> Iterator[Finding]:
    where = f"{VERSION} in {HOME}, run by {sys.executable}"
    try:
        need_protobuf()
    except Refused as refused:
        yield Finding("kit", LACKS, f"{where}: {refused.problem}", refused.fix)
        return
    import google.protobuf
    yield Finding("kit", OK, f"{where}, protobuf {google.protobuf.__version__}")


# ---- Python ------------------------------------------------------------------

def pycaffe(python: str) -> Iterator[Finding]:
    version = ask.ask(python, ask.VERSION)
    if version.problem:
        yield Finding("pycaffe", LACKS, version.problem, "name another Python with --python")
        return
    answer = ask.ask(python, ask.PYCAFFE)
    found = is_pycaffe(answer, "{} (Python {})".format(*version.value))
    yield found
    if found.state == LACKS:
        return
    types = answer.value["types"]
    if types is None or "Python" in types:
        yield Finding("Python layer", OK, "compiled in" if types else "taken for granted, so old a "
                      "Caffe does not tell")
    else:
        yield Finding("Python layer", LACKS, "this Caffe was built without it",
                      "set WITH_PYTHON_LAYER := 1 in Makefile.config and rebuild, or use the "
                      "plugin")
    yield own_l1_loss(types or [])
    yield layer_module(python)


def is_pycaffe(answer: ask.Answer, python: str) -> Finding:
    if answer.problem:
        return Finding("pycaffe", LACKS, f"{python} cannot import caffe: {answer.problem}",
                       NO_PYCAFFE)
    value = answer.value
    if value["real"]:
        return Finding("pycaffe", OK, f"{value['version']} in {os.path.dirname(value['file'])}, "
                                      f"for {python}")
    if value["file"]:
        return Finding("pycaffe", LACKS, f"the caffe in {os.path.dirname(value['file'])} is not "
                       "Caffe: pip install caffe brings this empty package",
                       f"pip uninstall caffe, then {NO_PYCAFFE}")
    return Finding("pycaffe", LACKS, f"{python} takes the folder {value['folders'][0]} for caffe, "
                   "which is no module", NO_PYCAFFE)


def own_l1_loss(types: list[str]) -> Finding:
    if "L1Loss" in types:
        return Finding("L1Loss", OK, "this Caffe has the layer type")
    return Finding("L1Loss", NOTE, "not a layer type of this Caffe, until it is patched or loads "
                                   "the plugin")


def layer_module(python: str) -> Finding:
    answer = ask.ask(python, ask.LAYER)
    if not answer.problem:
        return Finding("l1_loss_layer", OK, os.path.abspath(answer.value))
    return Finding("l1_loss_layer", LACKS, f"cannot be imported: {answer.problem}",
                   f"export PYTHONPATH={PYTHON_LAYER}:$PYTHONPATH")


# ---- What builds -------------------------------------------------------------

def tools() -> Iterator[Finding]:
    yield tool("compiler", "g++", "-dumpfullversion", "-dumpversion")
    yield tool("make", "make", "--version")
    yield tool("protoc", "protoc", "--version")
    if not shutil.which("g++"):
        return
    missing = [header for header in HEADERS if not any(
        has_header(header, folder) for folder in (hdf5_includes() if "hdf5" in header else [""]))]
    if missing:
        yield Finding("libraries", LACKS, f"to build Caffe, {', '.join(missing)} missing",
                      install(*(packages_for(header)[0] for header in missing)))
    else:
        yield Finding("libraries", OK, "the headers that Caffe is built with")


def tool(name: str, program: str, *version: str) -> Finding:
    path = shutil.which(program)
    if not path:
        return lacking(name, not_on_path(program))
    told = installed.output([program, *version]).split("\n")[0]
    return Finding(name, OK, f"{path}, {told}")


def protobuf(python: str) -> Iterator[Finding]:
    """Whether that Python can read what protoc writes, by having it do so.

    Only a pycaffe that is built needs this: the patch script has its own Python read descriptors
    that protoc makes, and of these all versions can read all.
    """
    answer = ask.ask(python, ask.PROTOBUF)
    if answer.problem:
        yield Finding("protobuf", NOTE, f"{python} has no protobuf package, without which no "
                      f"pycaffe can be imported: {answer.problem}",
                      PROTOBUF)
        return
    if not shutil.which("protoc"):
        yield Finding("protobuf", OK, f"{answer.value} for {python}; there is no protoc to fit it")
        return
    with tempfile.TemporaryDirectory(prefix="l1-loss-doctor-") as scratch:
        try:
            build.protoc(f"-I{build.MESSAGE.parent}", f"--python_out={scratch}",
                         build.MESSAGE.name)
        except Refused as refused:
            yield lacking("protoc", refused)
            return
        read = ask.ask(python, "import l1_loss_parameter_pb2; answer = True", scratch)
    if read.problem:
        yield Finding("protobuf", NOTE, f"{answer.value} for {python} does not fit "
                      f"{build.protoc_version()}, and a pycaffe that is built with both cannot be "
                      f"imported: {read.problem}",
                      "install the protobuf package of protoc's version")
    else:
        yield Finding("protobuf", OK, f"{answer.value} for {python}, reads what protoc writes")


# ---- Caffe, installed and as source ------------------------------------------

def library(python: str) -> Iterator[Finding]:
    try:
        caffe = installed.find(python)
    except KitError as error:
        named = "Caffe's headers" if "headers" in error.problem else "libcaffe"
        yield lacking(named, error)
        return
    yield shared_library(caffe)
    if build.has_l1_loss(caffe):
        yield Finding("L1Loss", OK, f"in {caffe.library}")
    yield cuda(caffe)
    yield headers(caffe)


def shared_library(caffe: installed.Caffe) -> Finding:
    device = "CPU only" if caffe.cpu_only else "with CUDA"
    try:
        if shutil.which("g++"):
            build.need_same_libraries(caffe)
    except Refused as refused:
        return lacking("libcaffe", refused)
    return Finding("libcaffe", OK, f"{caffe.library} ({device})")


def cuda(caffe: installed.Caffe) -> Finding:
    home = find_cuda()
    if caffe.cpu_only:
        return Finding("CUDA", OK, "not needed, this Caffe is CPU only")
    if home:
        return Finding("CUDA", OK, f"nvcc in {home}")
    return Finding("CUDA", LACKS, "this Caffe has CUDA, but nvcc is not on PATH",
                   "put the bin folder of the CUDA toolkit on PATH")


def headers(caffe: installed.Caffe) -> Finding:
    """What the plugin is compiled with, preprocessed as for the plugin."""
    try:
        build.need_tools()
    except Refused:
        return Finding("Caffe's headers", NOTE,
                       f"{caffe.include}, not tried without g++ and protoc")
    with tempfile.TemporaryDirectory(prefix="l1-loss-doctor-") as scratch:
        try:
            build.generate_messages(caffe, Path(scratch))
            build.need_headers(caffe, Path(scratch))
        except Refused as refused:
            return lacking("Caffe's headers", refused)
    return Finding("Caffe's headers", OK, f"{caffe.include}, fit this compiler and protoc")


def checkout(root: str | None) -> Iterator[Finding]:
    if not root:
        yield Finding("checkout", LACKS, "no source of Caffe to patch was named",
                      "name its folder: caffe-l1 doctor CAFFE_ROOT")
        return
    try:
        tree = open_tree(root)
    except KitError as error:
        yield lacking("checkout", error)
    else:
        yield Finding("checkout", OK, root)
        yield from sources(tree)
