"""What the service refuses, and the one table from class of error to status and body."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Flask, Response
from werkzeug.exceptions import HTTPException

from model import NotInStoreError, SchemaError, TooManyRowsError

# Enough to see what is wrong with a table; beyond it a reply would outgrow the request that caused it.
MAX_DETAILS = 1_000
RETRY_AFTER_SECONDS = 1

_MESSAGES = {
    404: "there is no such path here; / says what there is",
    405: "the method is not allowed here; the Allow header names those that are",
    500: "internal error; the log has it under this request's id",
}


class NotJSONError(Exception):
    """The body is not the JSON or CSV that its content type says."""


class TooLargeError(Exception):
    """The body has more bytes than the service takes."""


class UnsupportedMediaTypeError(Exception):
    """The content type or encoding is none that the route reads."""


class OverloadedError(Exception):
    """More requests are waiting than the service will answer in time."""


class NotReadyError(Exception):
    """No verified model is loaded."""


STATUS: dict[type[Exception], int] = {
    NotJSONError: 400,
    NotInStoreError: 404,
    TooLargeError: 413,
    TooManyRowsError: 413,
    UnsupportedMediaTypeError: 415,
    SchemaError: 422,
    OverloadedError: 503,
    NotReadyError: 503,
}


def response(error: Exception) -> Response:
    """Return the reply for an error: `{"error", "status", "details"}`, and nothing of the inside for a 500."""
    status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)
    message = str(error)
    headers = {}
    if isinstance(error, HTTPException):
        status = error.code or 500
        message = _MESSAGES.get(status, error.description or error.name)
        headers = {name: value for name, value in error.get_headers() if name == "Allow"}
    if status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    details: list[dict[str, Any]] = []
    if isinstance(error, SchemaError):
        details = [
            {"row": problem.row, "feature": problem.feature, "reason": problem.reason}
            for problem in error.problems[:MAX_DETAILS]
        ]
    body = orjson.dumps({"error": message, "status": status, "details": details})
    return Response(body, status, headers, mimetype="application/json")


def register(app: Flask) -> None:
    """Answer every error that a route raises, and Flask's own, from the table."""
    for kind in (*STATUS, HTTPException):
        app.register_error_handler(kind, response)
