"""Feedback to a real server: several workers, a database that hangs, and what a stop loses."""

from __future__ import annotations

import json
import random
import signal
import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import requests
from flask.testing import FlaskClient
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from app import create_app
from app.config import Config, ConfigError
from app.telemetry.prediction_writer import MAX_WAITING_ROWS
from tests.support import feedback as shared
from tests.support.feedback import LONG_AGO, UNKNOWN_ID, Answers, logged, logged_ids, opened, replaced
from tests.support.metrics import MODEL, by_label, kill_worker, scrape, series, value
from tests.support.postgres import Postgres
from tests.support.server import Server, serve, wait_until
from tests.support.service import COLUMNS, HOUSE, PROTOCOLS, refused, strict_json

service = shared.service
client = shared.client

LOGGED, DROPPED = "tabserve_prediction_log_rows_total", "tabserve_prediction_log_dropped_rows_total"


def predict(server: Server, X: Sequence[Sequence[float]], session: Any = requests) -> tuple[str, list[float]]:
    """Send a prediction request; return its id and the predictions."""
    body = json.dumps({"columns": COLUMNS, "data": X})
    headers = {"Content-Type": "application/json"}
    reply = session.post(f"{server.url}/predict", data=body, headers=headers, timeout=30)
    assert reply.status_code == 200, reply.text
    return reply.headers["X-Request-Id"], reply.json()["prediction"]


def give(server: Server, body: Any) -> requests.Response:
    """Return the reply to feedback."""
    return requests.post(f"{server.url}/feedback", json=body, timeout=30)


def rows(houses: pd.DataFrame, n: int, seed: int = 0) -> list[list[float]]:
    """Return random rows in the training range."""
    low, high = houses.min().to_numpy(), houses.max().to_numpy()
    X: list[list[float]] = (low + (high - low) * np.random.default_rng(seed).random((n, len(COLUMNS)))).tolist()
    return X


class Load:
    """Clients that send single rows and small batches, one after the other, until they are stopped.

    `answers` holds what was answered, `times` when each answer came, `failures` the requests that came to nothing.
    """

    def __init__(
        self, server: Server, X: list[list[float]], *, clients: int = 3, sizes: Sequence[int] = (1, 1, 1, 5, 20)
    ) -> None:
        self.answers: Answers = {}
        self.times: dict[str, float] = {}
        self.seconds: list[float] = []
        self.failures: list[object] = []
        self._server, self._X, self._sizes = server, X, sizes
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=[number]) for number in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def n_rows(self) -> int:
        """Return the number of predicted rows."""
        return sum(map(len, self.answers.copy().values()))

    def _run(self, number: int) -> None:
        chance = random.Random(number)
        with requests.Session() as session:
            while not self._stop.is_set():
                some = chance.sample(self._X, chance.choice(self._sizes))
                started = time.monotonic()
                try:
                    request_id, y = predict(self._server, some, session)
                except (requests.RequestException, AssertionError) as error:
                    self.failures.append(error)
                    time.sleep(0.01)
                    continue
                self.times[request_id] = time.monotonic()
                self.seconds.append(self.times[request_id] - started)
                self.answers[request_id] = y


def test_log_that_is_full(store: Path, tmp_path: Path, houses: pd.DataFrame) -> None:
    """A log at its limit goes on: its oldest predictions are removed and counted, its newest are found, and its file
    grows no more.
    """
    path, X = tmp_path / "log.db", rows(houses, 2_000)
    settings = {"TABSERVE_PREDICTION_LOG": f"sqlite:///{path}", "TABSERVE_PREDICTION_LOG_MAX_BYTES": str(2**20)}
    with serve(store, tmp_path, WEB_CONCURRENCY="2", **settings) as server:
        ids = []
        for _ in range(15):
            ids.append(predict(server, X)[0])
            wait_until(lambda: value(scrape(server), LOGGED) == len(ids) * len(X))
        removed = by_label(scrape(server), "tabserve_prediction_log_removed_rows_total", "reason")
        assert give(server, {"request_id": ids[0], "truth": 1.0}).status_code == 404
        assert give(server, {"request_id": ids[-1], "truth": 1.0}).json()["accepted"] == 1
        assert by_label(scrape(server), DROPPED, "reason")["queue_full",] == 0
        assert server.terminate() == 0

    assert removed["age",] == 0
    assert 15 * len(X) * 0.5 < removed["size",] <= 15 * len(X) - logged_ids(path).total()
    assert path.stat().st_size < 3 * 2**20


