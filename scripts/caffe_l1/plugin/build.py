"""Compile the native layer's sources against an installed Caffe."""

import os
import re
import stat
import subprocess
import tempfile
import zlib
from fnmatch import fnmatch
from pathlib import Path

from .. import HOME
from ..common.cuda import cuda_architectures, find_cuda, gencodes
from ..common.errors import BuildFailed, Refused
from ..common.folder import write_file
from ..common.packages import install, need, packages_for
from ..common.tree import tree_of
from ..patch.naming import Naming
from ..patch.payload import source_files
from .descriptor import descriptor_in, descriptor_set
from .installed import LIBRARY_FOLDERS, Caffe, completed, output, symbols

PATCH = HOME / "caffe_patch"
OWN = Path(__file__).resolve().parent  # what is in no patched tree
OWN_SOURCES = [OWN / name for name in ("fits.cpp", "param_str.cpp", "register.cpp")]
EXPORTS = OWN / "exports.map"
LAYER = Path("src", "caffe", "layers", "l1_loss_layer.cpp")
MESSAGE = PATCH / "src" / "caffe" / "proto" / "l1_loss_parameter.proto"
# A call of the C++ library's new string, in what a C++11 Caffe exports.
NEW_STRINGS = "__cxx11"
# The registry of layers, by the name that g++ gives it; clang's goes on with B5cxx11.
REGISTRY = re.compile(r"_ZZN5caffe13LayerRegistryIfE8Registry\w*g_registry_$", re.MULTILINE)
LIBRARIES = ["-lprotobuf", "-lglog", "-lboost_system", "-ldl"]
# A patched Caffe, or a plugin for another, may end up in one process with the plugin: no name of
# ours may be theirs too, and protobuf aborts where two messages or their files share one.
PACKAGE = "l1_loss_plugin"
CLASSES = ("L1LossLayer", "L1LossBroadcast", "L1LossIgnore")


def fingerprint(library: Path) -> str:
    """What the loader, and the plugin itself, compare with the Caffe of their process."""
    data = library.read_bytes()
    return f"{len(data)}-{zlib.crc32(data):08x}"


def package(caffe: Caffe) -> str:
    """The namespace of the message, and the folder of its file, in the plugin for this Caffe."""
    return f"{PACKAGE}_{fingerprint(caffe.library).replace('-', '_')}"


def build(caffe: Caffe, output_file: Path, openmp: bool = True) -> None:
    """Write the plugin, all of it or nothing."""
    need("g++", "protoc")
    if caffe.has_l1_loss:
        raise Refused("this Caffe has an L1Loss layer already, and needs no plugin",
                      'write type: "L1Loss" and l1_loss_param', str(caffe.library))
    need_same_libraries(caffe)
    need_place(output_file)
    with tempfile.TemporaryDirectory(prefix="l1-loss-plugin-") as scratch:
        generate_messages(caffe, Path(scratch))
        fit_sources(caffe, Path(scratch))
        need_headers(caffe, Path(scratch))
        staged = Path(scratch, "plugin.so")
        compile_layer(caffe, Path(scratch), staged, openmp)
        place(staged, output_file)


def build_beside(caffe: Caffe, sources: "list[Path]", output_file: Path) -> None:
    """Write a shared library of other sources, compiled just as the plugin is."""
    with tempfile.TemporaryDirectory(prefix="l1-loss-plugin-") as scratch:
        generate_messages(caffe, Path(scratch))
        link(caffe, [*compiler_flags(caffe, Path(scratch)), *map(str, sources)], output_file)


def need_place(output_file: Path) -> None:
    """A folder that is there, and in it nothing of that name, or a file that may be replaced."""
    folder = output_file.resolve().parent
    if not folder.is_dir():
        raise Refused("no such folder", "make it first, or name another with -o", str(folder))
    if os.path.lexists(output_file) and not stat.S_ISREG(output_file.lstat().st_mode):
        raise Refused("this is there and no ordinary file", "name another with -o",
                      str(output_file))


