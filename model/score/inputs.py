"""The tables that are scored: files, folders, patterns, URLs and standard input, read piece by piece."""

from __future__ import annotations

import codecs
import csv
import glob
import hashlib
import io
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as parquet

from model.errors import DataError, first_line
from model.score.plan import ARROW, ARROW_SUFFIXES, CSV, JSON
from model.score.records import Marks
from model.score.text import to_stream
from model.table.description import PARQUET
from model.table.source import STANDARD_INPUT, UNPACKING, Hashed, format_of, has_suffix, opened, shown, unpacker

PIECE_BYTES = 2**21
_MAX_LINE_BYTES = 2**24
_MAX_LIST_BYTES = 2**28  # of a JSON file that is one list, which has to be read as a whole
_CELLS_PER_BATCH, _MIN_ROWS, _MAX_ROWS = 2**19, 2**10, 2**16
_ARROW_FILE, _ARROW_STREAM = b"ARROW1", b"\xff\xff\xff\xff"
_TEXT_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_BEFORE_HEADER = re.compile(rb"[ \t]*\r?\n|sep=([!-~\t])\r?\n")


class Part(NamedTuple):
    """One file of a table: where it is, and its name, with the folders that it is in below the one that was named."""

    source: str
    name: str


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a table's text is written; without a header its columns are called x0, x1 and so on."""

    encoding: str = "utf-8"
    marks: Marks = field(default_factory=Marks)
    header: bool = True

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Dialect:
        """Return the dialect by the names of `Reading.dialect`. Raises `DataError` for what cannot be read."""
        separator, quote = str(said.get("separator", ",")), str(said.get("quote", '"'))
        for option, mark in (("separator", separator), ("quote", quote)):
            if len(mark.encode()) != 1 or mark in "\r\n\0":
                raise DataError(f"the {option} is {mark!r}; it is one character of ASCII here")
        if separator == quote:
            raise DataError(f"the separator and the quote are both {separator!r}; they must differ")
        encoding = str(said.get("encoding", "utf-8"))
        try:
            name = codecs.lookup(encoding).name
        except LookupError:
            raise DataError(f"there is no encoding {encoding!r}; utf-8, cp1252 and utf-16 are some") from None
        name = "utf-8" if name == "utf-8-sig" else name
        return cls(name, Marks(separator.encode(), quote.encode()), bool(said.get("header", True)))


@dataclass(slots=True)
class Table:
    """An open part: its format, its columns if it says them, how its lines end, and its pieces.

    `pieces` are whole records, and at least one piece, which may be empty. `progress` returns how many of the `size`
    bytes were read; `sha256` is known once the pieces were read. `first_line` is the line of text that the first piece
    begins with.
    """

    part: Part
    format: str
    names: tuple[str, ...]
    marks: Marks
    line_end: bytes
    pieces: Iterator[bytes]
    size: int | None
    progress: Callable[[], int]
    sha256: Callable[[], str]
    first_line: int = 1

    @property
    def form(self) -> str:
        """The form of its pieces."""
        return {CSV: CSV, JSON: JSON}.get(self.format, ARROW)


def parts_of(source: str) -> list[Part]:
    """Return the files of a table in the order of their names.

    In a folder these are all files, those in folders below it, too, whose names say a format and begin with neither a
    dot nor an underscore. Raises `DataError` if there is none.
    """
    if source == STANDARD_INPUT or source.startswith(("http://", "https://")):
        return [Part(source, shown(source).rpartition("/")[2] or shown(source))]
    if "://" in source:
        return _remote_parts(source)
    path = Path(source)
    if path.is_dir():
        found = [each for each in path.rglob("*") if each.is_file() and _is_part(each.relative_to(path).as_posix())]
        parts = [Part(str(each), each.relative_to(path).as_posix()) for each in found]
    elif path.exists() or not glob.has_magic(source):
        return [Part(source, path.name)]
    else:
        root = _fixed(source)
        found = [Path(each) for each in glob.glob(source, recursive=True) if Path(each).is_file()]
        parts = [Part(str(each), each.relative_to(root).as_posix()) for each in found]
    if not parts:
        raise DataError(
            f"{source} is no folder or pattern of files with tables; put a pattern in quotes, and check the folder"
        )
    return sorted(parts, key=lambda part: part.name)


def _fixed(pattern: str) -> str:
    """Return the folder of a pattern up to its first special character."""
    head = re.split(r"[*?[]", pattern, maxsplit=1)[0]
    return head.rpartition("/")[0] or ("/" if head.startswith("/") else ".")


def _is_part(name: str) -> bool:
    return not any(each[0] in "._" for each in name.split("/")) and has_suffix(name, ARROW_SUFFIXES)