def test_longest_days(store: Path, url: str) -> None:
    """With the days at their upper bounds, predictions are kept, feedback is accepted and live errors are computed."""
    most: dict[str, Any] = {item.name: 36_500 for item in fields(Config) if item.name.endswith("_days")}
    for name in most:
        with pytest.raises(ConfigError):
            Config.from_environ({f"TABSERVE_{name.upper()}": "36501"})
    app = create_app(Config(store=store, prediction_log=url, **most))
    client = app.test_client()
    app.recorder.start()
    request_id = client.post("/predict", json=HOUSE).headers["X-Request-Id"]
    feedback = client.post("/feedback", json={"request_id": request_id, "truth": 24.0})
    app.recorder.close()

    assert len(most) == 2
    assert (feedback.status_code, feedback.json["accepted"]) == (200, 1)  # type: ignore[index]
    with opened(url) as log:
        assert [each.rows for each in log.live_errors(since=LONG_AGO)] == [1]
    assert value(series(client.get("/metrics").text), "tabserve_prediction_log_failures_total") == 0


def test_live_errors_of_10000_predictions(store: Path, tmp_path: Path, houses: pd.DataFrame, url: str) -> None:
    """Live errors on /metrics equal scikit-learn's metrics of the predictions and the truths that were reported."""
    X = rows(houses, 10_000)
    noise = np.random.default_rng(2).normal(1, 3, len(X)).tolist()
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    with serve(store, tmp_path / "first", TABSERVE_PREDICTION_LOG=url) as server:
        keys: list[tuple[str, int]] = []
        predictions: list[float] = []
        while len(keys) < len(X):
            size = 1 if len(keys) < 200 else random.Random(len(keys)).randint(50, 400)
            some = X[len(keys) : len(keys) + size]
            if len(keys) % 2:
                reply = requests.post(server.url + PROTOCOLS["V2"].path, json=PROTOCOLS["V2"].write(some), timeout=30)
                request_id, y = reply.headers["X-Request-Id"], PROTOCOLS["V2"].read(reply.json())
            else:
                request_id, y = predict(server, some)
            keys += [(request_id, row) for row in range(len(y))]
            predictions += y
        wait_until(lambda: value(scrape(server), LOGGED) == len(X))
        truths = [prediction - error for prediction, error in zip(predictions, noise)]
        order = np.random.default_rng(3).permutation(len(X)).tolist()[:9_500]
        accepted = 0
        for start in range(0, len(order), 4_000):
            some_truths = [
                {"request_id": keys[i][0], "row": keys[i][1], "truth": truths[i]} for i in order[start : start + 4_000]
            ]
            reply = give(server, some_truths)
            assert reply.status_code == 200
            accepted += reply.json()["accepted"]
        assert accepted == len(order)
        assert set(by_label(scrape(server), DROPPED, "reason").values()) == {0.0}

    # Another process on the same log, which computes them at its start; the first does within 10 s.
    with serve(store, tmp_path / "second", TABSERVE_PREDICTION_LOG=url, WEB_CONCURRENCY="1") as server:
        wait_until(lambda: value(scrape(server), "tabserve_live_error_rows", **MODEL) == len(order))
        found = scrape(server)
    y_true, y_pred = np.array(truths)[order], np.array(predictions)[order]
    for name, expected in {
        "rmse": root_mean_squared_error(y_true, y_pred),
        "mae": mean_absolute_error(y_true, y_pred),
        "bias": (y_pred - y_true).mean(),
    }.items():
        assert value(found, f"tabserve_live_error_{name}", **MODEL) == pytest.approx(expected, rel=1e-9)
    validation = json.loads((store / "boston-housing" / "1" / "manifest.json").read_text())["metrics"]["validation"]
    for name in ("rmse", "mae", "bias"):
        assert value(found, f"tabserve_validation_{name}", **MODEL) == validation[name]


