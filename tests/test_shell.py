"""The shell scripts, as far as they can be tried without the network."""

from __future__ import annotations

import os
import subprocess

import pytest
from environment import REPO


@pytest.mark.parametrize("script", ["test.sh", "demo.sh", "sandbox.sh"])
@pytest.mark.parametrize("place", ["", "scripts"])
def test_help_is_shown_from_any_folder_and_by_any_path(tmp_path, script, place):
    kit = tmp_path / "a kit"
    kit.symlink_to(REPO)
    folder = kit / place if place else tmp_path
    path = script if place else f"a kit/scripts/{script}"
    done = subprocess.run(["bash", path, "--help"], cwd=str(folder), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"scripts/{script}" in done.stdout and "#" not in done.stdout


@pytest.mark.parametrize("name", ["sandbox.lock", "sandbox.log"])
def test_a_link_in_the_cache_folder_is_not_written_to(tmp_path, name):
    """With tools that fail at once, where those that make a sandbox would be."""
    tools, cache = tmp_path / "tools", tmp_path / "cache" / "caffe-l1-loss"
    cache.mkdir(parents=True)
    tools.mkdir()
    for tool, text in (("mmdebstrap", "echo E: none here >&2; exit 1"), ("bwrap", "exit 0"),
                       ("apt-get", "echo http://nowhere Debian")):
        (tools / tool).write_text(f"#!/bin/sh\n{text}\n")
        (tools / tool).chmod(0o755)
    (tmp_path / "precious").write_text("mine\n")
    (cache / name).symlink_to(tmp_path / "precious")
    environment = dict(os.environ, PATH=f"{tools}:{os.environ['PATH']}",
                       XDG_CACHE_HOME=str(cache.parent))
    done = subprocess.run([str(REPO / "scripts" / "sandbox.sh")], env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 1 and "making the root failed" in done.stderr, done.stderr
    assert (tmp_path / "precious").read_text() == "mine\n"
