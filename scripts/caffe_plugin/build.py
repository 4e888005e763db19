"""Compile the native layer's sources against an installed Caffe."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from caffe_kit.errors import BuildFailed, Refused

from .installed import Caffe, output

KIT = Path(__file__).resolve().parent.parent.parent / "caffe_patch"
LAYER = KIT / "src" / "caffe" / "layers" / "l1_loss_layer.cpp"
MESSAGE = KIT / "src" / "caffe" / "proto" / "l1_loss_parameter.proto"
# A call of the C++ library's new string, in what a C++11 Caffe exports.
NEW_STRINGS = "__cxx11"
LIBRARIES = ["-lprotobuf", "-lglog", "-lboost_system"]
# A patched Caffe may end up in one process with the plugin: no name of ours may be theirs too.
PACKAGE = (b"package caffe;", b"package l1_loss_plugin;")
CLASSES = ("L1LossLayer", "L1LossBroadcast", "L1LossIgnore")


def fingerprint(library: Path) -> str:
    """What the loader compares with the Caffe of its process."""
    return hashlib.sha256(library.read_bytes()).hexdigest()


def build(caffe: Caffe, output_file: Path) -> None:
    """Write the plugin, all of it or nothing."""
    need_tools()
    folder = output_file.resolve().parent
    if not folder.is_dir():
        raise Refused("no such folder", "make it first, or name another with -o", str(folder))
    with tempfile.TemporaryDirectory(prefix="l1-loss-plugin-") as scratch:
        generate_messages(caffe, Path(scratch))
        staged = Path(scratch, "plugin.so")
        compile_layer(caffe, Path(scratch), staged)
        place(staged, output_file)


def build_beside(caffe: Caffe, sources: list[Path], output_file: Path) -> None:
    """Write a shared library of other sources, compiled just as the plugin is."""
    need_tools()
    with tempfile.TemporaryDirectory(prefix="l1-loss-plugin-") as scratch:
        generate_messages(caffe, Path(scratch))
        link(caffe, [*compiler_flags(caffe, Path(scratch)), *map(str, sources)], output_file)


def need_tools() -> None:
    for tool, package in (("g++", "g++"), ("protoc", "protobuf-compiler")):
        if not shutil.which(tool):
            raise Refused(f"{tool} is not on PATH", f"apt-get install {package}")


def generate_messages(caffe: Caffe, scratch: Path) -> None:
    """caffe.pb.h and l1_loss_parameter.pb.*, by the protoc that fits the installed protobuf.

    The caffe.pb.h of a package may be older than the protobuf beside it, so it is made anew from
    what pycaffe itself carries, or from the checkout's caffe.proto.
    """
    (scratch / "caffe" / "proto").mkdir(parents=True)
    if caffe.descriptor is not None:
        file = scratch / "caffe.descriptors"
        file.write_bytes(descriptor_set(caffe.descriptor))
        name = file_name(caffe.descriptor)
        protoc(f"--descriptor_set_in={file}", f"--cpp_out={scratch}", name)
        made = scratch / name.replace(".proto", ".pb.h")
        if made != scratch / "caffe" / "proto" / "caffe.pb.h":
            made.rename(scratch / "caffe" / "proto" / "caffe.pb.h")
    else:
        source = caffe.include.parent / "src" / "caffe" / "proto"
        if (source / "caffe.proto").exists():
            protoc(f"-I{source}", f"--cpp_out={scratch / 'caffe' / 'proto'}", "caffe.proto")
        elif not (caffe.include / "caffe" / "proto" / "caffe.pb.h").exists():
            raise Refused("caffe.pb.h is missing and there is no caffe.proto to make it from",
                          "install python3-caffe, or set CAFFE_ROOT to a checkout",
                          str(caffe.include))
    message = MESSAGE.read_bytes()
    assert PACKAGE[0] in message
    (scratch / MESSAGE.name).write_bytes(message.replace(*PACKAGE))
    protoc(f"-I{scratch}", f"--cpp_out={scratch}", MESSAGE.name)


def descriptor_set(descriptor: bytes) -> bytes:
    """A FileDescriptorSet with that one file: field 1, length-delimited."""
    length, prefix = len(descriptor), b"\x0a"
    while length > 0x7F:
        prefix += bytes([length & 0x7F | 0x80])
        length >>= 7
    return prefix + bytes([length]) + descriptor


def file_name(descriptor: bytes) -> str:
    """The name of the file described: field 1, a short string."""
    assert descriptor[0] == 0x0A
    return descriptor[2:2 + descriptor[1]].decode("ascii")


def protoc(*arguments: str) -> None:
    done = subprocess.run(["protoc", *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        first = (done.stdout.strip() or "no message").splitlines()[0]
        raise Refused(f"protoc failed: {first}", "apt-get install protobuf-compiler, or put the "
                      "protoc of this Caffe's protobuf first on PATH")


def compile_layer(caffe: Caffe, scratch: Path, staged: Path) -> None:
    if has_l1_loss(caffe):
        raise Refused("this Caffe has an L1Loss layer already, and needs no plugin",
                      'write type: "L1Loss" and l1_loss_param', str(caffe.library))
    if NEW_STRINGS not in symbols(caffe):
        raise Refused("it was compiled with the C++ library's old strings, which this compiler's "
                      "plugin could not exchange with it", "use the compiler that built it",
                      str(caffe.library))
    flags = [f'-DL1_LOSS_PLUGIN="{fingerprint(caffe.library)}"',
             *(f"-D{name}={name}Plugin" for name in CLASSES), *compiler_flags(caffe, scratch)]
    sources = [str(LAYER), str(scratch / "l1_loss_parameter.pb.cc")]
    if not caffe.cpu_only:
        sources.append(str(scratch / "gpu.o"))
        run([str(cuda_home() / "bin" / "nvcc"), *nvcc_flags(flags), "-c",
             str(LAYER.with_suffix(".cu")), "-o", sources[-1]])
    link(caffe, [*flags, *sources], staged)


def symbols(caffe: Caffe) -> str:
    return output(["nm", "-D", str(caffe.library)])


def has_l1_loss(caffe: Caffe) -> bool:
    return "L1LossLayer" in symbols(caffe)


def compiler_flags(caffe: Caffe, scratch: Path) -> list[str]:
    """-O2, as Caffe's Makefile has it."""
    includes = [scratch, KIT / "include", caffe.include]
    device = ["-DCPU_ONLY"] if caffe.cpu_only else [f"-I{cuda_home() / 'include'}"]
    return ["-O2", "-fPIC", *device, *(f"-I{folder}" for folder in includes)]


