"""What is written: tables and rejected rows, each of them whole or not there."""

from __future__ import annotations

import csv
import fcntl
import io
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import orjson
import pyarrow as pa
import pyarrow.parquet as parquet

from model.errors import DataError, first_line
from model.score import FORMATS
from model.score.plan import ARROW, ARROW_SUFFIXES, CSV, GZIP, JSON, ZSTANDARD, Reject
from model.table import source
from model.table.description import PARQUET
from model.table.source import STANDARD_INPUT, shown

STANDARD_OUTPUT = STANDARD_INPUT
STREAM = "arrows"
_FORMATS = {**source.FORMATS, **dict.fromkeys(ARROW_SUFFIXES, ARROW), ".arrows": STREAM}
_COMPRESSIONS = {".gz": GZIP, ".zst": ZSTANDARD}


def format_of(name: str) -> tuple[str, str]:
    """Return the format and the compression, or "", that a file's name says. Raises `DataError` if it says none."""
    *_, inner, last = ["", "", *(suffix.lower() for suffix in Path(name).suffixes)]
    compression = _COMPRESSIONS.get(last, "")
    format = _FORMATS.get(inner if compression else last)
    if format is None or (compression and format not in (CSV, JSON)):
        raise DataError(f"{name}: its name says no format; end it in {', '.join(f'.{each}' for each in FORMATS)}")
    return format, compression


def says_format(name: str) -> bool:
    """Return whether the name of a file says a format."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    return bool(suffixes) and (suffixes[-1] in _FORMATS or suffixes[-1] in _COMPRESSIONS)


def has_tabs(name: str) -> bool:
    """Return whether the name of a file says that its separators are tabs."""
    return bool({".tsv", ".tab"} & {suffix.lower() for suffix in Path(name).suffixes[-2:]})


class Output(Protocol):
    """A table that is being written, by pieces of bytes in the form of a plan."""

    def write(self, content: bytes) -> None:
        """Write the next rows."""

    def close(self) -> None:
        """Write what belongs behind the last row."""


class _Lines:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, content: bytes) -> None:
        self._file.write(content)

    def close(self) -> None:
        pass


class _Batches:
    """A table of Parquet or Arrow, whose columns are those of its first piece."""

    def __init__(self, file: BinaryIO, format: str) -> None:
        self._file, self._format = file, format
        self._writer: Any = None
        self._schema: pa.Schema | None = None

    def write(self, content: bytes) -> None:
        table = pa.ipc.open_stream(content).read_all()
        if self._writer is None:
            self._schema = table.schema
            if self._format == PARQUET:
                self._writer = parquet.ParquetWriter(self._file, table.schema, compression=ZSTANDARD)
            else:
                make = pa.ipc.new_file if self._format == ARROW else pa.ipc.new_stream
                self._writer = make(self._file, table.schema)
        if table.schema != self._schema:
            table = table.cast(self._schema)
        for batch in table.to_batches():
            self._writer.write_batch(batch)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


@contextmanager
def open_output(target: str, format: str) -> Iterator[Output]:
    """Yield the output at a path or URL, which is there as a whole at the end, or not at all.

    Raises `DataError` where it cannot be written.
    """
    with whole(target) as file:
        output = _Named(_Lines(file) if format in (CSV, JSON) else _Batches(file, format), target)
        yield output
        output.close()


class _Named:
    """An output whose errors name it."""

    def __init__(self, output: Output, target: str) -> None:
        self._output, self._target = output, target

    def write(self, content: bytes) -> None:
        with _named(self._target):
            self._output.write(content)

    def close(self) -> None:
        with _named(self._target):
            self._output.close()


@contextmanager
def _named(target: str) -> Iterator[None]:
    """Name the output in an error of the operating system, or of Arrow."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, pa.ArrowException) as error:
        name = "standard output" if target == STANDARD_OUTPUT else shown(target) if "://" in target else target
        reason = getattr(error, "strerror", None) or first_line(error)
        raise DataError(f"{name} cannot be written: {reason}; nothing is left of it") from None


@contextmanager
def whole(target: str) -> Iterator[BinaryIO]:
    """Yield a file whose content is at a path or URL once the block ends without an error; else nothing changes.

    Raises `DataError` if another process writes it at the moment.
    """
    if target == STANDARD_OUTPUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if "://" in target:
        with tempfile.NamedTemporaryFile(prefix="tabserve-score-") as file:
            yield file  # type: ignore[misc]
            with _named(target):
                file.flush()
                _upload(file.name, target)
        return
    path = Path(target).resolve()
    if path.exists() and not path.is_file():  # a device or a pipe, which a rename would replace
        raise DataError(f"{target} is there and is no file; name a file, or - for standard output")
    incoming = path.with_name(f".{path.name}.incoming")
    with _named(target):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = incoming.open("ab")  # type: ignore[assignment]
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(
                f"{target} is being written by another process; wait for it, or name another file"
            ) from None
        try:
            file.truncate(0)  # what a process left that was killed
            yield file  # type: ignore[misc]
            with _named(target):
                file.flush()
                os.fsync(file.fileno())
                incoming.rename(path)
        except BaseException:
            incoming.unlink(missing_ok=True)
            raise


def _upload(path: str, target: str) -> None:
    try:
        import fsspec

        files, remote = fsspec.core.url_to_fs(target)
        if "file" in files.protocol:
            files.makedirs(files._parent(remote), exist_ok=True)
        files.put_file(path, remote)
    except ImportError as error:
        raise DataError(f"{shown(target)} needs a package that is not installed: {first_line(error)}") from None
    except Exception as error:  # each provider's own, such as that there are no credentials
        raise DataError(f"{shown(target)} cannot be written: {first_line(error)}; nothing is left of it") from None


class Rejects:
    """The rejected rows of tables, as CSV or lines of JSON: the file, the row from 0, its line from 1, the reason."""

    _NAMES = ("file", "row", "line", "reason", "record")

    def __init__(self, output: Output, format: str) -> None:
        self._output, self._format = output, format
        if format == CSV:
            self._write_csv([self._NAMES])

    def add(self, name: str, rejects: Sequence[Reject]) -> None:
        """Add rows of one file; a row of a format without lines has none."""
        rows = [(name, row, line or None, reason, record) for row, line, reason, record in rejects]
        if self._format == CSV:
            self._write_csv(rows)
        else:
            self._output.write(b"".join(orjson.dumps(dict(zip(self._NAMES, row))) + b"\n" for row in rows))

    def _write_csv(self, rows: Sequence[Sequence[Any]]) -> None:
        lines = io.StringIO(newline="")
        csv.writer(lines, lineterminator="\n").writerows(rows)
        self._output.write(lines.getvalue().encode(errors="backslashreplace"))


def remove(target: str) -> None:
    """Remove a file that may not be there."""
    if "://" not in target:
        Path(target).unlink(missing_ok=True)
        return
    import fsspec

    files, remote = fsspec.core.url_to_fs(target)
    if files.exists(remote):
        files.rm_file(remote)


def exists(target: str) -> bool:
    """Return whether an output is there."""
    if "://" not in target:
        return Path(target).is_file()
    import fsspec

    files, remote = fsspec.core.url_to_fs(target)
    return bool(files.isfile(remote))


def read(target: str) -> bytes | None:
    """Return the content of a small file, None if it is not there."""
    try:
        if "://" not in target:
            return Path(target).read_bytes()
        import fsspec

        files, remote = fsspec.core.url_to_fs(target)
        content: bytes = files.cat_file(remote)
    except FileNotFoundError:
        return None
    return content
