"""What every test shares: import paths, and a skip that counts as a failure in CI."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
for folder in (REPO / "python_layer", REPO / "scripts", REPO / "tests"):
    sys.path.insert(0, str(folder))
os.environ.setdefault("GLOG_minloglevel", "2")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI nothing may be skipped: what a test needs, scripts/test.sh installs."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = "skipped in CI, where nothing may be: %s" % (report.longrepr,)
