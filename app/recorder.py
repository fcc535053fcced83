"""What is noted of each request beside its reply: metrics, drift counts and, where one is kept, the prediction log.

A request only leaves its visit here. They are counted many at once, which takes a tenth of the time that it takes one
by one: by the request that brings the last of so many, by a thread a moment later, or when somebody asks.
"""

from __future__ import annotations

import logging
import threading
from collections import deque

from app.log_writer import LogWriter
from app.metrics import Metrics
from app.visit import Visit

_log = logging.getLogger("tabserve")

_INTERVAL_SECONDS = 0.5  # well below any interval at which metrics are scraped
# Counting them takes a fraction of a millisecond, for which the others wait.
_MAX_NOTED = 256
_MAX_NOTED_ROWS = 20_000  # matrices take memory


class Recorder:
    """Takes note of requests in one process; `start` and `close` belong to whoever runs the service there."""

    def __init__(self, metrics: Metrics, writer: LogWriter | None) -> None:
        self._metrics = metrics
        self._writer = writer
        self._noted: deque[Visit] = deque()
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

    def note(self, guest: Visit) -> None:
        """Take note of a request that has left."""
        self._noted.append(guest)
        self._noted_rows += len(guest.y)
        if len(self._noted) >= _MAX_NOTED or self._noted_rows >= _MAX_NOTED_ROWS:
            self._count()

    def flush(self) -> None:
        """Count what was noted until now, and hand it to the log."""
        with self._counting:
            self._noted_rows = 0
            guests = [self._noted.popleft() for _ in range(len(self._noted))]
            if self._writer:
                for guest in guests:
                    if len(guest.y):
                        self._writer.put(guest)
            if guests:
                self._metrics.count(guests)

    def close(self) -> None:
        """Count and write what was noted, and stop."""
        self._stopping.set()
        if self._thread:
            self._thread.join()
        self._count()
        if self._writer:
            self._writer.close()

    def _run(self) -> None:
        while not self._stopping.wait(_INTERVAL_SECONDS):
            self._count()

    def _count(self) -> None:
        try:
            self.flush()
        except Exception as error:  # whatever it is, what comes next is counted again
            _log.error("requests were not counted: %s", type(error).__name__, exc_info=True)
