"""Threads that answer whole requests, in gunicorn's words: its environment, its response, its pages of errors.

A thread reads from what the loop has gathered, never from the socket. It writes to the socket, and may have to wait for
a client that does not read.
"""

from __future__ import annotations

import errno
import fcntl
import math
import socket
import ssl
import sys
import termios
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from gunicorn.http.errors import NoMoreData
from gunicorn.http.wsgi import create

if TYPE_CHECKING:
    from app.server.connections import Connection

# What gthread reads of a body that the application left: beyond that it ends the connection.
_MAX_UNREAD_BYTES = 65_536
# A client that takes nothing of its reply holds a thread: no longer than this while others wait for one.
_UNREAD_SECONDS = 5.0


def untaken(client: socket.socket) -> int:
    """Return how many of the bytes that were sent to a client it has not acknowledged; while it reads, that changes.

    Raises `OSError` where the system does not count them (SIOCOUTQ of Linux), and `ValueError` for a closed socket.
    """
    return int.from_bytes(fcntl.ioctl(client, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


class _Sink:
    """A connection's socket without `send`, with which gunicorn sends `100 Continue`: the loop has sent that."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def send(self, data: bytes) -> int:
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


@dataclass(slots=True)
class _Sending:
    """How long a client has not taken what was sent to it."""

    left: int  # bytes
    since: float  # when that last changed
    began: float  # when all had been taken for the last time


class Threads:
    """The threads of a worker, and the connections that they answer."""

    def __init__(self, worker: Any, count: int) -> None:
        self._worker = worker
        self._pool = ThreadPoolExecutor(count)
        self._count = count
        self._done: deque[tuple[Connection, bool]] = deque()
        self._wakes, self._wake = socket.socketpair()
        self._wakes.setblocking(False)
        self._wake.setblocking(False)
        self._sending: dict[Connection, _Sending] = {}  # those of which a thread has begun the request

    def fileno(self) -> int:
        """Return the file that can be read when a thread is done."""
        return self._wakes.fileno()

    def wake(self) -> None:
        """Have the file be readable: from a thread, or a signal's handler."""
        with suppress(OSError):  # it is full, and so readable; or closed
            self._wake.send(b"\0")

    def submit(self, connection: Connection) -> None:
        """Have a thread answer a connection's request, as soon as one is free."""
        self._pool.submit(self._run, connection)

    def take_done(self) -> list[tuple[Connection, bool]]:
        """Return the connections that were answered, each with whether it is kept."""
        with suppress(BlockingIOError):
            self._wakes.recv(4_096)
        return [self._done.popleft() for _ in range(len(self._done))]

    def stop(self) -> None:
        """Begin no further request."""
        self._pool.shutdown(wait=False)

    def close(self) -> None:
        """Stop, and close the files."""
        self.stop()
        self._wakes.close()
        self._wake.close()

    def cut_off_slow_readers(self, *, n_submitted: int, others_wait: bool, max_seconds: float) -> None:
        """Cut off clients that take too little of their replies, so that their threads are free again.

        A reply may take as long as its client goes on reading. While others wait for a thread, which they do where
        more requests were submitted than there are threads, it may take no longer than a request.
        """
        others_wait = others_wait or n_submitted > len(self._sending) >= self._count
        limit, limit_in_all = (
            (min(_UNREAD_SECONDS, max_seconds), max_seconds) if others_wait else (max_seconds, math.inf)
        )
        now = time.monotonic()
        for connection, sending in list(self._sending.items()):
            with suppress(OSError, ValueError):  # it ended
                left = untaken(connection.sock)
                if left == 0:
                    sending.began = now
                if left != sending.left or left == 0:
                    sending.left, sending.since = left, now
                if sending.since < now - limit or sending.began < now - limit_in_all:
                    connection.sock.shutdown(socket.SHUT_RDWR)  # which ends what its thread waits for

    def _run(self, connection: Connection) -> None:
        now, keeps = time.monotonic(), False
        self._sending[connection] = _Sending(0, now, now)
        try:
            keeps = self._answer(connection)
        finally:
            del self._sending[connection]
            self._done.append((connection, keeps))
            self.wake()

    def _answer(self, connection: Connection) -> bool:
        """Answer a connection's request; return whether the connection is kept."""
        log, request = self._worker.log, None
        try:
            connection.sock.setblocking(True)
            request = connection.whole_request()
            if not self._worker.handle_request(request, connection):
                return False
            if getattr(request.body, "failed", False):  # where the next request begins is unknown
                return False
            return len(request.body.read(_MAX_UNREAD_BYTES)) < _MAX_UNREAD_BYTES
        except NoMoreData as error:
            log.debug("Ignored premature client disconnection. %s", error)
        except StopIteration as error:
            log.debug("Closing connection. %s", error)
        except ssl.SSLError as error:
            log.debug("Ignored an error of TLS. %s", error)
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                log.debug("Ignored the end of a connection. %s", error)
            else:
                log.exception("Socket error processing request.")
        except Exception as error:
            self._worker.handle_error(request, connection.sock, connection.client, error)
        return False


def handle_request(worker: Any, request: Any, connection: Connection) -> bool:
    """Answer gunicorn's request as its own workers do; return whether the connection is kept."""
    environ: dict[str, Any] = {}
    response = None
    try:
        worker.cfg.pre_request(worker, request)
        began = datetime.now()
        sink = _Sink(connection.sock)
        response, environ = create(request, sink, connection.client, connection.server, worker.cfg)
        environ["gunicorn.socket"] = connection.sock
        environ["wsgi.multithread"] = True
        worker.count_request()
        if connection.is_cut or not worker.keeps_connection():
            response.force_close()
        pieces = worker.wsgi(environ, response.start_response)
        try:
            if isinstance(pieces, environ["wsgi.file_wrapper"]):
                response.write_file(pieces)
            else:
                for piece in pieces:
                    response.write(piece)
            response.close()
        finally:
            worker.log.access(response, request, environ, datetime.now() - began)
            if hasattr(pieces, "close"):
                pieces.close()
        return not response.should_close()
    except OSError:
        raise
    except (Exception, SystemExit):
        if response and response.headers_sent:  # what is sent cannot be taken back
            worker.log.exception("Error handling request")
            raise StopIteration from None
        raise
    finally:
        try:
            worker.cfg.post_request(worker, request, environ, response)
        except Exception:
            worker.log.exception("Exception in post_request hook")
