"""The event loop of a worker: it accepts clients, reads what they send and sends what they get.

A client may be slow, silent or hostile: each wait has an end, and no client holds up another.
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
from app.server.balance import Acceptor, waiting_clients
from app.server.connections import AHEAD, BODY, HEAD, IDLE, IMMEDIATE, LINGERING, Connection, Intake, Next, State
from app.server.plain import PlainHeads
from app.server.threads import Threads, untaken

# A plain head and a body that the loop answers; no less than a record of TLS, which is read at once.
_RECEIVE_BYTES = 20_384
_TURN_SECONDS = 0.25  # how often deadlines are looked at
_FIRST_BYTE_SECONDS = 10  # for a new connection to send something
# After its last reply a client is read from for as long as it sends a request, unless it pauses for so long. Closed
# sooner, the connection would be reset, and the client might lose the reply.
_LINGER_SECONDS = 2.0
# How long a worker that stops keeps an idle connection, on which a request may be under way; as gthread.
_STOPPING_IDLE_SECONDS = 2.0
# How long a connection has been idle before it makes room for another, and a request or a reply has been on its way:
# a client that was just accepted, or answered, may be about to send.
_IDLE_SECONDS, _SLOW_SECONDS = 1.0, 5.0
_MOST_TOGETHER = 32  # requests, for the first of which it is the time of all until it is answered


class EventLoop:
    """The connections of a worker. `n_connections` counts those that threads answer, too.

    `ready` is how many connections wait in this turn, behind the one that is answered, or the first of those that are
    answered together.
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
        self.max_connections: int = worker.cfg.worker_connections
        self._worker = worker
        self._threads = threads
        self._tls = tls
        self._read_seconds: float = worker.read_seconds
        self._keepalive: float = worker.cfg.keepalive
        self._waiting: set[Connection] = set()  # all that no thread answers
        self._ahead: set[Connection] = set()
        self._paused: set[Connection] = set()
        self._whole: list[Connection] = []  # with immediate requests
        self._next_look = 0.0
        self._budget = bodies.Budget()
        self._intake = Intake(
            worker.cfg,
            worker.log,
            is_immediate=is_immediate,
            max_body_bytes=worker.max_body_bytes,
            budget=self._budget,
            heads=heads,
        )
        self._poller = selectors.DefaultSelector()
        self._poller.register(threads, selectors.EVENT_READ, self._take_back)
        self._acceptor = Acceptor(worker, self, self._poller)

    @property
    def n_waiting(self) -> int:
        """How many connections no thread answers."""
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        """How many requests are answered, or wait for their answer."""
        return self.n_connections - len(self._waiting) + self.ready

    def turn(self) -> None:
        """Wait for something to do, and do all that there is."""
        pause = self._acceptor.pause()
        events = self._poller.select(0 if self._ahead else min(pause or _TURN_SECONDS, _TURN_SECONDS))
        self.ready = max(0, len(events) - 1)
        now = time.monotonic()
        looks = now >= self._next_look
        if looks:
            self._next_look = now + _TURN_SECONDS
            self._worker.notify()
            self._acceptor.post()
        for key, _ in events:
            key.data(key.fileobj)
            self.ready = max(0, self.ready - 1)
        if self._ahead:
            ahead, self._ahead = self._ahead, set()
            for connection in ahead:
                connection.state = HEAD
                self._serve(connection)
        while self._whole:
            self.ready = len(self._whole)
            some, self._whole = self._whole[:_MOST_TOGETHER], self._whole[_MOST_TOGETHER:]
            for connection, data, closes in self._worker.answer(some):
                self._reply(connection, data, closes=closes)
        if self._paused:
            for connection in [each for each in self._paused if self._intake.has_room(each)]:
                self._resume(connection)
        if looks:
            self._look(now)

    def stop(self) -> None:
        """Accept no more, and wait less for clients that are silent."""
        self._acceptor.stop()
        latest = time.monotonic() + _STOPPING_IDLE_SECONDS
        for connection in self._waiting:
            if connection.state in (IDLE, LINGERING):
                connection.deadline = min(connection.deadline, latest)

    def close(self) -> None:
        """Close what is left."""
        for connection in list(self._waiting):
            self._drop(connection)
        self._poller.close()

    def _look(self, now: float) -> None:
        """See to all that is late."""
        for connection in [each for each in self._waiting if each.deadline < now]:
            self._expire(connection)
        if self._worker.alive and self.n_connections >= self.max_connections:
            self._make_room(now)
        n_submitted = self.n_connections - len(self._waiting)
        self._threads.cut_off_slow_readers(
            n_submitted=n_submitted, others_wait=bool(self._paused), max_seconds=self._read_seconds
        )

    def _make_room(self, now: float) -> None:
        """Close what has been idle for longest, and then what is slowest, if others wait for the places."""

        def may_go(connection: Connection) -> bool:
            return connection.began < now - (_IDLE_SECONDS if connection.state is IDLE else _SLOW_SECONDS)

        order = sorted(filter(may_go, self._waiting), key=lambda each: (each.state is not IDLE, each.began))
        for connection in order[: waiting_clients(self._worker.sockets)]:
            self._drop(connection)

    def _expire(self, connection: Connection) -> None:
        state = connection.state
        if state in (State.SENDING, State.SENDING_LAST):
            with suppress(OSError):
                left = untaken(connection.sock)
                if left != connection.untaken:  # a slow client: the kernel asks for more when a third of it is taken
                    connection.untaken = left
                    connection.deadline = time.monotonic() + self._read_seconds
                    return
        if state in (HEAD, BODY):
            self._hand_over(connection, cut=True)
        else:
            self._drop(connection)

    # Connections come, wait and go.

    def take(self, sock: Any, address: Any, listener: Any, now: float) -> None:
        """Take a client that was accepted."""
        sock.setblocking(False)
        if self._tls:
            try:
                sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            except OSError:  # the client is gone
                return
        self.n_connections += 1
        self._acceptor.post()
        self._wait(Connection(sock, address, listener.getsockname(), now), _FIRST_BYTE_SECONDS)

    def _wait(self, connection: Connection, seconds: float, events: int = selectors.EVENT_READ) -> None:
        act = self._read if events == selectors.EVENT_READ else self._send
        self._poller.register(connection.sock, events, partial(act, connection))
        self._waiting.add(connection)
        connection.deadline = time.monotonic() + seconds

    def _leave(self, connection: Connection) -> None:
        """Wait for the connection no longer."""
        if connection.state is State.PAUSED:
            self._paused.discard(connection)
        else:
            self._poller.unregister(connection.sock)
        self._waiting.discard(connection)
        self._ahead.discard(connection)

    def _hand_over(self, connection: Connection, *, cut: bool = False) -> None:
        """Have a thread answer a request; `cut` says that it is not whole."""
        self._leave(connection)
        connection.state, connection.is_cut = State.THREAD, cut
        if connection.request is None:
            self._intake.make_parser(connection)
        connection.received = b""
        self._threads.submit(connection)

    def _take_back(self, _: object) -> None:
        """Take connections back from their threads."""
        for connection, keeps in self._threads.take_done():
            self._budget.forget(connection)
            rest = connection.gathered.rest()
            connection.parser = connection.request = connection.body = None
            try:
                connection.sock.setblocking(False)
                if not keeps:
                    self._linger(connection)
                else:
                    connection.received = rest
                    self._wait(connection, 0)
                    self._replied(connection)
            except Exception:  # of the socket: the end of this connection, and of no other
                self._close(connection)

    def _linger(self, connection: Connection) -> None:
        """End a connection so that the client has time to read: RFC 9112, section 9.6."""
        try:
            connection.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(connection)
            return
        connection.state, connection.received = LINGERING, b""
        connection.began = time.monotonic()
        self._wait(connection, _LINGER_SECONDS)

    def _drop(self, connection: Connection) -> None:
        self._leave(connection)
        self._close(connection)

    def _close(self, connection: Connection) -> None:
        self._budget.forget(connection)
        self.n_connections -= 1
        self._acceptor.post()
        util.close(connection.sock)

    # Bytes come and go.

    def _read(self, connection: Connection, _: object) -> None:
        state = connection.state
        if state is AHEAD:
            return  # what is here is answered before more is taken in
        try:
            data = connection.sock.recv(_RECEIVE_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError:
            self._drop(connection)
            return
        if state is LINGERING:
            if data:
                connection.deadline = min(time.monotonic() + _LINGER_SECONDS, connection.began + self._read_seconds)
            else:
                self._drop(connection)
        elif not data:
            if state is IDLE:
                self._drop(connection)
            else:
                self._hand_over(connection)
        elif state is IDLE:
            self._begin(connection, data)
            self._serve(connection)
        elif state is HEAD:
            connection.received += data
            if len(connection.received) >= connection.needed:
                self._serve(connection)
        else:
            self._act(connection, self._intake.add(connection, data))

    def _begin(self, connection: Connection, data: bytes) -> None:
        """Take the first bytes of a request."""
        connection.state = HEAD
        connection.received, connection.needed, connection.parsed = data, 0, 0
        connection.began = time.monotonic()
        connection.deadline = connection.began + self._read_seconds

    def _reply(self, connection: Connection, data: bytes, *, closes: bool) -> None:
        """Send as much of a reply as the connection takes now."""
        try:
            sent = connection.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(connection)
            return
        if sent < len(data):
            self._leave(connection)
            connection.state = State.SENDING_LAST if closes else State.SENDING
            connection.unsent = memoryview(data)[sent:]
            self._wait(connection, self._read_seconds, selectors.EVENT_WRITE)
        elif closes:
            self._leave(connection)
            self._linger(connection)
        else:
            self._replied(connection)

    def _send(self, connection: Connection, _: object) -> None:
        """Send what the connection takes of the rest of its reply."""
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
            connection.unsent = memoryview(b"")  # an empty slice would keep the whole reply
            self._leave(connection)
            if connection.state is State.SENDING_LAST:
                self._linger(connection)
            else:
                self._wait(connection, 0)
                self._replied(connection)

    def _replied(self, connection: Connection) -> None:
        """Go on to the next request, which may be here already."""
        if connection.received:
            self._begin(connection, connection.received)
            connection.state = AHEAD
            self._ahead.add(connection)
        else:
            connection.state = IDLE
            connection.began = time.monotonic()
            idle_seconds = self._keepalive if self._worker.alive else min(self._keepalive, _STOPPING_IDLE_SECONDS)
            connection.deadline = connection.began + idle_seconds

    # Requests.

    def _serve(self, connection: Connection) -> None:
        """Go on with a request of which something was received."""
        self._act(connection, self._intake.look(connection))

    def _act(self, connection: Connection, next_step: Next) -> None:
        if next_step is IMMEDIATE:
            self._whole.append(connection)
        elif next_step is Next.THREAD:
            self._hand_over(connection)
        elif next_step is Next.CUT:
            self._hand_over(connection, cut=True)
        elif next_step is Next.PAUSE:
            self._poller.unregister(connection.sock)
            self._paused.add(connection)
            connection.state = State.PAUSED
            connection.seconds_left = connection.deadline - time.monotonic()
            connection.deadline = math.inf

    def _resume(self, connection: Connection) -> None:
        self._paused.discard(connection)
        connection.state = BODY if connection.body else HEAD
        self._wait(connection, connection.seconds_left)
