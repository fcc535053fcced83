"""Writes the prediction log in a thread of its own: a slow or unavailable database delays no reply."""

from __future__ import annotations

import logging
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from app.config import Config
from app.telemetry.gauges import LiveErrors
from app.telemetry.metrics import Metrics
from app.web.exchange import Exchange
from model import PredictionLogError, RefusedRowsError

if TYPE_CHECKING:
    from model.live.comparison import LiveComparison
    from model.live.prediction_log import PredictionLog

_log = logging.getLogger("tabserve")

INTERVAL_SECONDS = 0.5
_REFRESH_SECONDS = 10  # between computations of the live errors; metrics are rarely scraped more often
_PRUNE_SECONDS = 600
_STOP_SECONDS = 5  # how long a stopping worker waits for the database, well within gunicorn's graceful timeout
_REQUESTS_A_WRITE, _ROWS_A_WRITE = 1_000, 10_000  # whichever is less, but at least one request
# Rows that may wait for a slow or unavailable database; about 600 bytes each in requests of one row.
MAX_WAITING_ROWS = 50_000
# Of answers that may wait: those of a classifier have a number for each class. A request of 10,000 rows has 80 MB.
MAX_WAITING_BYTES = 2**27


class LogWriter:
    """A queue of predictions and the thread that writes them; the thread also prunes the log and computes live errors.

    `live_errors` gets those of about 10 s ago, and the comparisons of versions of the models that are served, for which
    a part of the log is read every 10 s. `n_writes` counts how often the thread has written the queue.
    """

    def __init__(
        self,
        log: PredictionLog,
        metrics: Metrics,
        live_errors: LiveErrors,
        config: Config,
        models: Callable[[], Collection[str]],
    ) -> None:
        self._log = log
        self._live_errors = live_errors
        self._models = models
        self._comparing: Iterator[Sequence[LiveComparison] | None] | None = None  # what reads the log, part by part
        self._metrics = metrics
        self._config = config
        self._waiting: deque[Exchange] = deque()
        self._rows_queued = self._rows_dequeued = 0  # one thread changes each
        self._bytes_queued = self._bytes_dequeued = 0
        self._next_refresh = self._next_prune = 0.0
        self._failing = False
        self._written = threading.Condition()
        self.n_writes = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None  # made in `start`: threads do not survive a fork

    def start(self) -> None:
        """Start the thread; call it once, in the worker process."""
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    def put(self, exchange: Exchange) -> None:
        """Queue the predictions of an exchange if it is in the logged share; drop them if too many rows wait."""
        # By the request id, so that all pods choose the same requests.
        if zlib.crc32(exchange.request_id.encode()) >= self._config.prediction_log_share * 2**32:
            return
        n_rows, n_bytes = exchange.rows, _answer_bytes(exchange)
        if (
            self._rows_queued - self._rows_dequeued + n_rows > MAX_WAITING_ROWS
            or self._bytes_queued - self._bytes_dequeued + n_bytes > MAX_WAITING_BYTES
        ):
            self._metrics.count_dropped(n_rows, "queue_full")
            return
        self._rows_queued += n_rows
        self._bytes_queued += n_bytes
        self._waiting.append(exchange if self._config.prediction_log_features else replace(exchange, X=None))

    def wait_for_write(self, n_seen: int, seconds: float) -> int:
        """Wait until `n_writes` is more than `n_seen`, for so many seconds at most, and return it."""
        with self._written:
            self._written.wait_for(lambda: self.n_writes > n_seen, seconds)
            return self.n_writes

    def close(self) -> None:
        """Write the queue if the database is fast enough, and stop."""
        self._stopping.set()
        if self._thread:
            self._thread.join(_STOP_SECONDS)
        else:
            self._log.close()
        if lost := self._rows_queued - self._rows_dequeued:
            self._metrics.count_dropped(lost, "stopped")
            _log.error("the worker stopped before %d rows of predictions were logged", lost)

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL_SECONDS):
            self._work()
        self._work()
        self._log.close()

    def _work(self) -> None:
        try:
            self._write()
            self._trim(1)
            self._refresh()
        except PredictionLogError as error:
            self._live_errors.latest = self._live_errors.comparisons = ()
            self._metrics.count_log_failure()
            if not self._failing:
                _log.error("%s; up to %d rows wait for it, more are dropped", error, MAX_WAITING_ROWS)
            self._failing = True
        except Exception as error:  # whatever it is, the next round tries again
            self._metrics.count_log_failure()
            _log.error("predictions were not logged: %s", type(error).__name__, exc_info=True)
        else:
            if self._failing:
                _log.info("the prediction log is available again")
            self._failing = False

    def _write(self) -> None:
        had_work = bool(self._waiting)
        while batch := self._next_batch():
            try:
                self._write_requests(batch)
            except RefusedRowsError:  # one at a time, so that only the refused ones are dropped
                for exchange in batch:
                    try:
                        self._write_requests([exchange])
                    except RefusedRowsError as error:
                        _log.error("%s", error)
                        self._dequeue(1)
                        self._metrics.count_dropped(exchange.rows, "refused")
        if had_work:
            with self._written:
                self.n_writes += 1
                self._written.notify_all()

    def _next_batch(self) -> list[Exchange]:
        """Return the exchanges that have waited longest."""
        n_rows = 0
        waiting = list(self._waiting)[:_REQUESTS_A_WRITE]  # one call, since other threads add to the queue
        for number, exchange in enumerate(waiting):
            n_rows += exchange.rows
            if number and n_rows > _ROWS_A_WRITE:
                return waiting[:number]
        return waiting

    def _write_requests(self, batch: Sequence[Exchange]) -> None:
        first: dict[str, Exchange] = {}
        for exchange in batch:
            first.setdefault(exchange.request_id, exchange)
        rows = [row for exchange in first.values() for row in self._rows(exchange)]
        models = {id(exchange.model): exchange.model for exchange in first.values() if exchange.model}
        labels = {
            (model.name, model.version): model.manifest.classes for model in models.values() if model.manifest.classes
        }
        written = self._log.write(rows, labels)
        self._dequeue(len(batch))
        self._metrics.count_logged(written)
        self._metrics.count_dropped(sum(exchange.rows for exchange in batch) - written, "repeated")
        if written:
            self._trim(2 * written)  # faster than the log grows

    def _trim(self, n_rows: int) -> None:
        """Remove the oldest rows of a log that is too large: `n_rows` or a few more."""
        removed = 0
        while removed < n_rows and (some := self._log.trim(max_bytes=self._config.prediction_log_max_bytes)):
            self._metrics.count_removed(some, "size")
            removed += some

    def _dequeue(self, requests: int) -> None:
        """Remove requests from the queue after they were written: until then a failed write can be repeated."""
        for _ in range(requests):
            exchange = self._waiting.popleft()
            self._rows_dequeued += exchange.rows
            self._bytes_dequeued += _answer_bytes(exchange)

    def _rows(self, exchange: Exchange) -> Iterator[dict[str, Any]]:
        assert exchange.model  # an exchange with predictions has one
        assert exchange.y is not None
        common = {
            "request_id": exchange.request_id,
            "time": datetime.fromtimestamp(exchange.time, UTC),
            "model": exchange.model.name,
            "version": exchange.model.version,
        }
        schema, y = exchange.model.schema, exchange.y
        rows: Iterable[Sequence[Any] | None] = repeat(None) if exchange.X is None else schema.to_log(exchange.X)
        probabilities: Iterable[NDArray[np.float64] | None] = repeat(None)
        if y.ndim > 1:
            y, probabilities = y[:, 0], y[:, 1:]
        for number, (values, prediction, of_row) in enumerate(zip(rows, y.tolist(), probabilities)):
            features = values and dict(zip(schema.names, values))
            yield {**common, "row": number, "features": features, "prediction": prediction, "probabilities": of_row}

    def _refresh(self) -> None:
        now, clock = datetime.now(UTC), time.monotonic()
        if clock >= self._next_refresh:
            self._next_refresh = clock + _REFRESH_SECONDS
            since = now - timedelta(days=self._config.live_error_days)
            self._live_errors.latest = self._log.live_errors(since=since)
            self._compare(now)
        if clock >= self._next_prune:
            removed = self._log.prune(before=now - timedelta(days=self._config.prediction_log_days))
            self._metrics.count_removed(removed, "age")
            if not removed:  # otherwise there may be more
                self._next_prune = clock + _PRUNE_SECONDS

    def _compare(self, now: datetime) -> None:
        """Read the next part of the log, and after the last one begin again."""
        if self._comparing is None:
            if not self._log.has_shadows():
                self._live_errors.comparisons = ()
                return
            from model.live.comparison import live  # here, since it imports SQLAlchemy

            since = now - timedelta(days=self._config.prediction_log_days)
            self._comparing = live(self._log, sorted(self._models()), since=since)
        parts, self._comparing = self._comparing, None  # an error ends them
        found = next(parts)
        if found is None:
            self._comparing = parts
        else:
            self._live_errors.comparisons = found


def _answer_bytes(exchange: Exchange) -> int:
    return 0 if exchange.y is None else exchange.y.nbytes
