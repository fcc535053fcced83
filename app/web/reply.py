"""A reply that can be sent by Flask or as a WSGI application, with the same bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from wsgiref.types import StartResponse, WSGIEnvironment

from flask import Response
from werkzeug.http import HTTP_STATUS_CODES

JSON_TYPE = "application/json"

_LINES = {status: f"{status} {phrase.upper()}" for status, phrase in HTTP_STATUS_CODES.items()}


@dataclass(slots=True)
class Reply:
    """Status, content type, body and further headers of a reply; a WSGI application."""

    body: bytes
    content_type: str = JSON_TYPE
    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response(_LINES[self.status], self._all_headers())
        return [self.body]

    def to_flask(self) -> Response:
        """Return Flask's response."""
        return Response(self.body, self.status, self._all_headers())

    def _all_headers(self) -> list[tuple[str, str]]:
        return [("Content-Type", self.content_type), ("Content-Length", str(len(self.body))), *self.headers]
