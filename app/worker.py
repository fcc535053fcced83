"""gunicorn's threaded worker, which also reads and answers plain requests in its own loop.

gthread gives every request to a thread, which waits for the client's bytes, parses them in steps and sends the reply
in pieces: that takes several times as long as a prediction, and a slow client holds a thread. Here the loop gathers
what a connection sends until a request is whole, and answers it at once if

- it is plain: HTTP/1.1, GET or POST, a path and header names of ordinary characters, no header twice, a body of known
  length, a few kilobytes in all; and
- the application has two methods more, and `is_quick(environ)` says that it is quick: that it waits for nothing, and
  takes about a millisecond. `answer_together` then gets those that came at once: an iterator over pairs of environment
  and `start_response`. It returns for each what the application would return, or the exception that it would raise.
  Their bodies are there as a whole, and there is no `wsgi.early_hints`.

Everything else is handed to gthread's own code with the bytes that were read: bodies in chunks, `Expect`, HTTP/1.0,
what is malformed or cut off, what is long or slow. So there is one authority for what HTTP is, gunicorn's; what is
plain is a part of it that leaves nothing to judge. A reply that is not plain is written by gunicorn, too.

A thread gets whole requests: for a request that is not plain the loop asks gunicorn's parser how its body is framed,
and waits for the end of it (app/uploads.py). The thread reads from what was gathered, never from the socket. A body
that is longer than `max_body_bytes`, or late, is handed over as far as it came; its connection ends with the reply.

With TLS, HTTP/2, the PROXY or uwsgi protocol, a `SCRIPT_NAME`, gunicorn's access log or its hooks for requests,
nothing is plain, and the worker is gthread.
"""

from __future__ import annotations

import fcntl
import io
import math
import mmap
import os
import re
import selectors
import socket
import sys
import termios
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import Any

from gunicorn import SERVER, util
from gunicorn.config import PostRequest, PreRequest
from gunicorn.glogging import Logger
from gunicorn.http.errors import NoMoreData
from gunicorn.http.message import DEFAULT_MAX_HEADERFIELD_SIZE, MAX_HEADERS, HeaderPolicy
from gunicorn.http.parser import RequestParser
from gunicorn.http.wsgi import Response, base_environ
from gunicorn.workers.gthread import (
    _DEFER,
    STOP_KEEPALIVE_LINGER,
    TConn,
    ThreadWorker,
)

from app import uploads

_MAX_HEAD_BYTES = 4_000
_MAX_BODY_BYTES = 16_384
_RECEIVE_BYTES = _MAX_HEAD_BYTES + _MAX_BODY_BYTES
_TURN_SECONDS = 0.25  # how often deadlines are looked at
# After its last reply a client is read from for as long as it sends a request, unless it pauses for so long. Closed
# sooner, the connection would be reset, and the client might lose the reply.
LINGER_SECONDS = 2.0
_MAX_OVERHEAD_BYTES = 2**20  # of a head and of chunks, beside as much as the body itself
_MAX_BODIES = 6  # of the longest kind, that are in memory: one for each of four threads, and some that come in
_ACCEPTED_A_TURN = 64
FIRST_BYTE_SECONDS = 10  # for a new connection to send something
# How long a connection has been idle before it makes room for another, and a request or a reply has been on its way:
# a client that was just let in, or answered, may be about to send.
IDLE_SECONDS, _SLOW_SECONDS = 1.0, 5.0
_MOST_TOGETHER = 32  # requests, for the first of which it is the time of all until it is answered
PATIENCE_SECONDS = 0.001  # for another worker to wake up and take a client that is left to it
# After which a thread that computes lets the loop go on: Python's own 5 ms are a hundred answers' time.
_SWITCH_SECONDS = 0.001
_MAX_KNOWN_NAMES = 1_000  # of headers, which clients make up

