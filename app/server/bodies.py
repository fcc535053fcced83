"""Request bodies between the socket and the application: where one ends, how much memory they take, what reads them.

Knows gunicorn's requests, and no event loop. Only gunicorn decides what is valid: `Sized` and `Chunked` find out when
all that it will read has come.
"""

from __future__ import annotations

import io
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from gunicorn.http.body import ChunkedReader
from gunicorn.http.unreader import Unreader

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

# The end of a chunk's data and the line before the next one (RFC 9112, section 7.1).
_SIZE_LINE = re.compile(rb"\r\n([0-9A-Fa-f]+)(?:[ \t]*;[^\r\n]*)?\r\n")
# gunicorn's own limit for that line is 8190 bytes. Its limit for trailers is higher, but nobody sends as many.
_MAX_LINE_BYTES, _MAX_TRAILER_BYTES = 8_192, 65_536
# gunicorn reads bodies in steps of 1024 bytes at least: so much must be there beyond what it is asked for.
_STEP_BYTES = 2_048
_READ_BYTES = 8_192  # that gunicorn takes from a socket at once
_MAX_BODIES = 6  # of the longest kind, that are in memory: one for each of four threads, and two that come in


class Sized:
    """A body whose length was announced."""

    def __init__(self, length: int) -> None:
        self._length = self._missing = length

    def take(self, data: bytes) -> bool:
        """Take what came next; return whether the body is whole."""
        self._missing -= len(data)
        return self._missing <= 0

    def is_longer_than(self, max_bytes: int) -> bool:
        """Return whether the body will be too long."""
        return self._length > max_bytes


class Chunked:
    """A body in chunks."""

    def __init__(self) -> None:
        self._rest = b"\r\n"  # what came and is not understood yet; before the first size there is no chunk to end
        self._missing = 0  # bytes of the chunk that has begun
        self._length = 0  # of all chunks that have begun
        self._in_trailers = False

    def take(self, data: bytes) -> bool:
        """Take what came next; return whether the body is whole, or so malformed that gunicorn reads no further."""
        if self._missing > len(data):
            self._missing -= len(data)
            return False
        place, self._missing = self._missing, 0
        if self._rest:
            data, self._rest = self._rest + data, b""
        while not self._in_trailers:
            line = _SIZE_LINE.match(data, place)
            if not line:
                self._rest = data[place:]
                begins_well = self._rest[:2] in (b"", b"\r", b"\r\n")
                return not begins_well or b"\r\n" in self._rest[2:] or len(self._rest) > _MAX_LINE_BYTES
            size = int(line[1], 16)
            self._in_trailers = size == 0
            self._length += size
            place = line.end() + size
            if place > len(data):
                self._missing = place - len(data)
                return False
        self._rest = rest = data[place:]
        return (
            rest.startswith(b"\r\n")
            or b"\r\n\r\n" in rest
            or rest.count(b"\n") != rest.count(b"\r\n")
            or len(rest) > _MAX_TRAILER_BYTES
        )

    def is_longer_than(self, max_bytes: int) -> bool:
        """Return whether enough has come for gunicorn to see that the body is too long."""
        return self._length - self._missing > max_bytes + _STEP_BYTES


def framing(request: Any) -> Sized | Chunked:
    """Return what finds the end of the body of gunicorn's request."""
    reader = request.body.reader
    return Chunked() if isinstance(reader, ChunkedReader) else Sized(reader.length)


def expects_continue(request: Any) -> bool:
    """Return whether the client of gunicorn's request may wait for `100 Continue` before it sends the body."""
    return request.version >= (1, 1) and any(
        name.upper() == "EXPECT" and value.lower() == "100-continue" for name, value in request.headers
    )


class Gathered(Unreader):  # type: ignore[misc]  # gunicorn has no types
    """What gunicorn reads from in place of the socket: the pieces that came, and then the end.

    gunicorn compares a head with its limit only after another read. A first piece that is longer than one read is
    therefore given in two parts.
    """

    def __init__(self, first: bytes) -> None:
        super().__init__()
        self._pieces = deque([first] if len(first) <= _READ_BYTES else [first[:-1], first[-1:]])

    def add(self, piece: bytes) -> None:
        """Add what came next."""
        self._pieces.append(piece)

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return the next piece."""
        return self._pieces.popleft() if self._pieces else b""

    def rest(self) -> bytes:
        """Return all that was not read, and keep nothing of it."""
        return b"".join(iter(self.read, b""))


class Budget:
    """How many bytes of requests a worker has in memory: those that come in, and those that threads answer."""

    def __init__(self) -> None:
        self._bytes: dict[object, int] = {}  # by connection, in the order in which their requests began
        self._total = 0

    def of(self, connection: object) -> int:
        """Return how many bytes are a connection's."""
        return self._bytes.get(connection, 0)

    def add(self, connection: object, n_bytes: int) -> None:
        """Count more of a connection's request."""
        self._bytes[connection] = self._bytes.get(connection, 0) + n_bytes
        self._total += n_bytes

    def forget(self, connection: object) -> None:
        """Count a connection's request no longer."""
        self._total -= self._bytes.pop(connection, 0)

    def has_room(self, connection: object, *, max_body_bytes: int) -> bool:
        """Return whether more of a connection's request may be read; of the one that began first, always."""
        return self._total <= _MAX_BODIES * max_body_bytes or connection is next(iter(self._bytes))


class _Broken:
    """A body that could not be read."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def read(self, size: int = -1) -> NoReturn:
        raise self._error


@contextmanager
def read_ahead(request: Any, *, max_bytes: int) -> Iterator[bool]:
    """Read a request's body before the block answers it, unless it is longer than `max_bytes`.

    So the client can send its next request behind it. Yields whether the body was read to its end: if not, the
    connection has to end with the reply.
    """
    stock, length = request.body, getattr(request.body.reader, "length", None)
    if length is not None and length > max_bytes:
        yield False
        return
    try:
        content = stock.read(max_bytes + 1)
        is_whole = len(content) <= max_bytes and (length is None or len(content) == length)
        request.body = io.BytesIO(content)
    except Exception as error:  # the application gets it when it reads
        is_whole = False
        request.body = _Broken(error)
    try:
        yield is_whole
    finally:
        request.body = stock
