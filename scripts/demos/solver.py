"""A solver of Caffe's from texts, and a bar of progress where somebody looks."""

import tempfile
from pathlib import Path
from typing import Iterable


def make_solver(net: str, solver: str):
    """Of a net and a solver in prototxt; the solver does not name its net."""
    import caffe
    with tempfile.TemporaryDirectory() as folder:
        net_file, solver_file = Path(folder, "net"), Path(folder, "solver")
        net_file.write_text(net)
        solver_file.write_text(f'net: "{net_file}" {solver}')
        return caffe.get_solver(str(solver_file))


def progress(steps: Iterable[int], iterations: int = 1) -> Iterable[int]:
    """The same steps, each of so many iterations."""
    try:
        from tqdm import tqdm
    except ImportError:
        return steps
    return tqdm(steps, leave=False, unit_scale=iterations, unit=" iterations",
                disable=None)  # it is shown on a terminal alone