_LINE = rb"(GET|POST) (/(?!/)[!\"$&-~]*) HTTP/1\.1\r\n"  # visible ASCII but for # and %
_FIELDS = rb"((?:[A-Za-z0-9-]+:[^\x00-\x08\n-\x1f\x7f]*\r\n)*)"
_HEAD = re.compile(_LINE + _FIELDS + rb"\r\n")
_BEGINNING = re.compile(_LINE + _FIELDS + rb"[^\x00-\x08\n-\x0c\x0e-\x1f\x7f]*")
_FIELD = re.compile(rb"([^:]+):([^\r]*)\r\n")
# How a message is framed, and what becomes of its connection, is not decided here.
_UNUSUAL = frozenset({"TRANSFER-ENCODING", "EXPECT", "UPGRADE", "HTTP2-SETTINGS"})

_STATUS = re.compile(r"(?!204|304)[2-5][0-9]{2} [\t -~]*")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@lru_cache(_MAX_KNOWN_NAMES)
def _is_plain_status(status: str) -> bool:
    """Return whether a reply of that status is nothing but its headers and its body."""
    return bool(_STATUS.fullmatch(status))


@lru_cache(_MAX_KNOWN_NAMES)
def _is_plain_name(name: str) -> bool:
    """Return whether a reply's header of that name is sent as it is, whatever it says."""
    if name == "Content-Length":  # written so, it is counted
        return True
    lower = name.lower()
    return lower != "content-length" and lower not in util.hop_headers and bool(_HEADER_NAME.fullmatch(name))


