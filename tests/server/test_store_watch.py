"""Owns the store watch: a server loads a repaired store without a restart, and verifies nothing in a loop."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import requests

from app.serving.store_watch import fingerprint
from tests.support.server import Server, serve
from tests.support.service import HOUSE, rewrite

NAME = "boston-housing"
# Root can read everything unless it drops that capability.
READS_ALL = "-dac_override,-dac_read_search"
AS_A_USER = ["setpriv", f"--bounding-set={READS_ALL}", f"--inh-caps={READS_ALL}"] if os.geteuid() == 0 else []


def can_be_kept_out() -> bool:
    """Return whether file permissions apply to a server that we start."""
    try:
        return subprocess.run([*AS_A_USER, "true"], check=False).returncode == 0
    except OSError:
        return False


def readiness(server: Server) -> requests.Response:
    return requests.get(f"{server.url}/readyz", timeout=10)


def wait_until_ready(server: Server) -> None:
    """Wait until the server is ready; fail if it is not within 30 s."""
    deadline = time.monotonic() + 30
    while (reply := readiness(server)).status_code != 200:
        assert time.monotonic() < deadline, reply.text
        time.sleep(0.1)


def loads(server: Server) -> int:
    """Return how often the server logged why it is not ready."""
    lines = [json.loads(line) for line in server.stderr.read_text().splitlines()]
    return sum(line["message"].startswith("not ready: ") for line in lines)


def test_store_that_is_filled_later(store: Path, tmp_path: Path) -> None:
    """A model that is added to an empty store is served by the same server a few seconds later."""
    own = tmp_path / "store"
    own.mkdir()
    with serve(own, tmp_path, wait="/livez", WEB_CONCURRENCY="2") as server:
        assert readiness(server).json()["reason"].startswith(f"the store {own} has no model")
        shutil.copytree(store, own, dirs_exist_ok=True)
        wait_until_ready(server)

        assert readiness(server).json()["models"] == {NAME: 1}
        assert requests.post(f"{server.url}/predict", json=HOUSE, timeout=10).status_code == 200


def test_artifact_that_is_repaired(store: Path, tmp_path: Path) -> None:
    """A damaged artifact is verified once and never served; if its damage changes, /readyz has the new problem.

    Repaired, it is served.
    """
    own = Path(shutil.copytree(store, tmp_path / "store"))
    damaged = own / NAME / "1" / "trees.npz"
    sound = damaged.read_bytes()
    damaged.write_bytes(b"damaged")
    with serve(own, tmp_path, wait="/livez", WEB_CONCURRENCY="1") as server:
        assert str(damaged) in readiness(server).json()["reason"]
        time.sleep(4)
        assert loads(server) == 1

        rewrite(own / NAME / "1", lambda manifest: manifest.update(format_version=99))
        deadline = time.monotonic() + 30
        while "format 99" not in readiness(server).json()["reason"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert requests.post(f"{server.url}/predict", json=HOUSE, timeout=10).status_code == 503

        shutil.copytree(store, own, dirs_exist_ok=True)
        wait_until_ready(server)
    assert damaged.read_bytes() == sound


@pytest.mark.skipif(not can_be_kept_out(), reason="nothing is unreadable for this user")
@pytest.mark.parametrize(
    "place", ["", NAME, f"{NAME}/1", f"{NAME}/1/trees.npz", f"{NAME}/moves", f"{NAME}/moves/1.json"]
)
def test_store_that_becomes_readable(store: Path, tmp_path: Path, place: str) -> None:
    """/readyz names what cannot be read, and the reason; once its permissions are right it is served."""
    own = Path(shutil.copytree(store, tmp_path / "store"))
    kept, closed = own.joinpath(place).stat().st_mode, own / place
    closed.chmod(0)
    try:
        with serve(own, tmp_path, wait="/livez", prefix=AS_A_USER, WEB_CONCURRENCY="1") as server:
            reason = readiness(server).json()["reason"]
            closed.chmod(kept)
            wait_until_ready(server)
    finally:
        closed.chmod(kept)

    assert "cannot be read: " in reason
    assert str(closed) in reason
    assert "Permission denied" in reason


def test_fingerprint_of_a_disk(tmp_path: Path) -> None:
    """A fingerprint covers a bounded number of files, in case the store is a whole disk by mistake."""
    for folder in range(110):
        (tmp_path / str(folder)).mkdir()
        for file in range(100):
            (tmp_path / str(folder) / str(file)).touch()

    assert len(fingerprint(tmp_path)) == 10_001
