"""The gtests of the native layer under AddressSanitizer, UndefinedBehaviorSanitizer, valgrind and
ThreadSanitizer, with OpenMP, and without vector types, as a compiler that has none builds it.

`scripts/test.sh --sanitize` runs these alone.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from environment import REPO

KIT = REPO / "caffe_patch" / "src" / "caffe"
LIBRARIES = ("boost_thread boost_filesystem boost_system glog gflags protobuf hdf5_serial_hl "
             "hdf5_serial openblas pthread m boost_python{0}{1} python{0}.{1}").format(
                 *sys.version_info).split()


def build(tree: Path, binary: Path, *flags: str) -> None:
    """The layer and its gtest anew with these flags; the rest are the objects that make built."""
    built = tree / ".build_release" / "src" / "caffe"
    objects = [path for path in built.rglob("*.o")
               if path.parent.name != "test" and path.name != "l1_loss_layer.o"]
    assert len(objects) > 50
    sources = [KIT / "layers" / "l1_loss_layer.cpp", KIT / "test" / "test_l1_loss_layer.cpp",
               tree / "src" / "caffe" / "test" / "test_caffe_main.cpp",
               tree / "src" / "gtest" / "gtest-all.cpp"]
    includes = [KIT.parents[1] / "include", tree / "include", tree / "src",
                tree / ".build_release" / "src", Path("/usr/include/hdf5/serial")]
    done = subprocess.run(
        ["g++", "-std=c++11", "-g", "-DCPU_ONLY", "-DUSE_HDF5", *flags,
         *(f"-I{folder}" for folder in includes), *map(str, sources),
         *map(str, objects),
         *(f"-l{library}" for library in LIBRARIES), "-o", str(binary)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def all_passed(output: str) -> bool:
    tests = len(re.findall(r"^TYPED_TEST\(", (KIT / "test/test_l1_loss_layer.cpp").read_text(),
                           re.MULTILINE))
    return f"[  PASSED  ] {2 * tests} tests." in output


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("flags, complaint", [
    (["-O1", "-fsanitize=address"], "ERROR: AddressSanitizer"),
    (["-O2", "-fsanitize=undefined", "-fno-sanitize-recover=undefined"], "runtime error"),
], ids=["address", "undefined"])
def test_the_gtests_are_clean_under_the_sanitizer(patched_tree, tmp_path, flags, complaint):
    build(patched_tree.root, tmp_path / "testbin", *flags, "-fno-omit-frame-pointer")
    done = run(str(tmp_path / "testbin"))
    assert complaint not in done.stdout, done.stdout[-3000:]
    assert done.returncode == 0 and all_passed(done.stdout), done.stdout[-3000:]


def test_the_gtests_are_clean_under_valgrind(patched_tree, tmp_path):
    build(patched_tree.root, tmp_path / "testbin", "-O2")
    done = run("valgrind", "--error-exitcode=9", "--leak-check=full",
               "--errors-for-leak-kinds=definite", "--child-silent-after-fork=yes",
               str(tmp_path / "testbin"))
    assert done.returncode == 0 and all_passed(done.stdout), done.stdout[-3000:]
    assert "ERROR SUMMARY: 0 errors" in done.stdout


def test_the_gtests_pass_with_openmp(patched_tree, tmp_path):
    build(patched_tree.root, tmp_path / "testbin", "-O2", "-fopenmp")
    done = run("env", "OMP_NUM_THREADS=3", str(tmp_path / "testbin"))
    assert done.returncode == 0 and all_passed(done.stdout), done.stdout[-3000:]


def test_the_threads_are_clean_under_the_sanitizer(patched_tree, tmp_path):
    """With a runtime that the sanitizer sees into, as it does not into libgomp."""
    build(patched_tree.root, tmp_path / "testbin", "-O1", "-fsanitize=thread", "-fopenmp",
          str(REPO / "tests" / "openmp_threads.cpp"))
    done = run(str(tmp_path / "testbin"), "--gtest_filter=*Threads*:*Solvers*")
    assert "WARNING: ThreadSanitizer" not in done.stdout, done.stdout[-3000:]
    assert done.returncode == 0 and "[  PASSED  ] 4 tests." in done.stdout, done.stdout[-3000:]


def test_the_gtests_pass_without_vector_types(patched_tree, tmp_path):
    build(patched_tree.root, tmp_path / "testbin", "-O2", "-DL1_LOSS_NO_VECTORS")
    done = run(str(tmp_path / "testbin"))
    assert done.returncode == 0 and all_passed(done.stdout), done.stdout[-3000:]
    source = (KIT.parents[1] / "include" / "caffe" / "util" / "l1_loss_simd.hpp").read_text()
    assert "&& !defined(L1_LOSS_NO_VECTORS)\n\ntypedef double Doubles __attribute__" in source
