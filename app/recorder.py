"""What is noted of each prediction beside its answer: the drift counts and, where one is kept, the prediction log.

A request only leaves its matrix and its answers here. A thread counts them into the bins and hands them to the log
a moment later, many requests at once, so that a row costs its request next to nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

import numpy as np
from numpy.typing import NDArray

from app.log_writer import LogWriter, Predictions
from app.metrics import Metrics
from model import Artifact, Matrix

_log = logging.getLogger("tabserve")

_INTERVAL_SECONDS = 0.5  # well below any interval at which metrics are scraped
# With more rows noted than that, the request that brings them counts them itself: matrices take memory.
_MAX_NOTED_ROWS = 20_000


class Recorder:
    """Takes note of predictions in one process; `start` and `close` belong to whoever runs the service there."""

    def __init__(self, metrics: Metrics, writer: LogWriter | None) -> None:
        self._metrics = metrics
        self._writer = writer
        self._noted: deque[Predictions] = deque()
        self._noted_rows = 0
        self._counting = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None  # made where it runs: a fork marks those that exist as ended

    def start(self) -> None:
        """Begin to count and to write behind the requests: in the process that answers, once."""
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()
        if self._writer:
            self._writer.start()

    def note(self, request_id: str, model: Artifact, X: Matrix, y: NDArray[np.float64]) -> None:
        """Take note of a request's rows `X` `(n_rows, n_features)` and of the answers `y` `(n_rows,)` to them."""
        self._noted.append(Predictions(request_id, time.time(), model, X, y))
        self._noted_rows += len(y)
        if self._noted_rows > _MAX_NOTED_ROWS:
            self.flush()

    def flush(self) -> None:
        """Count what was noted until now, and hand it to the log."""
        with self._counting:
            self._noted_rows = 0
            by_version: dict[tuple[str, int], list[Predictions]] = {}
            while self._noted:
                predictions = self._noted.popleft()
                by_version.setdefault((predictions.model.name, predictions.model.version), []).append(predictions)
                if self._writer:
                    self._writer.put(predictions)
            for noted in by_version.values():
                X, y = np.concatenate([each.X for each in noted]), np.concatenate([each.y for each in noted])
                self._metrics.count_bins(noted[0].model, X, y)

    def close(self) -> None:
        """Count and write what was noted, and stop."""
        self._stopping.set()
        if self._thread:
            self._thread.join()
        self.flush()
        if self._writer:
            self._writer.close()

    def _run(self) -> None:
        while not self._stopping.wait(_INTERVAL_SECONDS):
            try:
                self.flush()
            except Exception as error:  # whatever it is, what comes next is counted again
                _log.error("predictions were not counted: %s", type(error).__name__, exc_info=True)
