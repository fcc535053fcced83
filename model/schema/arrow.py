"""Tables of Arrow -> the schema's matrix, without a Python object a cell. Needs pyarrow.

A cell counts as the same cell of JSON does, or of CSV where texts are read so: the validity bitmap is null, integers,
decimals and floats are numbers. A dictionary's cells are its values, an extension's those of its storage. Dates and
timestamps are dates, in UTC where they have no time zone. Binary cells, times and nested values are none of a schema's
types and are refused.

pyarrow imports pandas, where that is installed, as soon as it makes an array of Python or NumPy: here it makes none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from model.errors import Problem, SchemaError
from model.schema import dates
from model.schema.feature import (
    BOOLEAN,
    CATEGORY,
    DATE,
    INTEGER,
    MISSING,
    NUMBER,
    Cells,
    Feature,
    Flags,
    Vector,
    limits_of_dates,
    parse_cell,
)
from model.schema.features import (
    MAX_NEAREST,
    MAX_PROBLEMS,
    REPEATED,
    UNKNOWN,
    Matrix,
    Schema,
    schema_error,
    shape_problems,
    shortened,
)

_DTYPES: dict[pa.DataType, type[np.number[Any]]] = {
    pa.int8(): np.int8,
    pa.int16(): np.int16,
    pa.int32(): np.int32,
    pa.int64(): np.int64,
    pa.uint8(): np.uint8,
    pa.uint16(): np.uint16,
    pa.uint32(): np.uint32,
    pa.uint64(): np.uint64,
    pa.float16(): np.float16,
    pa.float32(): np.float32,
    pa.float64(): np.float64,
}
_EXACT = 2**53  # whole numbers up to this are all float64
_MAX_SCALE = 76  # of decimals: the digits that they have at most
# What Arrow reads as the number that `parse_cell` does. Of other texts that it reads, the number is not finite.
_PLAIN_NUMBER = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_MIN_CHUNK = 1_000  # rows on average: a shorter chunk costs more than it takes to copy it to its neighbours
# Dates before the year 1 and after 9999 as texts that are read as such.
_TOO_EARLY, _TOO_LATE = "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000}
_DAY = 86_400  # seconds
_OTHER = object()
"""A cell of none of a schema's types."""


class Converted(NamedTuple):
    """The rows of a table as a matrix."""

    X: Matrix
    """`(n_rows, n_features)`, in the schema's order."""
    refused: NDArray[np.bool_]
    """`(n_rows,)`: the rows with a cell that the schema refuses, where `X` has no meaning."""


def convert(table: pa.RecordBatch | pa.Table, schema: Schema, *, texts: bool = False) -> Converted:
    """Return the rows of a table, whose columns have any order; columns that are no features are not looked at.

    A feature without a column counts as missing in every row. If a feature has two columns, every row is refused. With
    `texts`, the texts of string columns are read as those of CSV are.
    """
    X, refused = _matrix(table, schema, texts)
    found = set(table.schema.names)
    absent = any(feature.name not in found and not feature.missing for feature in schema.features)
    if absent or _repeated(table, schema):
        refused[:] = True
    return Converted(X, refused)


def problems(
    table: pa.RecordBatch | pa.Table, schema: Schema, rows: Sequence[int], *, texts: bool = False
) -> list[Problem]:
    """Return the problems of some rows of a table, with the reasons that `convert` has to refuse them."""
    repeated = _repeated(table, schema)
    names = [name for name in table.schema.names if name not in repeated]
    columns = _cells_of_rows(table, schema, names, rows, texts)
    nearest_left = iter(range(MAX_NEAREST))
    absent = [None] * len(rows)
    numbers = [number for number, name in enumerate(schema.names) if name not in repeated]
    found = []
    for place, row in enumerate(rows):
        cells = ((number, columns.get(number, absent)[place]) for number in numbers)
        found += [*schema.cell_problems(row, cells, nearest_left)]
        found += [Problem(row, name, REPEATED) for name in repeated]
    return found


def matrix_from_arrow(table: pa.RecordBatch | pa.Table, schema: Schema, *, texts: bool = False) -> Matrix:
    """Return `(n_rows, n_features)` float64 from a table whose columns have any order.

    Raises `SchemaError` with every problem; a missing, unknown or repeated column is one problem, not one per row.
    """
    names, n_rows = table.schema.names, table.num_rows
    if len(set(names)) < len(names):
        raise SchemaError(shape_problems([], names), n_rows=n_rows)
    of_columns = [Problem(None, name, MISSING) for name in schema.names if name not in names]
    of_columns += [Problem(None, shortened(name), UNKNOWN) for name in schema.unknown(names)]
    X, refused = _matrix(table, schema, texts)
    if not of_columns and not refused.any():
        return X
    rows = np.flatnonzero(refused)[: MAX_PROBLEMS + 1].tolist()  # each has a problem at least
    columns = _cells_of_rows(table, schema, names, rows, texts)
    nearest_left = iter(range(MAX_NEAREST))
    of_cells = (
        schema.cell_problems(row, ((number, column[place]) for number, column in columns.items()), nearest_left)
        for place, row in enumerate(rows)
    )
    raise schema_error(chain(of_columns, chain.from_iterable(of_cells)), n_rows)


