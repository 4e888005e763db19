"""Compile the native layer's sources against an installed Caffe."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tempfile
import zlib
from fnmatch import fnmatch
from pathlib import Path

from .. import HOME
from ..common.errors import BuildFailed, Refused
from ..common.machine import cuda_architectures
from ..common.packages import install, need, packages_for
from .descriptor import descriptor_set, file_name
from .installed import LIBRARY_FOLDERS, Caffe, output, symbols

PATCH = HOME / "caffe_patch"
OWN = Path(__file__).resolve().parent  # what is in no patched tree
OWN_SOURCES = [OWN / name for name in ("fits.cpp", "param_str.cpp", "register.cpp")]
EXPORTS = OWN / "exports.map"
LAYER = PATCH / "src" / "caffe" / "layers" / "l1_loss_layer.cpp"
MESSAGE = PATCH / "src" / "caffe" / "proto" / "l1_loss_parameter.proto"
# A call of the C++ library's new string, in what a C++11 Caffe exports.
NEW_STRINGS = "__cxx11"
# The registry of layers, by the name that g++ gives it; clang's goes on with B5cxx11.
REGISTRY = re.compile(r"_ZZN5caffe13LayerRegistryIfE8Registry\w*g_registry_$", re.MULTILINE)
LIBRARIES = ["-lprotobuf", "-lglog", "-lboost_system", "-ldl"]
NVCC = "/usr/local/cuda/bin/nvcc"  # where it is not on PATH
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
    need_tools()
    need_no_l1_loss(caffe)
    need_same_libraries(caffe)
    need_place(output_file)
    with tempfile.TemporaryDirectory(prefix="l1-loss-plugin-") as scratch:
        generate_messages(caffe, Path(scratch))
        need_headers(caffe, Path(scratch))
        staged = Path(scratch, "plugin.so")
        compile_layer(caffe, Path(scratch), staged, openmp)
        place(staged, output_file)


def build_beside(caffe: Caffe, sources: list[Path], output_file: Path) -> None:
    """Write a shared library of other sources, compiled just as the plugin is."""
    need_tools()
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


def need_tools() -> None:
    need("g++", "protoc")


def has_l1_loss(caffe: Caffe) -> bool:
    return "L1LossLayer" in symbols(caffe.library)


def need_no_l1_loss(caffe: Caffe) -> None:
    if has_l1_loss(caffe):
        raise Refused("this Caffe has an L1Loss layer already, and needs no plugin",
                      'write type: "L1Loss" and l1_loss_param', str(caffe.library))


def need_same_libraries(caffe: Caffe) -> None:
    """What the compiler would not mind and the process would die of."""
    if NEW_STRINGS not in symbols(caffe.library):
        raise Refused("it was compiled with the C++ library's old strings, which this compiler's "
                      "plugin could not exchange with it", "use the compiler that built it",
                      str(caffe.library))
    if not REGISTRY.search(symbols(caffe.library)):
        raise Refused("its registry of layers has another name than g++ gives it, as where clang "
                      "compiled it, and a plugin would not reach it", "use a Caffe that g++ built",
                      str(caffe.library))
    theirs, ours = protobuf_of(caffe.library), protobuf_of_compiler()
    if theirs and ours and theirs != ours:
        raise Refused(f"it runs on {theirs}, but g++ links {ours}, and two of them in one process "
                      "crash it", "install the libprotobuf-dev that Caffe was built with",
                      str(caffe.library))


def protobuf_of(library: Path) -> str:
    """The protobuf that it is linked to, as libprotobuf.so.23; nothing where that is static."""
    found = re.search(r"\(NEEDED\).*\[(libprotobuf\.so[.\d]*)\]",
                      output(["readelf", "-d", str(library)]))
    return found.group(1) if found else ""


def protobuf_of_compiler() -> str:
    file = output(["g++", "-print-file-name=libprotobuf.so"]).strip()
    found = re.search(r"\(SONAME\).*\[(\S+)\]", output(["readelf", "-d", file]))
    return found.group(1) if found else ""


def generate_messages(caffe: Caffe, scratch: Path) -> None:
    """caffe.pb.h and l1_loss_parameter.pb.*, by the protoc that fits the installed protobuf.

    The caffe.pb.h of a package may be older than the protobuf beside it, so it is made anew from
    what the library itself carries, or from the checkout's caffe.proto.
    """
    folder = scratch / "caffe" / "proto"
    folder.mkdir(parents=True)
    source = caffe.include.parent / "src" / "caffe" / "proto"
    if caffe.descriptor is not None:
        file = scratch / "caffe.descriptors"
        file.write_bytes(descriptor_set(caffe.descriptor))
        name = file_name(caffe.descriptor)
        protoc(f"--descriptor_set_in={file}", f"--cpp_out={scratch}", name)
        (scratch / name).with_suffix(".pb.h").replace(folder / "caffe.pb.h")
    elif (source / "caffe.proto").exists():
        protoc(f"-I{source}", f"--cpp_out={folder}", "caffe.proto")
    elif not (caffe.include / "caffe" / "proto" / "caffe.pb.h").exists():
        raise Refused("caffe.pb.h is missing and there is no caffe.proto to make it from",
                      "set CAFFE_ROOT to the checkout that it was built from", str(caffe.include))
    own = scratch / package(caffe)
    own.mkdir()
    before, after = MESSAGE.read_text("utf-8").split("package caffe;")
    (own / MESSAGE.name).write_text(f"{before}package {own.name};{after}", "utf-8")
    protoc(f"-I{scratch}", f"--cpp_out={scratch}", f"{own.name}/{MESSAGE.name}")


def need_headers(caffe: Caffe, scratch: Path) -> None:
    """Preprocessing shows what is missing; protoc's output says itself which headers it fits."""
    command = ["g++", "-std=c++11", "-E", "-o", os.devnull, *compiler_flags(caffe, scratch),
               '-DL1_LOSS_PLUGIN=""', str(LAYER)]
    errors = error_lines(subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        text=True, errors="replace"))
    unfit = [line for line in errors if "#error" in line]
    if unfit:
        age = "new" if "newer version of protoc" in unfit[0] else "old"
        raise Refused(f"{protoc_version()} is too {age} for the headers of protobuf",
                      "put the protoc first on PATH that came with libprotobuf-dev")
    if errors:
        packages, _ = packages_for(errors[0])
        raise Refused(f"a header is missing: {errors[0]}",
                      install(packages) if packages else "install the package that holds it")