def need_same_libraries(caffe: Caffe) -> None:
    """What the compiler does not notice and the process dies of."""
    library, exported = str(caffe.library), symbols(caffe.library)
    if NEW_STRINGS not in exported:
        raise Refused("it was compiled with the old strings of the C++ library, and a plugin of "
                      "this compiler has the new ones", "use the compiler that built it", library)
    if not REGISTRY.search(exported):
        raise Refused("its registry of layers does not have the name that g++ gives it, so a "
                      "plugin cannot reach it", "use a Caffe that g++ built, not clang", library)
    theirs = protobuf_in(library, "NEEDED")
    ours = protobuf_in(output(["g++", "-print-file-name=libprotobuf.so"]).strip(), "SONAME")
    if theirs and ours and theirs != ours:
        raise Refused(f"it uses {theirs}, but g++ links {ours}, and a process with both crashes",
                      "install the libprotobuf-dev that Caffe was built with", library)


def protobuf_in(library: str, entry: str) -> str:
    """The protobuf that it is linked to or is, as libprotobuf.so.23; empty if that is static."""
    found = re.search(rf"\({entry}\).*\[(libprotobuf\.so[.\d]*)\]",
                      output(["readelf", "-d", library]))
    return found.group(1) if found else ""


def generate_messages(caffe: Caffe, scratch: Path) -> None:
    """caffe.pb.h and l1_loss_parameter.pb.*, by the protoc that fits the installed protobuf.

    The caffe.pb.h of a package may be older than the protobuf beside it, so it is made anew from
    what the library itself carries.
    """
    name, descriptor = descriptor_in(caffe.library)
    header = scratch / "caffe" / "proto" / "caffe.pb.h"
    header.parent.mkdir(parents=True)
    file = scratch / "caffe.descriptors"
    file.write_bytes(descriptor_set(descriptor))
    protoc(f"--descriptor_set_in={file}", f"--cpp_out={scratch}", name)
    (scratch / name).with_suffix(".pb.h").replace(header)
    own = scratch / package(caffe)
    own.mkdir()
    before, after = MESSAGE.read_text("utf-8").split("package caffe;")
    (own / MESSAGE.name).write_text(f"{before}package {own.name};{after}", "utf-8")
    protoc(f"-I{scratch}", f"--cpp_out={scratch}", f"{own.name}/{MESSAGE.name}")


def fit_sources(caffe: Caffe, scratch: Path) -> None:
    """The layer as apply would put it into a checkout with the headers of this Caffe."""
    headers = [folder / "caffe" / "proto" / "caffe.pb.h" for folder in (scratch, caffe.include)]
    messages = next(header for header in headers if header.exists()).read_bytes()
    tree = tree_of(caffe.include.parent, messages)
    if not tree.has_param_str:
        raise Refused("python_param has no param_str in this Caffe, and the plugin reads its "
                      "options there", "use a Caffe of the summer of 2015 or later, or apply the "
                      "patch to its source", str(caffe.include))
    for path, source in source_files(tree, Naming()).items():
        (scratch / path).parent.mkdir(parents=True, exist_ok=True)
        (scratch / path).write_bytes(source)


def need_headers(caffe: Caffe, scratch: Path) -> None:
    """Preprocessing shows what is missing; protoc's output says itself which headers it fits."""
    command = ["g++", "-std=c++11", "-E", "-o", os.devnull, *compiler_flags(caffe, scratch),
               '-DL1_LOSS_PLUGIN=""', str(scratch / LAYER)]
    errors = error_lines(completed(command))
    unfit = [line for line in errors if "#error" in line]
    if unfit:
        age = "new" if "newer version of protoc" in unfit[0] else "old"
        version = output(["protoc", "--version"]).strip()
        raise Refused(f"{version} is too {age} for the headers of protobuf",
                      "put the protoc that came with libprotobuf-dev first on PATH")
    if errors:
        packages, _ = packages_for(errors[0].rpartition("error: ")[2])
        raise Refused(f"a header is missing: {errors[0]}",
                      install(packages) if packages else "install the package that holds it")


def protoc(*arguments: str) -> None:
    done = completed(["protoc", *arguments])
    if done.returncode != 0:
        first = (done.stdout.strip() or "no message").splitlines()[0]
        raise Refused(f"protoc failed: {first}",
                      "put the protoc that came with this Caffe's protobuf first on PATH")


