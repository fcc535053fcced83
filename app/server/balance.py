"""Which worker takes a client: the one that has the fewest.

A client that keeps its connection is served by the worker that accepted it. The kernel lets the quickest of the
waiting workers take all that come at once, and the others would have nothing to do.
"""

from __future__ import annotations

import math
import mmap
import os
import selectors
import socket
import struct
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

_PATIENCE_SECONDS = 0.001  # for another worker to wake up and take a client that is left to it
_ACCEPTED_A_TURN = 64
_RETRY_SECONDS = 0.25  # after which a worker that has too many open files tries to accept again
_PLACES = 64  # where there are more workers, the others post nowhere
_FRESH_SECONDS = 2.0  # after which a worker that posted nothing is gone


class Balance:
    """Where the workers of a server post how many connections they have; memory that forked processes share."""

    _counts = memoryview(mmap.mmap(-1, 8 * _PLACES)).cast("d")
    _times = memoryview(mmap.mmap(-1, 8 * _PLACES)).cast("d")  # when each was posted

    def __init__(self) -> None:  # after the fork
        first, now = os.getpid() % _PLACES, time.monotonic()
        places = [*range(first, _PLACES), *range(first)]
        self._place = next((place for place in places if self._times[place] < now - _FRESH_SECONDS), first)

    def post(self, n_connections: float) -> None:
        """Post how many this worker has, at least every second; infinity where it accepts no more."""
        self._counts[self._place] = n_connections
        self._times[self._place] = time.monotonic()

    def leaves_to_others(self, n_connections: int, now: float) -> bool:
        """Return whether another worker has fewer connections; where many come at once, a worker takes several."""
        return self._least_of_others(now) < n_connections - max(0, n_connections - 8) // 4

    def _least_of_others(self, now: float) -> float:
        posted = zip(self._counts.tolist(), self._times.tolist())
        return min(
            (count for place, (count, at) in enumerate(posted) if at > now - _FRESH_SECONDS and place != self._place),
            default=math.inf,
        )


def waiting_clients(listeners: Iterable[Any]) -> int:
    """Return how many clients are connected that no worker has accepted: Linux counts those of TCP."""
    count = 0
    for listener in listeners:
        with suppress(AttributeError, OSError):  # another system, or a Unix socket
            info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            count += struct.unpack("8B24I", info)[12]  # tcpi_unacked of linux/tcp.h: for a listener, its queue
    return count


class Acceptor:
    """Accepts clients for a worker, but leaves those to others that have more room, if they take them soon."""

    def __init__(self, worker: Any, loop: Any, poller: selectors.BaseSelector) -> None:
        self._worker, self._loop, self._poller = worker, loop, poller
        self._balance = Balance()
        self._listens = False
        self._resumes_at = 0.0
        self._insists = False  # on the next client: it was left to others, and none of them took it
        self.post()

    def post(self) -> None:
        """Have other workers know how many connections this one has."""
        self._balance.post(self._loop.n_connections if self._has_room() else math.inf)

    def pause(self) -> float:
        """Listen if clients may be accepted now, and return after how many seconds that changes; 0 if it does not."""
        pause, self._insists = 0.0, False
        if self._resumes_at:
            pause = max(0.0, self._resumes_at - time.monotonic())
            if not pause:
                self._resumes_at, self._insists = 0.0, True
        self._listen(self._has_room() and not pause)
        return pause

    def stop(self) -> None:
        """Accept no more: a client that connected while others are answered would wait in vain."""
        self._listen(False)
        for listener in self._worker.sockets:
            listener.close()

    def _has_room(self) -> bool:
        return bool(self._worker.alive and self._loop.n_connections < self._loop.max_connections)

    def _listen(self, listens: bool) -> None:
        if listens != self._listens:
            self._listens = listens
            for listener in self._worker.sockets:
                if listens:
                    listener.setblocking(False)
                    self._poller.register(listener, selectors.EVENT_READ, self._accept)
                else:
                    self._poller.unregister(listener)

    def _accept(self, listener: Any) -> None:
        loop = self._loop
        for _ in range(min(_ACCEPTED_A_TURN, loop.max_connections - loop.n_connections)):
            now = time.monotonic()
            if not self._insists and self._balance.leaves_to_others(loop.n_connections, now):
                self._resumes_at = now + _PATIENCE_SECONDS
                return
            self._insists = False
            try:
                sock, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # too many open files, for example: those that are here are served
                self._worker.log.error("No client can be accepted for now: %s", error)
                self._resumes_at = now + _RETRY_SECONDS
                return
            loop.take(sock, address, listener, now)
