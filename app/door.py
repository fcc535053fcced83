"""The door: every request comes in and goes out here, where it gets its id, is noted and is logged, once."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from app.logs import timestamp
from app.visit import Visit, enter

# What a caller's id may be to be taken over: it goes into a header and into the log.
REQUEST_ID = re.compile(r"[!-~]{1,128}")
# W3C Trace Context: version, trace id, the caller's span id, flags; a later version may say more.
_TRACEPARENT = re.compile(
    r"(?!ff|00.{54})[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(-.*)?"
)


class Door:
    """WSGI middleware around the whole service; `note` is told of every visit when its reply is made.

    Answers `X-Request-Id` with every reply: the caller's, if it is 1 to 128 visible ASCII characters.
    """

    def __init__(
        self,
        inside: WSGIApplication,
        note: Callable[[Visit], None],
        write_line: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        self._inside = inside
        self._note = note
        self._write_line = write_line

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        started = time.perf_counter()
        request_id = environ.get("HTTP_X_REQUEST_ID")
        if not request_id or not REQUEST_ID.fullmatch(request_id):
            request_id = os.urandom(16).hex()
        guest = Visit(request_id, environ["REQUEST_METHOD"])
        enter(environ, guest)

        def leave(line: str, headers: list[tuple[str, str]], *rest: Any) -> Callable[[bytes], object]:
            guest.status = int(line[:3])
            return start_response(line, [*headers, ("X-Request-Id", request_id)], *rest)

        try:
            return self._inside(environ, leave)
        finally:
            guest.seconds = time.perf_counter() - started
            guest.time = time.time()
            if self._write_line:
                self._write_line(_line(guest, environ.get("HTTP_TRACEPARENT")))
            self._note(guest)


def _line(guest: Visit, traceparent: str | None) -> dict[str, Any]:
    """Return the fields of a request's line in the log."""
    fields: dict[str, Any] = {
        "time": timestamp(guest.time),
        "request_id": guest.request_id,
        "method": guest.method[:16],
        "route": guest.route,
        "status": guest.status,
        "duration_ms": round(guest.seconds * 1000, 3),
    }
    if traceparent and (trace := _TRACEPARENT.fullmatch(traceparent)):
        fields["trace_id"], fields["parent_span_id"] = trace[1], trace[2]
    if guest.model:
        fields["model"], fields["version"] = guest.model.name, guest.model.version
        fields["rows"] = len(guest.y) or None
    return fields
