"""The native formats: decodes requests to one matrix, and encodes predictions as a reply.

The forms of `application/json`, which differ in shape:

- columns, as `DataFrame.to_json()` writes them: `{"RM": {"0": 6.575, "1": 6.421}, …}`
- one record: `{"RM": 6.575, …}`
- a list of records: `[{"RM": 6.575, …}, …]`
- a table: `{"columns": ["RM", …], "data": [[6.575, …], …]}`, with or without pandas' `index`

If an object repeats a key, the last value counts, as in common JSON parsers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.errors import BodyError
from app.protocols import tables
from app.web.body import CSV_TYPE, parse_json, to_json
from app.web.reply import Reply
from model import Artifact, Matrix, Problem, Schema, SchemaError, check_width, shortened


def decode(body: bytes, media_type: str, schema: Schema, *, max_rows: int, header: bool | None = True) -> Matrix:
    """Return the rows of a body of content type `media_type` as `(n_rows, n_features)` float64, in the schema's order.

    `header` tells if CSV has a header. Raises `BodyError`, `TooManyRowsError`, or `SchemaError` with every problem.
    """
    if media_type == CSV_TYPE:
        return tables.from_csv(body, schema, max_rows=max_rows, header=header)
    value = parse_json(body, max_values=schema.max_values(max_rows))
    if isinstance(value, list):
        return tables.from_records(value, schema, max_rows=max_rows)
    if not isinstance(value, dict):
        raise BodyError("the body is neither a JSON object nor a list of them")
    columns, data = value.get("columns"), value.get("data")
    if isinstance(columns, list) and isinstance(data, list):
        unknown = [key for key in value if key not in ("columns", "data", "index")]
        check_width(len(unknown), ())
        if unknown:
            raise SchemaError([Problem(None, shortened(key), "unknown") for key in unknown], n_rows=len(data))
        return tables.from_rows(data, columns, schema, max_rows=max_rows)
    if dict in map(type, value.values()):
        return tables.from_indexed_columns(value, schema, max_rows=max_rows)
    return tables.from_records([value], schema, max_rows=max_rows)


def encode(prediction: NDArray[np.float64], model: Artifact, *, request_id: str) -> Reply:
    """Return the reply `{"prediction", "model", "version", "request_id"}`; parsing its floats returns the same bits."""
    reply = to_json({"prediction": prediction, "model": model.name, "version": model.version, "request_id": request_id})
    reply.headers.append(("X-Model-Version", str(model.version)))
    return reply
