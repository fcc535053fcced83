"""Decodes the tables of every protocol but V2, from JSON values, CSV or NumPy, to one matrix in the schema's order.

Each of these functions checks the number of rows before it reads a cell. It raises `TooManyRowsError` for too many, and
`SchemaError` with every other problem.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib import format
from numpy.typing import NDArray

from app.errors import BodyError, TooLargeError
from app.web.body import parse_json
from model import (
    Category,
    Matrix,
    Problem,
    Schema,
    SchemaError,
    TooManyRowsError,
    check_width,
    columns_from_csv,
    shape_problems,
    shortened,
    to_text,
)

# From here on the cells of CSV are read by columns, which needs pyarrow; below, importing that is not worth it.
_LONG_CSV_BYTES = 100_000
# A header of numpy's format has about 100 bytes; it is parsed as a literal of Python.
_MAX_NPY_HEADER = 1_000


def from_records(records: list[Any], schema: Schema, *, max_rows: int) -> Matrix:
    """Return the matrix of `[{"RM": 6.575, …}, …]`."""
    check_rows(len(records), max_rows)
    if set(map(type, records)) != {dict}:
        problems = [
            Problem(row, None, "not an object") for row, record in enumerate(records) if not isinstance(record, dict)
        ]
        raise SchemaError(problems, n_rows=len(records))
    return schema.matrix_from_records(records)


def from_rows(rows: list[Any], header: Sequence[Any], schema: Schema, *, max_rows: int) -> Matrix:
    """Return the matrix of rows `[[6.575, …], …]` whose cells `header` names."""
    check_rows(len(rows), max_rows)
    check_width(len(header), schema.names)
    matrix = schema.matrix_from_rows(rows, header)
    if matrix is not None:
        return matrix
    problems = []
    if not all(isinstance(name, str) for name in header):
        problems.append(Problem(None, None, "the column names are not all strings"))
    problems += [Problem(row, None, "not a list") for row, cells in enumerate(rows) if not isinstance(cells, list)]
    if not problems:
        problems += shape_problems(rows, header)
    if problems:
        raise SchemaError(problems, n_rows=len(rows))
    return schema.matrix_from_columns(dict(zip(header, zip(*rows))))


def from_instances(instances: Any, schema: Schema, *, max_rows: int) -> Matrix:
    """Return the matrix of TensorFlow's row format: all objects by feature name, or all lists in the schema's order.

    For a model of one feature, instances may also be bare cells. Raises `BodyError` for anything but a list.
    """
    if not isinstance(instances, list):
        raise BodyError("instances is not a list")
    if any(isinstance(instance, dict) for instance in instances):
        if isinstance(instances[0], dict) and list in map(type, instances[0].values()):
            check_rows(len(instances), max_rows)
            instances = [_without_lists(record) if isinstance(record, dict) else record for record in instances]
        return from_records(instances, schema, max_rows=max_rows)
    if len(schema.names) == 1 and not any(isinstance(instance, list) for instance in instances):
        return from_columns({schema.names[0]: instances}, schema, max_rows=max_rows)
    return from_rows(instances, schema.names, schema, max_rows=max_rows)


def from_inputs(inputs: Any, schema: Schema, *, max_rows: int) -> Matrix:
    """Return the matrix of TensorFlow's column format: `{"RM": [6.575, …], …}`, or the formats of `from_instances`."""
    if isinstance(inputs, dict):
        return from_columns(inputs, schema, max_rows=max_rows)
    return from_instances(inputs, schema, max_rows=max_rows)


def from_columns(columns: Mapping[str, Any], schema: Schema, *, max_rows: int) -> Matrix:
    """Return the matrix of `{"RM": [6.575, …], …}`; a column may also have the shape `[n, 1]`: `[[6.575], …]`."""
    check_width(len(columns), schema.names)
    problems = [
        Problem(None, shortened(name), "not a list") for name, cells in columns.items() if not isinstance(cells, list)
    ]
    if problems:
        raise SchemaError(problems, n_rows=0)
    n_rows = max(map(len, columns.values()), default=0)
    check_rows(n_rows, max_rows)
    problems = [
        Problem(None, shortened(name), f"has {len(cells)} rows where another column has {n_rows}")
        for name, cells in columns.items()
        if len(cells) != n_rows
    ]
    if problems:
        raise SchemaError(problems, n_rows=n_rows)
    return schema.matrix_from_columns({name: _flat(cells) for name, cells in columns.items()})


def from_indexed_columns(columns: dict[str, Any], schema: Schema, *, max_rows: int) -> Matrix:
    """Return the matrix of `{"RM": {"0": 6.575, …}, …}`, as `DataFrame.to_json()` writes it."""
    check_width(len(columns), schema.names)
    problems = [
        Problem(None, shortened(name), "not an object")
        for name, cells in columns.items()
        if not isinstance(cells, dict)
    ]
    if problems:
        raise SchemaError(problems, n_rows=0)
    check_rows(max(map(len, columns.values())), max_rows)  # before the columns are joined
    index = next(iter(columns.values())).keys()
    if any(cells.keys() != index for cells in columns.values()):
        index = dict.fromkeys(key for cells in columns.values() for key in cells)  # an absent cell is a missing value
    check_rows(len(index), max_rows)
    # An unknown column is refused by its name: filled up, its cells could be far more than were sent.
    known = frozenset(schema.names)
    return schema.matrix_from_columns(
        {name: [cells.get(key) for key in index] if name in known else () for name, cells in columns.items()}
    )


