"""Request bodies between the socket and the application: where a body ends, its memory, and how it is read.

Knows gunicorn's requests, and no event loop. gunicorn alone decides what is valid: `Sized` and `Chunked` only detect
that everything that gunicorn will read has been received.
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

# The end of a chunk's data and the size line of the next chunk (RFC 9112, section 7.1).
_SIZE_LINE = re.compile(rb"\r\n([0-9A-Fa-f]+)(?:[ \t]*;[^\r\n]*)?\r\n")
# gunicorn limits that line to 8190 bytes. Its limit for trailers is higher, but clients do not send so many.
_MAX_LINE_BYTES, _MAX_TRAILER_BYTES = 8_192, 65_536
# gunicorn reads a body in steps of at least 1024 bytes, and so may need more bytes than it is asked for.
_STEP_BYTES = 2_048
_READ_BYTES = 8_192  # the most that gunicorn reads from a socket at once
_MAX_BODIES = 6  # of the longest kind, in memory: a body for each of four threads, and two that are being received


class Sized:
    """A body whose length is announced in the head."""

    def __init__(self, length: int) -> None:
        self._length = self._missing = length

    def feed(self, data: bytes) -> bool:
        """Add the next bytes; return whether the body is complete."""
        self._missing -= len(data)
        return self._missing <= 0

    def is_longer_than(self, max_bytes: int) -> bool:
        """Return whether the announced length is above a limit."""
        return self._length > max_bytes


class Chunked:
    """A body in the chunked transfer coding."""

    def __init__(self) -> None:
        # Received and not parsed. No chunk precedes the first size line, so the line end before it is given.
        self._rest = b"\r\n"
        self._missing = 0  # bytes of the current chunk
        self._length = 0  # of all chunks so far, with the whole of the current chunk
        self._in_trailers = False

    def feed(self, data: bytes) -> bool:
        """Add the next bytes; return whether the body is complete, or so malformed that gunicorn reads no further."""
        if self._missing > len(data):
            self._missing -= len(data)
            return False
        position, self._missing = self._missing, 0
        if self._rest:
            data, self._rest = self._rest + data, b""
        while not self._in_trailers:
            line = _SIZE_LINE.match(data, position)
            if not line:
                self._rest = data[position:]
                starts_with_line_end = self._rest[:2] in (b"", b"\r", b"\r\n")
                return not starts_with_line_end or b"\r\n" in self._rest[2:] or len(self._rest) > _MAX_LINE_BYTES
            size = int(line[1], 16)
            self._in_trailers = size == 0
            self._length += size
            position = line.end() + size
            if position > len(data):
                self._missing = position - len(data)
                return False
        self._rest = rest = data[position:]
        return (
            rest.startswith(b"\r\n")
            or b"\r\n\r\n" in rest
            or rest.count(b"\n") != rest.count(b"\r\n")
            or len(rest) > _MAX_TRAILER_BYTES
        )

    def is_longer_than(self, max_bytes: int) -> bool:
        """Return whether gunicorn would find the body above a limit in the bytes received so far."""
        return self._length - self._missing > max_bytes + _STEP_BYTES


def framing(request: Any) -> Sized | Chunked:
    """Return the object that finds the end of the body of gunicorn's request."""
    reader = request.body.reader
    return Chunked() if isinstance(reader, ChunkedReader) else Sized(reader.length)


def expects_continue(request: Any) -> bool:
    """Return whether the client of gunicorn's request may wait for `100 Continue` before it sends the body."""
    return request.version >= (1, 1) and any(
        name.upper() == "EXPECT" and value.lower() == "100-continue" for name, value in request.headers
    )


class ReceivedBytes(Unreader):  # type: ignore[misc]  # gunicorn has no types
    """The source that gunicorn reads instead of the socket: the received pieces, then the end of the stream.

    gunicorn compares a head with its limit only after another read. A first piece that is longer than a single read is
    therefore split in two.
    """

    def __init__(self, first: bytes) -> None:
        super().__init__()
        self._pieces = deque([first] if len(first) <= _READ_BYTES else [first[:-1], first[-1:]])

    def add(self, piece: bytes) -> None:
        """Add the next piece."""
        self._pieces.append(piece)

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return the next piece."""
        return self._pieces.popleft() if self._pieces else b""

    def rest(self) -> bytes:
        """Remove and return everything that was not read."""
        return b"".join(iter(self.read, b""))


class Budget:
    """Counts the bytes in memory of a worker's requests that are being received, or answered by threads."""

    def __init__(self) -> None:
        self._bytes: dict[object, int] = {}  # by connection, the oldest request first
        self._total = 0

    def bytes_of(self, connection: object) -> int:
        """Return the bytes of a connection's request."""
        return self._bytes.get(connection, 0)

    def add(self, connection: object, n_bytes: int) -> None:
        """Count more bytes of a connection's request."""
        self._bytes[connection] = self._bytes.get(connection, 0) + n_bytes
        self._total += n_bytes

    def release(self, connection: object) -> None:
        """Stop counting a connection's request."""
        self._total -= self._bytes.pop(connection, 0)

    def has_room(self, connection: object, *, max_body_bytes: int) -> bool:
        """Return whether more of a connection's request may be read; always true for the oldest request."""
        return self._total <= _MAX_BODIES * max_body_bytes or connection is next(iter(self._bytes))


class _UnreadableBody:
    """A body that could not be read; reading it again raises the error again."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def read(self, size: int = -1) -> NoReturn:
        raise self._error


@contextmanager
def read_ahead(request: Any, *, max_bytes: int) -> Iterator[bool]:
    """Read a request's body before the block answers it, unless it is longer than `max_bytes`.

    The client can then send its next request on the same connection. Yields whether the body was read to its end; if
    not, the connection must close after the reply.
    """
    original, length = request.body, getattr(request.body.reader, "length", None)
    if length is not None and length > max_bytes:
        yield False
        return
    try:
        content = original.read(max_bytes + 1)
        is_whole = len(content) <= max_bytes and (length is None or len(content) == length)
        request.body = io.BytesIO(content)
    except Exception as error:  # raised again when the application reads the body
        is_whole = False
        request.body = _UnreadableBody(error)
    try:
        yield is_whole
    finally:
        request.body = original
