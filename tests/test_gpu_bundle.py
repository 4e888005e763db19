"""The bundle for a machine with a GPU: built by nvcc here, run where there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from environment import REPO

NVCC = Path("/usr/local/cuda/bin/nvcc")
SCRIPT = REPO / "scripts" / "gpu_bundle.sh"
GTESTS = REPO / "caffe_patch" / "src" / "caffe" / "test" / "test_l1_loss_layer.cpp"
RUN = REPO / "scripts" / "gpu" / "run.sh"
NO_GPU = "gpu: no GPU: there is no NVIDIA driver here"
pytestmark = pytest.mark.skipif("CAFFE_L1_SANDBOX" not in os.environ,
                                reason="the bundle is built in the sandbox; leave CAFFE_ROOT unset")
needs_nvcc = pytest.mark.parametrize("nvcc", [NVCC] if NVCC.exists() else [])
has_no_gpu = pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="there is a GPU here")


def shell(*command: object, **variables: str) -> tuple:
    """The exit status and the lines of output and errors."""
    done = subprocess.run(list(map(str, command)), env=dict(os.environ, **variables),
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout.splitlines()


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    status, lines = shell(SCRIPT, "-o", folder, "--arch", "80")
    assert status == 0, lines
    return folder / "caffe-l1-gpu.tar.xz"


@pytest.fixture
def bundle(packed, tmp_path) -> Path:
    with tarfile.open(str(packed)) as archive:
        archive.extractall(str(tmp_path))
    return tmp_path / "caffe-l1-gpu"


# ---- Built and run -----------------------------------------------------------

@needs_nvcc
@has_no_gpu
def test_it_runs_on_a_bare_machine(nvcc, packed, bundle, say):
    """With the C library and bash alone; that there is no GPU is no failure."""
    root = Path(os.environ["CAFFE_L1_WORK"]) / "debian12"
    assert root.is_dir(), "scripts/sandbox.sh bare makes it"
    enter = ("mount --rbind /dev $0/dev; mount --rbind $1 $0/mnt; "
             "exec chroot $0 /mnt/run.sh /mnt/results")
    status, lines = shell("unshare", "-Urm", "sh", "-ec", enter, root, bundle)
    tests = 2 * GTESTS.read_text().count("\nTYPED_TEST(")  # float and double
    assert (status, lines) == (0, [f"gpu: gtests on the CPU: {tests} tests passed", NO_GPU])
    size = packed.stat().st_size
    assert size < 20 << 20
    say(f"the bundle for a GPU, {size / 1e6:.1f} MB, in a bare Debian 12: " + "; ".join(lines))


@needs_nvcc
def test_it_needs_the_c_library_and_what_cuda_is_too_large_to_bring(nvcc, bundle):
    for program in ("gtests", "benchmark"):
        needed = shell("readelf", "-d", bundle / program)[1]
        libraries = sorted(line.split("[")[1][:-1] for line in needed if "NEEDED" in line)
        assert libraries == ["ld-linux-x86-64.so.2", "libc.so.6", "libcublas.so", "libcurand.so",
                             "libdl.so.2", "libgcc_s.so.1", "libm.so.6", "libpthread.so.0",
                             "librt.so.1"]


@needs_nvcc
@has_no_gpu
def test_a_failed_gtest_is_a_failure_without_a_gpu_too(nvcc, bundle, tmp_path):
    (bundle / "gtests").write_text('#!/bin/sh\n[ "$1" = --gtest_list_tests ] || echo ": Failure"\n')
    status, lines = shell(bundle / "run.sh", tmp_path)
    assert (status, lines) == (1, ["gpu: gtests on the CPU: failed: : Failure; see "
                                   f"{tmp_path}/gtests_on_the_CPU.log", NO_GPU])


@needs_nvcc
def test_a_program_that_does_not_start(nvcc, bundle, tmp_path):
    shutil.rmtree(str(bundle / "stubs"))
    status, lines = shell(bundle / "run.sh", tmp_path)
    assert status == 1 and len(lines) == 1
    assert lines[0].startswith("gpu: the programs do not start here: ") and "libcu" in lines[0]


# ---- What run.sh does where there is a GPU, with stand-ins for the programs ---

@pytest.fixture
def with_gpu(tmp_path):
    """The folder of a bundle whose programs see a GPU."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    shutil.copy(str(RUN), str(folder))
    put(folder / "gtests", 'echo "[  PASSED  ] 3 tests."')
    put(folder / "benchmark", "[ $1 = --device ] && echo A card || { echo a table; echo {} >$1; }")
    return folder


def put(program: Path, text: str) -> None:
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)


def fake_libraries(folder: Path) -> Path:
    """Where pip puts them, and something after them: a folder for PYTHONPATH."""
    (folder / "nvidia" / "other" / "lib").mkdir(parents=True)
    for name in ("cublas", "curand"):
        (folder / "nvidia" / name / "lib").mkdir(parents=True)
        (folder / "nvidia" / name / "lib" / f"lib{name}.so.12").write_text("")
    return folder


