"""Threads that answer complete requests, with gunicorn's own environment, response and error pages.

A thread reads the bytes that the loop has received, never the socket. It writes to the socket, and may have to wait for
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

# gthread discards as much of a body that the application did not read; after more it closes the connection.
_MAX_UNREAD_BYTES = 65_536
# How long a client that does not read its reply may occupy a thread while other requests wait for a thread.
_STALL_SECONDS = 5.0


def unacknowledged_bytes(client: socket.socket) -> int:
    """Return how many sent bytes a client has not acknowledged; the number changes while the client reads.

    Raises `OSError` where the system does not count them (SIOCOUTQ in Linux), and `ValueError` for a closed socket.
    """
    return int.from_bytes(fcntl.ioctl(client, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


class _Sink:
    """A connection's socket whose `send` does nothing: gunicorn uses it for `100 Continue`, which the loop has sent."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def send(self, data: bytes) -> int:
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


@dataclass(slots=True)
class _Progress:
    """How far a client has received its reply."""

    n_unacknowledged: int  # sent bytes
    changed_at: float  # when that number last changed
    caught_up_at: float  # when the client had last acknowledged all sent bytes


class Threads:
    """The threads of a worker, and the connections whose requests they answer."""

    def __init__(self, worker: Any, count: int) -> None:
        self._worker = worker
        self._pool = ThreadPoolExecutor(count)
        self._count = count
        self._answered: deque[tuple[Connection, bool]] = deque()
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.setblocking(False)
        self._wake_sender.setblocking(False)
        self._progress: dict[Connection, _Progress] = {}  # of connections whose request a thread has started

    def fileno(self) -> int:
        """Return the file descriptor that is readable when a thread is done."""
        return self._wake_receiver.fileno()

    def wake(self) -> None:
        """Wake the event loop, from a thread or a signal handler."""
        with suppress(OSError):  # the socket is full, so the loop wakes anyway; or it is closed
            self._wake_sender.send(b"\0")

    def submit(self, connection: Connection) -> None:
        """Queue a connection's request for the next free thread."""
        self._pool.submit(self._run, connection)

    def pop_answered(self) -> list[tuple[Connection, bool]]:
        """Remove and return pairs of an answered connection and whether it is kept."""
        with suppress(BlockingIOError):
            self._wake_receiver.recv(4_096)
        return [self._answered.popleft() for _ in range(len(self._answered))]

    def stop(self) -> None:
        """Start no further request."""
        self._pool.shutdown(wait=False)

    def close(self) -> None:
        """Stop, and close the sockets."""
        self.stop()
        self._wake_receiver.close()
        self._wake_sender.close()

    def cut_off_slow_readers(self, *, n_submitted: int, requests_wait: bool, max_seconds: float) -> None:
        """Disconnect clients that read too little of their replies, to free their threads.

        A reply may take as long as its client keeps reading. While requests wait for a thread, it may take no longer
        than a request. Requests wait if more were submitted than there are threads.
        """
        requests_wait = requests_wait or n_submitted > len(self._progress) >= self._count
        stall_limit, total_limit = (
            (min(_STALL_SECONDS, max_seconds), max_seconds) if requests_wait else (max_seconds, math.inf)
        )
        now = time.monotonic()
        for connection, progress in list(self._progress.items()):
            with suppress(OSError, ValueError):  # the connection is closed
                n_unacknowledged = unacknowledged_bytes(connection.sock)
                if n_unacknowledged == 0:
                    progress.caught_up_at = now
                if n_unacknowledged != progress.n_unacknowledged or n_unacknowledged == 0:
                    progress.n_unacknowledged, progress.changed_at = n_unacknowledged, now
                if progress.changed_at < now - stall_limit or progress.caught_up_at < now - total_limit:
                    connection.sock.shutdown(socket.SHUT_RDWR)  # ends the wait of its thread

    def _run(self, connection: Connection) -> None:
        now, is_kept = time.monotonic(), False
        self._progress[connection] = _Progress(0, now, now)
        try:
            is_kept = self._answer(connection)
        finally:
            del self._progress[connection]
            self._answered.append((connection, is_kept))
            self.wake()

    def _answer(self, connection: Connection) -> bool:
        """Answer a connection's request; return whether the connection is kept."""
        log, request = self._worker.log, None
        try:
            connection.sock.setblocking(True)
            request = connection.whole_request()
            if not self._worker.handle_request(request, connection):
                return False
            if getattr(request.body, "failed", False):  # it is unknown where the next request starts
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
        started = datetime.now()
        sink = _Sink(connection.sock)
        response, environ = create(request, sink, connection.client, connection.server, worker.cfg)
        environ["gunicorn.socket"] = connection.sock
        environ["wsgi.multithread"] = True
        environ.update(connection.notes)
        connection.notes = {}
        worker.count_request()
        if connection.is_truncated or not worker.keeps_connection():
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
            worker.log.access(response, request, environ, datetime.now() - started)
            if hasattr(pieces, "close"):
                pieces.close()
        return not response.should_close()
    except OSError:
        raise
    except (Exception, SystemExit):
        if response and response.headers_sent:  # too late for an error page
            worker.log.exception("Error handling request")
            raise StopIteration from None
        raise
    finally:
        try:
            worker.cfg.post_request(worker, request, environ, response)
        except Exception:
            worker.log.exception("Exception in post_request hook")