def protoc_version() -> str:
    return output(["protoc", "--version"]).strip()


def protoc(*arguments: str) -> None:
    done = subprocess.run(["protoc", *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode != 0:
        first = (done.stdout.strip() or "no message").splitlines()[0]
        raise Refused(f"protoc failed: {first}", "put the protoc that came with this Caffe's "
                      "protobuf first on PATH")


def compile_layer(caffe: Caffe, scratch: Path, staged: Path, openmp: bool) -> None:
    flags = [f'-DL1_LOSS_PLUGIN="{fingerprint(caffe.library)}"',
             *(f"-D{name}={name}Plugin" for name in CLASSES), *compiler_flags(caffe, scratch)]
    own_message = scratch / package(caffe) / "l1_loss_parameter.pb.cc"
    sources = [str(LAYER), *map(str, OWN_SOURCES), str(own_message)]
    if not caffe.cpu_only:
        sources.append(str(scratch / "gpu.o"))
        run(nvcc_command(flags, Path(sources[-1])))
    threads = openmp_flags() if openmp else []
    link(caffe, [f"-Wl,--version-script={EXPORTS}", *flags, *threads, *sources], staged)


def openmp_flags() -> list[str]:
    """Those that make the layer use every core, where the compiler can."""
    tried = subprocess.run(["g++", "-fopenmp", "-shared", "-x", "c++", os.devnull, "-o",
                            os.devnull], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if tried.returncode == 0:
        return ["-fopenmp"]
    print("openmp: this g++ has none, so the plugin uses one core")
    return []


def compiler_flags(caffe: Caffe, scratch: Path) -> list[str]:
    """-O2, as Caffe's Makefile has it."""
    own = package(caffe)
    includes = [scratch, scratch / own, OWN, PATCH / "include", caffe.include]
    device = ["-DCPU_ONLY"] if caffe.cpu_only else [f"-I{cuda_home() / 'include'}"]
    return ["-O2", "-fPIC", f"-D{PACKAGE}={own}", *device,
            *(f"-I{folder}" for folder in includes)]


def link(caffe: Caffe, arguments: list[str], output_file: Path) -> None:
    run(["g++", "-std=c++11", "-shared", "-Wl,-z,defs", *arguments, "-o", str(output_file),
         str(caffe.library), *search_path(caffe.library), *cuda_libraries(caffe), *LIBRARIES])


def search_path(library: Path) -> list[str]:
    """A Caffe that the loader does not find by itself is recorded in the plugin.

    A preloaded plugin is loaded into every program of that command, those without Caffe too.
    LD_LIBRARY_PATH goes before what is recorded, as everywhere.
    """
    if any(fnmatch(str(library.parent), known) for known in LIBRARY_FOLDERS):
        return []
    return ["-Wl,--enable-new-dtags", "-Xlinker", "-rpath", "-Xlinker", str(library.parent)]


def nvcc_command(flags: list[str], staged: Path) -> list[str]:
    """For the GPUs of this machine, or what nvcc takes by default where it sees none."""
    device = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in cuda_architectures()]
    host = ["-Xcompiler=-fPIC" if flag == "-fPIC" else flag for flag in flags]
    return [str(cuda_home() / "bin" / "nvcc"), *device, *host, "-c",
            str(LAYER.with_suffix(".cu")), "-o", str(staged)]


def cuda_home() -> Path:
    nvcc = shutil.which("nvcc") or NVCC
    if not os.path.exists(nvcc):
        raise Refused("this Caffe has CUDA, but nvcc is not on PATH",
                      "put the bin folder of the CUDA toolkit on PATH")
    return Path(nvcc).resolve().parent.parent


def cuda_libraries(caffe: Caffe) -> list[str]:
    return [] if caffe.cpu_only else [f"-L{cuda_home() / 'lib64'}", "-lcudart"]


def run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace")
    if done.returncode != 0:
        first = next(iter([*error_lines(done), *done.stdout.splitlines()[-1:]]), "no message")
        raise BuildFailed(f"the compiler failed: {first}",
                          "install what is missing; the command was: " + " ".join(command))


def error_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What a compiler that failed complains of."""
    return [line.strip() for line in done.stdout.splitlines()
            if done.returncode != 0 and ("error" in line or "undefined" in line)]


def place(staged: Path, output_file: Path) -> None:
    """Written beside its place and renamed, so that no half a plugin is ever loaded."""
    try:
        number, partial = tempfile.mkstemp(prefix=".l1-loss-plugin-", dir=output_file.parent)
        try:
            with open(number, "wb") as file:
                file.write(staged.read_bytes())
                os.fchmod(number, stat.S_IMODE(staged.stat().st_mode))
            os.replace(partial, output_file)
        except BaseException:
            os.unlink(partial)
            raise
    except OSError as error:
        raise Refused(error.strerror or str(error), "name another place with -o",
                      str(output_file)) from None
