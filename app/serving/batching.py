"""Batches the requests of many threads into few runs of one engine. Knows nothing about models or devices."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from app.errors import OverloadedError
from model import Matrix, Predictor

# A run takes milliseconds. After so long the engine hangs, and clients have given up.
_MAX_WAIT_SECONDS = 10.0
_MAX_STATISTICS = 100_000  # runs and waits that were not taken yet


@dataclass(slots=True, eq=False)
class _Job:
    """The rows of one request, and its state."""

    X: Matrix
    arrived: float
    wakeup: threading.Lock = field(default_factory=threading.Lock)  # locked until the job is done or is the leader
    is_leader: bool = False
    is_done: bool = False
    timed_out: bool = False
    y: NDArray[np.float64] | None = None
    error: Exception | None = None


class Batcher:
    """Runs an engine once for all waiting requests, in their order of arrival, up to `max_rows` together.

    It has no thread of its own. A request that finds the engine free runs at once, in its own thread. Requests that
    arrive meanwhile are the next batch, and the first of them, its leader, runs it. So a batch grows with the load. A
    delay to fill batches did not pay: with 0.3 ms a server answered 0.8 to 1 times as many requests, with 1 ms fewer.
    """

    def __init__(self, engine: Predictor, *, max_rows: int, max_wait_seconds: float = _MAX_WAIT_SECONDS) -> None:
        self._engine = engine
        self._max_rows = max_rows
        self._max_wait_seconds = max_wait_seconds
        self._lock = threading.Lock()  # guards the fields below; never held while the engine runs
        self._waiting: deque[_Job] = deque()
        self._has_leader = False
        self._run_rows: deque[int] = deque(maxlen=_MAX_STATISTICS)
        self._waits: deque[float] = deque(maxlen=_MAX_STATISTICS)

    def predict(self, X: Matrix) -> NDArray[np.float64]:
        """Return what the engine answers for `X` of shape `(n_rows, n_features)`, float64, a row for each of its rows.

        Raises what the engine raises for these rows alone, and `OverloadedError` if they wait too long.
        """
        job = _Job(X, time.perf_counter())
        with self._lock:
            self._waiting.append(job)
            job.is_leader, self._has_leader = not self._has_leader, True
            if not job.is_leader:
                job.wakeup.acquire()
        if not job.is_leader:
            self._wait_for_turn(job)
        if job.is_leader:
            self._lead()
        if job.error:
            raise job.error
        assert job.y is not None
        return job.y

    @property
    def is_busy(self) -> bool:
        """Whether requests run or wait."""
        return self._has_leader

    def take_statistics(self) -> tuple[list[int], list[float]]:
        """Return the rows of each run and the seconds that each request waited for its run, since the last call."""
        return (
            [self._run_rows.popleft() for _ in range(len(self._run_rows))],
            [self._waits.popleft() for _ in range(len(self._waits))],
        )

    def _wait_for_turn(self, job: _Job) -> None:
        """Return when the job is done or is the leader of the next batch."""
        if job.wakeup.acquire(timeout=self._max_wait_seconds):
            return
        with self._lock:
            if job.is_done or job.is_leader:
                return
            job.timed_out = True
            if job in self._waiting:
                self._waiting.remove(job)
        raise OverloadedError(f"the engine was busy for {self._max_wait_seconds:g} s; try again")

    def _lead(self) -> None:
        """Run the next batch, which starts with this thread's job; then make the first waiting job the leader."""
        batch: list[_Job] = []
        try:
            self._take(batch)
            self._run(batch)
        finally:
            with self._lock:
                # If this thread was interrupted, the next leader runs the other jobs.
                unfinished = [job for job in batch[1:] if not (job.is_done or job.timed_out)]
                self._waiting.extendleft(reversed(unfinished))
                self._has_leader = bool(self._waiting)
                to_wake = [job for job in batch[1:] if job.is_done]
                if self._waiting:
                    self._waiting[0].is_leader = True
                    to_wake.insert(0, self._waiting[0])  # first, since the engine is free
            for job in to_wake:
                job.wakeup.release()

    def _take(self, batch: list[_Job]) -> None:
        """Move the next jobs into the empty `batch`."""
        with self._lock:
            batch.append(self._waiting.popleft())
            n_rows = len(batch[0].X)
            while self._waiting and n_rows + len(self._waiting[0].X) <= self._max_rows:
                batch.append(self._waiting.popleft())
                n_rows += len(batch[-1].X)
        now = time.perf_counter()
        self._run_rows.append(n_rows)
        self._waits.extend(now - job.arrived for job in batch)

    def _run(self, batch: list[_Job]) -> None:
        """Give every job of the batch its predictions or its own error."""
        X = batch[0].X
        try:
            if len(batch) > 1:
                X = np.concatenate([job.X for job in batch])
            y = self._engine.predict(X)
        except Exception as error:
            if len(batch) > 1:
                for job in batch:
                    self._run([job])
                return
            batch[0].error = error
            batch[0].is_done = True
            return
        start = 0
        for job in batch:
            end = start + len(job.X)
            job.y, start = y[start:end], end
            job.is_done = True
