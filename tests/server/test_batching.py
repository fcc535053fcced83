"""Owns batching: concurrent requests share a run of the engine, in order, and none suffers from another's mistake."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app import create_app
from app.config import Config
from app.errors import OverloadedError
from app.factory import Service
from app.serving.batching import Batcher
from model import DeviceError, Matrix
from tests.support.service import HOUSE, strict_json

NAME = "boston-housing"
Floats = NDArray[np.float64]


def rows(*values: float) -> Matrix:
    """Return a matrix of one feature."""
    return np.array(values, dtype=np.float64).reshape(-1, 1)


class Doubling:
    """An engine that doubles its one feature, and records its runs and their threads.

    A run waits for `gate`. With a 13 in it a run fails, with a 99 it hangs, with a 666 it interrupts its thread, once.
    """

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.hang = threading.Event()
        self.runs: list[list[float]] = []
        self.threads: list[threading.Thread] = []
        self.interrupts = True
        self._busy = threading.Lock()

    def predict(self, X: Matrix) -> Floats:
        assert self._busy.acquire(blocking=False), "two runs at once"
        try:
            self.runs.append(X[:, 0].tolist())
            self.threads.append(threading.current_thread())
            assert self.gate.wait(10)
            if 666 in X and self.interrupts:
                self.interrupts = False
                raise KeyboardInterrupt
            if 99 in X:
                assert self.hang.wait(10)
            if 13 in X:
                raise ValueError("13")
            return 2 * X[:, 0]
        finally:
            self._busy.release()


class Waiting:
    """Requests that arrive one after the other while the engine is busy with the first."""

    def __init__(self, batcher: Batcher, engine: Doubling, pool: ThreadPoolExecutor) -> None:
        self._batcher, self._engine, self._pool = batcher, engine, pool

    def ask(self, *values: float) -> Future[Floats]:
        """Start a request and return when it waits or runs."""
        known = len(self._engine.runs) + len(self._batcher._waiting)
        future = self._pool.submit(self._batcher.predict, rows(*values))
        deadline = time.monotonic() + 10
        while len(self._engine.runs) + len(self._batcher._waiting) == known:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return future

    def go_on(self) -> None:
        """Let the engine run."""
        self._engine.gate.set()


@contextmanager
def waiting(engine: Doubling, *, max_rows: int = 100, max_wait_seconds: float = 10) -> Iterator[Waiting]:
    """Let requests wait behind a first one until `go_on`."""
    engine.gate.clear()
    with ThreadPoolExecutor(20) as pool:
        queue = Waiting(Batcher(engine, max_rows=max_rows, max_wait_seconds=max_wait_seconds), engine, pool)
        try:
            yield queue
        finally:
            engine.gate.set()


def answers(futures: Sequence[Future[Floats]]) -> list[list[float]]:
    """Return the predictions of requests."""
    return [future.result(timeout=10).tolist() for future in futures]


def test_alone() -> None:
    """A request that finds the engine free runs at once, alone and in its own thread."""
    engine = Doubling()
    batcher = Batcher(engine, max_rows=2)

    assert batcher.predict(rows(1, 2, 3)).tolist() == [2, 4, 6]
    assert batcher.predict(rows()).tolist() == []
    assert engine.runs == [[1, 2, 3], []]
    assert engine.threads == [threading.current_thread()] * 2


def test_waiting_requests_are_one_batch() -> None:
    """Requests that arrive while the engine runs are one batch, in their order, and each gets its own predictions."""
    engine = Doubling()
    with waiting(engine) as queue:
        futures = [queue.ask(1), queue.ask(2, 3), queue.ask(4), queue.ask(5, 6, 7)]
        queue.go_on()

        assert answers(futures) == [[2], [4, 6], [8], [10, 12, 14]]
    assert engine.runs == [[1], [2, 3, 4, 5, 6, 7]]


def test_batches_have_a_row_limit() -> None:
    """A batch has at most `max_rows` rows, unless a single request has more; no request overtakes another."""
    engine = Doubling()
    with waiting(engine, max_rows=3) as queue:
        futures = [queue.ask(1), queue.ask(2, 3), queue.ask(4), queue.ask(5), queue.ask(6, 7, 8, 9), queue.ask(10)]
        queue.go_on()

        assert answers(futures) == [[2], [4, 6], [8], [10], [12, 14, 16, 18], [20]]
    assert engine.runs == [[1], [2, 3, 4], [5], [6, 7, 8, 9], [10]]


def test_failure() -> None:
    """If a batch fails, only the requests fail that also fail alone, each with an error of its own."""
    engine = Doubling()
    with waiting(engine) as queue:
        futures = [queue.ask(1), queue.ask(2), queue.ask(13), queue.ask(3), queue.ask(4, 13), queue.ask(5)]
        queue.go_on()
        errors = [futures[guilty].exception(timeout=10) for guilty in (2, 4)]

        assert answers([futures[number] for number in (0, 1, 3, 5)]) == [[2], [4], [6], [10]]
        assert [type(error) for error in errors] == [ValueError, ValueError]
        assert errors[0] is not errors[1]
        assert answers([queue.ask(6)]) == [[12]]


def test_interrupted_thread() -> None:
    """If the thread that runs a batch is interrupted, the next thread runs the other requests."""
    engine = Doubling()
    with waiting(engine) as queue:
        futures = [queue.ask(1), queue.ask(666), queue.ask(2), queue.ask(3)]
        queue.go_on()

        assert isinstance(futures[1].exception(timeout=10), KeyboardInterrupt)
        assert answers([futures[0], futures[2], futures[3]]) == [[2], [4], [6]]
        assert answers([queue.ask(4)]) == [[8]]
    assert engine.runs == [[1], [666, 2, 3], [2, 3], [4]]


def test_wait_is_bounded() -> None:
    """While an engine hangs, a request waits for a bounded time, wherever it is in the queue."""
    engine = Doubling()
    with waiting(engine, max_wait_seconds=0.2) as queue:
        first = queue.ask(1)
        late = [queue.ask(2), queue.ask(3)]
        for future in late:
            with pytest.raises(OverloadedError, match=r"busy for 0\.2 s"):
                future.result(timeout=30)
        queue.go_on()

        assert answers([first, queue.ask(4)]) == [[2], [8]]
    assert engine.runs == [[1], [4]]


def test_wait_in_a_batch_that_hangs_is_bounded() -> None:
    """A request in a batch that hangs waits for a bounded time, unless its thread runs the batch."""
    engine = Doubling()
    with waiting(engine, max_wait_seconds=0.2) as queue:
        futures = [queue.ask(1), queue.ask(99), queue.ask(3)]
        queue.go_on()

        assert isinstance(futures[2].exception(timeout=30), OverloadedError)
        engine.hang.set()
        assert answers([*futures[:2], queue.ask(4)]) == [[2], [198], [8]]
    assert engine.runs == [[1], [99, 3], [4]]


def test_lost_device() -> None:
    """When the device is lost, every waiting request gets that error."""

    class Lost(Doubling):
        def predict(self, X: Matrix) -> Floats:
            super().predict(X)
            raise DeviceError("gone")

    engine = Lost()
    with waiting(engine) as queue:
        futures = [queue.ask(number) for number in range(5)]
        queue.go_on()

        assert [str(future.exception(timeout=10)) for future in futures] == ["gone"] * 5


def test_statistics() -> None:
    """The rows of each run and the wait of each request are returned once."""
    engine = Doubling()
    with waiting(engine) as queue:
        futures = [queue.ask(1), queue.ask(2, 3), queue.ask(4)]
        time.sleep(0.05)
        queue.go_on()
        answers(futures)
        n_rows, waits = queue._batcher.take_statistics()

        assert n_rows == [1, 3]
        assert len(waits) == 3
        assert waits[0] < 0.05 <= min(waits[1:])
        assert queue._batcher.take_statistics() == ([], [])


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=40),
    n_threads=st.integers(1, 12),
    max_rows=st.integers(1, 20),
    bad=st.sets(st.integers(0, 39), max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_many_threads(sizes: list[int], n_threads: int, max_rows: int, bad: set[int]) -> None:
    """Any requests from any number of threads get their own predictions or their own error, in bounded runs."""
    engine = Doubling()
    batcher = Batcher(engine, max_rows=max_rows)

    def ask(number: int) -> Floats:
        X = rows(*(1000 * number + 20 + i for i in range(sizes[number])))
        if number in bad and len(X):
            X[-1] = 13
        return batcher.predict(X) - 2 * X[:, 0]

    with ThreadPoolExecutor(n_threads) as pool:
        futures = [pool.submit(ask, number) for number in range(len(sizes))]
        failed = {number for number, future in enumerate(futures) if future.exception(timeout=10)}

        assert failed == {number for number in bad if number < len(sizes) and sizes[number]}
        for number in set(range(len(sizes))) - failed:
            assert futures[number].result().tolist() == [0] * sizes[number]
    largest = max(max_rows, *sizes)
    assert max(map(len, engine.runs)) <= largest
    n_rows, waits = batcher.take_statistics()
    assert (sum(n_rows), len(waits)) == (sum(sizes), len(sizes))


def test_batched_predictions_are_not_immediate(client: FlaskClient, store: Path) -> None:
    """With batching only prediction requests need a thread; their predictions are the same."""
    batching = create_app(Config(store=store, batch_rows=64), write_log=lambda pieces: None)
    alone, together = cast(Service, client.application).fast_path.is_immediate, batching.fast_path.is_immediate
    predictions = ["/predict", "/invocations", f"/v1/models/{NAME}:predict", f"/v2/models/{NAME}/infer"]
    probes = ["/livez", "/readyz", "/ping", f"/v1/models/{NAME}", f"/v2/models/{NAME}/ready"]

    assert [alone("POST", path) for path in predictions] == [True] * 4
    assert [together("POST", path) for path in predictions] == [False] * 4
    assert [together("GET", path) for path in probes] == [True] * 5
    first, second = (app.post("/predict", json=HOUSE) for app in (client, batching.test_client()))
    assert strict_json(first)["prediction"] == strict_json(second)["prediction"]


def test_overload_is_counted(store: Path) -> None:
    """A request that waits too long gets 503, and is counted as overload."""

    class Busy:
        def predict(self, X: Matrix) -> Floats:
            raise OverloadedError("the engine was not free")

    app = create_app(Config(store=store), write_log=lambda pieces: None)
    (model,) = app.serving.loaded.models.values()
    app.swap(app.serving.loaded.with_model(replace(model, engine=Busy())))
    client = app.test_client()
    reply = client.post("/predict", json=HOUSE)

    assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
    assert "tabserve_overload_rejections_total 1.0" in client.get("/metrics").text
