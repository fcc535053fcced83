"""Owns batching: requests that meet are one run of the engine, in order, and none pays for another's mistake."""

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
from app.batching import Batcher
from app.config import Config
from app.errors import OverloadedError
from app.factory import Service
from conftest import HOUSE, strict_json
from model import DeviceError, Matrix

Floats = NDArray[np.float64]


def rows(*values: float) -> Matrix:
    """Return a matrix of one feature."""
    return np.array(values, dtype=np.float64).reshape(-1, 1)


class Doubling:
    """An engine that doubles its one feature, and remembers what it ran, and where.

    A run waits for `gate`. One with a 13 in it fails, one with a 99 hangs, one with a 666 interrupts its thread, once.
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


class Meeting:
    """Requests that come while the engine is busy with a first one, one after the other."""

    def __init__(self, batcher: Batcher, engine: Doubling, pool: ThreadPoolExecutor) -> None:
        self._batcher, self._engine, self._pool = batcher, engine, pool

    def ask(self, *values: float) -> Future[Floats]:
        """Begin a request and return when it waits, or is run."""
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
def meeting(engine: Doubling, *, max_rows: int = 100, max_wait_seconds: float = 10) -> Iterator[Meeting]:
    """Have requests wait behind a first one until they `go_on`."""
    engine.gate.clear()
    with ThreadPoolExecutor(20) as pool:
        room = Meeting(Batcher(engine, max_rows=max_rows, max_wait_seconds=max_wait_seconds), engine, pool)
        try:
            yield room
        finally:
            engine.gate.set()


def answers(futures: Sequence[Future[Floats]]) -> list[list[float]]:
    """Return what requests got."""
    return [future.result(timeout=10).tolist() for future in futures]


def test_alone() -> None:
    """A request that meets nobody is run at once, in its own thread, as it is."""
    engine = Doubling()
    batcher = Batcher(engine, max_rows=2)

    assert batcher.predict(rows(1, 2, 3)).tolist() == [2, 4, 6]
    assert batcher.predict(rows()).tolist() == []
    assert engine.runs == [[1, 2, 3], []]
    assert engine.threads == [threading.current_thread()] * 2


def test_meeting() -> None:
    """Requests that come while the engine runs are one batch, in their order, and each gets its own answers."""
    engine = Doubling()
    with meeting(engine) as room:
        asked = [room.ask(1), room.ask(2, 3), room.ask(4), room.ask(5, 6, 7)]
        room.go_on()

        assert answers(asked) == [[2], [4, 6], [8], [10, 12, 14]]
    assert engine.runs == [[1], [2, 3, 4, 5, 6, 7]]


def test_most_rows() -> None:
    """A batch has at most so many rows, unless one request alone has more; nobody is overtaken."""
    engine = Doubling()
    with meeting(engine, max_rows=3) as room:
        asked = [room.ask(1), room.ask(2, 3), room.ask(4), room.ask(5), room.ask(6, 7, 8, 9), room.ask(10)]
        room.go_on()

        assert answers(asked) == [[2], [4, 6], [8], [10], [12, 14, 16, 18], [20]]
    assert engine.runs == [[1], [2, 3, 4], [5], [6, 7, 8, 9], [10]]


def test_failure() -> None:
    """Of a batch that fails only those requests fail that do so alone, each with an error of its own."""
    engine = Doubling()
    with meeting(engine) as room:
        asked = [room.ask(1), room.ask(2), room.ask(13), room.ask(3), room.ask(4, 13), room.ask(5)]
        room.go_on()
        errors = [asked[guilty].exception(timeout=10) for guilty in (2, 4)]

        assert answers([asked[number] for number in (0, 1, 3, 5)]) == [[2], [4], [6], [10]]
        assert [type(error) for error in errors] == [ValueError, ValueError]
        assert errors[0] is not errors[1]
        assert answers([room.ask(6)]) == [[12]]


def test_interrupted_thread() -> None:
    """A thread that is interrupted while it runs a batch leaves the others' requests to the next of them."""
    engine = Doubling()
    with meeting(engine) as room:
        asked = [room.ask(1), room.ask(666), room.ask(2), room.ask(3)]
        room.go_on()

        assert isinstance(asked[1].exception(timeout=10), KeyboardInterrupt)
        assert answers([asked[0], asked[2], asked[3]]) == [[2], [4], [6]]
        assert answers([room.ask(4)]) == [[8]]
    assert engine.runs == [[1], [666, 2, 3], [2, 3], [4]]


