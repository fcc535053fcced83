"""The door: every request comes in and goes out here, where it gets its id and is noted, once."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from app.visit import Visit, enter

# What a caller's id may be to be taken over: it goes into a header and into the log.
REQUEST_ID = re.compile(r"[!-~]{1,128}")


class Door:
    """WSGI middleware around the whole service; `note` is told of every visit when its reply is made.

    Answers `X-Request-Id` with every reply: the caller's, if it is 1 to 128 visible ASCII characters.
    """

    def __init__(self, inside: WSGIApplication, note: Callable[[Visit], None]) -> None:
        self._inside = inside
        self._note = note

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        started = time.perf_counter()
        request_id = environ.get("HTTP_X_REQUEST_ID")
        if not request_id or not REQUEST_ID.fullmatch(request_id):
            request_id = os.urandom(16).hex()
        guest = Visit(request_id, environ["REQUEST_METHOD"], traceparent=environ.get("HTTP_TRACEPARENT", ""))
        enter(environ, guest)

        def leave(line: str, headers: list[tuple[str, str]], *rest: Any) -> Callable[[bytes], object]:
            guest.status = int(line[:3])
            return start_response(line, [*headers, ("X-Request-Id", request_id)], *rest)

        try:
            return self._inside(environ, leave)
        finally:
            guest.seconds = time.perf_counter() - started
            guest.time = time.time()
            self._note(guest)