def test_feedback_right_after_the_prediction(store: Path, tmp_path: Path, houses: pd.DataFrame) -> None:
    """A truth that is sent right after its prediction finds it, in any worker."""
    url = f"sqlite:///{tmp_path / 'log.db'}"
    with serve(store, tmp_path, WEB_CONCURRENCY="2", TABSERVE_PREDICTION_LOG=url) as server:
        for seed in range(2):
            request_id, _ = predict(server, rows(houses, 2, seed))
            reply = give(server, {"request_id": request_id, "truth": [10.0, 20.0]})
            assert (reply.status_code, reply.json()["accepted"]) == (200, 2)


def test_same_id_twice(store: Path, tmp_path: Path, houses: pd.DataFrame, url: str) -> None:
    """Of an id that comes twice the first request is kept, and the rows of the other are counted as repeated; where
    features are logged they are those that were sent, and are in the database alone.
    """
    X = rows(houses, 3)
    with serve(store, tmp_path, TABSERVE_PREDICTION_LOG=url, TABSERVE_PREDICTION_LOG_FEATURES="true") as server:
        for some in (X[:1], X[1:]):
            body, headers = {"columns": COLUMNS, "data": some}, {"X-Request-Id": "twice"}
            assert requests.post(f"{server.url}/predict", json=body, headers=headers, timeout=10).status_code == 200
            wait_until(lambda: logged(url) != [])
        wait_until(lambda: by_label(scrape(server), DROPPED, "reason")["repeated",] == 2)
        assert value(scrape(server), LOGGED) == 1
        with opened(url) as log:
            found = log.read("boston-housing", 1, features=COLUMNS, since=LONG_AGO)
        assert found.X.tolist() == [X[0]]
        assert server.terminate() == 0
        output = server.stdout.read_text() + server.stderr.read_text()
        assert not [number for row in X for number in row if str(number) in output]


def test_one_id_many_times_holds_up_no_other(store: Path, tmp_path: Path) -> None:
    """Thousands of requests under one id do not keep the rows of the others from the log, not even at the end."""
    path, n = tmp_path / "log.db", 20_000
    body = json.dumps(HOUSE).encode()
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    ids = [f"other-{number}" if number % 1_000 == 0 else "again" for number in range(n)]
    sent = b"".join(head + f"X-Request-Id: {each}\r\n\r\n".encode() + body for each in ids)
    with serve(store, tmp_path, WEB_CONCURRENCY="1", TABSERVE_PREDICTION_LOG=f"sqlite:///{path}") as server:
        address = server.url.removeprefix("http://").split(":")
        with socket.create_connection((address[0], int(address[1])), timeout=60) as client:
            sender = threading.Thread(target=client.sendall, args=[sent])
            sender.start()
            answered, rest = 0, b""
            while answered < n:
                got = client.recv(2**20)
                assert got
                rest += got
                answered += rest.count(b"HTTP/1.1 200")
                rest = rest[-11:]  # less than what is counted
            sender.join()
        assert server.terminate() == 0

        assert logged_ids(path) == Counter(set(ids))
        assert "were not logged" not in server.stderr.read_text()


def test_share_of_requests(store: Path, tmp_path: Path) -> None:
    """Of the requests a share is logged, with all of their rows; every process takes the same ones, by their ids."""
    ids = [f"request-{number}" for number in range(200)]
    settings = {"TABSERVE_PREDICTION_LOG": f"sqlite:///{tmp_path / 'log.db'}", "TABSERVE_PREDICTION_LOG_SHARE": "0.5"}
    with serve(store, tmp_path, WEB_CONCURRENCY="2", **settings) as server:
        for request_id in ids:
            headers = {"X-Request-Id": request_id}
            assert requests.post(f"{server.url}/predict", json=[HOUSE] * 2, headers=headers, timeout=10).ok
        assert server.terminate() == 0
    url = f"sqlite:///{tmp_path / 'other.db'}"
    other = create_app(Config(store=store, prediction_log=url, prediction_log_share=0.5))
    other.recorder.start()
    for request_id in ids:
        other.test_client().post("/predict", json=HOUSE, headers={"X-Request-Id": request_id})
    other.recorder.close()

    taken = logged_ids(tmp_path / "log.db")
    assert taken.keys() == logged_ids(tmp_path / "other.db").keys()
    assert set(taken.values()) == {2}
    assert 70 <= len(taken) <= 130


