"""A connection's states, and how what a client sends becomes a request.

Knows gunicorn's parser and no event loop.
"""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from typing import Any

from gunicorn.http import RequestParser
from gunicorn.http.errors import NoMoreData
from gunicorn.http.message import DEFAULT_MAX_HEADERFIELD_SIZE, MAX_HEADERS

from app.server import bodies
from app.server.plain import Client, PlainHeads

_MAX_BODY_BYTES = 16_384  # that the loop itself answers
_MAX_OVERHEAD_BYTES = 2**20  # of a head and of chunks, beside as much as the body itself


class State(Enum):
    """What a connection waits for."""

    IDLE = auto()  # the first byte of a request
    HEAD = auto()  # the rest of a head, or of a plain request
    BODY = auto()  # the rest of a body whose head gunicorn has parsed
    PAUSED = auto()  # room in the worker's memory for the rest of a request
    AHEAD = auto()  # its next turn: the client sent more than what is answered
    THREAD = auto()  # a thread's answer
    SENDING = auto()  # the client, to take the rest of a reply
    SENDING_LAST = auto()  # the same, and the connection ends with it
    LINGERING = auto()  # the client, to close: all is sent, and what still comes is thrown away


# Looked up for every request: a name of the module takes half the time of an attribute.
IDLE, HEAD, BODY, AHEAD, LINGERING = State.IDLE, State.HEAD, State.BODY, State.AHEAD, State.LINGERING


class Connection:
    """A client's connection: what it sent that is not answered yet, and what it has yet to take."""

    def __init__(self, sock: Any, client: Any, server: Any, now: float) -> None:
        self.sock, self.client, self.server = sock, client, server
        self.state = IDLE
        self.began = now  # when the state or the request did
        self.deadline = 0.0
        self.seconds_left = 0.0  # for the request, while it is paused
        # The request.
        self.received = b""  # its head, and its body if it is plain; then what came behind it
        self.needed = 0  # how much has to be received before there is anything to do
        self.parsed = 0  # how much had been received when gunicorn's parser found the head incomplete
        self.n_parsed = 0  # requests that gunicorn has parsed
        self.parser: Any = None  # gunicorn's; it reads `gathered`
        self.gathered = bodies.Gathered(b"")
        self.request: Any = None  # gunicorn's, when the head is parsed
        self.body: bodies.Sized | bodies.Chunked | None = None
        self.is_cut = False  # there is more of it, so that no request can follow
        # The reply.
        self.unsent: bytes | memoryview = b""
        self.untaken = 0  # of what was sent, when the client last took some
        # Clients send the same head again and again: the last one, and what it came to.
        self.plain: Client | None = None
        self.head = b""
        self.head_environ: dict[str, Any] = {}
        self.environ: dict[str, Any] = {}  # of a plain request that is answered in this turn

    def whole_request(self) -> Any:
        """Return gunicorn's request, parsed by now; raises what gunicorn's parser raises."""
        if self.request is None:
            self.request = next(self.parser)
        return self.request

    def send_continue(self) -> None:
        """Have a client send its body that waits to be asked for it."""
        with suppress(OSError):  # it is gone, or takes nothing
            self.sock.send(bodies.CONTINUE)


class Next(Enum):
    """What is to be done with a connection that something came on."""

    MORE = auto()  # wait for the rest of its request
    IMMEDIATE = auto()  # answer the request of its `environ`
    THREAD = auto()  # have a thread answer
    CUT = auto()  # have a thread answer what came of a request that is too long
    PAUSE = auto()  # wait for room in memory before more is read


MORE, IMMEDIATE = Next.MORE, Next.IMMEDIATE


