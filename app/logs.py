"""Logs as JSON lines: one a request on standard output, the server's own on standard error.

No payload and no value of a feature is ever written. So a failure is logged as its class and the places it
passed through, without its message, which could quote what was sent.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

_log = logging.getLogger("tabserve")


def write_line(fields: dict[str, Any]) -> None:
    """Write one line to standard output in a single call, so that workers' lines do not mix."""
    with suppress(OSError):  # where nobody reads the log any more, a request must not fail for it
        os.write(1, orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE))


def failure(exc_info: Any, request_id: str) -> None:
    """Log what broke under the request's id; without the exception's message, which may quote the payload."""
    _log.error("request failed", exc_info=exc_info, extra={"fields": {"request_id": request_id}})


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
    """Return gunicorn's complaint of a malformed request without what was sent, which may be a payload."""
    return message.partition(": ")[0] if message.startswith("Invalid request from ") else message


LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "app.logs.JSONFormatter"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json", "stream": sys.stderr}},
    "root": {"level": "INFO", "handlers": ["stderr"]},
    # gunicorn keeps its logger from propagating to the root, so it needs the handler itself.
    "loggers": {"gunicorn.error": {"level": "INFO", "handlers": ["stderr"], "propagate": False}},
}
"""For `logging.config.dictConfig`: everything to standard error as JSON."""
