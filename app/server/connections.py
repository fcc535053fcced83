"""A connection's states, and how received bytes become a request.

Knows gunicorn's parser, and no event loop.
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

_MAX_BODY_BYTES = 16_384  # the longest body of a request that the loop answers itself
_NOTES = "tabserve."  # how the application's own keys of an environment begin
_MAX_OVERHEAD_BYTES = 2**20  # of a head and of chunk framing, on top of twice the longest body


class State(Enum):
    """What a connection waits for."""

    IDLE = auto()  # the first byte of a request
    HEAD = auto()  # the rest of a head, or of a plain request
    BODY = auto()  # the rest of a body whose head gunicorn has parsed
    PAUSED = auto()  # room in the worker's memory for the rest of a request
    PIPELINED = auto()  # the next turn: the client has sent more than the answered request
    THREAD = auto()  # a thread's answer
    SENDING = auto()  # the client to receive the rest of a reply
    SENDING_LAST = auto()  # the same; the connection closes afterwards
    LINGERING = auto()  # the client to close: the reply is sent, and received bytes are discarded


# Looked up for every request: a module's global name takes half the time of an attribute.
IDLE, HEAD, BODY, PIPELINED, LINGERING = State.IDLE, State.HEAD, State.BODY, State.PIPELINED, State.LINGERING


class Connection:
    """A client's connection: the received bytes of unanswered requests, and the unsent rest of a reply."""

    def __init__(self, sock: Any, client: Any, server: Any, now: float) -> None:
        self.sock, self.client, self.server = sock, client, server
        self.state = IDLE
        self.started = now  # when the state or the request started
        self.deadline = 0.0
        self.seconds_left = 0.0  # for the request, while it is paused
        # The request.
        self.received = b""  # its head, and its body if it is plain; then the bytes that follow
        self.needed = 0  # how many bytes must be received before the next step
        self.n_bytes_parsed = 0  # how many bytes gunicorn's parser last found to be an incomplete head
        self.n_requests_parsed = 0  # by gunicorn, on this connection
        self.parser: Any = None  # gunicorn's; it reads `unreader`
        self.unreader = bodies.ReceivedBytes(b"")
        self.request: Any = None  # gunicorn's, once the head is parsed
        self.body: bodies.Sized | bodies.Chunked | None = None
        self.is_truncated = False  # its rest is not read, so no request can follow
        # The reply.
        self.unsent: bytes | memoryview = b""
        self.unacknowledged = 0  # sent bytes that the client had not acknowledged at the last check
        # Clients repeat their heads: the last plain head, and its environment.
        self.plain: Client | None = None
        self.head = b""
        self.head_environ: dict[str, Any] = {}
        self.environ: dict[str, Any] = {}  # of a plain request that is answered in this turn
        self.notes: dict[str, Any] = {}  # what the application noted about a plain request that a thread answers

    def whole_request(self) -> Any:
        """Return gunicorn's request, and parse it if needed; raises what gunicorn's parser raises."""
        if self.request is None:
            self.request = next(self.parser)
        return self.request

    def send_continue(self) -> None:
        """Tell a client that waits for `100 Continue` to send its body."""
        with suppress(OSError):  # the client is gone, or its receive buffer is full
            self.sock.send(bodies.CONTINUE)


class Next(Enum):
    """The next step for a connection after bytes arrived."""

    MORE = auto()  # wait for the rest of the request
    IMMEDIATE = auto()  # answer the request in `environ`
    THREAD = auto()  # answer in a thread
    TRUNCATE = auto()  # answer in a thread, without the rest of a request that is too long
    PAUSE = auto()  # wait for room in memory before more is read


MORE, IMMEDIATE = Next.MORE, Next.IMMEDIATE


