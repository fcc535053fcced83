"""The workers: gunicorn's processes, each with an event loop that answers plain, immediate requests itself.

gunicorn's gthread gives every request to a thread, which waits for the client's bytes, parses them in steps and sends
the reply in pieces. That takes several times as long as a prediction, and a slow client occupies a thread. Here the
loop receives bytes until a request is complete, and answers the request at once if

- it is plain (app/server/plain.py), and no longer than a few kilobytes; and
- the application has two more methods, and `is_immediate(environ)` returns true: the answer waits for nothing, and
  takes about a millisecond. `answer_together` then gets all immediate requests that arrived together, as a list of
  pairs of environment and `start_response`. It returns a list with an entry for every request: what the application
  would return, or the exception that it would raise. The bodies are complete, and there is no `wsgi.early_hints`.
  What `is_immediate` adds to an environment under keys that begin with `tabserve.` is in that of a thread, too.

Threads answer all other requests, after the loop has received them: chunked bodies, `Expect`, HTTP/1.0, and requests
that are malformed, truncated, long or slow. For these the loop asks gunicorn's parser how the body is framed, and waits
for the end of the body. So gunicorn alone decides what is valid HTTP. If a body is longer than `max_body_bytes`, or
late, a thread answers the request with the part that was received, and the connection closes after the reply.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from gunicorn import util
from gunicorn.workers.base import Worker

from app.server.bodies import read_ahead
from app.server.connections import Connection
from app.server.event_loop import EventLoop
from app.server.plain import PlainHeads, WholeReply, may_be_plain
from app.server.threads import Threads, handle_request

# How long a computing thread may keep the interpreter lock from the loop: Python's own 5 ms are the time of a hundred
# answers.
_SWITCH_SECONDS = 0.001
_TRIM_SECONDS = 5.0
# glibc keeps freed memory unless it is told to return it: a worker would stay as large as its largest requests made it.
# The call takes 0.05 ms when there is little to return, and a few milliseconds after large requests.
_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


class EventLoopWorker(Worker):  # type: ignore[misc]  # gunicorn has no types
    """Answers plain, immediate requests in its loop, and all other requests in threads.

    `read_seconds` limits how long a client may take to send a request, or to read any part of a reply. `max_body_bytes`
    limits the body that the loop receives. Both are read when the loop is created.
    """

    read_seconds = 30.0
    max_body_bytes = 8 * 2**20
    alive: bool
    wsgi: Any = None

    @staticmethod
    def check_config(cfg: Any, log: Any) -> None:
        """End the start if gunicorn's settings ask for a protocol that this worker does not speak."""
        # Older versions of gunicorn lack these settings.
        wanted = getattr(cfg, "protocol", "http"), getattr(cfg, "http_protocols", ["h1"])
        if wanted[0] != "http" or "h2" in wanted[1]:
            log.critical("protocol is %r and http_protocols is %r: this worker speaks HTTP/1.1 alone", *wanted)
            raise SystemExit(2)

    def init_process(self) -> None:
        """Create what a forked process needs for itself, and run."""
        self.open()
        super().init_process()

    def open(self) -> None:
        """Create the threads, through which signal handlers wake the loop, and read the settings."""
        self._date = (0, "")
        # gunicorn's lookup of a setting is slow.
        self._keepalive: float = self.cfg.keepalive
        self._max_keepalived: int = self.cfg.worker_connections - self.cfg.threads
        self._heads = PlainHeads(self.cfg)
        self._threads = Threads(self, self.cfg.threads)

    def run(self) -> None:
        """Serve until told to stop, then finish the open requests."""
        sys.setswitchinterval(_SWITCH_SECONDS)
        self.create_loop()
        while self.alive:
            self.loop.turn()
            if self.ppid != os.getppid():
                self.log.info("Parent changed, shutting down: %s", self)
                self.alive = False
        self.loop.stop()
        latest = time.monotonic() + self.cfg.graceful_timeout
        while self.loop.n_connections and time.monotonic() < latest:
            self.loop.turn()
        self.close()

    def create_loop(self) -> None:
        """Create the loop; the application must be loaded."""
        tls = None
        if self.cfg.is_ssl:
            from gunicorn.sock import ssl_context  # since gunicorn 21

            tls = ssl_context(self.cfg)
        is_immediate = getattr(self.wsgi, "is_immediate", None) if may_be_plain(self.cfg, self.log) else None
        self.loop = EventLoop(self, self._threads, heads=self._heads, is_immediate=is_immediate, tls=tls)

    def close(self) -> None:
        """Close the loop and the threads."""
        self.loop.close()
        self._threads.close()

    def is_trusted_proxy(self, host: str | None) -> bool:
        """Return whether a host is a trusted proxy for gunicorn; None is a client of a Unix socket."""
        return self._heads.is_trusted_proxy(host)

    def handle_request(self, request: Any, connection: Connection) -> bool:
        """Answer gunicorn's request in a thread; return whether the connection is kept."""
        return handle_request(self, request, connection)

    def count_request(self) -> None:
        """Count a request that is being answered; the worker stops after `max_requests` requests."""
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False

    def keeps_connection(self, *, n_other_waiting: int | None = None) -> bool:
        """Return whether the connection being answered is kept, with `n_other_waiting` connections waiting."""
        n_other_waiting = self.loop.n_waiting if n_other_waiting is None else n_other_waiting
        return self.alive and bool(self._keepalive) and n_other_waiting < self._max_keepalived

    def answer(self, connections: Iterable[Connection]) -> Iterator[tuple[Connection, bytes, bool]]:
        """Answer a batch of immediate requests: yield a connection, its reply, and whether the connection then closes.

        This is a generator. All bookkeeping of the loop (`loop.ready`) is done before the first reply is yielded, and
        the caller may send each reply before it takes the next.
        """
        calls = []
        n_other_waiting = self.loop.n_waiting - 1
        for connection in connections:
            environ, connection.environ = connection.environ, {}
            self.count_request()
            keeps = self.keeps_connection(n_other_waiting=n_other_waiting)
            closes = not keeps or environ.get("HTTP_CONNECTION", "").lower() == "close"
            calls.append((environ, WholeReply(self.cfg, environ, closes=closes)))
        self.loop.ready -= 1
        try:
            answers = self.wsgi.answer_together([(environ, reply.start) for environ, reply in calls])
            if len(answers) != len(calls):
                raise ValueError(f"the application gave {len(answers)} answers to {len(calls)} requests")
        except Exception as error:
            answers = [error] * len(calls)
        self.loop.ready -= len(calls) - 1
        for connection, (_, reply), answer in zip(connections, calls, answers):
            try:
                if isinstance(answer, Exception):
                    raise answer
                try:
                    body = b"".join(answer)
                finally:
                    if hasattr(answer, "close"):
                        answer.close()
                data, closes = reply.finish(body, self._now())
            except Exception as error:
                data, closes = reply.fail(self.handle_error, connection.client, error), True
            yield connection, data, closes

    def _now(self) -> str:
        """Return the value of the Date header."""
        now = int(time.time())
        if now != self._date[0]:
            self._date = now, util.http_date(now)
        return self._date[1]

    # Signals.

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop when the open requests are answered: SIGTERM."""
        super().handle_exit(sig, frame)
        self._threads.wake()

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Stop at once: SIGQUIT and SIGINT."""
        self._threads.stop()
        super().handle_quit(sig, frame)


class ServiceWorker(EventLoopWorker):
    """Runs the service of `app/factory.py`; `gives_memory_back` is off if PyTorch manages the memory."""

    gives_memory_back = True
    _next_trim = 0.0

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Report the service as not ready from now on, and stop: SIGTERM."""
        if serving := getattr(self.wsgi, "serving", None):
            serving.draining = True
        super().handle_exit(sig, frame)

    def notify(self) -> None:
        """Report to the master that the worker is alive, update the gauge of requests in flight, and free memory."""
        super().notify()
        self.wsgi.metrics.set_in_flight(self.loop.in_flight)
        now = time.monotonic()
        if _malloc_trim and self.gives_memory_back and now >= self._next_trim:
            self._next_trim = now + _TRIM_SECONDS
            _malloc_trim(0)

    def handle_request(self, request: Any, connection: Connection) -> bool:
        """Answer a request after reading its body, so that the connection is kept after a refusal."""
        with read_ahead(request, max_bytes=self.max_body_bytes) as is_whole:
            connection.is_truncated = connection.is_truncated or not is_whole
            return super().handle_request(request, connection)
