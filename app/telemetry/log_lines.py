"""Logs as JSON lines: one for each request on standard output, the server's own on standard error.

No payload and no feature value is ever written. So an exception is logged as its class and stack, without its message,
which could quote the payload.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import traceback
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from app.web.exchange import TRACEPARENT, Exchange

_log = logging.getLogger("tabserve")


def in_pieces(lines: Iterable[bytes]) -> list[bytes]:
    """Return lines joined to pieces that a pipe takes at once, so that the lines of several workers do not mix."""
    pieces = [b""]
    for line in lines:
        if len(pieces[-1]) + len(line) > select.PIPE_BUF:
            pieces.append(b"")
        pieces[-1] += line
    return [piece for piece in pieces if piece]


def write(pieces: Iterable[bytes]) -> None:
    """Write pieces of the log to standard output."""
    with suppress(OSError):  # a closed standard output must not fail anything else
        for piece in pieces:
            os.write(1, piece)


def request_line(exchange: Exchange) -> bytes:
    """Return the log line of a request, in JSON."""
    fields: dict[str, Any] = {
        "time": timestamp(exchange.time),
        "request_id": exchange.request_id,
        "method": exchange.method[:16],
        "route": exchange.route,
        "status": exchange.status,
        "duration_ms": int(exchange.seconds * 1e6) / 1000,
    }
    if exchange.traceparent:
        fields |= _client_span(exchange)
    if exchange.trace and exchange.trace.trace_id:
        fields["trace_id"], fields["span_id"] = exchange.trace.trace_id, exchange.trace.span_id
    if exchange.caller:
        fields["key"] = exchange.caller.name
    if exchange.refused:
        fields["refused"] = exchange.refused
    if exchange.model:
        fields["model"], fields["version"] = exchange.model.name, exchange.model.version
        fields["rows"] = exchange.rows or None
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)


def failure(exc_info: Any, exchange: Exchange) -> None:
    """Log an exception under the ids of its request, without its message, which may quote the payload."""
    fields = {"request_id": exchange.request_id, **_client_span(exchange)}
    _log.error("request failed", exc_info=exc_info, extra={"fields": fields})


def _client_span(exchange: Exchange) -> dict[str, str]:
    """Return the ids of the client's trace and span, if it sent them."""
    parent = TRACEPARENT.fullmatch(exchange.traceparent)
    return {"trace_id": parent[1], "parent_span_id": parent[2]} if parent else {}


class FirstFailures:
    """Logs the first failure of each version, without its message, which may quote the payload."""

    def __init__(self, message: str) -> None:
        """`message` is what is logged with the stack."""
        self._message = message
        self._logged: set[tuple[str, int]] = set()

    def log(self, model: str, version: int, error: Exception, request_id: str) -> None:
        """Log a failure of a version, unless one was logged before."""
        if (model, version) in self._logged:
            return
        self._logged.add((model, version))
        exc_info = type(error), error, error.__traceback__
        fields = {"model": model, "version": version, "request_id": request_id}
        _log.error(self._message, exc_info=exc_info, extra={"fields": fields})


def timestamp(seconds: float) -> str:
    """Return a time since the epoch as RFC 3339 in UTC, to the millisecond."""
    whole = int(seconds)
    return f"{_second(whole)}.{int((seconds - whole) * 1000):03}Z"


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class JSONFormatter(logging.Formatter):
    """Renders a record of the standard library's logging, gunicorn's included, as one JSON line."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _without_request_line(record.getMessage()),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0]:
            kind, _, trace = record.exc_info
            fields["exception"] = kind.__name__
            fields["trace"] = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(trace)]
        return orjson.dumps(fields, default=str).decode()


def _without_request_line(message: str) -> str:
    """Return gunicorn's message about a malformed request without the quoted bytes, which may be a payload."""
    return message.partition(": ")[0] if message.startswith("Invalid request from ") else message


LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "app.telemetry.log_lines.JSONFormatter"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json", "stream": sys.stderr}},
    "root": {"level": "INFO", "handlers": ["stderr"]},
    # gunicorn keeps its logger from propagating to the root, so it needs the handler itself.
    "loggers": {"gunicorn.error": {"level": "INFO", "handlers": ["stderr"], "propagate": False}},
}
"""For `logging.config.dictConfig`: everything to standard error as JSON."""
