"""The native request formats: JSON in four forms or CSV to one matrix, and predictions to JSON.

The forms of `application/json`, told apart by their shape:

- columns, as `DataFrame.to_json()` writes them: `{"RM": {"0": 6.575, "1": 6.421}, …}`
- one record: `{"RM": 6.575, …}`
- a list of records: `[{"RM": 6.575, …}, …]`
- a table: `{"columns": ["RM", …], "data": [[6.575, …], …]}`, with or without pandas' `index`

Where an object repeats a key, its last value counts, as in every JSON parser at hand.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
from flask import Request, Response
from numpy.typing import NDArray

from app.errors import NotJSONError, TooLargeError, UnsupportedMediaTypeError
from model import Artifact, Matrix, Problem, Schema, SchemaError, TooManyRowsError, columns_from_csv, misfits

JSON_TYPE = "application/json"
CSV_TYPE = "text/csv"


def read_body(request: Request, *, max_bytes: int) -> bytes:
    """Return the whole body of a request of a type that `decode` reads.

    Raises `UnsupportedMediaTypeError`; `TooLargeError` for a body beyond `max_bytes`, which is not read to its end;
    `NotJSONError` for one that breaks off.
    """
    if request.mimetype not in (JSON_TYPE, CSV_TYPE):
        said = f"the content type is {request.mimetype}" if request.mimetype else "there is no Content-Type"
        raise UnsupportedMediaTypeError(f"{said}; this route reads {JSON_TYPE} and {CSV_TYPE}")
    if request.content_encoding not in (None, "identity"):
        raise UnsupportedMediaTypeError(f"the content encoding is {request.content_encoding}; send the body as it is")
    length = request.content_length  # None for a body in chunks
    too_large = TooLargeError(f"the body is longer than {max_bytes} bytes")
    if length is not None and length > max_bytes:
        raise too_large
    wanted = max_bytes + 1 if length is None else length
    pieces = []
    try:
        # Werkzeug's own stream would cut a body in chunks at the limit and call that its end.
        while wanted and (piece := request.environ["wsgi.input"].read(wanted)):
            pieces.append(piece)
            wanted -= len(piece)
    except Exception as error:  # what the server raises for a broken chunk or a lost client is its own affair
        raise NotJSONError(f"the body could not be read to its end ({type(error).__name__})") from None
    if length is None and not wanted:
        raise too_large
    if length is not None and wanted:
        raise NotJSONError(f"the body ended {wanted} bytes before the length that was announced")
    return b"".join(pieces)


def decode(body: bytes, kind: str, schema: Schema, *, max_rows: int) -> Matrix:
    """Return the rows of a body of content type `kind` as `(n_rows, n_features)` float64, in the schema's order.

    Raises `NotJSONError`, `TooManyRowsError`, or `SchemaError` with every problem.
    """
    return parse_csv(body, schema, max_rows) if kind == CSV_TYPE else parse_json(body, schema, max_rows)


def parse_json(body: bytes, schema: Schema, max_rows: int) -> Matrix:
    """Return the matrix that a JSON body states in any of the four forms."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        # A number beyond float64 is JSON all the same: Python's parser reads it, and the schema says where it stands.
        value = _loads_beyond_float64(body) if "infinity" in str(error) else None
        if value is None:
            raise NotJSONError(f"the body is not JSON: {error}") from None
    if isinstance(value, list):
        return _from_records(value, schema, max_rows)
    if not isinstance(value, dict):
        raise NotJSONError("the body is neither a JSON object nor a list of them")
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):
        return _from_table(value, schema, max_rows)
    if any(isinstance(cells, dict) for cells in value.values()):
        return _from_columns(value, schema, max_rows)
    return _from_records([value], schema, max_rows)


def parse_csv(body: bytes, schema: Schema, max_rows: int) -> Matrix:
    """Return the matrix that a CSV body with a header states."""
    try:
        columns, n_rows = columns_from_csv(body.decode(), max_rows=max_rows)
    except ValueError as error:
        raise NotJSONError(f"the body is not a CSV table: {error}") from None
    _check_rows(n_rows, max_rows)
    return schema.matrix_from_columns(columns)


def encode(prediction: NDArray[np.float64], model: Artifact, *, request_id: str) -> Response:
    """Return the reply: `{"prediction", "model", "version", "request_id"}`, floats written to read back the same."""
    body = orjson.dumps(
        {"prediction": prediction, "model": model.name, "version": model.version, "request_id": request_id},
        option=orjson.OPT_SERIALIZE_NUMPY,
    )
    return Response(body, headers={"X-Model-Version": str(model.version)}, mimetype=JSON_TYPE)


def _loads_beyond_float64(body: bytes) -> Any:
    """Return what a body of JSON with huge numbers says, or None if it is not JSON for another reason too."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _from_records(records: list[Any], schema: Schema, max_rows: int) -> Matrix:
    _check_rows(len(records), max_rows)
    if not all(isinstance(record, dict) for record in records):
        problems = [
            Problem(row, None, "not an object") for row, record in enumerate(records) if not isinstance(record, dict)
        ]
        raise SchemaError(problems, n_rows=len(records))
    return schema.matrix_from_records(records)


def _from_table(table: dict[str, Any], schema: Schema, max_rows: int) -> Matrix:
    header, data = table["columns"], table["data"]
    _check_rows(len(data), max_rows)
    problems = [Problem(None, key, "unknown") for key in table if key not in ("columns", "data", "index")]
    if not all(isinstance(name, str) for name in header):
        problems.append(Problem(None, None, "the columns are not all names"))
    problems += [Problem(row, None, "not a list") for row, cells in enumerate(data) if not isinstance(cells, list)]
    if not problems:
        problems += misfits(data, header)
    if problems:
        raise SchemaError(problems, n_rows=len(data))
    return schema.matrix_from_columns(dict(zip(header, zip(*data))))


def _from_columns(columns: dict[str, Any], schema: Schema, max_rows: int) -> Matrix:
    problems = [Problem(None, name, "not an object") for name, cells in columns.items() if not isinstance(cells, dict)]
    if problems:
        raise SchemaError(problems, n_rows=0)
    index = next(iter(columns.values())).keys()
    if any(cells.keys() != index for cells in columns.values()):
        index = dict.fromkeys(key for cells in columns.values() for key in cells)  # a cell that is not there is missing
    _check_rows(len(index), max_rows)
    # A column that the schema does not know is refused by its name alone: its cells could be far more than were sent.
    known = frozenset(schema.names)
    return schema.matrix_from_columns(
        {name: [cells.get(key) for key in index] if name in known else () for name, cells in columns.items()}
    )


def _check_rows(n_rows: int, max_rows: int) -> None:
    if n_rows > max_rows:
        raise TooManyRowsError(max_rows)
    if n_rows == 0:
        raise SchemaError([Problem(None, None, "the request has no rows")], n_rows=0)
