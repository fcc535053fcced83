"""CSV of many rows, read by columns. Needs pyarrow, which is imported with this module alone.

It has the result of `columns_from_csv` or none: what pyarrow and the rules of the service may read in two ways, and
what is refused, is left to those rules, which say why.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.csv

from model import Matrix, ModelError, Schema, columns_from_csv
from model.schema.arrow import convert

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MAX_LINE = 100_000  # bytes: cells of more than the csv module's 131,072 characters are refused


def matrix(body: bytes, schema: Schema, *, max_rows: int, header: bool | None) -> Matrix | None:
    """Return the matrix of a CSV table `(n_rows, n_features)`, and None for one that is not plain and right."""
    body = body.removeprefix(_BYTE_ORDER_MARK)
    first, _, rest = body.partition(b"\n")
    n_lines = body.count(b"\n") + 1
    # Quotes, other ends of lines and NUL are read in several ways, and a table without commas may have blank lines.
    if b'"' in body or b"\0" in body or b"," not in first or body.count(b"\r") != body.count(b"\r\n"):
        return None
    if body.startswith(_BYTE_ORDER_MARK) or rest.startswith(_BYTE_ORDER_MARK):  # pyarrow skips it, the rules do not
        return None
    if n_lines > max_rows + 2 or _longest_line(body) > _MAX_LINE:
        return None
    try:
        body.decode()  # pyarrow looks at the columns alone that it reads
        text = first.removesuffix(b"\r").decode()
        _, n_rows = columns_from_csv(text, header=header, names=schema.names, parsers=schema.parsers)
        titles = _titles(text, schema) if n_rows == 0 else list(schema.names)
        if len(set(titles)) < len(titles) or not set(schema.names) <= set(titles):
            return None
        if schema.unknown(name for number, name in enumerate(titles) if number or name):
            return None
        table = pa.csv.read_csv(
            pa.BufferReader(rest if n_rows == 0 else body),
            pa.csv.ReadOptions(use_threads=False, block_size=len(body) + 1, column_names=titles),
            pa.csv.ParseOptions(quote_char=False),
            pa.csv.ConvertOptions(
                column_types=dict.fromkeys(schema.names, pa.string()),
                include_columns=schema.names,
                strings_can_be_null=False,
            ),
        )
        converted = convert(table, schema, texts=True)
    except (ValueError, ModelError, pa.ArrowException):
        return None
    if converted.refused.any() or not 0 < len(converted.X) <= max_rows:
        return None
    return converted.X


def _titles(line: str, schema: Schema) -> list[str]:
    """Return the names of the columns, as `columns_from_csv` has them."""
    known = frozenset(schema.names)
    return [name if name in known else name.strip() for name in line.split(",")]


def _longest_line(body: bytes) -> int:
    ends = np.flatnonzero(np.frombuffer(body, np.uint8) == ord("\n"))
    return int(np.diff(ends, prepend=-1, append=len(body)).max())
