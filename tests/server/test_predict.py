"""Predictions through gunicorn."""

from __future__ import annotations

from pathlib import Path

import requests

from tests.support.server import serve
from tests.support.service import ANSWER, HOUSE

WIDE = {**HOUSE, "MEDV": 24.0}


def test_ignored_target_is_logged_once(store: Path, tmp_path: Path) -> None:
    """A table with a target column is logged once, not with every request."""
    with serve(store, tmp_path, WEB_CONCURRENCY="1") as running:
        for _ in range(3):
            assert requests.post(f"{running.url}/predict", json=[WIDE], timeout=10).json()["prediction"] == [ANSWER]

    assert running.stderr.read_text().count("MEDV") == 1