def test_stop_loses_nothing(store: Path, tmp_path: Path, houses: pd.DataFrame, url: str) -> None:
    """After SIGHUP in the middle of traffic every row that was answered is counted in the bins, by workers that have
    stopped, too; after SIGTERM every one is in the log, once.
    """
    with serve(store, tmp_path, WEB_CONCURRENCY="2", TABSERVE_PREDICTION_LOG=url) as server:
        wait_until(lambda: len(server.workers()) == 2)
        with Load(server, rows(houses, 500)) as load:
            time.sleep(0.8)
            old = set(server.workers())
            server.process.send_signal(signal.SIGHUP)
            wait_until(partial(replaced, server, old))
        assert not load.failures
        n = load.n_rows()
        wait_until(lambda: value(scrape(server), LOGGED) == n)
        wait_until(lambda: value(scrape(server), "tabserve_rows_total", **MODEL) >= n)
        found = scrape(server)
        with Load(server, rows(houses, 500)) as more:
            time.sleep(0.8)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(timeout=40) == 0

    assert n > 200
    assert sum(by_label(found, "tabserve_prediction_bin_total", "bin").values()) == n
    assert sum(by_label(found, "tabserve_feature_bin_total", "feature", "bin").values()) == n * len(COLUMNS)
    assert value(found, "tabserve_rows_total", **MODEL) == value(found, LOGGED) == n
    assert set(by_label(found, DROPPED, "reason").values()) == {0.0}
    answers = [*load.answers.values(), *more.answers.values()]
    assert sorted(logged(url)) == sorted(y for answer in answers for y in answer)
    assert "were not logged" not in server.stderr.read_text()


def test_killed_worker_loses_a_moment(store: Path, tmp_path: Path, houses: pd.DataFrame) -> None:
    """When workers are killed under load no count goes back or is more than was answered, the log goes on, and what
    is missing there was answered in the moments before.
    """
    url = f"sqlite:///{tmp_path / 'log.db'}"
    kills: list[float] = []
    counts: list[tuple[float, float]] = []
    with serve(store, tmp_path, WEB_CONCURRENCY="2", TABSERVE_PREDICTION_LOG=url) as server:
        wait_until(lambda: len(server.workers()) == 2)
        with Load(server, rows(houses, 500)) as load:

            def look() -> None:
                found = scrape_again(server)
                bins = sum(by_label(found, "tabserve_prediction_bin_total", "bin").values())
                counts.append((bins, value(found, LOGGED)))

            for _ in range(2):
                for _ in range(5):
                    time.sleep(0.2)
                    look()
                kills.append(time.monotonic())
                kill_worker(server)
                look()
            time.sleep(0.5)
        time.sleep(1.5)
        look()
        assert server.terminate() == 0

    bins, log_rows = [list(column) for column in zip(*counts)]
    assert bins == sorted(bins)
    assert log_rows == sorted(log_rows)
    kept = Counter(logged(url))
    answered = Counter(y for answer in load.answers.values() for y in answer)
    in_danger = [
        each for each, when in load.times.items() if any(killed - 1.5 <= when <= killed + 0.2 for killed in kills)
    ]
    lost = sum((answered - kept).values())
    assert lost <= sum(len(load.answers[each]) for each in in_danger) < load.n_rows()
    safe = Counter(y for each, answer in load.answers.items() if each not in set(in_danger) for y in answer)
    assert not safe - kept
    # A request whose answer the kill cut off may be logged and counted.
    assert sum((kept - answered).values()) <= 20 * len(load.failures)
    assert load.n_rows() - lost - 200 <= bins[-1] <= load.n_rows() + 20 * len(load.failures)
    assert log_rows[-1] <= sum(kept.values())


def scrape_again(server: Server) -> Any:
    """Return every series; a worker that is killed meanwhile is not the one that answers the second time."""
    try:
        return scrape(server)
    except requests.ConnectionError:
        return scrape(server)


def refusals_of_feedback(server: Server, count: int) -> list[requests.Response]:
    """Return the replies to feedback that is given several times at once."""
    body = {"request_id": UNKNOWN_ID, "truth": 1.0}
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: give(server, body), range(count)))