def from_csv(body: bytes, schema: Schema, *, max_rows: int, header: bool | None = True) -> Matrix:
    """Return the matrix of a CSV table with a header, or without if `header` is False.

    If it is None, a first line that may be data is data. Raises `BodyError` for anything but CSV.
    """
    if len(body) >= _LONG_CSV_BYTES:
        from app.protocols import long_csv  # here, since it imports pyarrow

        X = long_csv.matrix(body, schema, max_rows=max_rows, header=header)
        if X is not None:
            return X
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise BodyError("the body is not CSV: it is not UTF-8") from None
    try:
        columns, n_rows = columns_from_csv(
            text, max_rows=max_rows, header=header, names=schema.names, parsers=schema.parsers
        )
    except ValueError as error:
        raise BodyError(f"the body is {error}") from None
    check_rows(n_rows, max_rows)
    return schema.matrix_from_columns(columns)


def from_json_lines(body: bytes, schema: Schema, *, max_rows: int) -> Matrix:
    """Return the matrix of a JSON value a line: an object by feature name, or a list in the schema's order."""
    lines = [line for line in body.split(b"\n") if line and not line.isspace()]
    check_rows(len(lines), max_rows)
    max_values = schema.max_values(max_rows)
    if body.count(b",") > max_values:
        raise TooLargeError(f"the body has more than {max_values} values; send fewer rows or columns at once")
    rows = []
    for number, line in enumerate(lines):
        try:
            rows.append(parse_json(line, max_values=max_values))
        except BodyError as error:
            raise BodyError(f"line {number + 1} is not one JSON value: {error}") from None
    return from_instances(rows, schema, max_rows=max_rows)


def from_npy(body: bytes, schema: Schema, *, max_rows: int) -> Matrix:
    """Return the matrix of an array of numbers in numpy's format: rows in the schema's order, or one row.

    Raises `BodyError` for anything else; no pickle is opened.
    """
    source = io.BytesIO(body)
    try:
        version = format.read_magic(source)
        read = {(1, 0): format.read_array_header_1_0, (2, 0): format.read_array_header_2_0}[version]
        shape, is_fortran, dtype = read(source, max_header_size=_MAX_NPY_HEADER)
    except KeyError:
        raise BodyError("the body is of another version of the NPY format than 1.0 and 2.0") from None
    except Exception:  # of Python's parser, too
        raise BodyError("the body is not in the NPY format: it has no header that can be read") from None
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
        raise BodyError("the array is not of integers or floats of at most 64 bits; send JSON or Arrow for other cells")
    width = len(schema.names)
    if len(shape) == 1:
        shape = (*shape, 1) if width == 1 else (1, *shape)
    if len(shape) != 2 or min(shape) < 0 or bool in map(type, shape):
        raise BodyError(f"the array has the shape {shape}; send rows of {width} numbers")
    check_rows(shape[0], max_rows)
    if shape[1] != width:
        raise SchemaError([Problem(None, None, f"has {shape[1]} columns where there are {width}")], n_rows=shape[0])
    start = source.tell()
    if len(body) - start != shape[0] * shape[1] * dtype.itemsize:
        raise BodyError(f"the array has {len(body) - start} bytes, which is not what its shape {shape} takes")
    X = np.frombuffer(body, dtype, offset=start).reshape(shape, order="F" if is_fortran else "C")
    return schema.matrix_from_array(X.astype(np.float64, order="C"))


def to_npy(rows: NDArray[np.float64] | list[Category]) -> bytes:
    """Return numbers or labels `(n_rows,)`, or probabilities `(n_rows, n_classes)`, in numpy's format."""
    written = io.BytesIO()
    format.write_array(written, np.asarray(rows), allow_pickle=False)
    return written.getvalue()


def to_csv(rows: NDArray[np.float64] | list[Category]) -> str:
    """Return numbers or labels `(n_rows,)`, or probabilities `(n_rows, n_classes)`, as a line for each row."""
    found: list[Any] = rows.tolist() if isinstance(rows, np.ndarray) else rows
    written = io.StringIO()
    cells = (row if isinstance(row, list) else [to_text(row) if isinstance(row, bool) else row] for row in found)
    csv.writer(written, lineterminator="\n").writerows(cells)
    return written.getvalue()


def _flat(cells: list[Any]) -> list[Any]:
    """Return a column of shape `[n, 1]` as one of shape `[n]`, and any other as it is."""
    if type(cells[0]) is list and set(map(type, cells)) == {list} and set(map(len, cells)) == {1}:
        return [cell for (cell,) in cells]
    return cells


def _without_lists(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record whose cells of shape `[1]` are bare cells."""
    return {name: cell[0] if isinstance(cell, list) and len(cell) == 1 else cell for name, cell in record.items()}


def check_rows(n_rows: int, max_rows: int) -> None:
    """Raise `TooManyRowsError` or, if there are no rows, `SchemaError`."""
    if n_rows > max_rows:
        raise TooManyRowsError(max_rows)
    if n_rows == 0:
        raise SchemaError([Problem(None, None, "the request has no rows")], n_rows=0)