def _matrix(table: pa.RecordBatch | pa.Table, schema: Schema, texts: bool) -> tuple[Matrix, Flags]:
    """Return the matrix, and the rows that are refused for a cell of a column that is there; absent ones are NaN."""
    n_rows = table.num_rows
    X = np.empty((n_rows, len(schema.features)))
    refused = np.zeros(n_rows, dtype=np.bool_)
    names = table.schema.names
    places = {name: place for place, name in enumerate(names)}
    for number, (feature, kind) in enumerate(zip(schema.features, schema.cells)):
        if feature.name not in places:
            X[:, number] = np.nan
            continue
        for start, chunk in _chunks(table.column(places[feature.name])):
            numbers, accepted = _converted(chunk, feature, kind, texts)
            stop = start + len(chunk)
            X[start:stop, number] = numbers
            if not accepted.all():
                refused[start:stop] |= ~accepted
    return X, refused


def _repeated(table: pa.RecordBatch | pa.Table, schema: Schema) -> list[str]:
    """Return the features that have more than one column."""
    names = table.schema.names
    if len(set(names)) == len(names):
        return []
    return [name for name in schema.names if names.count(name) > 1]


def _chunks(column: pa.Array | pa.ChunkedArray) -> Iterator[tuple[int, pa.Array]]:
    """Yield the chunks of a column that have rows, each with the number of its first row."""
    if _is_worth_copying(column):
        with suppress(pa.ArrowNotImplementedError):  # of some nested types
            column = column.combine_chunks()
    start = 0
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        if len(chunk):
            yield start, chunk
        start += len(chunk)


def _is_worth_copying(column: pa.Array | pa.ChunkedArray) -> bool:
    """Return whether a column has many short chunks that Arrow can put together."""
    if isinstance(column, pa.Array) or column.num_chunks < 2 or len(column) >= column.num_chunks * _MIN_CHUNK:
        return False
    # Arrow makes other numbers of the indices where it unites dictionaries of float16.
    return not (pa.types.is_dictionary(column.type) and pa.types.is_float16(column.type.value_type))


def _plain(array: pa.Array) -> pa.Array:
    """Return an array without extension types, runs, and views of strings."""
    while True:
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        elif pa.types.is_run_end_encoded(array.type):
            array = pc.run_end_decode(array)
        elif pa.types.is_string_view(array.type):
            return array.cast(pa.large_string())
        else:
            return array


def _valid(array: pa.Array) -> Flags | None:
    """Return which cells are not null, `(n_rows,)`; None if all are valid."""
    if pa.types.is_null(array.type):
        return np.zeros(len(array), dtype=np.bool_)
    return _bits(array.buffers()[0], array) if array.null_count else None