def test_hanging_database(store: Path, tmp_path: Path, houses: pd.DataFrame, postgres: Postgres) -> None:
    """While the database says nothing predictions are answered as fast as ever and feedback is 503 after some seconds;
    a server that is stopped ends within its grace and says what was lost. When the database goes on, so does the log.
    """
    postgres.execute("DROP TABLE IF EXISTS predictions CASCADE")
    settings = {"TABSERVE_PREDICTION_LOG": postgres.url(), "WEB_CONCURRENCY": "1"}
    stopped_folder = tmp_path / "stopped"
    stopped_folder.mkdir()
    with serve(store, tmp_path, **settings) as server, serve(store, stopped_folder, **settings) as stopped:
        for each in (server, stopped):
            predict(each, rows(houses, 1))
        wait_until(lambda: len(logged(postgres.url())) == 2)
        light = Load(server, rows(houses, 500), clients=2, sizes=[1])
        with postgres.frozen(), light as load, ThreadPoolExecutor(1) as pool:
            replies = pool.submit(refusals_of_feedback, server, 3)
            predict(stopped, rows(houses, 12))
            wait_until(lambda: len(load.answers) > 100)
            started = time.monotonic()
            assert stopped.terminate() == 0
            assert time.monotonic() - started < 15
            assert {reply.status_code for reply in replies.result()} == {503}
            assert {reply.headers["Retry-After"] for reply in replies.result()} == {"1"}
            assert time.monotonic() - started < 15
        assert "before 12 rows of predictions were logged" in stopped.stderr.read_text()
        assert not load.failures
        assert np.quantile(load.seconds, 0.95) < 2
        assert max(load.seconds) < 5  # which a use of the database takes

        wait_until(lambda: value(scrape(server), LOGGED) == 1 + load.n_rows())
        last, _ = predict(server, rows(houses, 1))
        assert give(server, {"request_id": last, "truth": 1.0}).json()["accepted"] == 1
        assert set(by_label(scrape(server), DROPPED, "reason").values()) == {0.0}
        output = server.stdout.read_text() + server.stderr.read_text()
    assert "the prediction log cannot be used" in output
    assert "the prediction log is available again" in output
    assert "s3cret" not in output


def test_stopped_database(store: Path, tmp_path: Path, houses: pd.DataFrame, postgres: Postgres) -> None:
    """While the database is gone as many rows wait as there is room for, later ones are dropped and counted, whole
    requests at a time; when it is back those that waited are written.
    """
    postgres.execute("DROP TABLE IF EXISTS predictions CASCADE")
    X = rows(houses, 10_000)
    with serve(store, tmp_path, WEB_CONCURRENCY="1", TABSERVE_PREDICTION_LOG=postgres.url()) as server:
        predict(server, X[:1])
        wait_until(lambda: value(scrape(server), LOGGED) == 1)
        postgres.stop()
        try:
            for _ in range(6):
                predict(server, X)
            predict(server, X[:7])
            wait_until(lambda: by_label(scrape(server), DROPPED, "reason")["queue_full",] >= 10_000)
            reply = give(server, {"request_id": UNKNOWN_ID, "truth": 1.0})
            assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
        finally:
            postgres.start()
        wait_until(lambda: value(scrape(server), LOGGED) == 1 + MAX_WAITING_ROWS)
        predict(server, X[:3])
        wait_until(lambda: value(scrape(server), LOGGED) == 4 + MAX_WAITING_ROWS)
        dropped = by_label(scrape(server), DROPPED, "reason")

    assert {key: count for key, count in dropped.items() if count} == {
        ("queue_full",): 6 * 10_000 + 7 - MAX_WAITING_ROWS
    }
    assert len(logged(postgres.url())) == 4 + MAX_WAITING_ROWS


def test_unknown_ids_do_not_hold_up_predictions(store: Path, tmp_path: Path, houses: pd.DataFrame) -> None:
    """More clients with unknown ids than a worker has threads delay neither predictions nor health checks."""
    settings = {"TABSERVE_PREDICTION_LOG": f"sqlite:///{tmp_path / 'log.db'}", "WEB_CONCURRENCY": "1"}
    with serve(store, tmp_path, **settings) as server, ThreadPoolExecutor(16) as clients:
        stop = threading.Event()

        def pester() -> set[int]:
            statuses = set()
            while not stop.is_set():
                statuses.add(give(server, {"request_id": UNKNOWN_ID, "truth": 1.0}).status_code)
            return statuses

        pesterers = [clients.submit(pester) for _ in range(16)]
        try:
            with Load(server, rows(houses, 50), clients=1) as load:
                time.sleep(3)
        finally:
            stop.set()
        statuses = set().union(*(pesterer.result() for pesterer in pesterers))

    assert not load.failures
    assert statuses == {404, 503}
    assert np.quantile(load.seconds, 0.95) < 2


