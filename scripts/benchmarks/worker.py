"""Measures in a process of its own: `worker.py patched|stock FOLDER`, `worker.py torch`.

Reads one JSON object a line from standard input, and answers each with one on standard output:
    {"open": [dtype, count]}                    -> {"names": [what can be timed]}
    {"close": true}                             -> {}, and the memory is given back
    {"time": [name, direction, times]}          -> {"seconds": per call}, after one for warmth
    {"errors": [type, count]}                   -> {"forward": e, "backward": e} of a layer of that
                                                   type, relative, against numpy in float64
    {"memory": count}                           -> {name: bytes taken beside the blobs, per element}
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable

BATCH = 256
LIBRARY = "harness.so"

VARIANTS: dict[str, dict[str, Any]] = {
    "native": {},
    "native weighted": {"bottom": "w"},
    "native per sample": {"bottom": "sample"},
    "native ignore_label": {"options": {"ignore_label": -1}},
    "native ignore_nonfinite": {"options": {"ignore_nonfinite_target": True}},
    "native valid_mean": {"options": {"reduction": "VALID_MEAN", "ignore_label": -1}},
    # With a loss_weight Caffe's own Layer::Forward multiplies the whole top by it.
    "native unreduced": {"options": {"reduction": "NONE"}, "loss_weight": 0},
}


def layer_text(kind: str, own: bool, options: dict | None = None, bottom: str = "",
               loss_weight: int = 1) -> str:
    """A layer's prototxt; own says whether this Caffe's caffe.proto has l1_loss_param."""
    bottoms = " ".join(f'bottom: "{name}"' for name in ("x", "y", bottom) if name)
    param = f"python_param {{ param_str: '{json.dumps(options)}' }}" if options else ""
    if own and options:
        fields = json.dumps(options).strip("{}").replace('"', "")
        param = f"l1_loss_param {{ {fields} }}"
    return (f'name: "{kind}" type: "{kind}" {bottoms} top: "loss" loss_weight: {loss_weight} '
            f"{param}")


class Harness:
    """Layers timed in C++, with the limits of this machine beside them."""

    def __init__(self, folder: str) -> None:
        import caffe
        self.own = "L1Loss" in list(caffe.layer_type_list())
        if not self.own:
            import l1_loss_plugin
            l1_loss_plugin.load(os.path.join(folder, "plugin.so"))
        self.library = ctypes.CDLL(os.path.join(folder, LIBRARY), ctypes.RTLD_GLOBAL)
        for name in ("forward", "backward", "loss"):
            getattr(self.library, f"bench_{name}").restype = ctypes.c_double
        for name in ("new", "data", "diff"):
            getattr(self.library, f"bench_{name}").restype = ctypes.c_void_p
        self.blas = ctypes.CDLL("libopenblas.so.0")
        self.blas.cblas_sasum.restype = ctypes.c_float
        self.blas.cblas_dasum.restype = ctypes.c_double
        self.bench: ctypes.c_void_p | None = None

    def new(self, is_double: bool, count: int) -> None:
        self.close()
        self.bench = ctypes.c_void_p(self.library.bench_new(is_double, count))

    def close(self) -> None:
        if self.bench:
            self.library.bench_delete(self.bench)
        self.bench = None

    def open(self, dtype: str, count: int) -> dict[str, dict[str, Callable[[int], float]]]:
        is_double = dtype == "float64"
        self.new(is_double, count)
        texts = {name: layer_text("L1Loss", self.own, **how) for name, how in VARIANTS.items()}
        texts["article"] = layer_text("L1LossArticle", self.own)
        texts["euclidean"] = layer_text("EuclideanLoss", self.own)
        timers = {name: self.layer(text) for name, text in texts.items()}
        timers["limit"] = self.limits(is_double, count)
        return timers

    def layer(self, text: str) -> dict[str, Callable[[int], float]]:
        index = self.library.bench_add_layer(self.bench, text.encode())
        return {
            "forward": lambda times: self.library.bench_forward(self.bench, index, times),
            "backward": lambda times: self.library.bench_backward(self.bench, index, times),
        }

    def limits(self, is_double: bool, count: int) -> dict[str, Callable[[int], float]]:
        """Reading both arrays, as fast as BLAS does; memcpy of both."""
        asum = self.blas.cblas_dasum if is_double else self.blas.cblas_sasum
        data = [ctypes.c_void_p(self.library.bench_data(self.bench, i)) for i in range(2)]
        diff = [ctypes.c_void_p(self.library.bench_diff(self.bench, i)) for i in range(2)]
        size = count * (8 if is_double else 4)

        def read() -> None:
            for array in data:
                asum(count, array, 1)

        def copy() -> None:
            for target, source in zip(diff, data):
                ctypes.memmove(target, source, size)

        return {"forward": timer(read), "backward": timer(copy)}

    def errors(self, kind: str, count: int) -> dict[str, float]:
        """The relative errors of the loss of so many floats, and of its gradients."""
        import numpy as np
        self.new(False, count)
        layer = self.layer(layer_text(kind, self.own))
        loss = self.library.bench_loss(self.bench, 0)
        layer["backward"](1)

        def parts(pointer: Callable, i: int) -> list:
            floats = ctypes.cast(pointer(self.bench, i), ctypes.POINTER(ctypes.c_float))
            return np.array_split(np.ctypeslib.as_array(floats, (count,)), 100)

        x, y = (parts(self.library.bench_data, i) for i in range(2))
        diffs = [parts(self.library.bench_diff, i) for i in range(2)]
        batch = BATCH if count >= BATCH else 1
        expected = sum(np.abs(p.astype(np.float64) - t).sum() for p, t in zip(x, y)) / batch
        gradient = np.float32(1 / batch)
        worst = max(float(np.abs(g / gradient - sign * np.sign(p - t)).max())
                    for diff, sign in zip(diffs, (1, -1)) for p, t, g in zip(x, y, diff))
        return {"forward": abs(loss / expected - 1), "backward": worst}

    def memory(self, count: int) -> dict[str, float]:
        """Bytes per element of the largest moment of a first pass, beside blobs that are there."""
        def first_pass(kind: str) -> None:
            self.layer(layer_text(kind, self.own))["backward"](1)

        self.new(False, count)
        taken = {name: peak(functools.partial(first_pass, kind)) / count
                 for name, kind in (("native", "L1Loss"), ("article", "L1LossArticle"))}
        return {**taken, **python_memory(count)}


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


def timer(call: Callable[[], None]) -> Callable[[int], float]:
    def seconds(times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            call()
        return (time.perf_counter() - start) / times
    return seconds


NET = """force_backward: true
layer {{ name: "data" type: "Input" top: "x" top: "y" input_param {{
  shape {{ dim: {batch} dim: {length} }} }} }}
