"""The door: every request comes in and goes out here, where it gets its id, is counted and is logged, once."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from app.logs import timestamp
from app.metrics import UNMATCHED, Metrics
from model import Artifact

_KEY = "tabserve.visit"
# What a caller's id may be to be taken over: it goes into a header and into the log.
REQUEST_ID = re.compile(r"[!-~]{1,128}")
# W3C Trace Context: version, trace id, the caller's span id, flags; a later version may say more.
_TRACEPARENT = re.compile(
    r"(?!ff|00.{54})[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(-.*)?"
)


@dataclass(slots=True)
class Visit:
    """What is known of one request by the time it leaves; routes fill in what only they know."""

    request_id: str
    route: str = UNMATCHED
    model: Artifact | None = None
    rows: int | None = None


def visit(environ: WSGIEnvironment) -> Visit:
    """Return the visit of the request that `environ` describes."""
    found: Visit = environ[_KEY]
    return found


class Door:
    """WSGI middleware around the whole service.

    Answers `X-Request-Id` with every reply: the caller's, if it is 1 to 128 visible ASCII characters.
    """

    def __init__(
        self, inside: WSGIApplication, metrics: Metrics, write_line: Callable[[dict[str, Any]], None] | None
    ) -> None:
        self._inside = inside
        self._metrics = metrics
        self._write_line = write_line

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        started = time.perf_counter()
        request_id = environ.get("HTTP_X_REQUEST_ID", "")
        if not REQUEST_ID.fullmatch(request_id):
            request_id = secrets.token_hex(16)
        guest = environ[_KEY] = Visit(request_id)
        status = 500

        def leave(line: str, headers: list[tuple[str, str]], *rest: Any) -> Callable[[bytes], object]:
            nonlocal status
            status = int(line[:3])
            return start_response(line, [*headers, ("X-Request-Id", request_id)], *rest)

        try:
            return self._inside(environ, leave)
        finally:
            seconds = time.perf_counter() - started
            method = environ["REQUEST_METHOD"]
            self._metrics.observe_request(guest.route, method, status, seconds=seconds)
            if guest.model:
                self._metrics.observe_inference(guest.model, succeeded=status < 400, seconds=seconds)
            if self._write_line:
                fields = {
                    "time": timestamp(time.time()),
                    "request_id": request_id,
                    "method": method[:16],
                    "route": guest.route,
                    "status": status,
                    "duration_ms": round(seconds * 1000, 3),
                }
                trace = _TRACEPARENT.fullmatch(environ.get("HTTP_TRACEPARENT", ""))
                if trace:
                    fields |= {"trace_id": trace[1], "parent_span_id": trace[2]}
                if guest.model:
                    fields |= {"model": guest.model.name, "version": guest.model.version, "rows": guest.rows}
                self._write_line(fields)
