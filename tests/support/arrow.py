"""Tables as streams of Arrow."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.ipc

ARROW = "application/vnd.apache.arrow.stream"


def stream(table: Any, *, compression: str | None = None, rows: int | None = None) -> bytes:
    """Return a table as a stream, in batches of `rows`."""
    written = pa.BufferOutputStream()
    with pa.ipc.new_stream(written, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table, max_chunksize=rows)
    content: bytes = written.getvalue().to_pybytes()
    return content


def read(content: bytes) -> Any:
    """Return the table of a stream."""
    return pa.ipc.open_stream(content).read_all()