def link(caffe: Caffe, arguments: list[str], output_file: Path) -> None:
    run(["g++", "-std=c++11", "-shared", "-Wl,-z,defs", *arguments, "-o", str(output_file),
         str(caffe.library), *cuda_libraries(caffe), *LIBRARIES])


def nvcc_flags(common: list[str]) -> list[str]:
    return ["-Xcompiler" if flag == "-fPIC" else flag for flag in common for flag in
            ([flag, "-fPIC"] if flag == "-fPIC" else [flag])]


def cuda_home() -> Path:
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    if not os.path.exists(nvcc):
        raise Refused("this Caffe has CUDA, but nvcc is not on PATH",
                      "put the bin folder of the CUDA toolkit on PATH")
    return Path(nvcc).resolve().parent.parent


def cuda_libraries(caffe: Caffe) -> list[str]:
    return [] if caffe.cpu_only else [f"-L{cuda_home() / 'lib64'}", "-lcudart"]


def run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        lines = done.stdout.splitlines()
        first = next((line for line in lines if "error" in line or "undefined" in line),
                     lines[-1] if lines else "no message")
        raise BuildFailed(f"the compiler failed: {first.strip()}",
                          "install what is missing; the command was: " + " ".join(command))


def place(staged: Path, output_file: Path) -> None:
    """Copied beside its place and renamed, so that no half a plugin is ever loaded."""
    partial = output_file.with_name(output_file.name + ".partial")
    try:
        shutil.copyfile(staged, partial)
        os.replace(partial, output_file)
    except OSError as error:
        raise Refused(error.strerror or str(error), "name another place with -o",
                      str(output_file)) from None
