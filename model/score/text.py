"""Columns of Arrow as the cells of text, and lines that are put together of them, without a Python object a cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from model.score.records import Marks

Offsets = NDArray[np.int64]


def array_of(content: bytes, offsets: NDArray[Any]) -> pa.Array:
    """Return the pieces of some bytes as binary cells: cell `i` is from `offsets[i]` to `offsets[i + 1]`."""
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(content)]
    return pa.Array.from_buffers(pa.binary(), len(offsets) - 1, buffers)


def slices(content: bytes, starts: Offsets, ends: Offsets) -> pa.Array:
    """Return parts of some bytes that do not overlap as binary cells, `(n_rows,)`."""
    bounds = np.empty(2 * len(starts) + 1, dtype=np.int64)
    bounds[:-1:2], bounds[1::2], bounds[-1] = starts, ends, len(content)
    return array_of(content, bounds).take(indices(np.arange(0, 2 * len(starts), 2)))


def numbers(values: NDArray[Any], *, decimal: str = ".") -> pa.Array:
    """Return the shortest text of each number that gives its bits back, as binary cells; the numbers are finite."""
    if not len(values):
        return array_of(b"", np.zeros(1))
    listed = orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
    commas = np.flatnonzero(np.frombuffer(listed, dtype=np.uint8) == ord(","))
    # Without the commas, each number begins as many places earlier as there are commas before it.
    starts = commas - np.arange(len(commas))
    content = listed.replace(b",", b"").replace(b".", decimal.encode())
    return array_of(content, np.concatenate([[0], starts, [len(content)]]))


def repeated(cell: bytes, n_rows: int) -> pa.Array:
    """Return the same cell for each row."""
    return array_of(cell * n_rows, np.arange(n_rows + 1) * len(cell))


def of_places(cells: Sequence[bytes], places: NDArray[np.int64]) -> pa.Array:
    """Return the cell at each place, as binary cells."""
    return array_of(b"".join(cells), np.cumsum([0, *map(len, cells)])).take(indices(places))


def indices(places: NDArray[Any]) -> pa.Array:
    """Return places in a table for Arrow."""
    return pa.Array.from_buffers(pa.int64(), len(places), [None, pa.py_buffer(places.astype(np.int64))])


def as_texts(column: pa.ChunkedArray) -> pa.Array:
    """Return the cells of a column as texts, those of a table in CSV: moments in ISO 8601, UTC; true and false.

    Nested values are JSON. Bytes that are no UTF-8 are written with a backslash.
    """
    array = column.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if pa.types.is_timestamp(array.type):
        zone = "Z" if array.type.tz else ""
        if zone:
            array = array.cast(pa.timestamp(array.type.unit, "UTC"))
        array = pc.strftime(array, "%Y-%m-%dT%H:%M:%S" + zone)
    if pa.types.is_primitive(array.type) or pa.types.is_decimal(array.type) or is_text(array.type):
        return array.cast(pa.string())
    return pa.array(map(_text, array.to_pylist()), pa.string())


def is_text(type: pa.DataType) -> bool:
    """Return whether cells of a type are texts, but for those of a dictionary."""
    return bool(pa.types.is_string(type) or pa.types.is_large_string(type) or pa.types.is_string_view(type))


def _text(cell: Any) -> str | None:
    if cell is None or isinstance(cell, str):
        return cell
    if isinstance(cell, bytes):
        return cell.decode(errors="backslashreplace")
    return orjson.dumps(cell, default=str).decode() if isinstance(cell, dict | list) else str(cell)


def quoted_text(cell: str, marks: Marks) -> str:
    """Return a text as a cell of CSV, in quotes where it needs them."""
    quote, separator = marks.quote.decode(), marks.separator.decode()
    if not ({quote, separator, "\r", "\n"} & {*cell}) and cell.strip() == cell:
        return cell
    return f"{quote}{cell.replace(quote, quote * 2)}{quote}"


def quoted(cells: pa.Array, marks: Marks) -> pa.Array:
    """Return texts as binary cells of CSV, in quotes where they need them; null is an empty cell."""
    quote, separator = marks.quote.decode(), marks.separator.decode()
    texts = pc.fill_null(cells, "")
    marked = "".join(f"\\x{{{ord(mark):x}}}" for mark in ("\r", "\n", quote, separator))
    special = pc.match_substring_regex(texts, rf"[{marked}]|^\s|\s$")
    if pc.any(special).as_py():
        doubled = pc.replace_substring(texts, quote, quote * 2)
        texts = pc.if_else(special, pc.binary_join_element_wise(quote, doubled, quote, ""), texts)
    return texts.cast(pa.binary())


def joined(columns: Sequence[pa.Array], separator: bytes) -> pa.Array:
    """Return the cells of each row with a separator between them, as binary cells."""
    if len(columns) == 1:
        return columns[0]
    # A scalar of Python would make pyarrow import pandas, where that is installed, which takes half a second.
    return pc.binary_join_element_wise(*columns, repeated(separator, len(columns[0])))


def content_of(cells: pa.Array) -> bytes:
    """Return the bytes of all cells, one after the other."""
    if not len(cells):
        return b""
    offsets = np.frombuffer(cells.buffers()[1], dtype=np.int32, count=len(cells) + 1, offset=4 * cells.offset)
    content: bytes = cells.buffers()[2][int(offsets[0]) : int(offsets[-1])].to_pybytes()
    return content


def to_stream(table: pa.Table) -> bytes:
    """Return a table as the bytes of a stream of Arrow."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content
