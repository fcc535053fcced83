"""Replies that can be sent by Flask or as a WSGI application, with the same bytes; in JSON, or compressed."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import orjson
from flask import Response
from werkzeug.http import HTTP_STATUS_CODES, parse_accept_header

from app.web.body import CODINGS

JSON_TYPE = "application/json"

_MIN_COMPRESSED_BYTES = 1_024  # below this a reply fits one packet either way

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


def to_json(value: Any) -> Reply:
    """Return a reply in strict JSON; numpy arrays become lists, and parsing the floats returns the same bits."""
    return Reply(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))


def compress(reply: Reply, environ: WSGIEnvironment) -> Reply:
    """Return the reply, compressed if it is long and the client accepts a coding."""
    reply.headers.append(("Vary", "Accept-Encoding"))
    if len(reply.body) >= _MIN_COMPRESSED_BYTES:
        coding = parse_accept_header(environ.get("HTTP_ACCEPT_ENCODING")).best_match(CODINGS)
        if coding:
            deflate = zlib.compressobj(zlib.Z_BEST_SPEED, wbits=CODINGS[coding])
            reply.body = deflate.compress(reply.body) + deflate.flush()
            reply.headers.append(("Content-Encoding", coding))
    return reply
