"""Runs nets in the Caffe that PYTHONPATH names: `caffe_worker.py JOBS RESULTS [PLUGIN]`, pickles.

A job is a dict: net, the prototxt; inputs, the arrays by blob name, set before each of the passes
(a list of such dicts for several passes). A result is a list with one dict for each pass: data and
diff, the arrays of all blobs after forward and backward, and loss, the net's own.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


def run_in(python_path: list, jobs: list, plugin: str = "") -> list:
    """The results of jobs, run by a process of its own with that PYTHONPATH."""
    from environment import seeing
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / name) for name in ("jobs", "results")]
        Path(paths[0]).write_bytes(pickle.dumps(jobs))
        process = subprocess.run(
            [sys.executable, __file__, *paths] + [plugin] * bool(plugin),
            env=seeing(*python_path, GLOG_minloglevel="2"),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.returncode == 0, process.stdout[-3000:]
        return pickle.loads(Path(paths[1]).read_bytes())


def run_job(caffe, job: dict) -> list:
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as file:
        file.write(job["net"])
        file.flush()
        net = caffe.Net(file.name, caffe.TRAIN)
    results = []
    for inputs in job["inputs"]:
        for name, array in inputs.items():
            net.blobs[name].reshape(*array.shape)
        net.reshape()
        for name, array in inputs.items():
            if array.size:
                net.blobs[name].data[...] = array
        loss = {name: value.copy() for name, value in net.forward().items()}
        net._backward(len(net.layers) - 1, 0)  # backward() reads the diffs of empty blobs too
        results.append({
            "loss": loss,
            "data": {name: copy_of(blob, "data") for name, blob in net.blobs.items()},
            "diff": {name: copy_of(blob, "diff") for name, blob in net.blobs.items()},
        })
    return results


def copy_of(blob: Any, kind: str) -> np.ndarray:
    """Caffe aborts where an empty blob is read that was never larger."""
    return getattr(blob, kind).copy() if blob.count else np.zeros(tuple(blob.shape), np.float32)


def main(jobs: str, results: str, plugin: str = "") -> None:
    import caffe
    if plugin:
        import l1_loss_plugin
        l1_loss_plugin.load(plugin)
    answers = [run_job(caffe, job) for job in pickle.loads(Path(jobs).read_bytes())]
    Path(results).write_bytes(pickle.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