layer {{ name: "loss" type: "Python" bottom: "x" bottom: "y" top: "loss" loss_weight: 1
  python_param {{ module: "{module}" layer: "{layer}" }} }}
"""


def python_layer(module: str, layer: str, count: int) -> dict[str, Callable[[int], float]]:
    """A Python layer, called as Caffe calls it."""
    import caffe
    import numpy as np
    batch = BATCH if count >= BATCH else 1
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as file:
        file.write(NET.format(batch=batch, length=count // batch, module=module, layer=layer))
        file.flush()
        net = caffe.Net(file.name, caffe.TRAIN)
    generator = np.random.RandomState(0)
    for name in ("x", "y"):
        net.blobs[name].data[...] = generator.uniform(-2, 2, net.blobs[name].data.shape)
        net.blobs[name].diff[...] = 0
    index = list(net._layer_names).index("loss")
    return {"forward": timer(lambda: net._forward(index, index)),
            "backward": timer(lambda: net._backward(index, index))}


def python_layers(count: int) -> dict[str, dict[str, Callable[[int], float]]]:
    return {"python": python_layer("l1_loss_layer", "L1LossLayer", count),
            "numpy": python_layer("plain_numpy_layer", "PlainNumpyLayer", count)}


def python_memory(count: int) -> dict[str, float]:
    taken = {}
    for name, timers in python_layers(count).items():
        timers["forward"](1)  # what Caffe itself makes at the first time
        timers["backward"](1)
        taken[name] = max(peak(functools.partial(timers[direction], 1)) / count
                          for direction in ("forward", "backward"))
    return taken


def peak(call: Callable[[], object]) -> int:
    """By how many bytes this process grew at most during the call."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the largest size so far
    before = status("VmRSS")
    call()
    return status("VmHWM") - before


def status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field)))


def caffe_timers(kind: str, harness: Harness) -> Callable:

    def open_all(dtype: str, count: int) -> dict:
        timers = harness.open(dtype, count)
        if kind == "stock":
            return {"plugin": timers["native"]}
        if dtype == "float32":  # pycaffe has no nets in double
            timers.update(python_layers(count))
        return timers

    return open_all


def torch_timers() -> Callable:
    import torch
    torch.set_num_threads(1)

    def open_all(dtype: str, count: int) -> dict:
        x, y = (torch.rand(count, dtype=getattr(torch, dtype)).mul_(4).sub_(2).requires_grad_()
                for _ in range(2))
        loss = [torch.nn.functional.l1_loss(x, y, reduction="sum")]

        def forward() -> None:
            loss[0] = torch.nn.functional.l1_loss(x, y, reduction="sum")

        def backward() -> None:
            x.grad = y.grad = None
            loss[0].backward(retain_graph=True)

        return {"torch": {"forward": timer(forward), "backward": timer(backward)}}

    return open_all


def main(kind: str, folder: str = "") -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to standard error
    here = Path(__file__).resolve().parent
    sys.path[:0] = [str(here), str(here.parent.parent / "python_layer")]
    os.environ.setdefault("GLOG_minloglevel", "2")
    harness = Harness(folder) if folder else None
    open_all = caffe_timers(kind, harness) if harness else torch_timers()
    timers: dict = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "open" in request:
            timers.clear()
            timers.update(open_all(*request["open"]))
            collapse_pages()
            answer: dict[str, Any] = {"names": sorted(timers)}
        elif "time" in request:
            name, direction, times = request["time"]
            timers[name][direction](1)  # as in training, where its turn comes in every step
            answer = {"seconds": timers[name][direction](times)}
        elif "close" in request:
            timers.clear()
            if harness:
                harness.close()
            answer = {}
        elif harness:
            answer = (harness.errors(*request["errors"]) if "errors" in request
                      else harness.memory(request["memory"]))
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
