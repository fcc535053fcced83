"""V2 through a real server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import requests

from tests.support.server import Server, serve, wait_until
from tests.support.service import ANSWER, refused, strict_json, write_tensors
from tests.support.v2 import INFER, JSON_LENGTH, MODEL, NAME, ROW, WRONG, Document


@pytest.fixture
def fresh(store: Path, tmp_path: Path) -> Iterator[Server]:
    """A gunicorn with two workers, which had no other requests."""
    with serve(store, tmp_path, WEB_CONCURRENCY="2") as running:
        yield running


def test_statistics_across_workers(fresh: Server) -> None:
    """Any worker returns the statistics of all workers; what others answered is in them a moment later, once."""

    def statistics(path: str = f"{MODEL}/stats") -> Document:
        (found,) = strict_json(requests.get(fresh.url + path, timeout=10))["model_stats"]
        return cast(Document, found)

    def post(document: Document, count: int) -> None:
        for _ in range(count):  # each on a connection of its own, so that any worker may get it
            requests.post(fresh.url + INFER, json=document, timeout=10)

    def counts() -> tuple[int, int]:
        found = statistics()
        return found["execution_count"], found["inference_stats"]["fail"]["count"]

    before = statistics()
    started = time.perf_counter()
    post(write_tensors([ROW] * 3), 20)
    took = time.perf_counter() - started
    post(write_tensors([[None, *ROW[1:]]]), 5)
    requests.post(f"{fresh.url}/v2/models/titanic/infer", json=write_tensors([ROW]), timeout=10)
    wait_until(lambda: counts() == (20, 5))  # workers count every 0.2 s
    seen = [statistics(path) for path in (f"{MODEL}/stats", f"{MODEL}/versions/1/stats", "/v2/models/stats") * 4]
    after = seen[0]

    assert seen == [after] * 12
    assert (after["name"], after["version"], after["batch_stats"]) == (NAME, "1", [])
    assert after["inference_count"] - before["inference_count"] == 60
    assert after["execution_count"] - before["execution_count"] == 20
    grown = {
        step: {
            key: after["inference_stats"][step][key] - before["inference_stats"][step][key] for key in ("count", "ns")
        }
        for step in after["inference_stats"]
    }
    assert {step: counted["count"] for step, counted in grown.items() if counted["count"]} == {
        "success": 20,
        "fail": 5,
        "compute_infer": 20,
    }
    assert 0 < grown["compute_infer"]["ns"] < grown["success"]["ns"] < took * 1e9
    assert grown["success"]["ns"] > 20 * 10_000  # no request takes less than 10 µs
    assert grown["fail"]["ns"] > 0


def test_server_outlives_hostile_requests(server: Server) -> None:
    """The real server refuses every bad request on one connection, and answers the good one after it."""
    good = json.dumps(write_tensors([ROW])).encode()
    with requests.Session() as session:
        for change, _ in WRONG.values():
            body = json.dumps(change(write_tensors([ROW, ROW]))).encode()
            assert 400 <= session.post(server.url + INFER, data=body, timeout=10).status_code < 500
        for length in ("99999999999", "-1", "0", "9" * 5_000):
            reply = session.post(server.url + INFER, data=good, headers={JSON_LENGTH: length}, timeout=10)
            refused(reply, 400)
        reply = session.post(server.url + INFER, data=good, timeout=10)
        assert strict_json(reply)["outputs"][0]["data"] == [ANSWER]
