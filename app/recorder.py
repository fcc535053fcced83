"""What is noted of each request beside its reply: its line in the log, metrics, drift counts, the prediction log.

A request only leaves its visit here. They are seen to many at once, which takes a fraction of the time that it takes
one by one: by the request that brings the last of so many, by a thread a moment later, or when somebody asks.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable

from app import logs
from app.log_writer import LogWriter
from app.metrics import Metrics
from app.visit import Exchange

_log = logging.getLogger("tabserve")

_INTERVAL_SECONDS = 0.2  # well below any interval at which metrics are scraped; what waits takes memory
# Counting them takes a fraction of a millisecond, for which the others wait.
_MAX_PENDING = 256
_MAX_PENDING_ROWS = 10_000  # matrices take memory
_STOP_SECONDS = 5  # most that a worker's end waits for a reader of standard output
# Of the log, 4 KiB each at most: so many wait for a reader that is slow or gone, and then the oldest are lost.
_MAX_PIECES = 2_500


def is_logged(exchange: Exchange) -> bool:
    """Return whether a request is logged: all are but answered probes, which are 50,000 a day from Kubernetes."""
    return not (exchange.is_probe and exchange.status == 200)


class Recorder:
    """Takes record of requests in one process; `start` and `close` belong to whoever runs the service there.

    Nothing waits before the start.
    """

    def __init__(
        self,
        metrics: Metrics,
        writer: LogWriter | None,
        write_log: Callable[[Iterable[bytes]], None] | None,
    ) -> None:
        self._metrics = metrics
        self._writer = writer
        self._write_log = write_log
        self._pending: deque[Exchange] = deque()
        self._pending_rows = 0
        self._pieces: deque[bytes] = deque(maxlen=_MAX_PIECES)
        self._counting = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None  # made where it runs: a fork marks those that exist as ended

    def start(self) -> None:
        """Begin to count and to write behind the requests: in the process that answers, once."""
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()
        if self._writer:
            self._writer.start()

    def record(self, exchange: Exchange) -> None:
        """Take record of a request that has left."""
        self._pending.append(exchange)
        self._pending_rows += exchange.rows
        if len(self._pending) >= _MAX_PENDING or self._pending_rows >= _MAX_PENDING_ROWS or not self._thread:
            self.flush()

    def flush(self) -> None:
        """Count what was noted until now, and hand it to the logs."""
        with self._counting:
            self._pending_rows = 0
            exchanges = [self._pending.popleft() for _ in range(len(self._pending))]
            if self._write_log:
                self._pieces.extend(
                    logs.in_pieces(logs.request_line(exchange) for exchange in exchanges if is_logged(exchange))
                )
            if self._writer:
                for exchange in exchanges:
                    if exchange.rows:
                        self._writer.put(exchange)
            try:
                self._metrics.count(exchanges)
            except Exception as error:  # whatever it is, what comes next is counted again
                _log.error("requests were not counted: %s", type(error).__name__, exc_info=True)
        if not self._thread:
            self._write()

    def close(self) -> None:
        """Count and write what was noted, and stop."""
        self._stopping.set()
        if self._thread:
            self._thread.join(_STOP_SECONDS)
        self.flush()
        if not (self._thread and self._thread.is_alive()):
            self._write()
        if self._writer:
            self._writer.close()

    def _run(self) -> None:
        while not self._stopping.wait(_INTERVAL_SECONDS):
            self.flush()
            self._write()

    def _write(self) -> None:
        """Write the log: where nobody reads it this takes as long as it takes, and no request waits for it."""
        if self._write_log:
            self._write_log([self._pieces.popleft() for _ in range(len(self._pieces))])
