"""Measures in a process of its own, which prints one line of JSON.

`worker.py patched|stock|torch FOLDER THREADS measure [DTYPE, COUNT, REPETITIONS]`, the list as
JSON; or `patched FOLDER THREADS METHOD [ARGUMENTS]`, a method of Caffe. On several threads only
what has threads of its own is measured.
"""

import ctypes
import json
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

Timer = Callable[[int], float]  # from how often to call something to the seconds of one call
Timers = Dict[str, Dict[str, Timer]]  # by name and direction

BATCH = 256
LEAST_SECONDS = 2e-2  # of one measurement: short calls are repeated until they take that long
VARIANTS = {  # what their layer has beside two bottoms and a top
    "native": "loss_weight: 1",
    "native weighted": 'loss_weight: 1 bottom: "w"',
    "native per sample": 'loss_weight: 1 bottom: "sample"',
    "native ignore_label": "loss_weight: 1 l1_loss_param { ignore_label: -1 }",
    "native ignore_nonfinite": "loss_weight: 1 l1_loss_param { ignore_nonfinite_target: true }",
    "native smooth": "loss_weight: 1 l1_loss_param { beta: 1 }",
    "native valid_mean": "loss_weight: 1 l1_loss_param { reduction: VALID_MEAN ignore_label: -1 }",
    # With a loss_weight Caffe's own Layer::Forward multiplies the whole top by it.
    "native unreduced": "loss_weight: 0 l1_loss_param { reduction: NONE }",
}
NET = """force_backward: true
layer {{ name: "data" type: "Input" top: "x" top: "y" input_param {{
  shape {{ dim: {batch} dim: {length} }} }} }}
layer {{ name: "loss" type: "Python" bottom: "x" bottom: "y" top: "loss" loss_weight: 1
  python_param {{ module: "{module}" layer: "{layer}" }} }}
"""
OURS = {"module": "l1_loss_layer", "layer": "L1LossLayer"}


