"""Joins the rows of tables that one description describes into one file, in which newer rows come behind older ones.

Each table may be written in its own way: the file has every cell in one form, numbers with a point and dates in ISO
8601. A cell that is not of its column's type stays the text that it is, for the checks to find.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from model.engine.formula_syntax import nearest
from model.errors import DataError
from model.schema.feature import BOOLEAN, DATE, INTEGER, NUMBER, to_text
from model.table import reader
from model.table.description import CSV, PARQUET, ColumnDescription, Description, Dialect
from model.table.reader import Relation
from model.table.source import quoted
from model.table.values import moment_of, text_of, value_of

_MAX_WHOLE = 2**53  # below which each whole number is a float64 of its own


@dataclass(frozen=True, slots=True)
class Joined:
    """How many rows a joined table has of the older and of the newer one, and how many of each were replaced.

    The rows of the older table come first. `n_repeated` are newer rows whose key a later one of them has.
    """

    n_old: int
    n_new: int
    n_replaced: int
    n_repeated: int


def plain(description: Description) -> Description:
    """Return the description of the file that `join` and `write_cells` make; dates may still have their format."""
    columns = tuple(replace(column, decimal=".", thousands="", missing=()) for column in description.columns)
    return replace(description, columns=columns, dialect=Dialect(format=PARQUET))


def arguments(description: Description, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `open_table` for a table that is written as the described one, in any format.

    `given` are arguments that come before what the description says.
    """
    dialect = description.dialect or Dialect()
    return {**({**dialect.options, "format": None} if dialect.format == CSV else {}), **given}


def as_written(relation: Relation, description: Description, given: Mapping[str, Any]) -> Description:
    """Return the description of the columns that a table has. Raises `DataError` for those that a model needs.

    `given` are the arguments with which it was opened, beside those of the description. Numbers of Parquet and JSON are
    written in one way.
    """
    _check_columns(relation, description)
    columns = []
    for column in description.columns:
        if column.name in relation.names and relation.type(column.name) != reader.TEXT:
            column = replace(column, decimal=".", thousands="")
        elif {"decimal", "thousands"} & given.keys():
            column = replace(column, decimal="", thousands="")
        columns.append(column)
    present = tuple(column for column in columns if column.name in relation.names)
    return replace(description, columns=present, dialect=relation.dialect)


def write(relation: Relation, written: Description, description: Description, path: Path) -> None:
    """Write the described columns of a table in the one form; one that the table lacks has missing cells.

    `written` is what `as_written` says of the table.
    """
    present = {column.name: column for column in written.columns}
    cells = [
        f"{_cell(relation, present[column.name]) if column.name in present else 'CAST(NULL AS VARCHAR)'} AS c{place}"
        for place, column in enumerate(description.columns)
    ]
    relation.sql(f"COPY (SELECT {', '.join(cells)} FROM data ORDER BY rowid) TO {quoted(path)} (FORMAT parquet)")


def write_cells(columns: Mapping[str, Sequence[Any]], description: Description, path: Path) -> None:
    """Write cells as a client sends them, None for a missing one, as a table with the described columns by name."""
    n_rows = len(next(iter(columns.values()), ()))
    texts = [
        [None if cell is None else to_text(cell) for cell in columns.get(column.name, [None] * n_rows)]
        for column in description.columns
    ]
    frame = pd.DataFrame({f"c{place}": cells for place, cells in enumerate(texts)}, dtype=object)
    named = [f"CAST(c{place} AS VARCHAR) AS {_name(column.name)}" for place, column in enumerate(description.columns)]
    with duckdb.connect() as connection:
        connection.register("cells", frame)
        connection.execute(f"COPY (SELECT {', '.join(named)} FROM cells) TO {quoted(path)} (FORMAT parquet)")


def join(old: Path | None, new: Path, path: Path, description: Description, *, key: Sequence[str] = ()) -> Joined:
    """Write the rows of two files of `write` to one with the described columns by name, the older rows first.

    With a `key`, columns that name a row, the newer row replaces an older one with the same cells there, and the last
    one counts if several newer rows have them. A row that lacks a cell of its key is kept. Without a key all rows are
    kept. Raises `DataError` for a key that is no column.
    """
    names = [column.name for column in description.columns]
    for name in key:
        if name not in names:
            raise DataError(f"the key {name!r} is no column{nearest(name, names)}; the columns are {', '.join(names)}")
    keys = [f"c{names.index(name)}" for name in key]
    named = ", ".join(f"c{place} AS {_name(name)}" for place, name in enumerate(names))
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE new_rows AS FROM read_parquet({quoted(new)})")
        connection.execute("CREATE TABLE old_rows AS FROM new_rows LIMIT 0")
        if old:
            connection.execute(f"INSERT INTO old_rows FROM read_parquet({quoted(old)})")
        counted = "SELECT (SELECT count(*) FROM old_rows), (SELECT count(*) FROM new_rows)"
        all_old, all_new = connection.execute(counted).fetchall()[0]
        if keys:
            for table, others, later in (
                ("new_rows", "new_rows", " AND other.rowid > own.rowid"),
                ("old_rows", "new_rows", ""),
            ):
                same = " AND ".join(f"other.{each} = own.{each}" for each in keys)  # not true of a missing cell
                connection.execute(
                    f"DELETE FROM {table} AS own WHERE EXISTS (SELECT 1 FROM {others} AS other WHERE {same}{later})"
                )
        n_old, n_new = connection.execute(counted).fetchall()[0]
        connection.execute(
            f"COPY (SELECT {named} FROM (SELECT *, 0 AS part, rowid AS place FROM old_rows "
            f"UNION ALL SELECT *, 1 AS part, rowid AS place FROM new_rows) ORDER BY part, place) "
            f"TO {quoted(path)} (FORMAT parquet)"
        )
    return Joined(n_old, n_new, n_replaced=all_old - n_old, n_repeated=all_new - n_new)


def _check_columns(relation: Relation, description: Description) -> None:
    """Raise `DataError` for the columns that a model of this description needs and the table lacks."""
    roles = [name for name in (description.target, description.group, description.time) if name]
    needed = [*(column.name for column in description.learned), *roles]
    absent = [name for name in dict.fromkeys(needed) if name not in relation.names]
    if absent:
        listed = ", ".join(f"{name!r}{nearest(name, relation.names)}" for name in absent)
        raise DataError(
            f"{relation.source} has no column {listed}, which the recipe needs; its columns are "
            f"{', '.join(relation.names)}"
        )


def _cell(relation: Relation, column: ColumnDescription) -> str:
    """Return the SQL of a column's cells as texts in the one form."""
    text = text_of(relation, column)
    if column.type == DATE:
        value = f"strftime({moment_of(column.format, text)}, '%Y-%m-%dT%H:%M:%S.%fZ')"
    elif column.type in (NUMBER, INTEGER, BOOLEAN):
        number = value_of(relation, column, text)
        value = f"CAST({number} AS VARCHAR)"
        if column.type != NUMBER:  # 4, and not 4.0
            is_whole = f"{number} = trunc({number}) AND abs({number}) < {_MAX_WHOLE}"
            value = f"CASE WHEN {is_whole} THEN CAST(CAST({number} AS BIGINT) AS VARCHAR) ELSE {value} END"
    else:
        return f"CAST({text} AS VARCHAR)"
    return f"coalesce({value}, CAST({text} AS VARCHAR))"


def _name(name: str) -> str:
    """Return a column's name as an identifier of SQL."""
    doubled = name.replace('"', '""')
    return f'"{doubled}"'