class Receiver:
    """Assembles requests from received bytes, and decides how a request is answered.

    `is_immediate` is the application's method; without it no request is immediate.
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
        # gunicorn refuses a longer head, complete or not: its limit for the fields, and for the request line.
        fields, field_size = cfg.limit_request_fields, cfg.limit_request_field_size
        self._max_head_bytes = (
            (fields if 0 < fields <= MAX_HEADERS else MAX_HEADERS) * (2 + (field_size or DEFAULT_MAX_HEADERFIELD_SIZE))
            + len(b"\r\n\r\n")
            + (cfg.limit_request_line or math.inf)
        )

    def next_step(self, connection: Connection) -> Next:
        """Decide the next step for the received bytes, which start with the current request."""
        data = connection.received
        if not (connection.head and data.startswith(connection.head)):
            head = self._heads.match(data) if self._is_immediate else None
            if not head:
                may_be_plain = self._is_immediate and self._heads.may_become_plain(data)
                return Next.MORE if may_be_plain else self._parse_head(connection)
            if not connection.plain:
                connection.plain = self._heads.client(connection.sock, connection.client, connection.server)
            connection.head = head[0]
            connection.head_environ = self._heads.environ(head, connection.plain)
        environ = connection.head_environ.copy()
        start, length = len(connection.head), int(environ.get("CONTENT_LENGTH", 0))
        if not environ or length > _MAX_BODY_BYTES:
            return self._parse_head(connection)
        if len(data) < start + length:
            connection.needed = start + length
            return MORE
        environ["wsgi.input"] = io.BytesIO(data[start : start + length])
        try:
            immediate = self._is_immediate(environ)  # type: ignore[misc]  # without it no head is plain
        except Exception:
            self._log.exception("The application cannot tell whether a request is immediate")
            immediate = False
        if not immediate:
            connection.notes = {key: value for key, value in environ.items() if key.startswith(_NOTES)}
            return Next.THREAD
        connection.received, connection.environ = data[start + length :], environ
        return IMMEDIATE

    def add_body(self, connection: Connection, data: bytes) -> Next:
        """Add received bytes to a body, and return the next step."""
        connection.unreader.add(data)
        self._budget.add(connection, sys.getsizeof(data))
        return self._feed_body(connection, data)

    def make_parser(self, connection: Connection) -> None:
        """Create gunicorn's parser for the received bytes."""
        connection.unreader = bodies.ReceivedBytes(connection.received)
        connection.parser = RequestParser(self._cfg, [], connection.client)
        connection.parser.unreader = connection.unreader
        connection.parser.req_count = connection.n_requests_parsed

    def has_room(self, connection: Connection) -> bool:
        """Return whether more of a connection's request may be read."""
        return self._budget.has_room(connection, max_body_bytes=self._max_body_bytes)

    def _parse_head(self, connection: Connection) -> Next:
        """Parse the head with gunicorn's parser, which knows how the body is framed; then collect the body."""
        data = connection.received
        parse_again_at = min(2 * connection.n_bytes_parsed, self._max_head_bytes)
        if connection.n_bytes_parsed and b"\n" not in data[connection.n_bytes_parsed :] and len(data) < parse_again_at:
            return MORE  # a long line that arrives byte by byte is not parsed again for every byte
        self._budget.add(connection, len(data) - self._budget.bytes_of(connection))
        self.make_parser(connection)
        try:
            request = next(connection.parser)
        except NoMoreData:
            connection.n_bytes_parsed = len(data)
            return self._wait_for_more(connection)
        except Exception:  # the thread's parser raises it again, and gunicorn reports it
            return Next.THREAD
        connection.state, connection.request, connection.received = BODY, request, b""
        connection.n_requests_parsed += 1
        connection.body = bodies.framing(request)
        rest = connection.unreader.rest()
        connection.unreader.unread(rest)
        if bodies.expects_continue(request) and not connection.body.is_longer_than(self._max_body_bytes):
            connection.send_continue()
        return self._feed_body(connection, rest)

    def _feed_body(self, connection: Connection, data: bytes) -> Next:
        body = connection.body
        assert body
        if body.feed(data):
            return Next.THREAD
        return Next.TRUNCATE if body.is_longer_than(self._max_body_bytes) else self._wait_for_more(connection)

    def _wait_for_more(self, connection: Connection) -> Next:
        if self._budget.bytes_of(connection) > 2 * self._max_body_bytes + _MAX_OVERHEAD_BYTES:
            return Next.TRUNCATE
        return MORE if self.has_room(connection) else Next.PAUSE
