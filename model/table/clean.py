"""Deliver the clean rows of a table, and those that were rejected with the reasons, as two files.

Rows keep their order and their cells as they are in the table; those of CSV stay texts, whatever the format is.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from model.errors import DataError, first_line
from model.table.cells import CELLS, Cells
from model.table.checks import Quality
from model.table.description import CSV
from model.table.rules import FLAGS, Broken
from model.table.source import quoted

REJECTED = ".rejected"
"""What the name of the file of rejected rows has before its suffixes."""

_FORMATS = {".csv": "csv", ".parquet": "parquet", ".jsonl": "json", ".ndjson": "json"}
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_MAX_RULES = 200  # conditions in one query


@dataclass(frozen=True, slots=True)
class Cleaned:
    """The two files, how many rows each has, and how many rows each rule rejected; a row may break several."""

    kept_path: Path
    rejected_path: Path
    n_kept: int
    n_rejected: int
    by_rule: tuple[Broken, ...]


def rejected_path(output: Path) -> Path:
    """Return the path of the rejected rows beside the clean ones: houses.rejected.csv.gz beside houses.csv.gz."""
    suffixes = "".join(_suffixes(output))
    return output.with_name(f"{output.name.removesuffix(suffixes)}{REJECTED}{suffixes}")


def check_output(output: Path, source: str = "") -> None:
    """Raise `DataError` for an output that cannot be written, or is the source: before a large table is read."""
    _options(output, ",", '"')
    if not output.parent.is_dir():
        raise DataError(f"{output.parent} is no folder; make it, or name another output")
    for path in (output, rejected_path(output)):
        if path.is_dir():
            raise DataError(f"{path} is a folder; name a file")
        if source and path.exists() and Path(source).exists() and path.samefile(source):
            raise DataError(f"{path} is the table that is read; name another output")


def clean(quality: Quality, output: Path, *, reject_outliers: bool = False) -> Cleaned:
    """Write the rows that pass to `output`, and the others with `row` and `reasons` beside it.

    Both files are whole or not there. Raises `DataError` for an output that
    cannot be written.
    """
    cells, relation = quality.cells, quality.cells.relation
    check_output(output)
    broken = [each for each in quality.broken if each.rule.rejects or (reject_outliers and each.rule.kind == "outlier")]
    _list_rejected(cells, broken)
    paths = (output, rejected_path(output))
    incoming = [path.with_name(f".{path.name}.{uuid.uuid4().hex}") for path in paths]
    columns = [f"{relation.identifier(each)} AS {_name(each)}" for each in relation.names]
    row, reasons = _free_names(relation.names)
    queries = (
        f"SELECT {', '.join(columns)} FROM data ANTI JOIN rejected ON data.rowid = rejected.row ORDER BY data.rowid",
        f"SELECT rejected.row AS {_name(row)}, {', '.join(columns)}, rejected.reasons AS {_name(reasons)} "
        "FROM data JOIN rejected ON data.rowid = rejected.row ORDER BY data.rowid",
    )
    dialect = relation.dialect
    separator, quote = (dialect.separator, dialect.quote) if dialect.format == CSV else (",", '"')
    try:
        counts = []
        for query, path, target in zip(queries, paths, incoming):
            options = _options(path, separator, quote)
            ((n_rows,),) = relation.sql(f"COPY ({query}) TO {quoted(str(target))} ({options})")
            _sync(target)
            counts.append(n_rows)
        os.replace(incoming[1], paths[1])  # first, since a clean table without its rejected rows says too little
        os.replace(incoming[0], paths[0])
    except (OSError, duckdb.Error) as error:
        raise DataError(f"{output} cannot be written: {first_line(error)}") from None
    finally:
        for target in incoming:
            target.unlink(missing_ok=True)
    return Cleaned(paths[0], paths[1], counts[0], counts[1], tuple(broken))


def _list_rejected(cells: Cells, broken: Sequence[Broken]) -> None:
    """Make the table `rejected`: the number of each row that breaks a rule, and why in one text."""
    run = cells.relation.connection.execute
    run("CREATE OR REPLACE TABLE breaks (row BIGINT, rule INTEGER)")
    by_condition = [each.rule for each in broken if each.rule.condition]
    for first in range(0, len(by_condition), _MAX_RULES):
        rules = by_condition[first : first + _MAX_RULES]
        numbers = ", ".join(f"CASE WHEN {rule.condition} THEN {rule.number} END" for rule in rules)
        run(
            f"INSERT INTO breaks SELECT row, rule FROM (SELECT row, unnest([{numbers}]) AS rule FROM {CELLS}) "
            "WHERE rule IS NOT NULL"
        )
    flagged = [str(each.rule.number) for each in broken if not each.rule.condition]
    if flagged:
        run(f"INSERT INTO breaks SELECT row, rule FROM {FLAGS} WHERE rule IN ({', '.join(flagged)})")
    run("CREATE OR REPLACE TABLE reasons (rule INTEGER, reason VARCHAR)")
    for each in broken:
        where = "" if each.rule.column is None else f"column {each.rule.column!r} "
        run("INSERT INTO reasons VALUES (?, ?)", [each.rule.number, f"{where}{each.rule.reason}"])
    run(
        "CREATE OR REPLACE TABLE rejected AS SELECT row, string_agg(reason, '; ' ORDER BY rule) AS reasons "
        "FROM breaks JOIN reasons USING (rule) GROUP BY row"
    )


def _suffixes(output: Path) -> list[str]:
    suffixes = output.suffixes
    return suffixes[-2:] if suffixes and suffixes[-1].lower() in _COMPRESSIONS else suffixes[-1:]


def _options(output: Path, separator: str, quote: str) -> str:
    """Return the options of DuckDB's COPY for a file. Raises `DataError` for a name that says no format."""
    format_suffix, *compressed = [suffix.lower() for suffix in _suffixes(output)] or [""]
    format = _FORMATS.get(format_suffix)
    if format is None or (compressed and format == "parquet"):
        ways = ".csv, .csv.gz, .csv.zst, .jsonl, .jsonl.gz, .jsonl.zst or .parquet"
        raise DataError(f"{output}: its name says no format; end it in {ways}")
    options = f"FORMAT {format}"
    if format == "csv":
        options += f", HEADER, DELIMITER {quoted(separator)}, QUOTE {quoted(quote)}, ESCAPE {quoted(quote)}"
    if format == "parquet":
        options += ", COMPRESSION zstd"
    return options + (f", COMPRESSION {_COMPRESSIONS[compressed[0]]}" if compressed else "")


def _free_names(names: Sequence[str]) -> tuple[str, str]:
    """Return the names of the columns with a rejected row's number and reasons: no column of the table has them."""
    taken = {each.lower() for each in names}
    row, reasons = "row", "reasons"
    while row in taken or reasons in taken:
        row, reasons = f"{row}_", f"{reasons}_"
    return row, reasons


def _name(text: str) -> str:
    """Return a name in SQL."""
    return '"' + text.replace('"', '""') + '"'


def _sync(path: Path) -> None:
    """Wait until a file is on the disk, so that its new name never stands for half of it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
