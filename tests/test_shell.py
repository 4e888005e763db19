"""The shell scripts, as far as they can be tried without the network."""

from __future__ import annotations

import os
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from environment import REPO


@pytest.mark.parametrize("script", ["test.sh", "demo.sh", "sandbox.sh", "gpu_bundle.sh"])
@pytest.mark.parametrize("place", ["", "scripts"])
def test_help_is_shown_from_any_folder_and_by_any_path(tmp_path, script, place):
    kit = tmp_path / "a kit"
    kit.symlink_to(REPO)
    folder = kit / place if place else tmp_path
    path = script if place else f"a kit/scripts/{script}"
    done = subprocess.run(["bash", path, "--help"], cwd=str(folder), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"scripts/{script}" in done.stdout and "#" not in done.stdout


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Some that fail at once, where those that make a sandbox would be."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for tool, text in (("mmdebstrap", "echo E: none here >&2; exit 1"), ("bwrap", "exit 0"),
                       ("apt-get", "exit 0")):
        (folder / tool).write_text(f"#!/bin/sh\n{text}\n")
        (folder / tool).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def mirror(tmp_path):
    """A mirror on this machine, of a Debian that is not 11: its address, and its folder."""
    (tmp_path / "mirror" / "dists" / "bookworm").mkdir(parents=True)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "mirror"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}",
                              dists=tmp_path / "mirror" / "dists")
        server.shutdown()


def hold_debian_11(mirror, text="Origin: Debian\nCodename: bullseye\nSuite: oldoldstable\n"):
    (mirror.dists / "bullseye").mkdir()
    (mirror.dists / "bullseye" / "InRelease").write_text(text)


def make_sandbox(url: str, *wrapped_by: str) -> tuple:
    done = subprocess.run([*wrapped_by, str(REPO / "scripts" / "sandbox.sh")], text=True,
                          capture_output=True, env=dict(os.environ, CAFFE_L1_MIRROR=url))
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


NO_DEBIAN_11 = ("sandbox: {} has no Debian 11 (bullseye), which mirrors drop in time; fix: set "
                "CAFFE_L1_MIRROR to a mirror that has it, as those of Debian's archive of old "
                "releases do\n")


def test_a_mirror_without_debian_11_is_said_to_be_one(tools, mirror):
    assert make_sandbox(f"{mirror.url}/") == NO_DEBIAN_11.format(mirror.url)


def test_a_page_of_somebody_elses_is_no_debian_11(tools, mirror):
    hold_debian_11(mirror, "<html>Please log in to this network</html>")
    assert make_sandbox(mirror.url) == NO_DEBIAN_11.format(mirror.url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://nowhere.invalid", "nonsense"])
def test_a_mirror_that_cannot_be_reached_is_named_in_one_line(tools, url):
    said = make_sandbox(url)
    assert said.startswith(f"sandbox: {url} cannot be reached: ") and said.count("\n") == 1
    assert said.endswith("; fix: look at the network, or set CAFFE_L1_MIRROR to another mirror\n")


def test_without_debians_keys_one_line_says_how_to_get_them(tools):
    without = "mount -t tmpfs none /usr/share/keyrings && exec \"$@\""
    said = make_sandbox("", "unshare", "-rm", "sh", "-c", without, "sh")
    assert said == ("sandbox: apt knows no mirror of Debian; fix: on Debian run apt-get update as "
                    "root, elsewhere set CAFFE_L1_MIRROR to the URL of one\n")
    said = make_sandbox("http://127.0.0.1:9", "unshare", "-rm", "sh", "-c", without, "sh")
    assert said == ("sandbox: the keys of Debian are missing; fix: scripts/host_packages.sh "
                    "mmdebstrap bubblewrap debian-archive-keyring\n")


@pytest.mark.parametrize("name", ["sandbox.lock", "sandbox.log"])
def test_a_link_in_the_cache_folder_is_not_written_to(tmp_path, tools, mirror, name):
    hold_debian_11(mirror)
    cache = tmp_path / "cache" / "caffe-l1-loss"
    cache.mkdir(parents=True)
    (tmp_path / "precious").write_text("mine\n")
    (cache / name).symlink_to(tmp_path / "precious")
    assert make_sandbox(mirror.url).endswith("sandbox: making the root failed: E: none here\n")
    assert (tmp_path / "precious").read_text() == "mine\n"
