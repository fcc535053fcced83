"""Writes the prediction log from a thread of its own: a database that is slow or gone delays no answer."""

from __future__ import annotations

import logging
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.config import Config
from app.metrics import Metrics
from model import Artifact, Matrix, PredictionLogError

if TYPE_CHECKING:
    from model.prediction_log import LiveError, PredictionLog

_log = logging.getLogger("tabserve")

_INTERVAL_SECONDS = 0.5
_LOOK_SECONDS = 10  # how often the live errors are computed anew: more often than anybody scrapes
_PRUNE_SECONDS = 600
_STOP_SECONDS = 5  # most that a worker's end waits for the database, well within gunicorn's graceful timeout
_REQUESTS_A_WRITE = 1_000
# What may wait for a database that is slow or gone; about 600 bytes a row where a request has one.
MAX_WAITING_ROWS = 50_000


class Predictions(NamedTuple):
    """What one request was answered."""

    request_id: str
    time: float  # since the epoch
    model: Artifact
    X: Matrix  # (n_rows, n_features)
    y: NDArray[np.float64]  # (n_rows,)


class LogWriter:
    """A queue of predictions before the prediction log, which is also looked at and pruned from behind it.

    `live_errors` is what the log's truths said a moment ago.
    """

    def __init__(self, log: PredictionLog, metrics: Metrics, config: Config) -> None:
        self.live_errors: Sequence[LiveError] = ()
        self._log = log
        self._metrics = metrics
        self._config = config
        self._waiting: deque[Predictions] = deque()
        self._rows_put = self._rows_taken = 0  # each is changed by one thread only
        self._next_look = self._next_prune = 0.0
        self._failing = False
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None  # made where it runs: a fork marks those that exist as ended

    def start(self) -> None:
        """Begin to write: in the process that answers, once."""
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    def put(self, predictions: Predictions) -> None:
        """Have the predictions of a request written if it is among the share that is; drop them if too many wait."""
        # By the id, so that all pods take the same requests.
        if zlib.crc32(predictions.request_id.encode()) >= self._config.prediction_log_share * 2**32:
            return
        n_rows = len(predictions.y)
        if self._rows_put - self._rows_taken + n_rows > MAX_WAITING_ROWS:
            self._metrics.count_dropped(n_rows, "queue_full")
            return
        self._rows_put += n_rows
        self._waiting.append(predictions)

    def close(self) -> None:
        """Write what waits, if the database takes it soon, and stop."""
        self._stopping.set()
        if self._thread:
            self._thread.join(_STOP_SECONDS)
        if lost := self._rows_put - self._rows_taken:
            _log.error("the worker stops, and %d rows of predictions were not logged", lost)

    def _run(self) -> None:
        while not self._stopping.wait(_INTERVAL_SECONDS):
            self._work()
        self._work()
        self._log.close()

    def _work(self) -> None:
        try:
            self._write()
            self._look()
        except PredictionLogError as error:
            if not self._failing:
                _log.error("%s; up to %d rows wait for it, more are dropped", error, MAX_WAITING_ROWS)
            self._failing = True
        except Exception as error:  # whatever it is, it is tried again
            _log.error("predictions were not logged: %s", type(error).__name__, exc_info=True)
        else:
            if self._failing:
                _log.info("the prediction log can be used again")
            self._failing = False

    def _write(self) -> None:
        while batch := list(islice(self._waiting, _REQUESTS_A_WRITE)):
            rows = [row for predictions in batch for row in self._rows(predictions)]
            written = self._log.write(rows)
            for _ in batch:  # only now: what was not written is tried again
                self._waiting.popleft()
            self._rows_taken += len(rows)
            self._metrics.count_logged(written)
            self._metrics.count_dropped(len(rows) - written, "repeated")

    def _rows(self, predictions: Predictions) -> Iterator[dict[str, Any]]:
        request_id, seconds, model, X, y = predictions
        common = {
            "request_id": request_id,
            "time": datetime.fromtimestamp(seconds, UTC),
            "model": model.name,
            "version": model.version,
        }
        names = model.schema.names if self._config.prediction_log_features else None
        for number, (values, prediction) in enumerate(zip(X.tolist(), y.tolist())):
            features = dict(zip(names, values)) if names else None
            yield {**common, "row": number, "features": features, "prediction": prediction}

    def _look(self) -> None:
        now, clock = datetime.now(UTC), time.monotonic()
        if clock >= self._next_look:
            self._next_look = clock + _LOOK_SECONDS
            self.live_errors = self._log.live_errors(since=now - timedelta(days=self._config.live_error_days))
        if clock >= self._next_prune:
            self._next_prune = clock + _PRUNE_SECONDS
            self._log.prune(before=now - timedelta(days=self._config.prediction_log_days))