def test_wait_is_bounded() -> None:
    """Behind an engine that hangs a request waits so long and no longer, whether its turn came near or not."""
    engine = Doubling()
    with meeting(engine, max_wait_seconds=0.2) as room:
        first = room.ask(1)
        late = [room.ask(2), room.ask(3)]
        for future in late:
            with pytest.raises(OverloadedError, match=r"busy for 0\.2 s"):
                future.result(timeout=5)
        room.go_on()

        assert answers([first, room.ask(4)]) == [[2], [8]]
    assert engine.runs == [[1], [4]]


def test_wait_in_a_batch_that_hangs_is_bounded() -> None:
    """Who is in a batch that hangs waits no longer either, but for the thread that runs it."""
    engine = Doubling()
    with meeting(engine, max_wait_seconds=0.2) as room:
        asked = [room.ask(1), room.ask(99), room.ask(3)]
        room.go_on()

        assert isinstance(asked[2].exception(timeout=5), OverloadedError)
        engine.hang.set()
        assert answers([*asked[:2], room.ask(4)]) == [[2], [198], [8]]
    assert engine.runs == [[1], [99, 3], [4]]


def test_lost_device() -> None:
    """When the device is lost everybody who waits is told so."""

    class Lost(Doubling):
        def predict(self, X: Matrix) -> Floats:
            super().predict(X)
            raise DeviceError("gone")

    engine = Lost()
    with meeting(engine) as room:
        asked = [room.ask(number) for number in range(5)]
        room.go_on()

        assert [str(future.exception(timeout=10)) for future in asked] == ["gone"] * 5


def test_noted() -> None:
    """The rows of each run and the wait of each request are noted, once."""
    engine = Doubling()
    with meeting(engine) as room:
        asked = [room.ask(1), room.ask(2, 3), room.ask(4)]
        time.sleep(0.05)
        room.go_on()
        answers(asked)
        n_rows, waits = room._batcher.take_statistics()

        assert n_rows == [1, 3]
        assert len(waits) == 3
        assert waits[0] < 0.05 <= min(waits[1:])
        assert room._batcher.take_statistics() == ([], [])


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=40),
    n_threads=st.integers(1, 12),
    max_rows=st.integers(1, 20),
    bad=st.sets(st.integers(0, 39), max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_many_threads(sizes: list[int], n_threads: int, max_rows: int, bad: set[int]) -> None:
    """Whatever comes from however many threads, each request gets its own answers or its own error, in bounded runs."""
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


def test_predictions_that_wait_are_not_quick(client: FlaskClient, store: Path) -> None:
    """Where requests are run together, those for predictions are for threads, and no others; answers are the same."""
    gathering = create_app(Config(store=store, batch_rows=64), write_log=lambda pieces: None)
    quick = cast(Service, client.application).fast_path.immediate

    assert {path for method, path in quick - gathering.fast_path.immediate if method != "POST"} == set()
    assert {path for method, path in gathering.fast_path.immediate if method == "POST"} == set()
    assert ("GET", "/readyz") in gathering.fast_path.immediate
    first, second = (one.post("/predict", json=HOUSE) for one in (client, gathering.test_client()))
    assert strict_json(first)["prediction"] == strict_json(second)["prediction"]


def test_overload_is_counted(store: Path) -> None:
    """A request whose turn does not come is answered 503, and counted as overload."""

    class Busy:
        def predict(self, X: Matrix) -> Floats:
            raise OverloadedError("the engine was not free")

    app = create_app(Config(store=store), write_log=lambda pieces: None)
    app.serving.models = {name: replace(model, engine=Busy()) for name, model in app.serving.models.items()}
    client = app.test_client()
    reply = client.post("/predict", json=HOUSE)

    assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
    assert "tabserve_overload_rejections_total 1.0" in client.get("/metrics").text
