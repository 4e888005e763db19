"""The GPU layer runs on the CPU: its kernels as they are, see tests/cuda_on_cpu/README.md.

CAFFE_L1_THOROUGH=1 tries every mutant, and CAFFE_L1_FUZZ=N N times as many random layers.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cuda_on_cpu.build import CU, HERE, THREAD_SANITIZER, Build
from cuda_on_cpu.mutants import MUTANTS
from l1_nets import layer
from test_routes_random import case_of, compare

GPU = "*/2.*:*/3.*"  # float and double
ORDERS = ["forward", "reverse", "random"]
LAYERS = 150
# Of each number of mutants, one in CI.
SAMPLE = 1 if os.environ.get("CAFFE_L1_THOROUGH") else 3
# Slow, and no mutant is killed by them alone.
NOT_FOR_MUTANTS = "*SameBits*:*LargeGradient*:*Forked*"
FOR_THREAD_SANITIZER = "*ManyRows*:*ManyElements*:*HandComputed*:*Broadcast*:*Ignored*"


@pytest.fixture(scope="module")
def build(patched_tree, tmp_path_factory) -> Build:
    return Build(patched_tree.root, tmp_path_factory.mktemp("cuda_on_cpu"))


@pytest.fixture(scope="module")
def program(build) -> SimpleNamespace:
    """The gtests, and the objects from which another is linked."""
    kernels = build.kernels(CU.read_text(), "l1_loss_layer", "-O2")
    layer, gtests = build.layer(), build.gtests()
    return SimpleNamespace(layer=layer, kernels=kernels, gtests=gtests,
                           path=build.link("gtests", [kernels, *layer, *gtests]))


def run(*command: object, order: str = "forward", seed: int = 1) -> subprocess.CompletedProcess:
    settings = {"CUDA_ON_CPU_ORDER": order, "CUDA_ON_CPU_SEED": str(seed), "GLOG_minloglevel": "3"}
    return subprocess.run(list(map(str, command)), env=dict(os.environ, **settings),
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace")


def in_parallel(function, items: list) -> list:
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(function, items))


def test_all_gtests_pass_in_every_order(program, say):
    seed = random.SystemRandom().randrange(2**32)
    runs = in_parallel(lambda order: run(program.path, f"--gtest_filter={GPU}", order=order,
                                         seed=seed), ORDERS)
    written = (HERE.parent.parent / "caffe_patch/src/caffe/test/test_l1_loss_layer.cpp").read_text()
    tests = 2 * len(re.findall(r"^TYPED_TEST\(", written, re.MULTILINE))
    for order, done in zip(ORDERS, runs):
        assert done.returncode == 0, (order, seed, done.stdout[-3000:])
        assert f"[  PASSED  ] {tests} tests." in done.stdout
    say(f"CUDA on the CPU: {tests} GPU gtests pass with threads and blocks in the orders "
        f"{', '.join(ORDERS)} (seed {seed})")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_random_layers_compute_what_the_oracle_says(build, program, tmp_path, say, dtype):
    layers = build.compile(HERE / "random_layers.cpp", "-O0")
    path = build.link("random_layers", [layers, program.kernels, *program.layer])
    seed = random.SystemRandom().randrange(2**32)
    names = [f"{seed}/{i}" for i in range(int(LAYERS * float(os.environ.get("CAFFE_L1_FUZZ", 1))))]
    cases = [in_float(case_of(name, "native")) for name in names]
    (tmp_path / "jobs").write_bytes(b"".join(map(job, cases)))
    results = []
    for order in ORDERS:
        c_name = "float" if dtype == np.float32 else "double"
        done = run(path, c_name, tmp_path / "jobs", tmp_path / order, order=order, seed=seed)
        assert done.returncode == 0, (seed, done.stdout[-3000:])
        results.append((tmp_path / order).read_bytes())
    assert results[0] == results[1] == results[2], (seed, "the order changes the result")
    numbers = np.frombuffer(results[0], dtype)
    for name, case in zip(names, cases):
        for step, inputs in enumerate(case.passes):
            numbers, result = parse(numbers, case.options, inputs)
            problem = compare("native", case.options, inputs, result)
            assert not problem, f"{problem}: random_case of {name!r}, pass {step}, {case.options}"
    assert numbers.size == 0
    say(f"CUDA on the CPU: {len(cases)} random layers in {np.dtype(dtype).name}, 3 passes each, "
        f"are right and have the same bits in {len(ORDERS)} orders (seed {seed})")


def in_float(case):
    """The same, with a label that targets in float can be, whatever the layer computes in."""
    label = case.options.get("ignore_label")
    options = {} if label is None else {"ignore_label": float(np.float32(label))}
    return case._replace(options=dict(case.options, **options))


def job(case) -> bytes:
    text = layer("native", case.options, "w" in case.passes[0]).encode()
    parts = [ints(len(text)), text, ints(len(case.passes), len(case.passes[0]))]
    for inputs in case.passes:
        for name in ("x", "y", "w")[:len(inputs)]:
            parts += [ints(inputs[name].ndim, *inputs[name].shape), inputs[name].tobytes()]
    return b"".join(parts)


def ints(*numbers: int) -> bytes:
    return np.array(numbers, np.int32).tobytes()


def parse(numbers: np.ndarray, options: dict, inputs: dict) -> tuple:
    """What is left of the numbers, and the result of one pass."""
    shape = inputs["x"].shape
    top = shape[:options.get("axis", len(shape))] if options.get("reduction") == "NONE" else ()
    parts = []
    for part in (top, shape, inputs["y"].shape):
        size = int(np.prod(part))
        parts.append(numbers[:size].reshape(part))
        numbers = numbers[size:]
    return numbers, {"data": {"loss": parts[0]}, "diff": {"x": parts[1], "y": parts[2]}}


def test_thread_sanitizer_finds_no_race(build, program, say):
    kernels = build.kernels(CU.read_text(), "with_thread_sanitizer", *THREAD_SANITIZER)
    path = build.link("races", [kernels, *program.layer, *program.gtests], "-fsanitize=thread")
    wanted = ":".join(f"*/{i}.{name}" for i in (2, 3) for name in FOR_THREAD_SANITIZER.split(":"))
    done = run(path, f"--gtest_filter={wanted}")
    assert done.returncode == 0 and "[  PASSED  ]" in done.stdout, done.stdout[-3000:]
    races = done.stdout.count("WARNING: ThreadSanitizer: data race")
    say(f"CUDA on the CPU: races found by ThreadSanitizer: {races}")
    assert races == 0, done.stdout[:3000]


def test_mutants_of_the_kernels_are_killed(build, program, say):
    written = CU.read_text()
    for before, _ in MUTANTS:
        assert written.count(before) == 1, before
    sample = list(range(random.randrange(SAMPLE), len(MUTANTS), SAMPLE))
    build.precompile()

    def survives(i: int) -> bool:
        before, after = MUTANTS[i]
        kernels = build.kernels(written.replace(before, after), f"mutant_{i}", *build.PRECOMPILED)
        path = build.link(f"mutant_{i}", [kernels, *program.layer, *program.gtests])
        done = run("timeout", "60", path, f"--gtest_filter={GPU}-{NOT_FOR_MUTANTS}",
                   "--gtest_break_on_failure", order="random")
        path.unlink()
        return done.returncode == 0

    survivors = [MUTANTS[i] for i, alive in zip(sample, in_parallel(survives, sample)) if alive]
    say(f"CUDA on the CPU: mutants killed: {len(sample) - len(survivors)} of {len(sample)}, "
        f"out of {len(MUTANTS)}")
    assert not survivors


def test_nothing_asks_the_device():
    """So the loss is the same on every device: shapes alone say who adds what."""
    assert not re.findall(r"cudaDevice|cudaGetDevice|cudaOccupancy|gridDim|atomic", CU.read_text())


# ---- The emulator itself ----------------------------------------------------

@pytest.fixture(scope="module")
def mistakes(build) -> Path:
    objects = [build.kernels((HERE / "mistakes.cu").read_text(), "mistakes", "-O1"),
               build.compile(HERE / "cuda_on_cpu.cpp", "-O2")]
    return build.link("mistakes", objects)


@pytest.mark.parametrize("mistake, message", [
    ("some end", r"CUDA on the CPU: some threads of a block wait at \S+:20, others have ended\n"),
    ("two barriers",
     r"CUDA on the CPU: some threads of a block wait at \S+:26, others at \S+:28\n"),
    ("no blocks", "CUDA on the CPU: a kernel is launched with 0 blocks of 64 threads\n"),
])
@pytest.mark.parametrize("order", ORDERS)
def test_a_mistake_is_named(mistakes, mistake, message, order):
    done = run(mistakes, mistake, order=order)
    assert done.returncode == -signal.SIGABRT
    assert re.fullmatch(message, done.stdout), done.stdout


@pytest.mark.parametrize("mistake", ["past the end", "host reads"])
def test_memory_is_out_of_reach(mistakes, mistake):
    assert run(mistakes, mistake).returncode == -signal.SIGSEGV


def test_a_race_shows_in_the_order_of_threads(mistakes):
    sums = {name: {run(mistakes, name, order=order).stdout for order in ORDERS}
            for name in ("no mistake", "race")}
    assert sums["no mistake"] == {f"{sum(range(64))}\n"} and len(sums["race"]) == 3


def test_a_race_shows_in_thread_sanitizer(build):
    kernels = build.kernels((HERE / "mistakes.cu").read_text(), "races", *THREAD_SANITIZER)
    emulator = build.compile(HERE / "cuda_on_cpu.cpp", "-O2")
    path = build.link("race", [kernels, emulator], "-fsanitize=thread")
    found = {name: "ThreadSanitizer: data race" in run(path, name).stdout
             for name in ("no mistake", "race")}
    assert found == {"no mistake": False, "race": True}
