"""Runs what may be slow or hang in a thread of its own, so that a caller waits for a limited time."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

# A run that takes a larger part of the wait is slow, and what arrives meanwhile does not queue for it: a worker has few
# threads, which answer other requests, too.
_PATIENCE = 0.2


class BusyError(Exception):
    """The run before takes too long; nothing was run."""


class SlowError(Exception):
    """The wait is over; what was to be run is not started any more, or its result is dropped."""


class Lane:
    """One thread that runs calls in their order. It ends with the process."""

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._started = math.inf  # when the current call started
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def run(self, call: Callable[[], T], *, seconds: float) -> T:
        """Return what `call` returns, or raise what it raises, within so many seconds.

        Raises `BusyError`, and `SlowError` if the time is over.
        """
        if time.monotonic() - self._started > _PATIENCE * seconds:
            raise BusyError
        future: Future[T] = Future()
        self._calls.put((future, call))
        try:
            return future.result(seconds)
        except TimeoutError:
            if future.done():  # just now, or with a `TimeoutError` of its own
                return future.result()
            future.cancel()
            raise SlowError from None

    def _work(self) -> None:
        while True:
            future, call = self._calls.get()
            if not future.set_running_or_notify_cancel():
                continue
            self._started = time.monotonic()
            try:
                result = call()
            except BaseException as error:  # whatever it is, the caller gets it and the thread lives
                self._started = math.inf
                future.set_exception(error)
            else:
                self._started = math.inf
                future.set_result(result)
            del future, call  # a request's rows, which would wait here for the next one