def compile_layer(caffe: Caffe, scratch: Path, staged: Path, openmp: bool) -> None:
    flags = [f'-DL1_LOSS_PLUGIN="{fingerprint(caffe.library)}"',
             *(f"-D{name}={name}Plugin" for name in CLASSES), *compiler_flags(caffe, scratch)]
    own_message = scratch / package(caffe) / "l1_loss_parameter.pb.cc"
    sources = [str(scratch / LAYER), *map(str, OWN_SOURCES), str(own_message)]
    if not caffe.cpu_only:
        sources.append(str(scratch / "gpu.o"))
        run(nvcc_command(flags, scratch))
    threads = openmp_flags() if openmp else []
    link(caffe, [f"-Wl,--version-script={EXPORTS}", *flags, *threads, *sources], staged)


def openmp_flags() -> "list[str]":
    """Those that make the layer use every core, where the compiler can."""
    tried = subprocess.run(["g++", "-fopenmp", "-shared", "-x", "c++", os.devnull, "-o",
                            os.devnull], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if tried.returncode == 0:
        return ["-fopenmp"]
    print("openmp: this g++ has none, so the plugin uses one core")
    return []


def compiler_flags(caffe: Caffe, scratch: Path) -> "list[str]":
    """-O2, as Caffe's Makefile has it."""
    own = package(caffe)
    includes = [scratch, scratch / own, OWN, scratch / "include", caffe.include]
    device = "-DCPU_ONLY" if caffe.cpu_only else f"-I{cuda_home()}/include"
    return ["-O2", "-fPIC", f"-D{PACKAGE}={own}", device, *(f"-I{folder}" for folder in includes)]


def link(caffe: Caffe, arguments: "list[str]", output_file: Path) -> None:
    """The folder of Caffe is recorded in the plugin where the loader would not look by itself.

    LD_PRELOAD loads the plugin into every program of a command, those without Caffe too.
    """
    folder = str(caffe.library.parent)
    path = [] if any(fnmatch(folder, known) for known in LIBRARY_FOLDERS) else [
        "-Wl,--enable-new-dtags", "-Xlinker", "-rpath", "-Xlinker", folder]
    cuda = [] if caffe.cpu_only else [f"-L{cuda_home()}/lib64", "-lcudart"]
    run(["g++", "-std=c++11", "-shared", "-Wl,-z,defs", *arguments, "-o", str(output_file),
         str(caffe.library), *path, *cuda, *LIBRARIES])


def nvcc_command(flags: "list[str]", scratch: Path) -> "list[str]":
    """For the GPUs of this machine, or for nvcc's default where there are none."""
    cuda = cuda_home()
    device = [f"-gencode={gencode}" for gencode in gencodes(cuda, cuda_architectures())]
    host = ["-Xcompiler=-fPIC" if flag == "-fPIC" else flag for flag in flags]
    return [f"{cuda}/bin/nvcc", *device, *host, "-c",
            str((scratch / LAYER).with_suffix(".cu")), "-o", str(scratch / "gpu.o")]


def cuda_home() -> str:
    home = find_cuda()
    if not home:
        raise Refused("this Caffe has CUDA, but nvcc is not on PATH",
                      "put the bin folder of the CUDA toolkit on PATH")
    return home


def run(command: "list[str]") -> None:
    done = completed(command)
    if done.returncode != 0:
        first = next(iter([*error_lines(done), *done.stdout.splitlines()[-1:]]), "no message")
        raise BuildFailed(f"the compiler failed: {first}",
                          "install what is missing; the command was: " + " ".join(command))


def error_lines(done: "subprocess.CompletedProcess[str]") -> "list[str]":
    """What a compiler that failed complains of."""
    lines = done.stdout.splitlines() if done.returncode else []
    return [line.strip() for line in lines if "error" in line or "undefined" in line]


def place(staged: Path, output_file: Path) -> None:
    """No half a plugin is ever loaded."""
    try:
        write_file(output_file, staged.read_bytes(), stat.S_IMODE(staged.stat().st_mode))
    except OSError as error:
        raise Refused(error.strerror or str(error), "name another place with -o",
                      str(output_file)) from None
