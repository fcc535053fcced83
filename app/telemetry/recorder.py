"""Records each exchange after its reply: the log line, metrics, drift counters, the prediction log and shadows.

A request only queues its exchange here. Exchanges are processed many at a time, which takes a fraction of the time
that it takes one by one: by a thread every 0.2 s, by the request that fills the queue, or before metrics are read.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from app.telemetry import log_lines
from app.telemetry.metrics import Metrics
from app.telemetry.prediction_writer import LogWriter
from app.web.exchange import Exchange

_log = logging.getLogger("tabserve")

INTERVAL_SECONDS = 0.2  # well below any interval at which metrics are scraped; queued exchanges take memory
# To count so many takes a fraction of a millisecond, during which other requests wait.
_MAX_PENDING = 256
_MAX_PENDING_ROWS = 10_000  # matrices take memory
_STOP_SECONDS = 5  # how long a stopping worker waits for a reader of standard output
# Pieces of the log, 4 KiB each at most, that wait for a slow or missing reader; beyond that the oldest are lost.
_MAX_PIECES = 2_500


def is_logged(exchange: Exchange) -> bool:
    """Return whether a request is logged: all but health checks with 200, of which Kubernetes sends 50,000 a day."""
    return not (exchange.is_probe and exchange.status == 200)


class Shadowing(Protocol):
    """What answers exchanges again after their replies; `app/serving` implements it."""

    def start(self) -> None:
        """Start the thread, in the worker process."""

    def put(self, exchanges: Sequence[Exchange]) -> None:
        """Queue exchanges that were given to the prediction log."""

    def close(self) -> None:
        """Answer or drop what is queued, and stop."""


class Tracing(Protocol):
    """What makes spans of exchanges; `tracing.py` implements it, which is imported only where requests are traced."""

    def start(self) -> None:
        """Start the thread, in the worker process."""

    def record(self, exchanges: Iterable[Exchange]) -> Sequence[Exchange]:
        """Make the spans of those that are sampled, and return these."""

    def close(self) -> None:
        """Send what is left, and stop."""


class Recorder:
    """Records the exchanges of one process. The server calls `start` and `close`; without them nothing is queued."""

    def __init__(
        self,
        metrics: Metrics,
        writer: LogWriter | None,
        write_log: Callable[[Iterable[bytes]], None] | None,
        shadow: Shadowing,
        tracer: Tracing | None = None,
    ) -> None:
        self._metrics = metrics
        self._writer = writer
        self._write_log = write_log
        self._shadow = shadow
        self._tracer = tracer
        self._pending: deque[Exchange] = deque()
        self._pending_rows = 0
        self._pieces: deque[bytes] = deque(maxlen=_MAX_PIECES)
        self._counting = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None  # made in `start`: threads do not survive a fork

    def start(self) -> None:
        """Start the threads; call it once, in the worker process."""
        if self._tracer:
            self._tracer.start()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()
        if self._writer:
            self._writer.start()
        self._shadow.start()

    def record(self, exchange: Exchange) -> None:
        """Queue an exchange whose reply was made."""
        self._pending.append(exchange)
        self._pending_rows += exchange.rows
        if exchange.explained is not None and exchange.X is not None:  # has more numbers in memory than the rows have
            self._pending_rows += exchange.explained.contributions.size // exchange.X.shape[1]
        if len(self._pending) >= _MAX_PENDING or self._pending_rows >= _MAX_PENDING_ROWS or not self._thread:
            self.flush()

    def flush(self) -> None:
        """Count all queued exchanges and pass them to the logs."""
        with self._counting:
            self._pending_rows = 0
            exchanges = [self._pending.popleft() for _ in range(len(self._pending))]
            if self._tracer:  # first: the log lines have the ids of the spans
                self._trace(self._tracer, exchanges)
            if self._write_log:
                self._pieces.extend(
                    log_lines.in_pieces(
                        log_lines.request_line(exchange) for exchange in exchanges if is_logged(exchange)
                    )
                )
            if self._writer:
                for exchange in exchanges:
                    if exchange.rows:
                        self._writer.put(exchange)
            self._shadow.put(exchanges)
            try:
                self._metrics.count(exchanges)
            except Exception as error:  # whatever it is, later exchanges are counted
                _log.error("requests were not counted: %s", type(error).__name__, exc_info=True)
        if not self._thread:
            self._write()

    def close(self) -> None:
        """Count and write all queued exchanges, and stop."""
        self._stopping.set()
        if self._thread:
            self._thread.join(_STOP_SECONDS)
        self.flush()
        if not (self._thread and self._thread.is_alive()):
            self._write()
        self._shadow.close()
        if self._writer:
            self._writer.close()
        if self._tracer:
            self._tracer.close()

    def _trace(self, tracer: Tracing, exchanges: Sequence[Exchange]) -> None:
        """Make the spans of exchanges, and show them in the metrics."""
        try:
            self._metrics.show(tracer.record(exchange for exchange in exchanges if is_logged(exchange)))
        except Exception as error:  # whatever it is, the exchanges are counted
            _log.error("requests were not traced: %s", type(error).__name__, exc_info=True)

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL_SECONDS):
            self.flush()
            self._write()

    def _write(self) -> None:
        """Write the log. This may block on a slow reader, but no request waits for it."""
        if self._write_log:
            self._write_log([self._pieces.popleft() for _ in range(len(self._pieces))])