def _remote_parts(source: str) -> list[Part]:
    try:
        import fsspec

        files, path = fsspec.core.url_to_fs(source)
        protocol = source.partition("://")[0]
        if glob.has_magic(path):
            root, found = _fixed(path), files.glob(path)
        elif not source.endswith("/") and files.isfile(path):
            return [Part(source, path.rpartition("/")[2])]
        else:
            root = path.rstrip("/")
            found = [each for each in files.find(root) if _is_part(each[len(root) :].strip("/"))]
    except ImportError as error:
        raise DataError(f"{shown(source)} needs a package that is not installed: {first_line(error)}") from None
    except Exception as error:  # each provider's own, such as that there are no credentials
        raise DataError(f"{shown(source)} cannot be read: {first_line(error)}") from None
    if not found:
        raise DataError(f"no table is called {shown(source)}; check the name, and who may list and read it")
    return [Part(f"{protocol}://{each}", each[len(root) :].strip("/")) for each in sorted(found)]


@contextmanager
def open_part(part: Part, dialect: Dialect, *, format: str | None = None) -> Iterator[Table]:
    """Open one file of a table, compressed or not. Raises `DataError` for what cannot be read or is no table."""
    name = shown(part.source) if part.source == STANDARD_INPUT else part.name
    try:
        with tempfile.TemporaryDirectory(prefix="tabserve-score-") as folder, opened(part.source) as raw:
            watched = Hashed(raw, hashlib.sha256())
            stream: Any = io.BufferedReader(watched, PIECE_BYTES)
            unpack = unpacker(stream.peek(16)[:16])
            if unpack:
                stream = io.BufferedReader(unpack(stream), PIECE_BYTES)
            head = stream.peek(4096)[:4096]
            size = Path(part.source).stat().st_size if Path(part.source).is_file() else None
            if head.startswith(_ARROW_STREAM):
                yield _arrow_stream(part, stream, watched, size)
                return
            kind = "arrow" if head.startswith(_ARROW_FILE) else format_of(name, head, format)
            if kind in (CSV, JSON):
                yield _text(part, kind, _decoded(stream, head, dialect.encoding, name), dialect, watched, size, name)
                return
            if unpack or size is None:  # these formats are not read from the start to the end
                path = Path(folder) / "table"
                with path.open("xb") as copy:
                    shutil.copyfileobj(stream, copy, PIECE_BYTES)
                yield _seekable(part, kind, path, watched, size or watched.position())
            else:
                yield _seekable(part, kind, Path(part.source), None, size)
    except UNPACKING as error:
        raise DataError(f"{name} cannot be unpacked: {first_line(error)}; it may be cut off") from None
    except pa.ArrowException as error:
        raise DataError(f"{name} cannot be read: {first_line(error)}") from None
    except BrokenPipeError:  # of the output
        raise
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or first_line(error)
        raise DataError(f"{name} cannot be read: {reason}") from None


class _Decoded(io.RawIOBase):
    """A stream of text in UTF-8 that comes in another encoding.

    A stream of single bytes, such as cp1252, is UTF-8 if its first bytes beyond ASCII are: no other text is by chance.
    """

    def __init__(self, stream: Any, encoding: str, name: str) -> None:
        self._stream = stream
        self._encoding, self._name = encoding, name
        self._decoder: codecs.IncrementalDecoder | None = None
        if encoding.startswith("utf"):
            self._decoder = codecs.getincrementaldecoder(encoding)()

    def read(self, size: int = -1) -> bytes:
        while True:
            content: bytes = self._stream.read(size)
            if not self._decoder and content.isascii():
                return content
            if not self._decoder:
                self._decoder = codecs.getincrementaldecoder("utf-8" if _starts_utf_8(content) else self._encoding)()
            try:
                found = self._decoder.decode(content, final=not content).encode()
            except UnicodeError as error:
                raise DataError(f"{self._name} is not {self._encoding}: {first_line(error)}") from None
            if found or not content:
                return found


