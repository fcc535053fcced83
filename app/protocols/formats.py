"""Tables in other formats than JSON, for protocols that have no words of their own for them: requests and replies."""

from __future__ import annotations

from collections.abc import Sequence
from wsgiref.types import WSGIEnvironment

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from app.protocols import tables
from app.protocols.endpoint import Request
from app.web.body import ARROW_TYPE, CSV_TYPE, JSON_LINES_TYPES, NPY_TYPE, csv_header
from app.web.reply import JSON_TYPE
from model import Matrix

TABLE_TYPES = (CSV_TYPE, ARROW_TYPE, NPY_TYPE, *JSON_LINES_TYPES)
_PLAIN = ("", "*/*", JSON_TYPE)  # Accept headers of most clients, which mean JSON


def decode(request: Request, *, header: bool | None) -> Matrix:
    """Return the rows of a body of one of `TABLE_TYPES`, `(n_rows, n_features)` float64, in the schema's order.

    `header` is whether CSV has one if its type does not say. Raises `BodyError`, `TooLargeError`, `TooManyRowsError`,
    and `SchemaError` with every problem.
    """
    body, schema, max_rows = request.body, request.schema, request.max_rows
    if request.media_type == ARROW_TYPE:
        from app.protocols import arrow_stream  # here, since it imports pyarrow

        return arrow_stream.decode(request)
    if request.media_type == NPY_TYPE:
        return tables.from_npy(body, schema, max_rows=max_rows)
    if request.media_type in JSON_LINES_TYPES:
        return tables.from_json_lines(body, schema, max_rows=max_rows)
    header = csv_header(request.parameters, default=header)
    return tables.from_csv(body, schema, max_rows=max_rows, header=header)


def reply_type(environ: WSGIEnvironment, offered: Sequence[str]) -> str:
    """Return the type of a reply, one of `offered`: by the Accept header, else JSON, or Arrow to a request in Arrow."""
    accept, first = environ.get("HTTP_ACCEPT", ""), JSON_TYPE
    if is_arrow(environ):
        first = ARROW_TYPE
    elif accept in _PLAIN:
        return JSON_TYPE
    accepted = [(kind.partition(";")[0].strip(), quality) for kind, quality in parse_accept_header(accept, MIMEAccept)]
    return MIMEAccept(accepted).best_match((first, *offered)) or first


def is_arrow(environ: WSGIEnvironment) -> bool:
    """Return whether a request is in Arrow."""
    sent: str = environ.get("CONTENT_TYPE", "")
    return sent != JSON_TYPE and sent.partition(";")[0].strip().lower() == ARROW_TYPE
