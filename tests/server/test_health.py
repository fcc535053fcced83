"""Probes of a real server."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from tests.support.server import Server, serve
from tests.support.service import HOUSE


def test_missing_store(tmp_path: Path) -> None:
    """With a store that does not exist the real server is live and not ready."""
    with serve(tmp_path / "none", tmp_path, wait="/livez", WEB_CONCURRENCY="1") as server:
        ready = requests.get(f"{server.url}/readyz", timeout=10)

        assert ready.status_code == 503
        assert str(tmp_path / "none") in ready.json()["reason"]


@pytest.mark.parametrize("path", ["//predict", "/predict/", "//", "/livez/", "//models/boston-housing//predict"])
def test_no_redirects(server: Server, path: str) -> None:
    """No path redirects: a client that posts would lose its body."""
    reply = requests.post(server.url + path, json=HOUSE, timeout=10, allow_redirects=False)

    assert "Location" not in reply.headers
    assert reply.status_code in (200, 404, 405)
