"""Shadows of a real server: exact counts over workers, both answers in the log, and a challenger that hangs."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import requests

from app import create_app
from app.config import Config
from app.serving import shadow
from app.serving.challengers import Challenger, Mode
from model import Matrix, Store
from model.cli.main import main
from tests.support.feedback import LONG_AGO, opened
from tests.support.metrics import by_label, scrape, series, value
from tests.support.server import Server, serve, wait_until
from tests.support.service import COLUMNS, TABLE, rewrite

NAME = "boston-housing"
PAIR = {"model": NAME, "version": "2", "against": "1"}
ROWS, MISSED = "tabserve_shadow_rows_total", "tabserve_shadow_missed_rows_total"
LOGGED_SHADOWS = "tabserve_prediction_log_shadow_rows_total"


@pytest.fixture(scope="module")
def two(store: Path, worse_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two versions of boston-housing, of which the second is worse and has no alias."""
    both = tmp_path_factory.mktemp("two") / "store"
    shutil.copytree(store, both)
    shutil.copytree(worse_store / NAME / "1", both / NAME / "2")
    rewrite(both / NAME / "2", lambda manifest: manifest.update(version=2))
    return both


@pytest.fixture
def log(tmp_path: Path) -> str:
    """The URL of an empty log."""
    return f"sqlite:///{tmp_path / 'log.db'}"


@pytest.fixture
def shadowing(two: Path, tmp_path: Path, log: str) -> Iterator[Server]:
    """A server with two workers and a shadow."""
    models = f"{NAME},{NAME}@2:shadow"
    with serve(two, tmp_path, WEB_CONCURRENCY="2", TABSERVE_PREDICTION_LOG=log, TABSERVE_MODELS=models) as server:
        wait_until(lambda: len(server.workers()) == 2)
        yield server


def n_done(server: Server) -> float:
    found = scrape(server)
    return sum(by_label(found, ROWS, "outcome").values()) + sum(by_label(found, MISSED, "reason").values())


def ask(server: Server, X: Any, request_id: str) -> None:
    """Send rows on a connection of its own, so that any worker may get them."""
    body, headers = {"columns": COLUMNS, "data": X.tolist()}, {"X-Request-Id": request_id}
    assert requests.post(f"{server.url}/predict", json=body, headers=headers, timeout=30).status_code == 200


def test_exact_figures_of_two_workers(shadowing: Server, two: Path, houses: pd.DataFrame) -> None:
    """Counts are added over workers, and the largest difference is that of any worker; no row is missed."""
    X = houses.to_numpy()
    for number in range(0, len(X), 3):
        ask(shadowing, X[number : number + 3], f"r{number}")
    wait_until(lambda: n_done(shadowing) == len(X))
    found = scrape(shadowing)

    one, other = (Store(two).load(f"{NAME}@{version}").predict(X) for version in (1, 2))
    sizes = np.abs(one - other)
    differing = int((sizes > 0).sum())
    assert differing > 400
    assert by_label(found, ROWS, "outcome") == {("equal",): len(X) - differing, ("different",): differing}
    assert set(by_label(found, MISSED, "reason").values()) == {0.0}
    assert value(found, "tabserve_shadow_difference_sum", **PAIR) == pytest.approx(sizes.sum())
    assert value(found, "tabserve_shadow_largest_difference", **PAIR) == sizes.max()


def test_verdict_on_a_live_server(
    shadowing: Server, two: Path, log: str, houses: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both answers of every request are in the log, so that `compare` names the worse version once truths arrive."""
    X, y = houses.to_numpy(), pd.read_csv(TABLE)["MEDV"].to_numpy()
    for number in range(300):
        ask(shadowing, X[number : number + 1], f"r{number}")
    wait_until(lambda: value(scrape(shadowing), LOGGED_SHADOWS) == 300)
    truths = [{"request_id": f"r{number}", "truth": y[number]} for number in range(300)]
    for start in range(0, 300, 100):
        reply = requests.post(f"{shadowing.url}/feedback", json=truths[start : start + 100], timeout=30)
        assert reply.json()["accepted"] == 100

    assert main(["--store", str(two), "compare", NAME, "1", "2", "--log", log]) == 3
    verdict, counted, *_ = capsys.readouterr().out.splitlines()
    assert verdict.startswith("version 2 is worse than version 1")
    assert counted.strip().startswith("300 ")


def test_stop_loses_no_answer(shadowing: Server, log: str, houses: pd.DataFrame) -> None:
    """What waits when the server is told to stop is answered and logged before it ends."""
    X = houses.to_numpy()
    for number in range(100):
        ask(shadowing, X[number : number + 1], f"r{number}")
    assert shadowing.terminate() == 0

    with opened(log) as opened_log:
        parts = list(opened_log.answers(NAME, since=LONG_AGO))
    assert sum(np.isfinite(part.answers[2]).sum() for part in parts) == 100


class Hanging:
    """An engine that answers when it is let go."""

    def __init__(self) -> None:
        self.is_asked, self.goes_on = threading.Event(), threading.Event()

    def predict(self, X: Matrix) -> Any:
        self.is_asked.set()
        self.goes_on.wait()
        return np.zeros(len(X))


def test_challenger_that_hangs(store: Path, log: str, houses: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a challenger hangs, requests are answered as ever, its queue fills, and what finds no room is counted; the
    worker stops all the same, and the replies are in the log.
    """
    monkeypatch.setattr(shadow, "MAX_WAITING_ROWS", 20)
    monkeypatch.setattr(shadow, "_STOP_SECONDS", 0.1)
    service = create_app(Config(store=store, prediction_log=log), write_log=lambda _: None)
    champion, engine = service.serving.loaded.models[NAME], Hanging()
    hanging = replace(champion, version=2, engine=cast(Any, engine))
    service.swap(replace(service.serving.loaded, challengers={NAME: (Challenger(hanging, Mode.SHADOW, 1.0),)}))
    service.recorder.start()
    X = houses.to_numpy()[:50]
    client = service.test_client()
    for row, expected in zip(X, champion.predict(X).tolist()):
        reply = client.post("/predict", json=dict(zip(COLUMNS, row.tolist())))
        assert reply.get_json()["prediction"] == [expected]
    client.get("/metrics")  # counts what is queued
    assert engine.is_asked.wait(60)
    service.recorder.close()
    found = series(client.get("/metrics").text)
    engine.goes_on.set()

    missed = by_label(found, MISSED, "reason")
    assert (missed["queue_full",], missed["stopped",]) == (30, 20)
    assert value(found, "tabserve_prediction_log_rows_total") == 50
