"""Reads any table into a database on disk, in bounded memory, with each cell of a CSV file as the text that it is."""

from __future__ import annotations

import re
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model.errors import DataError, first_line
from model.table import dialect as dialects
from model.table.description import CSV, FORMATS, JSON, PARQUET, Dialect
from model.table.marks import check
from model.table.source import Plain, fetch, quoted, shown

MEMORY_LIMIT = "512MB"
THREADS = 2
MAX_COLUMNS = 2_000  # with more, the buffers of the columns alone are beyond the limit of memory
_MAX_LINE_BYTES = 2_000_000  # DuckDB's own limit; its buffers are 16 times as large
_MAX_FAULTS = 1_000  # that are counted
_MAX_LISTED = 10
_LATER_CARRIAGE_RETURNS = "state machine reached an invalid state"
TEXT, NUMBER, WHOLE, BOOLEAN, TIME = "VARCHAR", "DOUBLE", "BIGINT", "BOOLEAN", "TIMESTAMP"
# The types of Parquet and JSON, and as which they are kept; others are texts, or left out if they are nested.
_KEPT = {
    **dict.fromkeys(("FLOAT", "DOUBLE", "UBIGINT", "HUGEINT", "UHUGEINT"), NUMBER),
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"), WHOLE),
    "BOOLEAN": BOOLEAN,
    **dict.fromkeys(("DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"), TIME),
    "TIMESTAMP WITH TIME ZONE": TIME,
}
_NESTED = re.compile(r"\[\d*\]$|^(STRUCT|MAP|UNION|LIST|BLOB|BIT|GEOMETRY|VARIANT)\b")


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as a relation of DuckDB.

    In SQL it is `data`, its columns are `c0`, `c1` and so on, since names may repeat but for upper case, and `rowid` is
    the number of a row in the file, from 0. `types` are VARCHAR for texts, as all cells of CSV are, or DOUBLE, BIGINT,
    BOOLEAN or TIMESTAMP (UTC). `source` is the table's name for people; `notes` say how it was read. With
    `given_decimal` a person said how numbers are written.
    """

    connection: duckdb.DuckDBPyConnection
    source: str
    sha256: str
    dialect: Dialect
    notes: tuple[str, ...]
    names: tuple[str, ...]
    types: tuple[str, ...]
    identifiers: tuple[str, ...]
    n_rows: int
    given_decimal: bool = False

    def identifier(self, name: str) -> str:
        """Return a column's name in SQL. Raises `DataError` for a column that is not there."""
        if name not in self.names:
            raise DataError(f"{self.source} has no column {name!r}; its columns are {', '.join(self.names)}")
        return self.identifiers[self.names.index(name)]

    def type(self, name: str) -> str:
        """Return the type of a column in SQL."""
        return self.types[self.names.index(name)]

    def text(self, name: str) -> str:
        """Return the SQL of a column's cells as texts."""
        identifier = self.identifier(name)
        return identifier if self.type(name) == TEXT else f"CAST({identifier} AS VARCHAR)"

    def sql(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query on `data`. Raises `DataError` where memory or disk do not suffice."""
        with self._bounded():
            return self.connection.execute(query, list(parameters)).fetchall()

    def query(self, query: str, parameters: Sequence[Any] = ()) -> pd.DataFrame:
        """Return the result of a query on `data` as a frame."""
        with self._bounded():
            return self.connection.execute(query, list(parameters)).df()

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        """Raise `DataError` where memory or disk do not suffice."""
        try:
            yield
        except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
            raise DataError(f"{self.source} needs more memory or disk than there is: {first_line(error)}") from None


def choose(rows: NDArray[np.int64], k: int, *, seed: int) -> NDArray[np.int64]:
    """Return `k` of these row numbers in order, the same for the same seed; all if there are no more."""
    if k >= len(rows):
        return rows
    chosen = np.random.default_rng(seed).choice(len(rows), k, replace=False, shuffle=False)
    return rows[np.sort(chosen)]


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What is known of a table once its cells are in the database."""

    dialect: Dialect
    notes: tuple[str, ...]
    names: tuple[str, ...]
    types: tuple[str, ...]
    identifiers: tuple[str, ...]


@contextmanager
def open_table(
    source: str | Path,
    *,
    format: str | None = None,
    encoding: str | None = None,
    separator: str | None = None,
    quote: str | None = None,
    header: bool | None = None,
    decimal: str | None = None,
    thousands: str | None = None,
    memory_limit: str = MEMORY_LIMIT,
    threads: int = THREADS,
) -> Iterator[Relation]:
    """Read a table and yield it as a relation, which is gone afterwards.

    `source` is a path, a pattern of paths, `-` for standard input, or a URL. What is None is detected; how numbers are
    written is then found a column at a time. Raises `DataError` for what is no table, with every fault of it.
    """
    given = _given(format, separator, quote, decimal, thousands)
    name = shown(str(source))
    with tempfile.TemporaryDirectory(prefix="tabserve-table-") as temporary, _interruptible():
        folder = Path(temporary)
        files, sha256 = fetch(str(source), folder, format=format)
        kinds = sorted({file.format for file in files})
        if len(kinds) > 1:
            raise DataError(f"{name} are files of {' and '.join(kinds)}; read those of one format at a time")
        connection = duckdb.connect(
            str(folder / "table.duckdb"),
            config={"memory_limit": memory_limit, "threads": threads, "temp_directory": str(folder / "spill")},
        )
        try:
            connection.execute("SET autoinstall_known_extensions = false; SET autoload_known_extensions = false")
            connection.execute("SET TimeZone = 'UTC'")
            # Without this a list of six texts or more is joined with all rows, once for each column.
            connection.execute("SET disabled_optimizers = 'in_clause'")
            # In a notebook without ipywidgets it is off, and cannot be set at all.
            if connection.sql("SELECT current_setting('enable_progress_bar')").fetchall() == [(True,)]:
                connection.execute("SET enable_progress_bar = false")
            if kinds == [CSV]:
                loaded = _load_csv(connection, files, folder, given, encoding, separator, quote, header)
            else:
                loaded = _load_typed(connection, files, folder, replace(given, format=kinds[0]), encoding)
            n_rows = _count(connection)
            if not n_rows:
                raise DataError(f"{name} has no rows{' below its header' if loaded.dialect.header else ''}")
        except (duckdb.Error, OSError) as error:
            connection.close()
            raise DataError(f"{name} cannot be read: {_reason(error)}") from None
        except BaseException:
            connection.close()
            raise
        try:
            rest = (loaded.dialect, loaded.notes, loaded.names, loaded.types, loaded.identifiers)
            yield Relation(connection, name, sha256, *rest, n_rows, bool(decimal or thousands))
        finally:
            connection.close()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raise `KeyboardInterrupt` for Ctrl-C during a query, at the latest at the end.

    DuckDB turns it into a `RuntimeError`, or loses it where the query ends before it notices.
    """
    is_pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal is_pressed
        is_pressed = True
        signal.default_int_handler(number, frame)

    is_usual = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if is_usual:
        signal.signal(signal.SIGINT, press)
    try:
        yield
        if is_pressed:
            raise KeyboardInterrupt
    except RuntimeError as error:
        if str(error) != "Query interrupted":
            raise
        raise KeyboardInterrupt from None
    finally:
        if is_usual:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _given(
    format: str | None, separator: str | None, quote: str | None, decimal: str | None, thousands: str | None
) -> Dialect:
    """Return the dialect as far as it was given. Raises `DataError` for what cannot be."""
    if format not in (None, *FORMATS):
        raise DataError(f"there is no format {format!r}; choose one of {', '.join(FORMATS)}")
    for option, mark in (("separator", separator), ("quote", quote), ("decimal", decimal), ("thousands", thousands)):
        if mark is not None and (len(mark) > 1 or mark in ("\r", "\n", "\0") or (not mark and option != "thousands")):
            raise DataError(f"the {option} is {mark!r}; it is one character")
    if separator is not None and separator == (quote or '"'):
        raise DataError(f"the separator and the quote are both {separator!r}; they must differ")
    check(decimal, thousands)
    return Dialect(decimal=decimal or ".", thousands=thousands or "")


def _reason(error: Exception) -> str:
    if isinstance(error, duckdb.OutOfMemoryException):
        return "it needs more memory than the limit"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return re.sub(r"^[A-Z]\w+( \w+)? Error: |in file \"[^\"]*\",? ", "", first_line(error))


def _count(connection: duckdb.DuckDBPyConnection) -> int:
    ((n_rows,),) = connection.execute("SELECT count(*) FROM data").fetchall()
    return int(n_rows)


def _load_csv(
    connection: duckdb.DuckDBPyConnection,
    files: Sequence[Plain],
    folder: Path,
    given: Dialect,
    encoding: str | None,
    separator: str | None,
    quote: str | None,
    header: bool | None,
) -> _Loaded:
    """Create the table of one CSV file, or of several with the same header."""
    first: dialects.Sniffed | None = None
    notes: list[str] = []
    for number, file in enumerate(files):
        text = dialects.to_utf8(file.path, file.name, folder, encoding)
        try:
            sniffed = dialects.sniff(text, given, separator=separator, quote=quote, header=header)
        except DataError as error:
            raise DataError(f"{file.name} is not a table: {error}") from None
        if sniffed.width > MAX_COLUMNS:
            raise DataError(f"{file.name} has {sniffed.width:,} columns; at most {MAX_COLUMNS:,} are read")
        if not first:
            first = sniffed
            columns = ", ".join(f"c{i} VARCHAR" for i in range(sniffed.width))
            connection.execute(f"CREATE TABLE data ({columns})")
        elif sniffed.header != first.header or sniffed.width != first.width:
            raise DataError(f"{file.name} has other columns than {files[0].name}; read them one at a time")
        separator, quote, header = sniffed.dialect.separator, sniffed.dialect.quote, sniffed.dialect.header
        read, more = _insert(connection, text.path, sniffed, folder / f"lines{number}")
        faults = [*(_check_names(connection, sniffed.header or ()) if not number else []), *read]
        if faults:
            n_faults = f"{'more than ' if more else ''}{len(faults):,}"
            head = f"{file.name} is not a table: {n_faults} fault{'s' if len(faults) > 1 else ''}"
            listed = [*faults[:_MAX_LISTED], *(["…"] if len(faults) > _MAX_LISTED else [])]
            raise DataError("\n  ".join([head, *listed]))
        notes += sniffed.notes if not number else []
    if not first:
        raise DataError("no file was named")
    names = first.header or tuple(f"x{i}" for i in range(first.width))
    named = [i for i, name in enumerate(names) if name]
    if len(named) < len(names):
        notes.append("columns without a name were left out: an index, or empty ones")
    if not named:
        raise DataError(f"{files[0].name} is not a table: none of its columns has a name")
    return _Loaded(
        first.dialect,
        tuple(notes),
        tuple(names[i] for i in named),
        (TEXT,) * len(named),
        tuple(f"c{i}" for i in named),
    )


def _check_names(connection: duckdb.DuckDBPyConnection, names: Sequence[str]) -> list[str]:
    """Return what is wrong with a header: names that repeat, and columns with cells and without a name.

    The first column may have none, as an index that was written with the table.
    """
    nameless = [number for number, name in enumerate(names) if not name and number]
    counted = connection.execute(f"SELECT {', '.join(f'count(c{i})' for i in nameless) or 0} FROM data").fetchone()
    filled = [number for number, count in zip(nameless, counted or ()) if count]
    return [f"column {number} has cells and no name" for number in filled] + dialects.repeated(names)


def _insert(
    connection: duckdb.DuckDBPyConnection, path: Path, sniffed: dialects.Sniffed, spare: Path
) -> tuple[list[str], bool]:
    """Add the rows of a file to the table; return its faults by line, and whether there are more of them."""
    try:
        return _insert_lines(connection, path, sniffed)
    except duckdb.InvalidInputException as error:
        if _LATER_CARRIAGE_RETURNS not in str(error):
            raise
    # Its lines end in more than one way, as those of files that were put together.
    with path.open(encoding="utf-8-sig") as mixed, spare.open("x", encoding="utf-8", newline="\n") as lines:
        while text := mixed.read(2**20):
            lines.write(text)
    return _insert_lines(connection, spare, sniffed)


def _insert_lines(
    connection: duckdb.DuckDBPyConnection, path: Path, sniffed: dialects.Sniffed
) -> tuple[list[str], bool]:
    dialect = sniffed.dialect
    columns = ", ".join(f"'c{i}': 'VARCHAR'" for i in range(sniffed.width))
    options = (
        f"auto_detect = false, all_varchar = true, columns = {{{columns}}}, header = {str(dialect.header).lower()}, "
        f"delim = {quoted(dialect.separator)}, quote = {quoted(dialect.quote)}, escape = {quoted(dialect.quote)}, "
        f"skip = {sniffed.skipped_lines}, max_line_size = {_MAX_LINE_BYTES}, store_rejects = true, "
        f"rejects_limit = {_MAX_FAULTS}"
    )
    connection.execute(f"INSERT INTO data SELECT * FROM read_csv({quoted(path)}, {options})")
    found = connection.execute(
        "SELECT line, any_value(error_type), any_value(error_message) FROM reject_errors GROUP BY line ORDER BY line"
    ).fetchall()
    return [f"line {line:,}: {_fault(kind, message)}" for line, kind, message in found], len(found) >= _MAX_FAULTS


def _fault(kind: str, message: str) -> str:
    """Return what is wrong with a line, in our words."""
    counts = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", message)
    if counts:
        return f"has {counts[2]} cells, and the table has {counts[1]} columns"
    if kind == "UNQUOTED VALUE":
        return "a quote is never closed, or text stands behind one; double quotes within a quoted cell"
    if kind == "LINE SIZE OVER MAXIMUM":
        return f"is longer than {_MAX_LINE_BYTES:,} bytes; is a quote never closed?"
    return message.splitlines()[0]


def _load_typed(
    connection: duckdb.DuckDBPyConnection, files: Sequence[Plain], folder: Path, dialect: Dialect, encoding: str | None
) -> _Loaded:
    """Create the table of files of Parquet or JSON, whose columns have names and types."""
    if dialect.format == PARQUET:
        read = f"read_parquet([{', '.join(quoted(file.path) for file in files)}])"
    else:
        texts = [dialects.to_utf8(file.path, file.name, folder, encoding) for file in files]
        dialect = replace(dialect, encoding=texts[0].encoding)
        # Deeper, DuckDB would make dates, times and other types of texts that look so.
        read = (
            f"read_json([{', '.join(quoted(text.path) for text in texts)}], sample_size = -1, format = 'auto', "
            "maximum_depth = 1)"
        )
    found = connection.execute(f"DESCRIBE SELECT * FROM {read}").fetchall()
    if len(found) > MAX_COLUMNS:
        raise DataError(f"{files[0].name} has {len(found):,} columns; at most {MAX_COLUMNS:,} are read")
    if dialect.format == JSON and [name for name, *_ in found] == ["json"]:
        raise DataError(f"{files[0].name} is not a table: write an object for each row, its keys the columns")
    given = ", ".join(f"c{number}" for number in range(len(found)))
    if dialect.format == JSON:
        found = _types_of_json(connection, f"{read} AS t({given})", [name for name, *_ in found])
    names, types, columns, notes = [], [], [], []
    for number, (name, type, *_) in enumerate(found):
        if _NESTED.search(type):
            notes.append(f"column {name!r} is left out: its cells are nested or bytes ({type[:40]})")
            continue
        kept = NUMBER if type.startswith("DECIMAL") else _KEPT.get(type, TEXT)
        # The texts of JSON are in quotes.
        cell = f"c{number} ->> '$'" if dialect.format == JSON and kept == TEXT else f"CAST(c{number} AS {kept})"
        names.append(name.strip())
        types.append(kept)
        columns.append(f"{cell} AS c{number}")
    faults = [*dialects.repeated(names), *(["a column has no name"] if "" in names else [])]
    if faults or not names:
        raise DataError(f"{files[0].name} is not a table: {'; '.join(faults) or 'none of its columns can be read'}")
    connection.execute(f"CREATE TABLE data AS SELECT {', '.join(columns)} FROM {read} AS t({given})")
    identifiers = tuple(column.rpartition(" AS ")[2] for column in columns)
    return _Loaded(dialect, tuple(notes), tuple(names), tuple(types), identifiers)


def _types_of_json(connection: duckdb.DuckDBPyConnection, read: str, names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the names of JSON's columns with their types: those of JSON, VARCHAR for a column of several types.

    Whole numbers beyond BIGINT are VARCHAR, too, which keeps their digits.
    """
    cells = [f"c{number}" for number in range(len(names))]
    seen = ", ".join(
        f"list(DISTINCT json_type({cell})), count({cell}) = count(TRY_CAST({cell} AS BIGINT))" for cell in cells
    )
    facts = connection.execute(f"SELECT {seen} FROM {read}").fetchall()[0] if names else ()
    found = []
    for name, kinds, is_whole in zip(names, facts[::2], facts[1::2]):
        kinds = {*(kinds or ())} - {None, "NULL"}
        if kinds and kinds <= {"OBJECT", "ARRAY"}:
            found.append((name, "STRUCT" if "OBJECT" in kinds else "LIST"))
        elif kinds and kinds <= {"BIGINT", "UBIGINT"}:
            found.append((name, WHOLE if is_whole else TEXT))
        elif kinds and kinds <= {"BIGINT", "UBIGINT", "DOUBLE"}:
            found.append((name, NUMBER))
        else:
            found.append((name, BOOLEAN if kinds == {"BOOLEAN"} else TEXT))
    return found