class Caffe:
    """Layers timed in C++ and in pycaffe, with the limits of this machine beside them."""

    def __init__(self, kind: str, folder: str, threads: int) -> None:
        import caffe  # noqa: F401  (its libcaffe is the one that the harness is to find)
        self.is_stock = kind == "stock"
        self.threads = threads
        if self.is_stock:
            import l1_loss_plugin
            l1_loss_plugin.load(os.path.join(folder, "plugin.so"))
        self.library = ctypes.CDLL(os.path.join(folder, "harness.so"), ctypes.RTLD_GLOBAL)
        for name in ("forward", "backward", "loss"):
            getattr(self.library, f"bench_{name}").restype = ctypes.c_double
        for name in ("new", "data", "diff"):
            getattr(self.library, f"bench_{name}").restype = ctypes.c_void_p
        self.blas = ctypes.CDLL("libopenblas.so.0")
        self.blas.cblas_sasum.restype = ctypes.c_float
        self.blas.cblas_dasum.restype = ctypes.c_double

    def make_bottoms(self, dtype: str, count: int) -> None:
        self.bench = ctypes.c_void_p(self.library.bench_new(dtype == "float64", count))

    def timers(self, dtype: str, count: int) -> Timers:
        self.make_bottoms(dtype, count)
        if self.is_stock:
            return {"plugin": self.layer("L1Loss")}
        if self.threads > 1:
            return {"native": self.layer("L1Loss"), "limit": self.limits(dtype, count)}
        timers = {name: self.layer("L1Loss", more) for name, more in VARIANTS.items()}
        timers["article"] = self.layer("L1LossArticle")
        timers["euclidean"] = self.layer("EuclideanLoss")
        timers["limit"] = self.limits(dtype, count)
        if dtype == "float32":  # pycaffe has no nets in double
            timers.update(python_layers(count), stock=stock_layers(count))
        return timers

    def layer(self, kind: str, more: str = "loss_weight: 1") -> "dict[str, Timer]":
        text = f'name: "{kind}" type: "{kind}" bottom: "x" bottom: "y" top: "loss" {more}'
        index = self.library.bench_add_layer(self.bench, text.encode())
        return {"forward": lambda times: self.library.bench_forward(self.bench, index, times),
                "backward": lambda times: self.library.bench_backward(self.bench, index, times)}

    def limits(self, dtype: str, count: int) -> "dict[str, Timer]":
        """Reading both arrays, as fast as BLAS does; memcpy of both. Each thread has a part."""
        is_double = dtype == "float64"
        asum = self.blas.cblas_dasum if is_double else self.blas.cblas_sasum
        size = 8 if is_double else 4
        data, diff = ([pointer(self.bench, i) for i in range(2)]
                      for pointer in (self.library.bench_data, self.library.bench_diff))
        cuts = [count * i // self.threads for i in range(self.threads + 1)]
        parts = list(zip(cuts, cuts[1:]))
        each = map if self.threads == 1 else ThreadPoolExecutor(self.threads).map

        def read(part: "tuple[int, int]") -> None:
            begin, end = part
            for x in data:
                asum(end - begin, ctypes.c_void_p(x + size * begin), 1)

        def copy(part: "tuple[int, int]") -> None:
            begin, end = part
            for to, x in zip(diff, data):
                ctypes.memmove(to + size * begin, x + size * begin, size * (end - begin))

        return {"forward": timer(lambda: list(each(read, parts))),
                "backward": timer(lambda: list(each(copy, parts)))}

    def errors(self, kind: str, count: int) -> "dict[str, float]":
        """The relative errors of a layer's loss and gradients, against numpy in float64."""
        import numpy as np
        self.make_bottoms("float32", count)
        layer = self.layer(kind)
        loss = self.library.bench_loss(self.bench, 0)
        layer["backward"](1)

        def parts(pointer: Callable, i: int) -> list:
            floats = ctypes.cast(pointer(self.bench, i), ctypes.POINTER(ctypes.c_float))
            return np.array_split(np.ctypeslib.as_array(floats, (count,)), 100)

        x, y = (parts(self.library.bench_data, i) for i in range(2))
        diffs = [parts(self.library.bench_diff, i) for i in range(2)]
        expected = sum(np.abs(p.astype(np.float64) - t).sum() for p, t in zip(x, y)) / batch(count)
        gradient = np.float32(1 / batch(count))
        worst = max(float(np.abs(g / gradient - sign * np.sign(p - t)).max())
                    for diff, sign in zip(diffs, (1, -1)) for p, t, g in zip(x, y, diff))
        return {"forward": abs(loss / expected - 1), "backward": worst}

    def memory(self, count: int) -> "dict[str, float]":
        """Bytes per element that each takes beside the blobs, at most; in C++ in a first pass."""
        self.make_bottoms("float32", count)
        taken = {name: peak(lambda kind: self.layer(kind)["backward"](1), kind)
                 for name, kind in (("native", "L1Loss"), ("article", "L1LossArticle"))}
        for name, timers in python_layers(count).items():
            for first in timers.values():
                first(1)  # what Caffe itself makes at the first time
            taken[name] = max(peak(again, 1) for again in timers.values())
        return {name: size / count for name, size in taken.items()}


def torch_timers(threads: int, dtype: str, count: int) -> Timers:
    import torch
    torch.set_num_threads(threads)
    x, y = (torch.rand(count, dtype=getattr(torch, dtype)).mul_(4).sub_(2).requires_grad_()
            for _ in range(2))
    loss = [torch.nn.functional.l1_loss(x, y, reduction="sum")]

    def forward() -> None:
        loss[0] = torch.nn.functional.l1_loss(x, y, reduction="sum")

    def backward() -> None:
        x.grad = y.grad = None
        loss[0].backward(retain_graph=True)

    return {"torch": {"forward": timer(forward), "backward": timer(backward)}}


def measure(timers: Timers, repetitions: int) -> "dict[str, dict[str, float]]":
    """Median seconds of one call, by name and direction; all take turns in each repetition."""
    collapse_pages()
    turns = [(name, direction) for name, both in timers.items() for direction in both]
    times = {(name, direction): max(1, int(LEAST_SECONDS / warm(timers[name][direction], 1)))
             for name, direction in turns}
    seconds: Dict[Tuple[str, str], List[float]] = {turn: [] for turn in turns}
    for _ in range(repetitions):
        for name, direction in turns:
            taken = warm(timers[name][direction], times[name, direction])
            seconds[name, direction].append(taken)
    return {name: {direction: statistics.median(seconds[name, direction]) for direction in both}
            for name, both in timers.items()}


def batch(count: int) -> int:
    return BATCH if count >= BATCH else 1


def python_layers(count: int) -> Timers:
    plain = {"module": "plain_numpy_layer", "layer": "PlainNumpyLayer"}
    return {"python": net_timer(net_text(count, OURS)), "numpy": net_timer(net_text(count, plain))}


def stock_layers(count: int) -> "dict[str, Timer]":
    from caffe_l1.route.switch import switch
    return net_timer(switch(net_text(count, OURS).encode(), "stock").data.decode())


def net_text(count: int, names: "dict[str, str]") -> str:
    return NET.format(batch=batch(count), length=count // batch(count), **names)


def net_timer(text: str) -> "dict[str, Timer]":
    """All layers of a net but its input, called as Caffe calls them."""
    import caffe
    import numpy as np
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as file:
        file.write(text)
        file.flush()
        net = caffe.Net(file.name, caffe.TRAIN)
    generator = np.random.RandomState(0)
    for name in ("x", "y"):
        net.blobs[name].data[...] = generator.uniform(-2, 2, net.blobs[name].data.shape)
        net.blobs[name].diff[...] = 0
    first, last = 1, len(net._layer_names) - 1
    return {"forward": timer(lambda: net._forward(first, last)),
            "backward": timer(lambda: net._backward(last, first))}


def warm(timer: Timer, times: int) -> float:
    """As in training, where the turn of a layer comes in every step."""
    timer(1)
    return timer(times)


def timer(call: Callable[[], object]) -> Timer:
    def seconds(times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            call()
        return (time.perf_counter() - start) / times
    return seconds


def collapse_pages() -> None:
    """Ask for huge pages under all large arrays, as most systems give them without being asked.

    Small pages that lie scattered over a virtual machine's memory triple the time of some stores.
    """
    madvise, collapse = ctypes.CDLL(None).madvise, 25  # MADV_COLLAPSE, since Linux 6.1
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split()
        start, end = (int(address, 16) for address in fields[0].split("-"))
        if fields[1].startswith("rw") and len(fields) == 5 and end - start > 1 << 22:
            madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), collapse)


def peak(call: Callable[[Any], object], argument: object) -> int:
    """By how many bytes this process grew at most during the call."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the largest size so far
    before = status("VmRSS")
    call(argument)
    return status("VmHWM") - before


def status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field)))


def main(kind: str, folder: str, threads: str, method: str, arguments: str) -> None:
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to standard error
    here = Path(__file__).resolve().parent
    sys.path[:0] = [str(here), str(here.parent), str(here.parent.parent / "python_layer")]
    os.environ.setdefault("GLOG_minloglevel", "2")
    os.environ["OMP_NUM_THREADS"] = threads
    caffe: Any = None if kind == "torch" else Caffe(kind, folder, int(threads))
    values = json.loads(arguments)
    if method == "measure":
        timers = caffe.timers(*values[:2]) if caffe else torch_timers(int(threads), *values[:2])
        json.dump(measure(timers, values[2]), answer)
    else:
        json.dump(getattr(caffe, method)(*values), answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
