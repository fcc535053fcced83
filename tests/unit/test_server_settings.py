"""gunicorn's settings, as they follow from the service's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.server.settings import from_environ


@pytest.mark.parametrize(("seconds", "expected"), [("10", 1), ("1", 1), ("0", 0)])
def test_wait_for_a_store_behind_a_url(tmp_path: Path, seconds: str, expected: int) -> None:
    """The folder that is kept of such a store is asked every second, so that the two waits do not add up; 0 stays 0."""
    common = {"TABSERVE_RELOAD_SECONDS": seconds, "TABSERVE_PREDICTION_LOG": ""}
    behind = {"TABSERVE_STORE": "memory://somewhere/models", "TABSERVE_STORE_CACHE": str(tmp_path)}

    assert from_environ(common).service.reload_seconds == int(seconds)
    assert from_environ({**common, **behind}).service.reload_seconds == expected
