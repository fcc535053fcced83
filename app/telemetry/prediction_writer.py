"""Writes the prediction log in a thread of its own: a slow or unavailable database delays no reply."""

from __future__ import annotations

import logging
import threading
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.config import Config
from app.telemetry.gauges import LiveErrors
from app.telemetry.metrics import Metrics
from app.telemetry.waiting import Waiting
from app.web.exchange import Exchange
from model import Artifact, Category, PredictionLogError, RefusedRowsError

if TYPE_CHECKING:
    from model.live.comparison import LiveComparison
    from model.live.prediction_log import PredictionLog

T = TypeVar("T")

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


class Shadowed(NamedTuple):
    """An exchange, and what another version answers to its rows, as of `Artifact.predict`."""

    exchange: Exchange
    model: Artifact
    y: NDArray[np.float64]


class LogWriter:
    """A queue of predictions and the thread that writes them; the thread also prunes the log and computes live errors.

    The answers of other versions have a queue of their own, and are written after those that clients got.

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
        bounds = {"max_rows": MAX_WAITING_ROWS, "max_bytes": MAX_WAITING_BYTES}
        self._waiting: Waiting[Exchange] = Waiting(_size, **bounds)
        self._shadows: Waiting[Shadowed] = Waiting(lambda found: (len(found.y), found.y.nbytes), **bounds)
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
        if not self._is_logged(exchange):
            return
        has_features = self._is_in_share(exchange, self._config.prediction_log_features)
        if not self._waiting.put(exchange if has_features else replace(exchange, X=None)):
            self._metrics.count_dropped(exchange.rows, "queue_full")

    def put_shadow(self, found: Shadowed) -> None:
        """Queue what another version answers to the rows of an exchange that was given to `put` before."""
        if self._is_logged(found.exchange) and not self._shadows.put(found):
            self._metrics.count_dropped(len(found.y), "queue_full")

    def _is_logged(self, exchange: Exchange) -> bool:
        """Return whether a request is in the logged share."""
        return self._is_in_share(exchange, 1.0)

    def _is_in_share(self, exchange: Exchange, share: float) -> bool:
        """Return whether a request is in a share of the logged ones: by its id, so that all pods choose the same."""
        return zlib.crc32(exchange.request_id.encode()) < self._config.prediction_log_share * share * 2**32

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
        if lost := self._waiting.n_rows + self._shadows.n_rows:
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
        n_shadows = len(self._shadows)  # of exchanges that are in the other queue by now, or were
        while batch := self._waiting.first(max_items=_REQUESTS_A_WRITE, max_rows=_ROWS_A_WRITE):
            self._write_all(batch, self._write_requests, self._waiting)
        while n_shadows > 0 and (
            shadows := self._shadows.first(max_items=min(n_shadows, _REQUESTS_A_WRITE), max_rows=_ROWS_A_WRITE)
        ):
            n_shadows -= len(shadows)
            self._write_all(shadows, self._write_shadows, self._shadows)
        if had_work:
            with self._written:
                self.n_writes += 1
                self._written.notify_all()

    def _write_all(self, batch: Sequence[T], write: Callable[[Sequence[T]], None], queue: Waiting[T]) -> None:
        """Write a batch, which `write` then removes from its queue: until then a failed write can be repeated."""
        try:
            write(batch)
        except RefusedRowsError:  # one at a time, so that only the refused ones are dropped
            for each in batch:
                try:
                    write([each])
                except RefusedRowsError as error:
                    _log.error("%s", error)
                    queue.done(1)
                    self._metrics.count_dropped(queue.size_of(each)[0], "refused")

    def _write_requests(self, batch: Sequence[Exchange]) -> None:
        first: dict[str, Exchange] = {}
        for exchange in batch:
            first.setdefault(exchange.request_id, exchange)
        rows = [row for exchange in first.values() for row in self._rows(exchange)]
        written = self._log.write(rows, _labels([exchange.model for exchange in first.values() if exchange.model]))
        self._waiting.done(len(batch))
        self._metrics.count_logged(written)
        self._metrics.count_dropped(sum(exchange.rows for exchange in batch) - written, "repeated")
        if written:
            self._trim(2 * written)  # faster than the log grows

    def _write_shadows(self, batch: Sequence[Shadowed]) -> None:
        """Write the answers beside those of the same requests; not beside an earlier one that had the same id."""
        times = self._log.times({found.exchange.request_id for found in batch})
        known = [found for found in batch if times.get(found.exchange.request_id) == _time(found.exchange)]
        rows = [
            {"request_id": exchange.request_id, "version": model.version, **answer}
            for exchange, model, y in known
            for answer in _answers(y)
        ]
        written = self._log.write_shadows(rows, _labels([found.model for found in known]))
        self._shadows.done(len(batch))
        self._metrics.count_logged_shadows(written)
        if written:
            self._trim(written)

    def _trim(self, n_rows: int) -> None:
        """Remove the oldest rows of a log that is too large: `n_rows` or a few more."""
        removed = 0
        while removed < n_rows and (some := self._log.trim(max_bytes=self._config.prediction_log_max_bytes)):
            self._metrics.count_removed(some, "size")
            removed += some

    def _rows(self, exchange: Exchange) -> Iterator[dict[str, Any]]:
        assert exchange.model  # an exchange with predictions has one
        assert exchange.y is not None
        common = {
            "request_id": exchange.request_id,
            "time": _time(exchange),
            "model": exchange.model.name,
            "version": exchange.model.version,
            "caller": exchange.caller and exchange.caller.name,
        }
        schema = exchange.model.schema
        rows: Iterable[Sequence[Any] | None] = repeat(None) if exchange.X is None else schema.to_log(exchange.X)
        for values, answer in zip(rows, _answers(exchange.y)):
            yield {**common, "features": values and dict(zip(schema.names, values)), **answer}

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


def _size(exchange: Exchange) -> tuple[int, int]:
    return exchange.rows, 0 if exchange.y is None else exchange.y.nbytes


def _time(exchange: Exchange) -> datetime:
    return datetime.fromtimestamp(exchange.time, UTC)


def _labels(models: Iterable[Artifact]) -> dict[tuple[str, int], Sequence[Category]]:
    """Return the labels of those versions that are classifiers."""
    different = {id(model): model for model in models}.values()
    return {(model.name, model.version): model.manifest.classes for model in different if model.manifest.classes}


def _answers(y: NDArray[np.float64]) -> Iterator[dict[str, Any]]:
    """Yield what the log has of each answer."""
    probabilities: Iterable[NDArray[np.float64] | None] = repeat(None)
    if y.ndim > 1:
        y, probabilities = y[:, 0], y[:, 1:]
    for number, (prediction, of_row) in enumerate(zip(y.tolist(), probabilities)):
        yield {"row": number, "prediction": prediction, "probabilities": of_row}