def _starts_utf_8(content: bytes) -> bool:
    """Return whether bytes are UTF-8, of which the last character may be cut off."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(content)
    except UnicodeDecodeError:
        return False
    return True


def _decoded(stream: Any, head: bytes, encoding: str, name: str) -> Any:
    marked = next((found for mark, found in _TEXT_MARKS.items() if head.startswith(mark)), None)
    if head.startswith(codecs.BOM_UTF8):
        stream.read(len(codecs.BOM_UTF8))
        return stream
    encoding = marked or encoding
    return stream if encoding in ("utf-8", "ascii") else _Decoded(stream, encoding, name)


def _text(part: Part, kind: str, stream: Any, dialect: Dialect, watched: Hashed, size: int | None, name: str) -> Table:
    """Return a table of text, which is read from its start to its end."""
    marks, line_end = dialect.marks, b"\n"
    first = stream.read(PIECE_BYTES)
    if kind == JSON:
        start = first.lstrip()
        if start.startswith(b"["):
            first, stream = _lines_of_list(first, stream, name), io.BytesIO()
        pieces = _pieces(first, stream, _cut_lines, name)
        return Table(part, kind, (), marks, line_end, pieces, size, watched.position, watched.hexdigest)
    whole = first
    while match := _BEFORE_HEADER.match(first):
        if match[1]:
            marks = Marks(match[1], marks.quote)
        first = first[match.end() :]
    line_end = b"\r\n" if first[: first.find(b"\n") + 1].endswith(b"\r\n") else b"\n"
    if b"\r" in first and b"\n" not in first:
        raise DataError(f"{name} has lines that end in a carriage return alone; write them with newlines")
    names, rest = _header(first, marks, name, has_header=dialect.header)
    pieces = _pieces(rest, stream, lambda block, is_last: marks.cut(block, is_last=is_last), name)
    above = 1 + whole.count(b"\n", 0, len(whole) - len(rest))
    return Table(part, kind, names, marks, line_end, pieces, size, watched.position, watched.hexdigest, above)


def _header(first: bytes, marks: Marks, name: str, *, has_header: bool) -> tuple[tuple[str, ...], bytes]:
    """Return the names of the columns, and what follows them."""
    records = marks.split(first, is_last=len(first) < PIECE_BYTES)
    if not len(records.starts):
        raise DataError(f"{name} is not a table: its first row is too long, or its quote is never closed")
    try:
        line = first[: int(records.ends[0])].decode()
        mark = marks.quote.decode()
        cells = next(csv.reader(io.StringIO(line, newline=""), delimiter=marks.separator.decode(), quotechar=mark))
    except (UnicodeDecodeError, csv.Error, StopIteration):
        raise DataError(f"{name} has no header in UTF-8; say --encoding, such as cp1252, or --no-header") from None
    if not has_header:
        return tuple(f"x{place}" for place in range(len(cells))), first
    behind = int(records.starts[1]) if len(records.starts) > 1 else records.length
    return tuple(cell.strip() for cell in cells), first[behind:]


def _cut_lines(block: bytes, is_last: bool) -> int:
    return len(block) if is_last else block.rfind(b"\n") + 1


def _pieces(first: bytes, stream: Any, cut: Callable[[bytes, bool], int], name: str) -> Iterator[bytes]:
    """Yield the bytes of a stream behind its `first` ones as pieces of whole records."""
    rest, content = b"", first
    n_pieces = 0
    while True:
        block = rest + content if rest else content
        following = stream.read(PIECE_BYTES)
        length = cut(block, not following)
        if length or not (following or n_pieces):
            n_pieces += 1
            yield block[:length]
        rest, content = block[length:], following
        if not following:
            return
        if len(rest) > _MAX_LINE_BYTES:
            raise DataError(f"{name} has a line of more than {_MAX_LINE_BYTES:,} bytes; is it a table of another kind?")


def _lines_of_list(first: bytes, stream: Any, name: str) -> bytes:
    """Return the records of a JSON file that is one list, a line each."""
    import orjson

    content = first + stream.read(_MAX_LIST_BYTES)
    if stream.read(1):
        raise DataError(f"{name} is one list of more than {_MAX_LIST_BYTES:,} bytes; write a record a line instead")
    try:
        records = orjson.loads(content)
    except ValueError as error:
        raise DataError(f"{name} is not JSON: {first_line(error)}") from None
    return b"".join(orjson.dumps(record) + b"\n" for record in records)


def _arrow_stream(part: Part, stream: Any, watched: Hashed, size: int | None) -> Table:
    reader = pa.ipc.open_stream(stream)
    pieces = _batches(iter(reader), reader.schema)
    names = tuple(reader.schema.names)
    return Table(part, "arrow", names, Marks(), b"\n", pieces, size, watched.position, watched.hexdigest)


def _seekable(part: Part, kind: str, path: Path, watched: Hashed | None, size: int) -> Table:
    """Return a table of Parquet or Arrow in a local file, or in a local copy of what was `watched`."""
    share = 0.0
    if kind == PARQUET:
        file = parquet.ParquetFile(path)
        schema, n_all = file.schema_arrow, file.metadata.num_rows
        batches = file.iter_batches(batch_size=_batch_rows(schema))
    else:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        schema, n_all = reader.schema, sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))
        batches = (reader.get_batch(number) for number in range(reader.num_record_batches))

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal share
        n_rows = 0
        for batch in batches:
            yield batch
            n_rows += batch.num_rows
            share = n_rows / n_all if n_all else 1.0

    sha256 = watched.hexdigest if watched else _HashOfFile(path).hexdigest
    pieces = _batches(counted(), schema)
    return Table(part, kind, tuple(schema.names), Marks(), b"\n", pieces, size, lambda: int(size * share), sha256)


class _HashOfFile:
    """The SHA-256 of a local file, computed in a thread beside what else reads it."""

    def __init__(self, path: Path) -> None:
        self._path, self._digest = path, ""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._path.open("rb") as file:
            self._digest = hashlib.file_digest(file, "sha256").hexdigest()

    def hexdigest(self) -> str:
        self._thread.join()
        return self._digest


def _batch_rows(schema: pa.Schema) -> int:
    return max(_MIN_ROWS, min(_MAX_ROWS, _CELLS_PER_BATCH // max(1, len(schema))))


def _batches(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[bytes]:
    """Yield batches, none of them too long, as streams of Arrow."""
    n_rows, n_pieces = _batch_rows(schema), 0
    for batch in batches:
        for start in range(0, batch.num_rows, n_rows):
            n_pieces += 1
            yield to_stream(pa.Table.from_batches([batch.slice(start, n_rows)]))
    if not n_pieces:
        yield to_stream(schema.empty_table())
