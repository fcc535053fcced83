"""The workers: gunicorn's processes, each with an event loop that answers plain, immediate requests itself.

gunicorn's gthread gives every request to a thread, which waits for the client's bytes, parses them in steps and sends
the reply in pieces: that takes several times as long as a prediction, and a slow client holds a thread. Here the loop
gathers what a connection sends until a request is whole, and answers it at once if

- it is plain (app/server/plain.py), and a few kilobytes in all; and
- the application has two more methods, and `is_immediate(environ)` says that the request is immediate: that its answer
  waits for nothing, and takes about a millisecond. `answer_together` then gets those that came at once: a list of
  pairs of environment and `start_response`. It returns for each what the application would return, or the
  exception that it would raise. Their bodies are there as a whole, and there is no `wsgi.early_hints`.

Everything else is answered by threads, whole as well: bodies in chunks, `Expect`, HTTP/1.0, what is malformed or cut
off, what is long or slow. For these the loop asks gunicorn's parser how the body is framed, and waits for its end. So
there is one authority for what HTTP is, gunicorn's. A body that is longer than `max_body_bytes`, or late, is handed to
a thread as far as it came; its connection ends with the reply.
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

# After which a thread that computes lets the loop go on: Python's own 5 ms are a hundred answers' time.
_SWITCH_SECONDS = 0.001
_TRIM_SECONDS = 5.0
# glibc keeps what is freed, unless told: a worker would stay as large as its largest requests made it. This takes
# 0.05 ms where there is little to give back, and some milliseconds after large requests.
_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


class EventLoopWorker(Worker):  # type: ignore[misc]  # gunicorn has no types
    """Answers plain and immediate requests in its loop, and all others in threads.

    `read_seconds` bounds how long a client may take to send a request, or to take any of a reply; `max_body_bytes`, how
    long a body is gathered. Both are read when the loop begins.
    """

    read_seconds = 30.0
    max_body_bytes = 8 * 2**20
    alive: bool
    wsgi: Any = None

    @staticmethod
    def check_config(cfg: Any, log: Any) -> None:
        """End the start where gunicorn's settings ask for what this worker does not speak."""
        wanted = getattr(cfg, "protocol", "http"), getattr(cfg, "http_protocols", ["h1"])  # newer than some gunicorns
        if wanted[0] != "http" or "h2" in wanted[1]:
            log.critical("protocol is %r and http_protocols is %r: this worker speaks HTTP/1.1 alone", *wanted)
            raise SystemExit(2)

    def init_process(self) -> None:
        """Make what a forked process needs of its own, and run."""
        self.open()
        super().init_process()

    def open(self) -> None:
        """Make the threads, which signals wake."""
        self._date = (0, "")
        # gunicorn looks for a setting in all its settings.
        self._keepalive: float = self.cfg.keepalive
        self._max_kept: int = self.cfg.worker_connections - self.cfg.threads
        self._heads = PlainHeads(self.cfg)
        self._threads = Threads(self, self.cfg.threads)

    def run(self) -> None:
        """Answer until told to stop, then finish what has begun."""
        sys.setswitchinterval(_SWITCH_SECONDS)
        self.begin()
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

    def begin(self) -> None:
        """Make the loop, when the application is there."""
        tls = None
        if self.cfg.is_ssl:
            from gunicorn.sock import ssl_context  # since gunicorn 21

            tls = ssl_context(self.cfg)
        is_immediate = getattr(self.wsgi, "is_immediate", None) if may_be_plain(self.cfg, self.log) else None
        self.loop = EventLoop(self, self._threads, heads=self._heads, is_immediate=is_immediate, tls=tls)

    def close(self) -> None:
        """Close what is open."""
        self.loop.close()
        self._threads.close()

    def is_trusted_proxy(self, host: str | None) -> bool:
        """Return whether gunicorn takes a host for a trusted proxy; None is a client of a Unix socket."""
        return self._heads.is_trusted_proxy(host)

    def handle_request(self, request: Any, connection: Connection) -> bool:
        """Answer gunicorn's request in a thread; return whether the connection is kept."""
        return handle_request(self, request, connection)

    def count_request(self) -> None:
        """Count a request that is answered now; after as many as `max_requests` the worker stops."""
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False

    def keeps_connection(self, *, n_others: int | None = None) -> bool:
        """Return whether a connection that is answered now is kept; `n_others` wait beside it."""
        n_others = self.loop.n_waiting if n_others is None else n_others
        return self.alive and bool(self._keepalive) and n_others < self._max_kept

    def answer(self, connections: Iterable[Connection]) -> Iterator[tuple[Connection, bytes, bool]]:
        """Answer immediate requests that came at once: yield what to send to each, and whether that is the last."""
        calls = []
        n_others = self.loop.n_waiting - 1
        for connection in connections:
            environ, connection.environ = connection.environ, {}
            self.count_request()
            keeps = self.keeps_connection(n_others=n_others)
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
        """Stop when what has begun is answered: SIGTERM."""
        super().handle_exit(sig, frame)
        self._threads.wake()

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Stop at once: SIGQUIT and SIGINT."""
        self._threads.stop()
        super().handle_quit(sig, frame)


class ServiceWorker(EventLoopWorker):
    """Runs the service of `app/factory.py`; `gives_memory_back` is for a worker whose memory is not PyTorch's."""

    gives_memory_back = True
    _next_trim = 0.0

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Have the service be not ready from now on, and stop: SIGTERM."""
        if serving := getattr(self.wsgi, "serving", None):
            serving.draining = True
        super().handle_exit(sig, frame)

    def notify(self) -> None:
        """Tell the master that the worker is alive, and the metrics how busy it is; give memory back."""
        super().notify()
        self.wsgi.metrics.set_in_flight(self.loop.in_flight)
        now = time.monotonic()
        if _malloc_trim and self.gives_memory_back and now >= self._next_trim:
            self._next_trim = now + _TRIM_SECONDS
            _malloc_trim(0)

    def handle_request(self, request: Any, connection: Connection) -> bool:
        """Answer a request whose body has been read, so that a refusal costs no connection."""
        with read_ahead(request, max_bytes=self.max_body_bytes) as is_whole:
            connection.is_cut = connection.is_cut or not is_whole
            return super().handle_request(request, connection)
