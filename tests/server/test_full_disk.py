"""Owns the behaviour on a full disk: requests and metrics need no disk space, and a message names the full folder."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from tests.support.metrics import PREDICTED, kill_worker, predict, scrape, value
from tests.support.server import Server, serve, wait_until
from tests.support.service import HOUSE

# A command in a mount namespace whose root file system is read-only.
READ_ONLY = ("unshare", "--mount", "sh", "-c", 'mount -o remount,bind,ro / && exec "$@"', "sh")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip("mounting a small file system needs root, and a container that may mount")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(disk: Path) -> None:
    """Write to a disk until it is full."""
    with (disk / "filling").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    assert os.statvfs(disk).f_bavail == 0


def counted(server: Server) -> float:
    """Return the number of predictions with status 200."""
    return value(scrape(server), "http_requests_total", **PREDICTED)


@pytest.mark.parametrize("log", ["", "sqlite:///{disk}/predictions.db"], ids=["no log", "log"])
def test_disk_that_fills_up(store: Path, tmp_path: Path, disk: Path, log: str) -> None:
    """When the temporary folder's disk fills up no worker dies, everything is counted, and new workers start."""
    settings = {"TMPDIR": str(disk), "TABSERVE_PREDICTION_LOG": log.format(disk=disk)}
    with serve(store, tmp_path, WEB_CONCURRENCY="2", **settings) as server:
        wait_until(lambda: len(server.workers()) == 2)
        first = server.workers()
        fill(disk)
        predict(server, 20)
        for number in range(50):  # new series
            assert requests.request("PUT", f"{server.url}/junk{number}", timeout=10).status_code == 404
        wait_until(lambda: counted(server) == 20)
        assert server.workers() == first

        kill_worker(server)
        predict(server, 20)
        wait_until(lambda: counted(server) == 40)
        old = set(server.workers())
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: not old & set(server.workers()) and len(server.workers()) == 2)
        predict(server, 20)
        wait_until(lambda: counted(server) == 60)
        assert server.terminate() == 0


def test_start_on_a_full_disk(store: Path, tmp_path: Path, disk: Path) -> None:
    """A server starts if the only writable folder is full, like a restarted container."""
    fill(disk)
    with serve(store, tmp_path, prefix=READ_ONLY, WEB_CONCURRENCY="2", TMPDIR=str(disk)) as server:
        predict(server, 20)
        wait_until(lambda: counted(server) == 20)
        assert requests.post(f"{server.url}/predict", json=HOUSE, timeout=10).status_code == 200
        assert server.terminate() == 0


def test_killed_server_leaves_nothing(store: Path, tmp_path: Path) -> None:
    """A killed server leaves nothing in the temporary folder."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    with serve(store, tmp_path, WEB_CONCURRENCY="2", TMPDIR=str(folder)) as server:
        wait_until(lambda: len(server.workers()) == 2)
        predict(server, 5)
        workers = server.workers()
        server.process.kill()
        server.process.wait()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))

    assert list(folder.iterdir()) == []