class Intake:
    """Gathers requests, and finds out how each is answered.

    `is_immediate` is the application's method; without it no request is.
    """

    def __init__(
        self,
        cfg: Any,
        log: Any,
        *,
        is_immediate: Callable[[dict[str, Any]], bool] | None,
        max_body_bytes: int,
        budget: bodies.Budget,
        heads: PlainHeads,
    ) -> None:
        self._cfg, self._log = cfg, log
        self._is_immediate = is_immediate
        self._max_body_bytes = max_body_bytes
        self._budget = budget
        self._heads = heads
        # A longer head is refused by gunicorn, whole or not: its limit for the fields, and the request line.
        fields, field_size = cfg.limit_request_fields, cfg.limit_request_field_size
        self._longest_head = (
            (fields if 0 < fields <= MAX_HEADERS else MAX_HEADERS) * (2 + (field_size or DEFAULT_MAX_HEADERFIELD_SIZE))
            + len(b"\r\n\r\n")
            + (cfg.limit_request_line or math.inf)
        )

    def look(self, connection: Connection) -> Next:
        """Look at what was received of a request; if that is whole, its first bytes are its own."""
        data = connection.received
        if not (connection.head and data.startswith(connection.head)):
            head = self._heads.match(data) if self._is_immediate else None
            if not head:
                waits = self._is_immediate and self._heads.may_begin(data)
                return Next.MORE if waits else self._frame(connection)
            if not connection.plain:
                connection.plain = self._heads.client(connection.sock, connection.client, connection.server)
            connection.head = head[0]
            connection.head_environ = self._heads.environ(head, connection.plain)
        environ = connection.head_environ.copy()
        begin, length = len(connection.head), int(environ.get("CONTENT_LENGTH", 0))
        if not environ or length > _MAX_BODY_BYTES:
            return self._frame(connection)
        if len(data) < begin + length:
            connection.needed = begin + length
            return MORE
        environ["wsgi.input"] = io.BytesIO(data[begin : begin + length])
        try:
            immediate = self._is_immediate(environ)  # type: ignore[misc]  # else there is no head
        except Exception:
            self._log.exception("The application cannot tell whether a request is immediate")
            immediate = False
        if not immediate:
            return Next.THREAD
        connection.received, connection.environ = data[begin + length :], environ
        return IMMEDIATE

    def add(self, connection: Connection, data: bytes) -> Next:
        """Take more of a body."""
        connection.gathered.add(data)
        self._budget.add(connection, sys.getsizeof(data))
        return self._gather(connection, data)

    def make_parser(self, connection: Connection) -> None:
        """Have gunicorn parse what was received, from its beginning."""
        connection.gathered = bodies.Gathered(connection.received)
        connection.parser = RequestParser(self._cfg, [], connection.client)
        connection.parser.unreader = connection.gathered
        connection.parser.req_count = connection.n_parsed

    def has_room(self, connection: Connection) -> bool:
        """Return whether more of a connection's request may be read."""
        return self._budget.has_room(connection, max_body_bytes=self._max_body_bytes)

    def _frame(self, connection: Connection) -> Next:
        """Have gunicorn's parser find out how the request's body is framed, and gather it."""
        data = connection.received
        enough = min(2 * connection.parsed, self._longest_head)
        if connection.parsed and b"\n" not in data[connection.parsed :] and len(data) < enough:
            return MORE  # a long line that comes byte by byte is not parsed for each of them
        self._budget.add(connection, len(data) - self._budget.of(connection))
        self.make_parser(connection)
        try:
            request = next(connection.parser)
        except NoMoreData:
            connection.parsed = len(data)
            return self._go_on(connection)
        except Exception:  # the thread's parser finds the same, and gunicorn reports it
            return Next.THREAD
        connection.state, connection.request, connection.received = BODY, request, b""
        connection.n_parsed += 1
        connection.body = bodies.framing(request)
        rest = connection.gathered.rest()
        connection.gathered.unread(rest)
        if bodies.expects_continue(request) and not connection.body.is_longer_than(self._max_body_bytes):
            connection.send_continue()
        return self._gather(connection, rest)

    def _gather(self, connection: Connection, data: bytes) -> Next:
        body = connection.body
        assert body
        if body.take(data):
            return Next.THREAD
        return Next.CUT if body.is_longer_than(self._max_body_bytes) else self._go_on(connection)

    def _go_on(self, connection: Connection) -> Next:
        if self._budget.of(connection) > 2 * self._max_body_bytes + _MAX_OVERHEAD_BYTES:
            return Next.CUT
        return MORE if self.has_room(connection) else Next.PAUSE