def _bits(buffer: pa.Buffer, array: pa.Array) -> Flags:
    """Return the bits of an array in one of its buffers, `(n_rows,)`."""
    first, skipped = divmod(array.offset, 8)
    packed = np.frombuffer(buffer, dtype=np.uint8, offset=first, count=(skipped + len(array) + 7) // 8)
    return np.unpackbits(packed, bitorder="little", count=skipped + len(array))[skipped:].view(np.bool_)


def _values(array: pa.Array, dtype: type[np.generic]) -> NDArray[Any]:
    """Return a view of an array's numbers, `(n_rows,)`; those of nulls are anything."""
    size = np.dtype(dtype).itemsize
    return np.frombuffer(array.buffers()[1], dtype=dtype, count=len(array), offset=array.offset * size)


def _with_nan(values: NDArray[Any], array: pa.Array) -> Vector:
    """Return the numbers of an array as float64, rounded to the nearest, and NaN for its nulls."""
    valid = _valid(array)
    numbers = values.astype(np.float64, copy=False)
    return numbers if valid is None else np.where(valid, numbers, np.nan)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_date(kind: pa.DataType) -> bool:
    return bool(pa.types.is_date(kind) or pa.types.is_timestamp(kind))


def _is_decimal(kind: pa.DataType) -> bool:
    return bool(pa.types.is_decimal(kind)) and abs(kind.scale) <= _MAX_SCALE


def _converted(array: pa.Array, feature: Feature, kind: Cells, texts: bool) -> tuple[Vector, Flags]:
    """Return what the cells of an array with rows become, and which of them are accepted, both `(n_rows,)`."""
    array = _plain(array)
    if pa.types.is_dictionary(array.type):
        return _of_dictionary(array, kind, lambda values: _converted(values, feature, kind, texts))
    if array.type in _DTYPES:
        values = _values(array, _DTYPES[array.type])
        if not (feature.type == CATEGORY and _is_beyond(values)):
            return kind.each_from_array(_with_nan(values, array))
    elif _is_date(array.type) and feature.type == DATE:
        seconds, (lowest, highest) = _seconds(array), limits_of_dates(feature)
        within = (seconds >= lowest) & (seconds <= highest)
        return seconds, within | np.isnan(seconds) if kind.missing else within
    elif pa.types.is_boolean(array.type) and feature.type == BOOLEAN:
        return kind.each_from_array(_with_nan(_bits(array.buffers()[1], array), array))
    elif _is_decimal(array.type) and feature.type != CATEGORY:
        numbers = array.cast(pa.string()).cast(pa.float64())  # a cast without texts is not always to the nearest
        return kind.each_from_array(_with_nan(_values(numbers, np.float64), numbers))
    elif _is_text(array.type) and texts and feature.type in (NUMBER, INTEGER):
        numbers, is_number = _parsed(array)
        numbers, accepted = kind.each_from_array(numbers)
        return numbers, accepted & is_number
    elif not (_is_decimal(array.type) or (_is_text(array.type) and (texts or feature.has_text))):
        valid = _valid(array)  # nothing but null is accepted
        null = np.zeros(len(array), dtype=np.bool_) if valid is None else ~valid
        return np.full(len(array), np.nan), null & kind.missing

    def of_values(values: pa.Array) -> tuple[Vector, Flags]:
        cells = _cells(values, np.arange(len(values)), feature, texts)
        numbers = [kind.number(cell) for cell in cells]
        return np.array(numbers, dtype=np.float64), np.array([number is not None for number in numbers])

    return _of_dictionary(array.dictionary_encode(), kind, of_values)


def _of_dictionary(
    array: pa.DictionaryArray, kind: Cells, of_values: Callable[[pa.Array], tuple[Vector, Flags]]
) -> tuple[Vector, Flags]:
    """Return what `_converted` does, for an array of a dictionary whose values `of_values` converts."""
    dictionary, indices = array.dictionary, array.indices
    places, valid = _values(indices, _DTYPES[indices.type]), _valid(indices)
    if len(dictionary) > len(indices):  # of many chunks: without the values of the others
        dictionary = _plain(dictionary)
        if valid is not None:
            places = np.where(valid, places, 0)
        used, of_used = np.unique(places, return_inverse=True)
        with suppress(pa.ArrowNotImplementedError):  # of some nested types
            dictionary, places = dictionary.take(_int64(used.astype(np.int64))), of_used
    numbers, accepted = of_values(dictionary) if len(dictionary) else (np.empty(0), np.empty(0, dtype=np.bool_))
    if valid is not None:
        places = np.where(valid, places, len(numbers))
    return np.append(numbers, np.nan)[places], np.append(accepted, kind.missing)[places]


def _is_beyond(values: NDArray[Any]) -> bool:
    """Return whether there are integers that may not be float64, or that others would be rounded to."""
    if values.dtype.kind not in "iu" or values.dtype.itemsize < 8:
        return False
    return bool(values.max() >= _EXACT or values.min() <= -_EXACT)


def _seconds(array: pa.Array) -> Vector:
    """Return the seconds of dates and timestamps, NaN for null; those beyond the years 1 to 9999 stay beyond them."""
    lowest, highest = int(dates.LOWEST) - 1, int(dates.HIGHEST) + 1
    if pa.types.is_date32(array.type):
        days = _values(array, np.int32).astype(np.int64)
        moments = days.clip(lowest // _DAY, highest // _DAY).view("datetime64[D]")
    else:
        unit = "ms" if pa.types.is_date64(array.type) else array.type.unit
        moments = _values(array, np.int64)
        if unit in _PER_SECOND:  # nanoseconds since 1970 have no such years
            moments = moments.clip(lowest * _PER_SECOND[unit], highest * _PER_SECOND[unit])
        moments = moments.view(f"datetime64[{unit}]")
    return _with_nan(dates.seconds_of(moments), array)


def _parsed(array: pa.Array) -> tuple[Vector, Flags]:
    """Return the number of each text as `parse_cell` has it, NaN for a missing value, and which texts are either."""
    valid = _valid(array)
    is_number = np.ones(len(array), dtype=np.bool_)
    try:
        found = array.cast(pa.float64())
        numbers = _with_nan(_values(found, np.float64), found)
    except pa.ArrowInvalid:  # which does not say how many of them there are
        numbers = np.full(len(array), np.nan)
        is_plain = pc.match_substring_regex(array, _PLAIN_NUMBER)
        plain = array.filter(is_plain).cast(pa.float64())
        flags = _bits(is_plain.buffers()[1], is_plain)
        numbers[flags if valid is None else flags & valid] = _values(plain, np.float64) if len(plain) else []
    odd = ~np.isfinite(numbers)
    places = np.flatnonzero(odd if valid is None else odd & valid)
    if len(places):
        texts = _texts(array.take(_int64(places)))
        cells = {text: parse_cell(text) for text in set(texts)}
        numbers[places] = [np.nan if isinstance(cells[text], str | None) else cells[text] for text in texts]
        is_number[places] = [not isinstance(cells[text], str) for text in texts]
    return numbers, is_number


def _texts(array: pa.Array) -> list[str]:
    """Return the texts of an array without nulls; what is not UTF-8 is in no text of JSON."""
    try:
        texts: list[str] = array.to_pylist()
    except UnicodeDecodeError:
        cells = array.cast(pa.large_binary()).to_pylist()
        texts = [cell.decode(errors="surrogateescape") for cell in cells]
    return texts


def _int64(places: NDArray[np.int64]) -> pa.Array:
    return pa.Array.from_buffers(pa.int64(), len(places), [None, pa.py_buffer(np.ascontiguousarray(places))])


def _cells_of_rows(
    table: pa.RecordBatch | pa.Table, schema: Schema, names: Sequence[str], rows: Sequence[int], texts: bool
) -> dict[int, list[Any]]:
    """Return the cells of some rows by the features' numbers, for the features among `names`, as JSON has them."""
    wanted = np.array(rows, dtype=np.int64)
    columns = {}
    for number, feature in enumerate(schema.features):
        if feature.name in names:
            cells: list[Any] = [None] * len(rows)
            for start, chunk in _chunks(table.column(table.schema.get_field_index(feature.name))):
                found = np.flatnonzero((wanted >= start) & (wanted < start + len(chunk)))
                if len(found):
                    of_chunk = _cells(chunk, wanted[found] - start, feature, texts)
                    for place, cell in zip(found.tolist(), of_chunk):
                        cells[place] = cell
            columns[number] = cells
    return columns


def _cells(array: pa.Array, places: NDArray[np.int64], feature: Feature, texts: bool) -> list[Any]:
    """Return the cells at some places of an array, as JSON has them: None for null, text for a date."""
    array = _plain(array)
    kind = array.type
    valid = _valid(array)
    if pa.types.is_dictionary(kind):
        valid = _valid(array.indices)
    cells: list[Any]
    is_there = np.ones(len(places), dtype=np.bool_) if valid is None else valid[places]
    places = places[is_there]
    if pa.types.is_dictionary(kind):
        indices = _values(array.indices, _DTYPES[array.indices.type])[places]
        used, of_cells = np.unique(indices.astype(np.int64), return_inverse=True)
        values = _cells(array.dictionary, used, feature, texts)
        cells = [values[place] for place in of_cells.tolist()]
    elif kind in _DTYPES:
        numbers = _values(array, _DTYPES[kind])[places]
        cells = (numbers.astype(np.float64) if numbers.dtype.kind == "f" else numbers).tolist()
    elif pa.types.is_boolean(kind):
        cells = _bits(array.buffers()[1], array)[places].tolist()
    elif _is_text(kind):
        cells = _texts(array.take(_int64(places)))
        cells = list(map(feature.cells.parse, cells)) if texts else cells
    elif _is_decimal(kind):
        cells = [_number(cell) for cell in array.take(_int64(places)).to_pylist()]
    elif _is_date(kind) and feature.type == DATE:
        cells = [_date(seconds) for seconds in _seconds(array)[places].tolist()]
    else:
        cells = [_OTHER] * len(places)
    present = iter(cells)
    return [next(present) if each else None for each in is_there.tolist()]


def _number(cell: Decimal) -> int | float:
    """Return a decimal as JSON would have it: without a point it is an integer, whose digits all count."""
    return int(cell) if cell.as_tuple().exponent == 0 else float(cell)


def _date(seconds: float) -> str | None:
    """Return the text of a date, also of one beyond the years 1 to 9999; None for NaN."""
    if seconds != seconds:
        return None
    if dates.LOWEST <= seconds <= dates.HIGHEST:
        return dates.text_of(seconds)
    return _TOO_EARLY if seconds < dates.LOWEST else _TOO_LATE