def test_locked_file(store: Path, tmp_path: Path, houses: pd.DataFrame) -> None:
    """While another program holds the lock of an SQLite file, predictions are answered and feedback is 503; when it
    lets go every row is written.
    """
    path = tmp_path / "log.db"
    with serve(store, tmp_path, WEB_CONCURRENCY="2", TABSERVE_PREDICTION_LOG=f"sqlite:///{path}") as server:
        first, _ = predict(server, rows(houses, 1))
        wait_until(lambda: value(scrape(server), LOGGED) == 1)
        with closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            with Load(server, rows(houses, 500), clients=2) as load:
                reply = give(server, {"request_id": first, "truth": 1.0})
                wait_until(lambda: len(load.answers) > 100)
            other.rollback()
        assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
        assert not load.failures
        assert max(load.seconds) < 5  # which a use of the file takes

        wait_until(lambda: value(scrape(server), LOGGED) == 1 + load.n_rows())
        assert give(server, {"request_id": first, "truth": 1.0}).json()["accepted"] == 1


def test_old_predictions_are_unknown(store: Path, tmp_path: Path) -> None:
    """A prediction older than TABSERVE_PREDICTION_LOG_DAYS is unknown to feedback, and is removed at the start."""
    url = f"sqlite:///{tmp_path / 'log.db'}"
    common = {"row": 0, "model": "boston-housing", "version": 1, "features": None, "prediction": 1.0}
    ages = {"old": timedelta(days=2, minutes=1), "young": timedelta(days=1, hours=23)}
    with opened(url) as log:
        log.write([{**common, "request_id": each, "time": datetime.now(UTC) - age} for each, age in ages.items()])
    app = create_app(Config(store=store, prediction_log=url, prediction_log_days=2))
    feedback = app.test_client().post("/feedback", json=[{"request_id": each, "truth": 1} for each in ages])
    assert feedback.json["unknown_rows"] == [{"request_id": "old", "row": 0}]  # type: ignore[index]
    app.recorder.start()
    wait_until(lambda: set(logged_ids(tmp_path / "log.db")) == {"young"})
    removed = by_label(
        series(app.test_client().get("/metrics").text), "tabserve_prediction_log_removed_rows_total", "reason"
    )
    assert removed == {("age",): 1, ("size",): 0}
    app.recorder.close()


def test_many_unknown_predictions_are_not_waited_for(client: FlaskClient) -> None:
    """The reply waits a moment for unknown predictions to be written, but not for those of more than 250 requests."""

    def seconds(n: int) -> float:
        began = time.monotonic()
        body = [{"request_id": f"{UNKNOWN_ID}-{number}", "truth": 1.0} for number in range(n)]
        refused(client.post("/feedback", json=body), 404, "native")
        return time.monotonic() - began

    assert seconds(250) > 1.2
    assert min(seconds(251) for _ in range(5)) < 1.2


def test_wait_ends_when_the_predictions_are_written(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Feedback on predictions of the same worker is answered once they are written, long before its wait must end."""
    monkeypatch.setattr("app.routes.feedback._MAX_WAIT_SECONDS", 60)
    ids = [client.post("/predict", json=HOUSE).headers["X-Request-Id"] for _ in range(3)]
    began = time.monotonic()
    reply = client.post("/feedback", json=[{"request_id": each, "truth": 20.0} for each in ids])

    assert strict_json(reply)["accepted"] == 3
    assert time.monotonic() - began < 30


def test_unknown_predictions_are_looked_for_until_the_wait_ends(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one of several predictions stays unknown, the others are found and the wait ends at its bound."""
    monkeypatch.setattr("app.routes.feedback._MAX_WAIT_SECONDS", 2)
    request_id = client.post("/predict", json=HOUSE).headers["X-Request-Id"]
    began = time.monotonic()
    reply = client.post("/feedback", json=[{"request_id": each, "truth": 20.0} for each in (request_id, UNKNOWN_ID)])

    assert (strict_json(reply)["accepted"], strict_json(reply)["unknown"]) == (1, 1)
    assert 2 < time.monotonic() - began < 30
