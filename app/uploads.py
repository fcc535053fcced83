"""Request bodies between the socket and the application: where one ends, and that it is read before the reply.

Knows gunicorn's requests, and no event loop. Only gunicorn decides what is valid: `Sized` and `Chunked` find out when
all that it will read has come.
"""

from __future__ import annotations

import io
import re
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from gunicorn.http.body import ChunkedReader
from gunicorn.http.message import Request
from gunicorn.http.unreader import Unreader

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

# The end of a chunk's data and the line before the next one (RFC 9112, section 7.1).
_SIZE_LINE = re.compile(rb"\r\n([0-9A-Fa-f]+)(?:[ \t]*;[^\r\n]*)?\r\n")
# gunicorn's own limit for that line is 8190 bytes. Its limit for trailers is higher, but nobody sends as many.
_MAX_LINE_BYTES, _MAX_TRAILER_BYTES = 8_192, 65_536
# gunicorn reads bodies in steps of 1024 bytes at least: so much must be there beyond what it is asked for.
_STEP_BYTES = 2_048
_READ_BYTES = 8_192  # that gunicorn takes from a socket at once


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


def framing(request: Request) -> Sized | Chunked:
    """Return what finds the end of a request's body."""
    reader = request.body.reader
    return Chunked() if isinstance(reader, ChunkedReader) else Sized(reader.length)


class Gathered(Unreader):  # type: ignore[misc]  # gunicorn has no types
    """What gunicorn reads from in place of the socket: the pieces that came, and then the end.

    gunicorn compares a head with its limit only after another read. A first piece that is longer than one read is
    therefore given in two parts.
    """

    def __init__(self, first: bytes, others: Iterable[bytes] = ()) -> None:
        super().__init__()
        parts = [first] if len(first) <= _READ_BYTES else [first[:-1], first[-1:]]
        self._pieces = deque([*parts, *others])

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return the next piece."""
        return self._pieces.popleft() if self._pieces else b""

    def take_buffered(self) -> bytes:
        """Return all that was not read: what the client sent ahead."""
        rest: bytes = super().take_buffered() + b"".join(self._pieces)
        self._pieces.clear()
        return rest


def gathered_request(*stock: Any, answered: bool, cut: bool) -> Request:
    """Return gunicorn's request from what was gathered of it.

    `answered` says that its `Expect` was seen to; `cut`, that there is more of its body, so that no request can follow.
    """
    request = Request(*stock)
    if answered:
        request._expected_100_continue = False
    if cut:
        request.force_close()
    return request


class _Broken:
    """A body that could not be read."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def read(self, size: int = -1) -> NoReturn:
        raise self._error


@contextmanager
def read_ahead(request: Request, sock: Any, *, max_bytes: int) -> Iterator[None]:
    """Read a request's body before the block answers it, unless it is longer than `max_bytes`.

    So the client can send its next request behind it. Where the body is not read to its end, the connection ends with
    the reply, which says so.
    """
    stock, length = request.body, getattr(request.body.reader, "length", None)
    expects, request._expected_100_continue = request._expected_100_continue, False
    if length is not None and length > max_bytes:
        request.force_close()
        yield
        return
    if expects:
        sock.send(CONTINUE)
    try:
        content = stock.read(max_bytes + 1)
    except Exception as error:  # the application learns of it when it reads
        request.force_close()
        request.body = _Broken(error)
    else:
        if len(content) > max_bytes or (length is not None and len(content) < length):
            request.force_close()
        request.body = io.BytesIO(content)
    try:
        yield
    finally:
        request.body = stock
