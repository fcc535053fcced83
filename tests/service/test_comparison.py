"""Owns the comparison of versions on /metrics: the sums of the requests in the log that both answered."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app import create_app
from app.config import Config
from app.telemetry import prediction_writer
from tests.support.feedback import LONG_AGO, opened
from tests.support.metrics import series, value
from tests.support.service import HOUSE

PAIR = {"model": "boston-housing", "version": "2", "against": "1"}
NAMES = ("requests", "differing_requests", "difference", "difference_squares", "loss")


def test_sums_of_the_log(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gauges have the sums over all requests that two versions answered, whichever worker took their truths."""
    url = f"sqlite:///{tmp_path / 'log.db'}"
    when = datetime.now(UTC) - timedelta(hours=1)
    common = {"time": when, "model": "boston-housing", "version": 1, "features": None}
    truths, answers, others = [20.0, 30.0, 25.0], [22.0, 27.0, 25.0], [19.0, 31.0, 25.0]
    with opened(url) as log:
        ids = [f"r{number}" for number in range(3)]
        log.write([{**common, "request_id": key, "row": 0, "prediction": y} for key, y in zip(ids, answers)])
        log.write_shadows([{"request_id": key, "row": 0, "version": 2, "prediction": y} for key, y in zip(ids, others)])
        log.add_truths([(key, 0, y) for key, y in zip(ids, truths)], oldest=LONG_AGO)
    monkeypatch.setattr(prediction_writer, "_REFRESH_SECONDS", 0)
    app = create_app(Config(store=store, prediction_log=url))
    client = app.test_client()
    assert f'tabserve_comparison_requests{{model="{PAIR["model"]}"' not in client.get("/metrics").text

    app.recorder.start()
    for _ in range(3):  # each waits until the log's thread has written, after which it reads a part
        request_id = client.post("/predict", json=HOUSE).headers["X-Request-Id"]
        client.post("/feedback", json={"request_id": request_id, "truth": 24.0})
    app.recorder.close()

    found = series(client.get("/metrics").text)
    # The squared errors are 4, 9 and 0, and those of version 2 are 1, 1 and 0.
    expected = [3, 2, 11.0, 3.0**2 + 8.0**2, 13.0]
    assert [value(found, f"tabserve_comparison_{name}", **PAIR) for name in NAMES] == expected
