"""Tables as files whose names say their format: CSV, JSON lines or Parquet, each whole or not there."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path

import duckdb

from model.errors import DataError, first_line
from model.table.description import CSV, Dialect
from model.table.reader import Relation
from model.table.source import quoted

_FORMATS = {".csv": "csv", ".parquet": "parquet", ".jsonl": "json", ".ndjson": "json"}
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


def check(output: Path, *sources: str) -> None:
    """Raise `DataError` for a file that cannot be written, or is a source: before a large table is read."""
    _options(output, Dialect())
    if not output.parent.is_dir():
        raise DataError(f"{output.parent} is no folder; make it, or name another output")
    if output.is_dir():
        raise DataError(f"{output} is a folder; name a file")
    for source in sources:
        if output.exists() and Path(source).exists() and output.samefile(source):
            raise DataError(f"{output} is the table that is read; name another output")


def write(relation: Relation, queries: Mapping[Path, str]) -> list[int]:
    """Write the results of queries to files, CSV in the dialect of the table, and return how many rows each has.

    The first file gets its name last. Raises `DataError` for what cannot be written.
    """
    incoming: dict[Path, Path] = {path: path.with_name(f".{path.name}.{uuid.uuid4().hex}") for path in queries}
    try:
        counts = []
        for path, query in queries.items():
            options = _options(path, relation.dialect)
            ((n_rows,),) = relation.sql(f"COPY ({query}) TO {quoted(incoming[path])} ({options})")
            _sync(incoming[path])
            counts.append(int(n_rows))
        for path in reversed(incoming):
            os.replace(incoming[path], path)
    except (OSError, duckdb.Error) as error:
        raise DataError(f"{next(iter(queries))} cannot be written: {first_line(error)}") from None
    finally:
        for path in incoming.values():
            path.unlink(missing_ok=True)
    return counts


def suffixes(output: Path) -> list[str]:
    """Return the suffixes that say the format, such as .csv and .gz."""
    found = output.suffixes
    return found[-2:] if found and found[-1].lower() in _COMPRESSIONS else found[-1:]


def listed(path: Path, cells: Mapping[str, str]) -> str:
    """Return the SQL of cells, by the names of their columns in a file.

    Raises `DataError` for names that differ in upper case alone: DuckDB would write one of them otherwise.
    """
    found: dict[str, str] = {}
    for each in cells:
        lower = "".join(letter.lower() if letter.isascii() else letter for letter in each)
        if lower in found:
            raise DataError(f"{path} cannot have both columns {found[lower]!r} and {each!r}; rename one of them")
        found[lower] = each
    return ", ".join(f"{cell} AS {name(each)}" for each, cell in cells.items())


def name(text: str) -> str:
    """Return a name in SQL."""
    return '"' + text.replace('"', '""') + '"'


def _options(output: Path, dialect: Dialect) -> str:
    """Return the options of DuckDB's COPY for a file. Raises `DataError` for a name that says no format."""
    format_suffix, *compressed = [suffix.lower() for suffix in suffixes(output)] or [""]
    format = _FORMATS.get(format_suffix)
    if format is None or (compressed and format == "parquet"):
        ways = ".csv, .csv.gz, .csv.zst, .jsonl, .jsonl.gz, .jsonl.zst or .parquet"
        raise DataError(f"{output}: its name says no format; end it in {ways}")
    options = f"FORMAT {format}"
    if format == "csv":
        separator, quote = (dialect.separator, dialect.quote) if dialect.format == CSV else (",", '"')
        options += f", HEADER, DELIMITER {quoted(separator)}, QUOTE {quoted(quote)}, ESCAPE {quoted(quote)}"
    if format == "parquet":
        options += ", COMPRESSION zstd"
    return options + (f", COMPRESSION {_COMPRESSIONS[compressed[0]]}" if compressed else "")


def _sync(path: Path) -> None:
    """Wait until a file is on the disk, so that its new name never stands for half of it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
