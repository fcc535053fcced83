"""The event loop of a worker: it accepts clients, receives requests and sends replies.

A client may be slow, silent or hostile: every wait has a time limit, and no client delays another client.
"""

from __future__ import annotations

import math
import selectors
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from gunicorn import util

from app.server import bodies
from app.server.balance import Acceptor, accept_queue_length
from app.server.connections import BODY, HEAD, IDLE, IMMEDIATE, LINGERING, PIPELINED, Connection, Next, Receiver, State
from app.server.plain import PlainHeads
from app.server.threads import Threads, unacknowledged_bytes

# A plain head and the longest body that the loop answers. Not less than a TLS record: the poller does not report a rest
# that is decrypted already.
_RECEIVE_BYTES = 20_384
_TURN_SECONDS = 0.25  # how often deadlines are checked
_FIRST_BYTE_SECONDS = 10  # how long a new connection may send nothing
# After the last reply, the loop reads and discards until the client closes, pauses for so long, or has had the time for
# a request. If the loop closed sooner, the connection would be reset, and the client might lose the reply.
_LINGER_SECONDS = 2.0
# How long a stopping worker keeps an idle connection, on which a request may be under way; as in gthread.
_STOPPING_IDLE_SECONDS = 2.0
# How long a connection must have been idle, or a request or reply under way, before it is closed to make room for a
# waiting client: a client that was just accepted or answered may be about to send.
_IDLE_SECONDS, _SLOW_SECONDS = 1.0, 5.0
_MAX_BATCH = 32  # requests answered together: the first waits until all are answered


