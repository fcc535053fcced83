"""Arrow's streams as requests and replies. Needs pyarrow, which is imported with this module alone.

A stream is bounded before pyarrow reads its tables: its metadata says how many rows there are, and each compressed
buffer begins with its length. Only the features' columns are read, and only those of types that a cell can have. They
are validated before they are looked at.

Sources: Arrow's columnar format 1.5, "IPC streaming format" and the schemas Message.fbs and Schema.fbs.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import flatbuffers.number_types as of
import numpy as np
import pyarrow as pa
import pyarrow.ipc
from flatbuffers.table import Table
from numpy.typing import NDArray

from app.errors import BodyError, TooLargeError
from app.protocols.endpoint import Answer, Request
from app.protocols.intervals import INTERVAL, LOWER, UPPER
from app.protocols.tables import check_rows
from app.web.body import ARROW_TYPE
from app.web.reply import Reply
from model import Category, Explained, Matrix, Problem, SchemaError, check_width, first_line, shortened
from model.schema.arrow import matrix_from_arrow

_MAX_BATCHES = 1_000  # with dictionaries: each takes time, however few rows it has
_MAX_TYPE = 60  # characters of a type in a message
# The slots of tables in Arrow's schemas, as flatbuffers counts them: from 4, in steps of 2.
_HEADER = 8  # of a Message
_LENGTH, _BUFFERS, _COMPRESSION = 4, 8, 10  # of a RecordBatch
_DATA, _IS_DELTA = 6, 8  # of a DictionaryBatch
_NOT_COMPRESSED = -1  # instead of a buffer's length
_READ = (
    *(pa.types.is_null, pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal),
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_date, pa.types.is_timestamp),
)


def decode(request: Request) -> Matrix:
    """Return the rows of a stream's batches as `(n_rows, n_features)` float64, in the schema's order.

    Raises `BodyError` for anything but a stream, `TooLargeError`, `TooManyRowsError`, and `SchemaError` with every
    problem.
    """
    schema, source = request.schema, pa.py_buffer(request.body)
    try:
        n_rows = _check_messages(source, request)
        with pa.ipc.open_stream(source) as stream:
            fields = list(stream.schema)
        names = [field.name for field in fields]
        check_width(len(names), schema.names)
        check_rows(n_rows, request.max_rows)
        known = [place for place, name in enumerate(names) if name in schema.by_name]
        if not known:  # pyarrow would read all columns instead of none
            return schema.matrix_from_columns(dict.fromkeys(names, (None,) * n_rows))
        _check_types([fields[place] for place in known], n_rows)
        options = pa.ipc.IpcReadOptions(included_fields=known, use_threads=False)
        with pa.ipc.open_stream(source, options=options) as stream:
            table = stream.read_all()
        _check_views(table, request)
        table.validate(full=True)
        for name in names:  # the others, which were not read, are looked at by their names
            if name not in schema.by_name:
                table = table.append_column(name, pa.nulls(n_rows))
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise BodyError(f"the body is not a stream of Arrow: {shortened(first_line(error))}") from None
    return matrix_from_arrow(table, schema)


def encode(
    answer: Answer, *, has_probabilities: bool, level: float | None = None, explained: Explained | None = None
) -> Reply:
    """Return a stream of one batch: `prediction`, and a column for each class or for each end of the intervals.

    Then, if there are explanations, their columns as in bulk scoring. The model, its version and the request's id are
    in the metadata of the schema.
    """
    model, y = answer.model, answer.y
    columns = {"prediction": _column(answer.predictions)}
    if y.ndim > 1 and has_probabilities:
        names = (f"probability_{name}" for name in model.manifest.class_names)
        columns |= {name: _column(np.ascontiguousarray(of_class)) for name, of_class in zip(names, y[:, 1:].T)}
    metadata = {"model": model.name, "version": str(model.version), "request_id": answer.request_id}
    if level is not None and model.manifest.intervals:
        columns |= dict(zip((LOWER, UPPER), map(_column, model.manifest.intervals.around(y, level))))
        metadata[INTERVAL] = repr(level)
    if explained:
        columns |= {name: _column(values) for name, values in explained.columns().items()}
    schema = pa.schema([pa.field(name, column.type) for name, column in columns.items()], metadata=metadata)
    written = pa.BufferOutputStream()
    with pa.ipc.new_stream(written, schema) as stream:
        stream.write_batch(pa.RecordBatch.from_arrays(list(columns.values()), schema=schema))
    return Reply(written.getvalue().to_pybytes(), ARROW_TYPE)


def _check_messages(source: pa.Buffer, request: Request) -> int:
    """Return how many rows the batches have together, after checking what their metadata says of their size."""
    n_rows = n_values = n_bytes = 0
    reader = pa.BufferReader(source)
    for number, message in enumerate(pa.ipc.MessageReader.open_stream(reader)):
        if number > _MAX_BATCHES:
            raise BodyError(f"the stream has more than {_MAX_BATCHES} batches and dictionaries; send longer ones")
        if message.type not in ("record batch", "dictionary"):
            continue
        metadata = memoryview(message.metadata)
        batch = Table(metadata, 0)
        batch.Pos = batch.Indirect(0)
        batch.Pos = batch.Indirect(batch.Pos + batch.Offset(_HEADER))
        if message.type == "dictionary":
            if _scalar(batch, _IS_DELTA, of.BoolFlags):
                raise BodyError("the stream has a delta of a dictionary; send whole dictionaries")
            batch.Pos = batch.Indirect(batch.Pos + batch.Offset(_DATA))
            n_values += _length(batch)
        else:
            n_rows += _length(batch)
        if batch.Offset(_COMPRESSION):
            n_bytes += _expanded_bytes(batch, message.body)
        if n_bytes > request.max_expanded_bytes:
            raise TooLargeError(
                f"the stream has more than {request.max_expanded_bytes} bytes once it is decompressed; "
                "send fewer rows, or send it without compression"
            )
        if n_values > (most := request.schema.max_values(request.max_rows)):
            raise TooLargeError(f"the stream's dictionaries have more than {most} values; send those that it uses")
    if reader.tell() < source.size:
        raise BodyError("the body goes on behind its end as a stream of Arrow; send one stream with all rows")
    return n_rows


def _scalar(table: Table, slot: int, flags: Any) -> Any:
    """Return a field of a table; 0, which is the default of all that are read, if it is not there."""
    offset = table.Offset(slot)
    return table.Get(flags, table.Pos + offset) if offset else 0


def _length(batch: Table) -> int:
    length: int = _scalar(batch, _LENGTH, of.Int64Flags)
    if length < 0:
        raise BodyError("the stream has a batch of less than no rows")
    return length


def _expanded_bytes(batch: Table, body: pa.Buffer) -> int:
    """Return how many bytes the compressed buffers of a batch become, by the length at the beginning of each."""
    offset = batch.Offset(_BUFFERS)
    if not offset:
        return 0
    n_bytes = 0
    places = np.frombuffer(batch.Bytes, np.int64, count=2 * batch.VectorLen(offset), offset=batch.Vector(offset))
    for start, length in places.reshape(-1, 2).tolist():
        if length:
            if length < 8 or start < 0 or start + length > body.size:
                raise BodyError("the stream has a compressed buffer that is not within its batch")
            said = int(np.frombuffer(body, np.int64, count=1, offset=start)[0])
            n_bytes += length if said == _NOT_COMPRESSED else said
            if said < _NOT_COMPRESSED:
                raise BodyError("the stream has a compressed buffer of less than no bytes")
    return n_bytes


def _check_types(fields: list[pa.Field], n_rows: int) -> None:
    """Raise `SchemaError` for columns of types that no cell has."""
    problems = []
    for field in fields:
        kind = field.type
        while isinstance(kind, pa.BaseExtensionType | pa.DictionaryType):
            kind = kind.value_type if isinstance(kind, pa.DictionaryType) else kind.storage_type
        if not any(is_read(kind) for is_read in _READ):
            found = str(field.type)
            found = found if len(found) <= _MAX_TYPE else f"{found[:_MAX_TYPE]}…"
            reason = f"has the type {found}; send numbers, booleans, strings or dates, or a dictionary of them"
            problems.append(Problem(None, field.name, reason))
    if problems:
        raise SchemaError(problems, n_rows=n_rows)


def _check_views(table: pa.Table, request: Request) -> None:
    """Raise `TooLargeError` for views of strings that are longer together than a body may be: they may overlap."""
    n_bytes = 0
    for array in (chunk for column in table.columns for chunk in column.chunks):
        while isinstance(array, pa.ExtensionArray | pa.DictionaryArray):
            array = array.dictionary if isinstance(array, pa.DictionaryArray) else array.storage
        if pa.types.is_string_view(array.type) and len(array):
            views = np.frombuffer(array.buffers()[1], np.int32, count=4 * len(array), offset=16 * array.offset)
            n_bytes += int(views[::4].astype(np.int64).clip(min=0).sum())
    if n_bytes > request.max_expanded_bytes:
        raise TooLargeError(f"the stream has strings of more than {request.max_expanded_bytes} bytes; send fewer rows")


def _column(values: NDArray[np.float64] | Sequence[Category]) -> pa.Array:
    """Return numbers or labels as a column. pyarrow's own way of doing so imports pandas where that is installed."""
    if isinstance(values, np.ndarray):
        return pa.Array.from_buffers(pa.float64(), len(values), [None, pa.py_buffer(values)])
    if isinstance(values[0], bool):
        bits = np.packbits(np.array(values), bitorder="little")
        return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(bits)])
    if isinstance(values[0], str):
        texts = [str(value).encode() for value in values]
        offsets = np.array([0, *accumulate(map(len, texts))], dtype=np.int64)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(texts))]
        return pa.Array.from_buffers(pa.large_string(), len(texts), buffers)
    is_whole = all(type(value) is int and abs(value) < 2**63 for value in values)
    numbers = np.array(values, dtype=np.int64 if is_whole else np.float64)
    return pa.Array.from_buffers(pa.int64() if is_whole else pa.float64(), len(values), [None, pa.py_buffer(numbers)])
