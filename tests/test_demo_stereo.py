"""The stereo demo: its data, what the net is shown, and a short run end to end."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
from demos import motorcycle
from environment import REPO, seeing


def test_the_ground_truth_has_holes():
    left, right, disparity = motorcycle.load()
    assert left.shape == right.shape == disparity.shape == (500, 741)
    assert round(100 * np.isinf(disparity).mean(), 2) == 7.35
    finite = disparity[np.isfinite(disparity)]
    assert finite.min() > 7 and finite.max() < motorcycle.DISPARITIES


def test_a_shifted_image_matches_at_its_shift():
    right = np.random.RandomState(0).rand(40, 120).astype(np.float32)
    left = np.roll(right, 17, axis=1)
    found = motorcycle.matches(left, right, 5)[:, 80:110]
    assert (found.argmax(axis=-1) == 17).all()
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-5)


def test_a_short_run_learns_with_the_mask_and_says_what_happens_without():
    done = subprocess.run([sys.executable, str(REPO / "scripts" / "demo_stereo.py"),
                           "--iterations", "300"],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"without the mask, the loss .* is (inf|nan): ", done.stdout)
    ours, median = map(float, re.search(r"never saw: (\S+) pixels; predicting the median: (\S+) ",
                                        done.stdout).groups())
    assert median > 14 and ours < median / 2
    assert (REPO / "build" / "demo" / "stereo.png").read_bytes().startswith(b"\x89PNG")


def test_it_runs_without_tqdm(tmp_path):
    """On a terminal, where a bar would be drawn."""
    (tmp_path / "tqdm.py").write_text("raise ImportError\n")
    terminal, other = os.openpty()
    done = subprocess.run([sys.executable, str(REPO / "scripts" / "demo_stereo.py"),
                           "--iterations", "300"], stdout=subprocess.PIPE, stderr=other,
                          env=seeing(tmp_path))
    os.close(other)
    os.close(terminal)
    assert done.returncode == 0 and b"300 iterations of" in done.stdout
