"""Which worker accepts the next client: the worker with the fewest connections.

A client that keeps its connection is served by the worker that accepted it. The kernel gives a burst of clients to the
worker that wakes first, and the other workers would stay idle.
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

_DEFER_SECONDS = 0.001  # how long a client is left for other workers to accept
_MAX_ACCEPTS_PER_TURN = 64
_RETRY_SECONDS = 0.25  # after a failed accept, for example with too many open files
_SLOTS = 64  # with more workers than slots, workers share a slot
_EXPIRY_SECONDS = 2.0  # a worker that has not posted for so long is gone


class Balance:
    """Posts the number of connections of each worker in memory that the forked processes share."""

    _counts = memoryview(mmap.mmap(-1, 8 * _SLOTS)).cast("d")
    _times = memoryview(mmap.mmap(-1, 8 * _SLOTS)).cast("d")  # when the count in the same slot was posted

    def __init__(self) -> None:
        """Take a free slot; call it after the fork."""
        first, now = os.getpid() % _SLOTS, time.monotonic()
        slots = [*range(first, _SLOTS), *range(first)]
        self._slot = next((slot for slot in slots if self._times[slot] < now - _EXPIRY_SECONDS), first)

    def post(self, n_connections: float) -> None:
        """Post the number of connections of this worker, at least once a second; infinity if it accepts no more."""
        self._counts[self._slot] = n_connections
        self._times[self._slot] = time.monotonic()

    def should_defer(self, n_connections: int, now: float) -> bool:
        """Return whether this worker should leave the next client to a worker with fewer connections.

        A worker with more than 8 connections may be ahead by a quarter of the excess: in a burst it accepts several
        clients in a row.
        """
        return self._fewest_elsewhere(now) < n_connections - max(0, n_connections - 8) // 4

    def _fewest_elsewhere(self, now: float) -> float:
        posted = zip(self._counts.tolist(), self._times.tolist())
        return min(
            (count for slot, (count, at) in enumerate(posted) if at > now - _EXPIRY_SECONDS and slot != self._slot),
            default=math.inf,
        )


def accept_queue_length(listeners: Iterable[Any]) -> int:
    """Return how many clients wait to be accepted; Linux counts them for TCP sockets."""
    count = 0
    for listener in listeners:
        with suppress(AttributeError, OSError):  # another system, or a Unix socket
            info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            count += struct.unpack("8B24I", info)[12]  # tcpi_unacked in linux/tcp.h: the queue of a listener
    return count


class Acceptor:
    """Accepts clients for a worker, and leaves a client for a moment to workers with fewer connections."""

    def __init__(self, worker: Any, loop: Any, poller: selectors.BaseSelector) -> None:
        self._worker, self._loop, self._poller = worker, loop, poller
        self._balance = Balance()
        self._is_accepting = False
        self._resumes_at = 0.0
        self._must_accept = False  # the next client: no other worker has accepted it in time
        self.post()

    def post(self) -> None:
        """Post the number of connections for the other workers."""
        self._balance.post(self._loop.n_connections if self._has_room() else math.inf)

    def update(self) -> float:
        """Start or pause accepting, as there is room; return the seconds until a pause ends, 0 without a pause."""
        pause, self._must_accept = 0.0, False
        if self._resumes_at:
            pause = max(0.0, self._resumes_at - time.monotonic())
            if not pause:
                self._resumes_at, self._must_accept = 0.0, True
        self._set_accepting(self._has_room() and not pause)
        return pause

    def stop(self) -> None:
        """Stop accepting: a client that connected while open requests are answered would wait in vain."""
        self._set_accepting(False)
        for listener in self._worker.sockets:
            listener.close()

    def _has_room(self) -> bool:
        return bool(self._worker.alive and self._loop.n_connections < self._loop.max_connections)

    def _set_accepting(self, accepting: bool) -> None:
        if accepting != self._is_accepting:
            self._is_accepting = accepting
            for listener in self._worker.sockets:
                if accepting:
                    listener.setblocking(False)
                    self._poller.register(listener, selectors.EVENT_READ, self._accept)
                else:
                    self._poller.unregister(listener)

    def _accept(self, listener: Any) -> None:
        loop = self._loop
        for _ in range(min(_MAX_ACCEPTS_PER_TURN, loop.max_connections - loop.n_connections)):
            now = time.monotonic()
            if not self._must_accept and self._balance.should_defer(loop.n_connections, now):
                self._resumes_at = now + _DEFER_SECONDS
                return
            self._must_accept = False
            try:
                sock, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # for example too many open files; open connections are still served
                self._worker.log.error("No client can be accepted for now: %s", error)
                self._resumes_at = now + _RETRY_SECONDS
                return
            loop.add_client(sock, address, listener, now)