class EventLoop:
    """The connections of a worker. `n_connections` includes connections that threads answer.

    `ready` is how many connections wait in this turn: behind the current connection, or behind the first connection of
    the current batch.
    """

    def __init__(
        self,
        worker: Any,
        threads: Threads,
        *,
        heads: PlainHeads,
        is_immediate: Callable[[dict[str, Any]], bool] | None,
        tls: ssl.SSLContext | None,
    ) -> None:
        self.n_connections = 0
        self.ready = 0
        self._waits = False  # for events
        self.max_connections: int = worker.cfg.worker_connections
        self._worker = worker
        self._threads = threads
        self._tls = tls
        self._read_seconds: float = worker.read_seconds
        self._keepalive: float = worker.cfg.keepalive
        self._waiting: set[Connection] = set()  # all connections that no thread answers
        self._pipelined: set[Connection] = set()
        self._paused: set[Connection] = set()
        self._immediate: list[Connection] = []  # with complete, immediate requests
        self._next_check = 0.0
        self._budget = bodies.Budget()
        self._receiver = Receiver(
            worker.cfg,
            worker.log,
            is_immediate=is_immediate,
            max_body_bytes=worker.max_body_bytes,
            budget=self._budget,
            heads=heads,
        )
        self._poller = selectors.DefaultSelector()
        self._poller.register(threads, selectors.EVENT_READ, self._collect_answered)
        self._acceptor = Acceptor(worker, self, self._poller)

    @property
    def n_waiting(self) -> int:
        """How many connections no thread is answering."""
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        """How many requests are being answered or wait for an answer."""
        return self.n_connections - len(self._waiting) + self.ready

    @property
    def is_idle(self) -> bool:
        """Whether the loop waits for events, and no thread answers a request."""
        return self._waits and self.n_connections == len(self._waiting)

    def turn(self) -> None:
        """Wait for events, and handle them all."""
        pause = self._acceptor.update()
        self._waits = True
        events = self._poller.select(0 if self._pipelined else min(pause or _TURN_SECONDS, _TURN_SECONDS))
        self._waits = False
        self.ready = max(0, len(events) - 1)
        now = time.monotonic()
        is_check_due = now >= self._next_check
        if is_check_due:
            self._next_check = now + _TURN_SECONDS
            self._worker.notify()
            self._acceptor.post()
        for key, _ in events:
            key.data(key.fileobj)
            self.ready = max(0, self.ready - 1)
        if self._pipelined:
            pipelined, self._pipelined = self._pipelined, set()
            for connection in pipelined:
                connection.state = HEAD
                self._continue_request(connection)
        while self._immediate:
            self.ready = len(self._immediate)
            batch, self._immediate = self._immediate[:_MAX_BATCH], self._immediate[_MAX_BATCH:]
            for connection, data, closes in self._worker.answer(batch):
                self._reply(connection, data, closes=closes)
        if self._paused:
            for connection in [connection for connection in self._paused if self._receiver.has_room(connection)]:
                self._resume(connection)
        if is_check_due:
            self._check_deadlines(now)

    def stop(self) -> None:
        """Stop accepting, and shorten the wait for idle connections."""
        self._acceptor.stop()
        latest = time.monotonic() + _STOPPING_IDLE_SECONDS
        for connection in self._waiting:
            if connection.state in (IDLE, LINGERING):
                connection.deadline = min(connection.deadline, latest)

    def close(self) -> None:
        """Close the remaining connections."""
        for connection in list(self._waiting):
            self._drop(connection)
        self._poller.close()

    def _check_deadlines(self, now: float) -> None:
        """Time out late connections, make room for waiting clients, and cut off slow readers."""
        for connection in [connection for connection in self._waiting if connection.deadline < now]:
            self._time_out(connection)
        if self._worker.alive and self.n_connections >= self.max_connections:
            self._make_room(now)
        n_submitted = self.n_connections - len(self._waiting)
        self._threads.cut_off_slow_readers(
            n_submitted=n_submitted, requests_wait=bool(self._paused), max_seconds=self._read_seconds
        )

    def _make_room(self, now: float) -> None:
        """Close the connections idle for longest, then the slowest, as many as clients wait to be accepted."""

        def may_close(connection: Connection) -> bool:
            return connection.started < now - (_IDLE_SECONDS if connection.state is IDLE else _SLOW_SECONDS)

        candidates = sorted(
            filter(may_close, self._waiting),
            key=lambda connection: (connection.state is not IDLE, connection.started),
        )
        for connection in candidates[: accept_queue_length(self._worker.sockets)]:
            self._drop(connection)

    def _time_out(self, connection: Connection) -> None:
        state = connection.state
        if state in (State.SENDING, State.SENDING_LAST):
            with suppress(OSError):
                n_unacknowledged = unacknowledged_bytes(connection.sock)
                # The client may be slow: the kernel reports a socket as writable when a third of its buffer is free.
                if n_unacknowledged != connection.unacknowledged:
                    connection.unacknowledged = n_unacknowledged
                    connection.deadline = time.monotonic() + self._read_seconds
                    return
        if state in (HEAD, BODY):
            self._submit(connection, truncated=True)
        else:
            self._drop(connection)

    # Connections: added, registered, passed to threads and back, closed.

    def add_client(self, sock: Any, address: Any, listener: Any, now: float) -> None:
        """Add a client that was accepted."""
        sock.setblocking(False)
        if self._tls:
            try:
                sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            except OSError:  # the client is gone
                return
        self.n_connections += 1
        self._acceptor.post()
        self._register(Connection(sock, address, listener.getsockname(), now), _FIRST_BYTE_SECONDS)

    def _register(self, connection: Connection, seconds: float, events: int = selectors.EVENT_READ) -> None:
        callback = self._read if events == selectors.EVENT_READ else self._send
        self._poller.register(connection.sock, events, partial(callback, connection))
        self._waiting.add(connection)
        connection.deadline = time.monotonic() + seconds

    def _unregister(self, connection: Connection) -> None:
        """Stop waiting for the connection."""
        if connection.state is State.PAUSED:
            self._paused.discard(connection)
        else:
            self._poller.unregister(connection.sock)
        self._waiting.discard(connection)
        self._pipelined.discard(connection)

    def _submit(self, connection: Connection, *, truncated: bool = False) -> None:
        """Submit a request to the threads; `truncated` means that its rest is not read."""
        self._unregister(connection)
        connection.state, connection.is_truncated = State.THREAD, truncated
        if connection.request is None:
            self._receiver.make_parser(connection)
        connection.received = b""
        self._threads.submit(connection)

    def _collect_answered(self, _: object) -> None:
        """Continue with the connections that threads have answered."""
        for connection, is_kept in self._threads.pop_answered():
            self._budget.release(connection)
            rest = connection.unreader.rest()
            connection.parser = connection.request = connection.body = None
            try:
                connection.sock.setblocking(False)
                if not is_kept:
                    self._linger(connection)
                else:
                    connection.received = rest
                    self._register(connection, 0)
                    self._after_reply(connection)
            except Exception:  # a socket's error closes its own connection only
                self._close(connection)

    def _linger(self, connection: Connection) -> None:
        """Close the connection in stages, so that the client has time to read: RFC 9112, section 9.6."""
        try:
            connection.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(connection)
            return
        connection.state, connection.received = LINGERING, b""
        connection.started = time.monotonic()
        self._register(connection, _LINGER_SECONDS)

    def _drop(self, connection: Connection) -> None:
        self._unregister(connection)
        self._close(connection)

    def _close(self, connection: Connection) -> None:
        self._budget.release(connection)
        self.n_connections -= 1
        self._acceptor.post()
        util.close(connection.sock)

    # Receiving and sending.

    def _read(self, connection: Connection, _: object) -> None:
        state = connection.state
        if state is PIPELINED:
            return  # the pipelined request is answered before more is received
        try:
            data = connection.sock.recv(_RECEIVE_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError:
            self._drop(connection)
            return
        if state is LINGERING:
            if data:
                connection.deadline = min(time.monotonic() + _LINGER_SECONDS, connection.started + self._read_seconds)
            else:
                self._drop(connection)
        elif not data:
            if state is IDLE:
                self._drop(connection)
            else:
                self._submit(connection)
        elif state is IDLE:
            self._start_request(connection, data)
            self._continue_request(connection)
        elif state is HEAD:
            connection.received += data
            if len(connection.received) >= connection.needed:
                self._continue_request(connection)
        else:
            self._perform(connection, self._receiver.add_body(connection, data))

    def _start_request(self, connection: Connection, data: bytes) -> None:
        """Start a request with its first bytes."""
        connection.state = HEAD
        connection.received, connection.needed, connection.n_bytes_parsed = data, 0, 0
        connection.started = time.monotonic()
        connection.deadline = connection.started + self._read_seconds

    def _reply(self, connection: Connection, data: bytes, *, closes: bool) -> None:
        """Send as much of a reply as the socket accepts now."""
        try:
            sent = connection.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(connection)
            return
        if sent < len(data):
            self._unregister(connection)
            connection.state = State.SENDING_LAST if closes else State.SENDING
            connection.unsent = memoryview(data)[sent:]
            self._register(connection, self._read_seconds, selectors.EVENT_WRITE)
        elif closes:
            self._unregister(connection)
            self._linger(connection)
        else:
            self._after_reply(connection)

    def _send(self, connection: Connection, _: object) -> None:
        """Send as much of the rest of a reply as the socket accepts now."""
        try:
            sent = connection.sock.send(connection.unsent)
        except BlockingIOError:
            return
        except OSError:
            self._drop(connection)
            return
        connection.unsent = connection.unsent[sent:]
        connection.deadline = time.monotonic() + self._read_seconds
        if not connection.unsent:
            connection.unsent = memoryview(b"")  # an empty slice would keep the whole reply in memory
            self._unregister(connection)
            if connection.state is State.SENDING_LAST:
                self._linger(connection)
            else:
                self._register(connection, 0)
                self._after_reply(connection)

    def _after_reply(self, connection: Connection) -> None:
        """Continue with the next request, if it is received already, or wait for it."""
        if connection.received:
            self._start_request(connection, connection.received)
            connection.state = PIPELINED
            self._pipelined.add(connection)
        else:
            connection.state = IDLE
            connection.started = time.monotonic()
            idle_seconds = self._keepalive if self._worker.alive else min(self._keepalive, _STOPPING_IDLE_SECONDS)
            connection.deadline = connection.started + idle_seconds

    # Requests.

    def _continue_request(self, connection: Connection) -> None:
        """Continue a partly received request."""
        self._perform(connection, self._receiver.next_step(connection))

    def _perform(self, connection: Connection, next_step: Next) -> None:
        if next_step is IMMEDIATE:
            self._immediate.append(connection)
        elif next_step is Next.THREAD:
            self._submit(connection)
        elif next_step is Next.TRUNCATE:
            self._submit(connection, truncated=True)
        elif next_step is Next.PAUSE:
            self._poller.unregister(connection.sock)
            self._paused.add(connection)
            connection.state = State.PAUSED
            connection.seconds_left = connection.deadline - time.monotonic()
            connection.deadline = math.inf

    def _resume(self, connection: Connection) -> None:
        self._paused.discard(connection)
        connection.state = BODY if connection.body else HEAD
        self._register(connection, connection.seconds_left)
