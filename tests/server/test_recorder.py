"""What workers record of their requests, and that their threads lose nothing."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import requests

from app.factory import Service
from model import Artifact
from model.live.prediction_log import PredictionLog
from tests.support import recorder as shared
from tests.support.metrics import scrape, series
from tests.support.recorder import Counts, answered, bins, counted, expected, n_logged, n_predictions, random_rows
from tests.support.server import Server, wait_until
from tests.support.service import COLUMNS, PROTOCOLS

model = shared.model
reference = shared.reference
service = shared.service


def difference(after: Counts, before: Counts) -> Counts:
    """Return the increase of every count."""
    assert after.keys() == before.keys()
    return {key: after[key] - before[key] for key in after}


def test_every_bin_is_there_from_the_start_in_workers(server: Server, reference: dict[str, Any]) -> None:
    """The same with several workers."""
    assert bins(scrape(server)).keys() == expected(reference, np.empty((0, len(COLUMNS))), np.empty(0)).keys()


def test_bins_are_those_of_numpy(
    server: Server, houses: pd.DataFrame, reference: dict[str, Any], model: Artifact
) -> None:
    """Random rows, in batches and alone, in several protocols and workers, are counted in numpy's bins."""
    before = bins(scrape(server))
    X = random_rows(houses, 3_000, seed=5)
    y = model.predict(X)
    protocols = [PROTOCOLS[name] for name in ("native", "V2", "V1", "MLflow")]
    start, turn = 0, 0
    while start < len(X):
        size = (1, 250, 1, 40, 700)[turn % 5]
        protocol = protocols[turn % 4]
        rows = X[start : start + size].tolist()
        reply = requests.post(server.url + protocol.path, json=protocol.write(rows), timeout=10)
        assert protocol.read(reply.json()) == y[start : start + size].tolist()
        start, turn = start + size, turn + 1
    wait_until(lambda: n_predictions(bins(scrape(server))) == n_predictions(before) + len(X))

    assert difference(bins(scrape(server)), before) == expected(reference, X, y)


def test_threads_lose_nothing(
    service: Service, model: Artifact, houses: pd.DataFrame, reference: dict[str, Any], tmp_path: Path
) -> None:
    """While eight threads record, two flush and the recorder runs, every row is counted and logged once."""
    X = random_rows(houses, 800, seed=6)
    y = model.predict(X)
    service.recorder.start()
    stop = threading.Event()

    def record(thread: int) -> None:
        for turn in range(40):
            for number in range(thread * 100, thread * 100 + 100, 50):
                some = slice(number, number + 50)
                service.recorder.record(answered(f"{thread}-{turn}-{number}", model, X[some], y[some]))

    def flush() -> None:
        while not stop.is_set():
            service.recorder.flush()

    flushers = [threading.Thread(target=flush) for _ in range(2)]
    recorders = [threading.Thread(target=record, args=[number]) for number in range(8)]
    for thread in (*flushers, *recorders):
        thread.start()
    for thread in recorders:
        thread.join()
    stop.set()
    for thread in flushers:
        thread.join()
    wait_until(lambda: n_logged(service) == 40 * len(X))
    service.recorder.close()

    assert counted(service) == {key: 40 * count for key, count in expected(reference, X, y).items()}
    log = PredictionLog(f"sqlite:///{tmp_path / 'log.db'}")
    found = log.read("boston-housing", 1, features=(), since=pd.Timestamp(0, tz="UTC").to_pydatetime())
    assert sorted(found.predictions.tolist()) == sorted(np.tile(y, 40).tolist())
    log.close()


@pytest.fixture
def restless_threads() -> Iterator[None]:
    """Switch threads often, so that they meet wherever they can."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("restless_threads")
def test_writing_while_recording(service: Service, model: Artifact, houses: pd.DataFrame) -> None:
    """The log is written while more exchanges are recorded, without a failed attempt, and in the end has every row."""
    row = houses.to_numpy()[:1]
    service.recorder.start()
    until = time.monotonic() + 3
    n_rows = 0
    while time.monotonic() < until:
        service.recorder.record(answered(f"request-{n_rows}", model, row, np.array([1.0])))
        service.recorder.flush()
        n_rows += 1
    wait_until(lambda: n_logged(service) == n_rows)
    service.recorder.close()
    found = series(service.test_client().get("/metrics").text)

    assert found["tabserve_prediction_log_failures_total", frozenset()] == 0
    assert found["tabserve_prediction_log_rows_total", frozenset()] == n_rows


def test_counted_soon(service: Service, model: Artifact, houses: pd.DataFrame) -> None:
    """A running recorder counts by itself, within two seconds unless the machine is busy."""
    service.recorder.start()
    X = houses.to_numpy()

    def seconds(number: int) -> float:
        service.recorder.record(answered(f"request-{number}", model, X, model.predict(X)))
        started = time.monotonic()
        wait_until(lambda: n_predictions(counted(service)) == number * len(X))
        return time.monotonic() - started

    assert any(seconds(number) < 2 for number in range(1, 6))


def test_recorder_survives_exchanges_that_it_cannot_count(
    service: Service, model: Artifact, houses: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows that cannot be counted are logged as an error, and later ones are counted."""
    service.recorder.start()
    service.recorder.record(answered("bad", model, np.zeros((2, 3)), np.zeros(2)))
    service.recorder.record(answered("bad too", model, np.zeros((2, 4)), np.zeros(2)))
    wait_until(lambda: "requests were not counted" in caplog.text)
    X = houses.to_numpy()
    service.recorder.record(answered("good", model, X, model.predict(X)))

    wait_until(lambda: n_predictions(counted(service)) == len(X))