def test_a_gpu_without_cublas_is_a_failure(with_gpu, tmp_path):
    status, lines = shell(with_gpu / "run.sh", tmp_path / "results")
    assert status == 1
    assert lines == ["gpu: gtests on the CPU: 3 tests passed", "gpu: A card",
                     "gpu: no libcublas.so here; fix: pip install nvidia-cublas, or set "
                     "LD_LIBRARY_PATH to its folder"]


def test_all_that_runs_on_a_gpu(with_gpu, tmp_path):
    """The libraries of a python3's wheels, by names without a version; the sanitizer on PATH."""
    put(with_gpu / "compute-sanitizer", 'shift 6; exec "$@"')
    put(with_gpu / "gtests", f"""echo "$@" >>{with_gpu}/ran
ls -l $(echo $LD_LIBRARY_PATH | cut -d: -f1) >>{with_gpu}/ran
echo "[  PASSED  ] 3 tests.\"""")
    wheels = fake_libraries(tmp_path / "wheels")
    results = tmp_path / "results"
    status, lines = shell(with_gpu / "run.sh", results, PYTHONPATH=str(wheels),
                          PATH=f"{with_gpu}:{os.environ['PATH']}")
    assert status == 0, lines
    assert lines[2:] == [
        f"gpu: cublas: {wheels}/nvidia/cublas/lib/libcublas.so.12",
        f"gpu: curand: {wheels}/nvidia/curand/lib/libcurand.so.12",
        "gpu: gtests on the GPU: 3 tests passed", "gpu: memcheck: 3 tests passed",
        "gpu: racecheck: 3 tests passed",
        "gpu: PyTorch is left out: no python3 here has one that sees the GPU",
        "a table", f"gpu: the results are in {results}"]
    ran = (with_gpu / "ran").read_text()
    assert ran.count("--gtest_filter=*/2.*:*/3.*") == 3
    assert ran.count(f"libcublas.so -> {wheels}/nvidia/cublas/lib/libcublas.so.12") == 3
    assert {path.name for path in results.iterdir()} == {
        "gtests_on_the_CPU.log", "gtests_on_the_GPU.log", "memcheck.log", "racecheck.log",
        "pytorch.tsv", "benchmark.json", "benchmark.md"}


@pytest.mark.parametrize("name, text, said", [
    ("gtests", 'echo "[  PASSED  ] 0 tests."', "gtests on the GPU: failed"),
    ("gtests", 'echo "[  PASSED  ] 3 tests."; [ "$1" != "--gtest_filter=*/2.*:*/3.*" ]',
     "gtests on the GPU: failed"),
    ("compute-sanitizer", 'echo "ERROR SUMMARY: 1"; exit 1', "racecheck: failed: ERROR SUMMARY: 1"),
    ("benchmark", "[ $1 = --device ] && echo A card", "the results are in"),
    ("benchmark", "echo the driver knows CUDA 11.4; exit 1", "the driver knows CUDA 11.4")])
def test_what_fails_on_a_gpu_is_a_failure(with_gpu, tmp_path, name, text, said):
    put(with_gpu / name, text)
    status, lines = shell(with_gpu / "run.sh", tmp_path / "results",
                          PATH=f"{with_gpu}:{os.environ['PATH']}",
                          PYTHONPATH=str(fake_libraries(tmp_path / "wheels")))
    assert status == 1 and any(f"gpu: {said}" in line for line in lines), lines


def test_a_c_library_that_is_too_old(with_gpu, tmp_path):
    put(with_gpu / "gtests", "echo \"libm.so.6: version \\`GLIBC_2.29' not found\"; exit 1")
    assert shell(with_gpu / "run.sh", tmp_path / "results") == (1, [
        "gpu: the C library is too old: version `GLIBC_2.29' not found; fix: use a system of 2020 "
        "or later"])


# ---- Wrong usage -------------------------------------------------------------

@needs_nvcc
@pytest.mark.parametrize("arguments, said", [
    (["--arch", "30"], "--arch 30: this nvcc does not compile for it; fix: choose from 75 80 "),
    (["--arch", "sm_80"], "--arch takes numbers, as in --arch 75,80,90"),
    (["--arch"], "the last option needs a value"),
    (["-o", "/nowhere"], "-o: no such folder; fix: make it"),
    (["here"], "unknown option 'here'; use -o FOLDER or --arch 75,80,90")])
def test_wrong_usage_is_one_line(nvcc, arguments, said):
    status, lines = shell(SCRIPT, *arguments)
    assert (status, len(lines)) == (2, 1) and lines[0].startswith("gpu_bundle: " + said), lines


def test_a_machine_without_nvcc():
    """With an empty folder over the toolkit."""
    hidden = 'mount -t tmpfs none /usr/local/cuda; exec "$0"'
    assert shell("unshare", "-Urm", "sh", "-ec", hidden, SCRIPT) == (1, [
        "gpu_bundle: /usr/local/cuda/bin/nvcc is missing; fix: install the CUDA toolkit, or link "
        "/usr/local/cuda to where it is"])