def untaken(client: socket.socket) -> int:
    """Return how many of the bytes that were sent to a client it has not acknowledged; while it reads, that changes.

    Raises `OSError` where the system does not count them (SIOCOUTQ of Linux), and `ValueError` for a closed socket.
    """
    return int.from_bytes(fcntl.ioctl(client, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def waiting_clients(worker: ThreadWorker) -> int:
    """Return how many clients are connected that no worker has let in: Linux counts those of TCP."""
    return sum(max(0, listener.get_backlog()) for listener in worker.sockets)


class Connection(TConn):  # type: ignore[misc]  # gunicorn has no types
    """A client's connection: what it sent that is not answered yet, and what it has yet to take."""

    def __init__(self, *stock: Any) -> None:
        super().__init__(*stock)
        self.received = b""
        self.unsent: bytes | memoryview = b""
        self.sends = False  # it is waited for until it takes more
        self.untaken = 0  # of what was sent, when it last took some
        self.closes = False  # as soon as all is sent
        self.lingers = False  # all is sent; what still comes is not looked at
        self.needed = 0  # how much has to be received before there is anything to do
        self.parsed = 0  # how much had been received when gunicorn's parser found the head incomplete
        self.body: uploads.Sized | uploads.Chunked | None = None  # that is gathered
        self.pieces: list[bytes] = []  # of it, behind what is received
        self.gathered = 0  # bytes of the request that count against the worker's memory, until it is answered
        self.left = 0.0  # seconds for the request, while the connection is not read from
        self.began = 0.0  # when the first byte of the request came; before that, when it was let in
        self.deadline = 0.0
        self.environ: dict[str, Any] = {}  # what its requests have in common
        # Clients send the same head again and again: the last one, and what it came to.
        self.head = b""
        self.head_environ: dict[str, Any] = {}
        self.scheme_headers: dict[str, str] = {}  # by which this client may say that it was reached by TLS


class WholeReply:
    """What the application answers to a plain request, until it is written in one piece."""

    def __init__(self, cfg: Any, environ: dict[str, Any], *, closes: bool) -> None:
        self._cfg = cfg
        self._environ = environ
        self._closes = closes
        self._status = ""
        self._headers: list[tuple[str, str]] = []
        self._response: Any = None  # gunicorn's, where it is needed
        self._written = bytearray()

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        """Take the status and the headers: WSGI's `start_response`."""
        if self._status or exc_info:
            self._by_gunicorn().start_response(status, headers, exc_info)
        else:
            self._status, self._headers = status, headers
        return lambda piece: self._by_gunicorn().write(piece)

    def finish(self, body: bytes, date: str) -> tuple[bytes, bool]:
        """Return the bytes to send, and whether the connection ends with them."""
        if not self._response and _is_plain_status(self._status):
            lines = self._plain_lines(len(body))
            if lines:
                connection = "close" if self._closes else "keep-alive"
                head = f"HTTP/1.1 {self._status}\r\nServer: {SERVER}\r\nDate: {date}\r\nConnection: {connection}\r\n"
                return f"{head}{lines}\r\n".encode("ascii") + body, self._closes
        response = self._by_gunicorn()
        if body:
            response.write(body)
        response.close()
        return bytes(self._written), response.should_close()

    def _plain_lines(self, length: int) -> str:
        """Return the headers as they are sent; nothing if one of them is not plain, or the length is not said once."""
        lines, lengths = "", 0
        for name, value in self._headers:
            if not _is_plain_name(name) or not value.isprintable():
                return ""
            if name == "Content-Length":
                lengths += 1
            lines += f"{name}: {value}\r\n"
        says_so = lengths == 1 and f"Content-Length: {length}\r\n" in lines
        # gunicorn strips values, and writes them in Latin-1.
        return lines if says_so and lines.isascii() and ":  " not in lines and " \r\n" not in lines else ""

    def request(self) -> SimpleNamespace:
        """Return the request as gunicorn looks at it."""
        return SimpleNamespace(
            method=self._environ["REQUEST_METHOD"],
            uri=self._environ["RAW_URI"],
            query=self._environ["QUERY_STRING"],
            body=self._environ["wsgi.input"],
            version=(1, 1),
            headers=[],
            should_close=lambda: self._closes,
        )

    def _by_gunicorn(self) -> Any:
        if not self._response:
            self._response = Response(self.request(), SimpleNamespace(sendall=self._written.extend), self._cfg)
            if self._status:
                self._response.start_response(self._status, self._headers)
        return self._response


class Board:
    """Where the workers of a server say how many connections they have.

    A client that keeps its connection is served by whom it came to. The kernel lets the quickest of the waiting
    workers take all that come at once, and the others would have nothing to do.
    """

    _PLACES = 64  # where there are more workers, some go without
    _SECONDS = 2.0  # after which who said nothing is gone
    _counts = memoryview(mmap.mmap(-1, 8 * _PLACES)).cast("d")
    _times = memoryview(mmap.mmap(-1, 8 * _PLACES)).cast("d")  # when that was said

    def __init__(self) -> None:  # after the fork
        first, now = os.getpid() % self._PLACES, time.monotonic()
        places = [*range(first, self._PLACES), *range(first)]
        self._place = next((place for place in places if self._times[place] < now - self._SECONDS), first)

    def post(self, worker: ThreadWorker) -> None:
        """Say how many a worker has, at least every second; infinity where it lets no more in."""
        room = worker.alive and worker.nr_conns < worker.worker_connections
        self._counts[self._place] = worker.nr_conns if room else math.inf
        self._times[self._place] = time.monotonic()

    def least_of_others(self, now: float) -> float:
        """Return the least number of connections that another living worker has; infinity where there is none."""
        said = zip(self._counts.tolist(), self._times.tolist())
        others = [count for place, (count, at) in enumerate(said) if at > now - self._SECONDS and place != self._place]
        return min(others, default=math.inf)


class EventLoopWorker(ThreadWorker):  # type: ignore[misc]
    """Answers plain and quick requests in its loop, and all others in threads as gthread does.

    `read_seconds` bounds how long a client may take to send a request, or to take any of a reply; `max_body_bytes`, how
    long a body is gathered. `ready` says how many connections wait in this turn of the loop, behind the one that is
    seen to or that the application took last.
    """

    read_seconds = 30.0
    max_body_bytes = 8 * 2**20
    ready = 0
    alive: bool

    def __init__(self, *stock: Any) -> None:
        super().__init__(*stock)
        self.keepalived_conns: set[Connection] = set()  # that the loop waits for; gthread's are in the order of idling
        self._ahead: set[Connection] = set()  # those of them that sent more than what is answered
        self._is_quick: Any = None  # the application's method; without it the worker is gthread
        self._gathering: dict[Connection, None] = {}  # with bytes that count, in the order in which they began
        self._gathered = 0  # bytes of all of them
        self._paused: set[Connection] = set()  # those that are not read from until there is room
        self._whole: list[tuple[Connection, dict[str, Any]]] = []  # quick requests, with their environments
        self._names: dict[bytes, str] = {}  # of headers, to keys of the environment; empty for the unusual
        self._next_look = 0.0
        self._accepts_after = 0.0
        self._insists = False  # on the next client: it was left to others, and none of them took it
        self._date = (0, "")
        # gunicorn looks for a setting in all its settings.
        self._keepalive: float = self.cfg.keepalive

    @property
    def gathers(self) -> bool:
        """Whether the loop reads requests to their end: then threads do not read from the socket."""
        return bool(self._is_quick)

    @property
    def has_paused(self) -> bool:
        """Whether a client is not read from, until requests that are in memory have been answered."""
        return bool(self._paused)

    # The loop.

    def run(self) -> None:
        """Answer until told to stop, then finish what has begun."""
        sys.setswitchinterval(_SWITCH_SECONDS)
        self.begin()
        while self.alive and self.is_parent_alive():
            self.turn()

        self.alive = False  # also where the master is gone: nobody is let in any more
        self.set_accept_enabled(False)
        now = time.monotonic()
        for connection in self.keepalived_conns:
            if not connection.received and not connection.unsent:
                connection.deadline = min(connection.deadline, now + STOP_KEEPALIVE_LINGER)
        while self.nr_conns and time.monotonic() < now + self.cfg.graceful_timeout:
            self.turn()
        for connection in list(self.keepalived_conns):
            self._drop(connection)
        self.tpool.shutdown(wait=False)
        self.poller.close()
        self.method_queue.close()
        for listener in self.sockets:
            listener.close()

    def begin(self) -> None:
        """Make ready for the first turn."""
        if self._can_be_plain():
            self._is_quick = getattr(self.wsgi, "is_quick", None)
        # No line of a shorter head is longer than gunicorn's limits for a line. 0 is none.
        limits = self.cfg.limit_request_line, self.cfg.limit_request_field_size
        self._max_head = min([_MAX_HEAD_BYTES, *filter(None, limits)])
        self._max_fields: int = self.cfg.limit_request_fields or _MAX_HEAD_BYTES
        # A longer head is refused by gunicorn, whole or not: its limit for the fields, and the request line.
        fields = self.cfg.limit_request_fields
        self._longest_head = (
            (fields if 0 < fields <= MAX_HEADERS else MAX_HEADERS)
            * (2 + (self.cfg.limit_request_field_size or DEFAULT_MAX_HEADERFIELD_SIZE))
            + len(b"\r\n\r\n")
            + (self.cfg.limit_request_line or math.inf)
        )
        self.poller.register(self.method_queue.fileno(), selectors.EVENT_READ, self.method_queue.run_callbacks)
        self._board = Board()
        self._board.post(self)

    def _can_be_plain(self) -> bool:
        return not (
            self.cfg.is_ssl
            or self.cfg.proxy_protocol != "off"
            or self.cfg.protocol != "http"
            or self.cfg.http2_cleartext in ("prior-knowledge", "both")
            or (self.log.access_log_enabled and (type(self.log) is not Logger or self.log.access_log.hasHandlers()))
            or self.cfg.pre_request is not PreRequest.default
            or self.cfg.post_request is not PostRequest.default
            or "SCRIPT_NAME" in os.environ
        )

    def turn(self) -> None:
        """Wait for something to do, and do all that there is."""
        pause = self._accepts_after - time.monotonic()
        self._insists = self._accepts_after > 0 >= pause
        if self._insists:
            self._accepts_after = 0.0
        self.set_accept_enabled(self.alive and pause <= 0 and self.nr_conns < self.worker_connections)
        events = self.poller.select(0 if self._ahead else pause if 0 < pause < _TURN_SECONDS else _TURN_SECONDS)
        self.ready = max(0, len(events) - 1)
        now = time.monotonic()
        looks = now >= self._next_look
        if looks:
            self._next_look = now + _TURN_SECONDS
            self.notify()
            self._board.post(self)
        for key, _ in events:
            key.data(key.fileobj)
            self.ready = max(0, self.ready - 1)
        ahead, self._ahead = self._ahead, set()
        for connection in ahead:
            self._serve(connection)
        while self._whole:
            self.ready = len(self._whole)
            some, self._whole = self._whole[:_MOST_TOGETHER], self._whole[_MOST_TOGETHER:]
            self._answer(some)
        for connection in [each for each in self._paused if self._has_room(each)]:
            self._resume(connection)
        if looks:
            for connection in [each for each in self.keepalived_conns if each.deadline < now]:
                self._expire(connection)
            if self.alive and self.nr_conns >= self.worker_connections:
                self._make_room(now)

    def _make_room(self, now: float) -> None:
        """Close what has been idle for longest, and then what is slowest, if others wait for the places."""

        def is_busy(connection: Connection) -> bool:
            return bool(connection.received or connection.unsent or connection.lingers)

        def may_go(connection: Connection) -> bool:
            return connection.began < now - (_SLOW_SECONDS if is_busy(connection) else IDLE_SECONDS)

        order = sorted(filter(may_go, self.keepalived_conns), key=lambda each: (is_busy(each), each.began))
        for connection in order[: waiting_clients(self)]:
            self._drop(connection)

    def _expire(self, connection: Connection) -> None:
        if connection.unsent:
            with suppress(OSError):
                left = untaken(connection.sock)
                if left != connection.untaken:  # a slow client: the kernel asks for more when a third of it is taken
                    connection.untaken = left
                    connection.deadline = time.monotonic() + self.read_seconds
                    return
        if connection.received and not connection.unsent:
            self._hand_over(connection, cut=True)
        else:
            self._drop(connection)

    # Connections come, wait and go.

    def accept(self, listener: Any) -> None:
        """Let clients in, but those that another worker has more room for, if it takes them soon."""
        for _ in range(min(_ACCEPTED_A_TURN, self.worker_connections - self.nr_conns)):
            now = time.monotonic()
            fair = self.nr_conns - max(0, self.nr_conns - 8) // 4  # where many come at once, a turn lets in several
            if self._board.least_of_others(now) < fair and not self._insists:
                self._accepts_after = now + PATIENCE_SECONDS
                return
            self._insists = False
            try:
                client, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # too many open files, for example: those who are here are served
                self.log.error("No client can be let in for now: %s", error)
                self._accepts_after = now + _TURN_SECONDS
                return
            self.nr_conns += 1
            self._board.post(self)
            connection = Connection(self.cfg, client, address, listener.getsockname())
            connection.began = now
            self._wait(connection, FIRST_BYTE_SECONDS)

    def finish_request(self, conn: Connection, fs: Future[Any]) -> None:
        """Take a connection back from its thread."""
        self._forget(conn)
        try:
            result = fs.result() if not fs.cancelled() else False
            conn.sock.setblocking(False)
            conn.began = time.monotonic()  # to idle
            if not result or (result is _DEFER and not self.alive):
                self._linger(conn)
            elif result is not _DEFER and (ahead := conn.parser.unreader.take_buffered()):
                self._wait(conn, 0)
                self._begins(conn, ahead)
                self._ahead.add(conn)
            else:
                self._wait(conn, self._idle_seconds())
        except Exception:  # of the thread or of the socket: the end of this connection, and of no other
            self._close(conn)

    def _idle_seconds(self) -> float:
        return self._keepalive if self.alive else min(self._keepalive, STOP_KEEPALIVE_LINGER)

    def _wait(self, connection: Connection, seconds: float, events: int = selectors.EVENT_READ) -> None:
        act = self._read if events == selectors.EVENT_READ else self._send
        self.poller.register(connection.sock, events, partial(act, connection))
        self.keepalived_conns.add(connection)
        connection.deadline = time.monotonic() + seconds

    def _leave(self, connection: Connection) -> None:
        """Wait for the connection no longer."""
        if connection in self._paused:
            self._paused.discard(connection)
        else:
            self.poller.unregister(connection.sock)
        self.keepalived_conns.discard(connection)
        self._ahead.discard(connection)

    def _hand_over(self, connection: Connection, *, cut: bool = False) -> None:
        """Have a thread go on as gthread does, with what was read; `cut` says that the request is not whole."""
        self._leave(connection)
        connection.data_ready = True
        if connection.received:
            connection.init()
            parser = connection.parser
            if self._is_quick:
                answered = connection.body is not None
                parser.mesg_class = partial(uploads.gathered_request, answered=answered, cut=cut)
                parser.unreader = uploads.Gathered(connection.received, connection.pieces)
            else:
                parser.unreader.unread(connection.received)
            connection.received, connection.pieces, connection.body = b"", [], None
        self.enqueue_req(connection)

    def _linger(self, connection: Connection) -> None:
        """End a connection so that the client has time to read: RFC 9112, section 9.6."""
        try:
            connection.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(connection)
            return
        connection.lingers, connection.received = True, b""
        connection.began = time.monotonic()
        self._wait(connection, LINGER_SECONDS)

    def _drop(self, connection: Connection) -> None:
        self._leave(connection)
        self._close(connection)

    def _close(self, connection: Connection) -> None:
        self._forget(connection)
        self.nr_conns -= 1
        self._board.post(self)
        connection.close()

    # Bytes come and go.

    def _read(self, connection: Connection, _: object) -> None:
        if connection in self._ahead:
            return  # what is here is answered before more is taken in
        if not self._is_quick and not connection.lingers:
            connection.began = time.monotonic()
            self._hand_over(connection)
            return
        try:
            data = connection.sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._drop(connection)
            return
        if connection.lingers:
            if data:
                connection.deadline = min(time.monotonic() + LINGER_SECONDS, connection.began + self.read_seconds)
            else:
                self._drop(connection)
            return
        if not data:
            if connection.received:
                self._hand_over(connection)
            else:
                self._drop(connection)
            return
        if connection.body:
            connection.pieces.append(data)
            self._count(connection, sys.getsizeof(data))
            self._gather(connection, connection.body, data)
            return
        if connection.received:
            connection.received += data
        else:
            self._begins(connection, data)
        if len(connection.received) >= connection.needed:
            self._serve(connection)

    def _send(self, connection: Connection, _: object = None) -> None:
        """Send what the connection takes of its reply; the rest when it takes more."""
        try:
            sent = connection.sock.send(connection.unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(connection)
            return
        if sent < len(connection.unsent):
            connection.unsent = memoryview(connection.unsent)[sent:]
            if not connection.sends:
                self._leave(connection)
                self._wait(connection, self.read_seconds, selectors.EVENT_WRITE)
                connection.sends = True
            connection.deadline = time.monotonic() + self.read_seconds
            return
        connection.unsent = b""
        if connection.closes:
            self._leave(connection)
            self._linger(connection)
            return
        if connection.sends:
            self._leave(connection)
            self._wait(connection, 0)
            connection.sends = False
        if connection.received:
            self._begins(connection, connection.received)
            self._ahead.add(connection)
        else:
            connection.began = time.monotonic()  # to idle
            connection.deadline = connection.began + self._idle_seconds()

    def _begins(self, connection: Connection, data: bytes) -> None:
        """Take the first bytes of a request."""
        connection.received, connection.needed, connection.parsed = data, 0, 0
        connection.began = time.monotonic()
        connection.deadline = connection.began + self.read_seconds

    # Requests.

    def _serve(self, connection: Connection) -> None:
        """Answer the first request that was sent, if it is whole."""
        data = connection.received
        if not (connection.head and data.startswith(connection.head)):
            head = _HEAD.match(data) if self._is_quick else None
            if not head:
                # A head that may still become a plain one is waited for.
                beginning = len(data) <= self._max_head and (b"\n" not in data or _BEGINNING.fullmatch(data))
                if not self._is_quick:
                    self._hand_over(connection)
                elif not beginning:
                    self._frame(connection)
                return
            connection.head = head[0]
            connection.head_environ = self._environ(connection, head) if len(head[0]) <= self._max_head else {}
        environ = connection.head_environ.copy()
        begin, length = len(connection.head), int(environ.get("CONTENT_LENGTH", 0))
        if environ and length <= _MAX_BODY_BYTES:
            if len(data) < begin + length:
                connection.needed = begin + length
                return
            environ["wsgi.input"] = io.BytesIO(data[begin : begin + length])
            try:
                quick = self._is_quick(environ)
            except Exception:
                self.log.exception("The application cannot say whether a request is quick")
                quick = False
            if quick:
                connection.received = data[begin + length :]
                self._whole.append((connection, environ))
            else:
                self._hand_over(connection)
            return
        self._frame(connection)

    def _frame(self, connection: Connection) -> None:
        """Have gunicorn's parser say how the request's body is framed, and gather it."""
        data = connection.received
        enough = min(2 * connection.parsed, self._longest_head)
        if connection.parsed and b"\n" not in data[connection.parsed :] and len(data) < enough:
            return  # a long line that comes byte by byte is not parsed for each of them
        self._count(connection, len(data) - connection.gathered)
        parser = RequestParser(self.cfg, [], connection.client)
        parser.unreader = uploads.Gathered(data)
        try:
            request = next(parser)
        except NoMoreData:
            connection.parsed = len(data)
            self._go_on(connection)
        except Exception:  # the thread's parser finds the same, and says so
            self._hand_over(connection)
        else:
            connection.body = body = uploads.framing(request)
            if request._expected_100_continue and not body.is_longer_than(self.max_body_bytes):
                with suppress(OSError):
                    connection.sock.send(uploads.CONTINUE)
            self._gather(connection, body, parser.unreader.take_buffered())

    def _gather(self, connection: Connection, body: uploads.Sized | uploads.Chunked, data: bytes) -> None:
        """Take what came of a body, and hand it over when it is whole, or longer than is allowed."""
        if body.take(data):
            self._hand_over(connection)
        elif body.is_longer_than(self.max_body_bytes):
            self._hand_over(connection, cut=True)
        else:
            self._go_on(connection)

    def _go_on(self, connection: Connection) -> None:
        """Wait for more of a request: in a while, if the worker has no room for it now."""
        if connection.gathered > 2 * self.max_body_bytes + _MAX_OVERHEAD_BYTES:
            self._hand_over(connection, cut=True)
        elif not self._has_room(connection):
            self.poller.unregister(connection.sock)
            self._paused.add(connection)
            connection.left = connection.deadline - time.monotonic()
            connection.deadline = math.inf

    def _resume(self, connection: Connection) -> None:
        self._paused.discard(connection)
        self._wait(connection, connection.left)

    def _has_room(self, connection: Connection) -> bool:
        """Return whether more of a request may be gathered; of that which began first, always."""
        return self._gathered <= _MAX_BODIES * self.max_body_bytes or connection is next(iter(self._gathering))

    def _count(self, connection: Connection, n_bytes: int) -> None:
        self._gathering[connection] = None
        self._gathered += n_bytes
        connection.gathered += n_bytes

    def _forget(self, connection: Connection) -> None:
        """Count a request's bytes no longer."""
        if connection.gathered:
            del self._gathering[connection]
            self._gathered -= connection.gathered
            connection.gathered = 0

    def _answer(self, requests: list[tuple[Connection, dict[str, Any]]]) -> None:
        replies = []
        for _, environ in requests:
            self.nr += 1
            if self.nr >= self.max_requests and self.alive:
                self.log.info("Autorestarting worker after current request.")
                self.alive = False
            stays = self.alive and self._keepalive and len(self.keepalived_conns) <= self.max_keepalived
            wanted = environ.get("HTTP_CONNECTION", "").lower() != "close"
            replies.append(WholeReply(self.cfg, environ, closes=not (stays and wanted)))
        try:
            answers = self.wsgi.answer_together(self._calls(requests, replies))
            if len(answers) != len(requests):
                raise ValueError(f"the application gave {len(answers)} answers to {len(requests)} requests")
        except Exception as error:
            answers = [error] * len(requests)
        for (connection, _), reply, answer in zip(requests, replies, answers):
            try:
                if isinstance(answer, Exception):
                    raise answer
                try:
                    body = b"".join(answer)
                finally:
                    if hasattr(answer, "close"):
                        answer.close()
                connection.unsent, connection.closes = reply.finish(body, self._now())
            except Exception as error:
                page = bytearray()
                outbox = SimpleNamespace(sendall=page.extend, gettimeout=lambda: 0.0)
                self.handle_error(reply.request(), outbox, connection.client, error)
                connection.unsent, connection.closes = bytes(page), True
            self._send(connection)

    def _calls(
        self, requests: list[tuple[Connection, dict[str, Any]]], replies: list[WholeReply]
    ) -> Iterator[tuple[dict[str, Any], Any]]:
        """Yield what the application is called with, and say of each how many are ready behind it."""
        for (_, environ), reply in zip(requests, replies):
            self.ready -= 1
            yield environ, reply.start

    def _now(self) -> str:
        """Return the value of the Date header."""
        now = int(time.time())
        if now != self._date[0]:
            self._date = now, util.http_date(now)
        return self._date[1]

    def _environ(self, connection: Connection, head: re.Match[bytes]) -> dict[str, Any]:
        """Return WSGI's environment of a request without its body; an empty one if it is not plain."""
        environ = (connection.environ or self._common(connection)).copy()
        method, target, fields = head.groups()
        environ["REQUEST_METHOD"] = method.decode()
        environ["RAW_URI"] = uri = target.decode()
        environ["PATH_INFO"], _, environ["QUERY_STRING"] = uri.partition("?")
        found = _FIELD.findall(fields)
        if len(found) > self._max_fields:
            return {}
        for name, value in found:
            key = self._names.get(name)
            if key is None:
                key = self._key(name)
            if not key or key in environ:
                return {}
            environ[key] = value.decode("latin-1").strip(" \t")
        length = environ.get("CONTENT_LENGTH", "0")
        if not (length.isascii() and length.isdigit() and len(length) < 10):
            return {}
        if environ.get("HTTP_CONNECTION", "close").lower() not in ("close", "keep-alive"):
            return {}
        said = ""
        for key in connection.scheme_headers:
            if key in environ:
                if said:
                    return {}
                said = key
        if said and environ[said] == connection.scheme_headers[said]:
            environ["wsgi.url_scheme"] = "https"
        if isinstance(connection.server, str):  # a Unix socket has no name of its own
            server = connection.server.split(":")
            if len(server) == 1:
                host, port = environ.get("HTTP_HOST"), "443" if environ["wsgi.url_scheme"] == "https" else "80"
                server = [*host.split(":"), port] if host else [connection.server, ""]
            environ["SERVER_NAME"], environ["SERVER_PORT"] = server[:2]
        return environ

    def _key(self, name: bytes) -> str:
        upper = name.decode().upper()
        key = "" if upper in _UNUSUAL else upper.replace("-", "_")
        if key and key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = f"HTTP_{key}"
        if len(self._names) < _MAX_KNOWN_NAMES:
            self._names[name] = key
        return key

    def _common(self, connection: Connection) -> dict[str, Any]:
        """Note and return what all requests of a connection have in common."""
        policy = HeaderPolicy()
        policy.cfg, policy.peer_addr = self.cfg, connection.client
        secure, _ = policy._peer_trusted_for_forwarded()
        connection.scheme_headers = {self._key(name.encode()): value for name, value in secure.items()}
        connection.environ = {
            **base_environ(self.cfg),
            "wsgi.multithread": True,
            "wsgi.url_scheme": "http",
            "gunicorn.socket": connection.sock,
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SCRIPT_NAME": "",
        }
        if isinstance(connection.client, tuple):
            connection.environ["REMOTE_ADDR"], port = connection.client[:2]
            connection.environ["REMOTE_PORT"] = str(port)
        else:
            connection.environ["REMOTE_ADDR"] = os.fsdecode(connection.client)
        if isinstance(connection.server, tuple):
            connection.environ["SERVER_NAME"], port = connection.server[:2]
            connection.environ["SERVER_PORT"] = str(port)
        return connection.environ
