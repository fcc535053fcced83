"""Reads any table into a database on disk, in bounded memory, with each cell of a CSV file as the text that it is."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model.errors import DataError, first_line
from model.table.description import CSV, Dialect

MEMORY_LIMIT = "512MB"
CHUNK_ROWS = 50_000


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as a relation of DuckDB.

    In SQL it is `data`, its columns are `c0`, `c1` and so on in the file's order, since names may repeat but for upper
    case, and `rowid` is the number of a row, from 0. `types` are VARCHAR for texts, as all cells of CSV are, or DOUBLE,
    BIGINT, BOOLEAN or TIMESTAMP (UTC). `source` is the table as it was given; `notes` say how the dialect was found.
    """

    connection: duckdb.DuckDBPyConnection
    source: str
    sha256: str
    dialect: Dialect
    notes: tuple[str, ...]
    names: tuple[str, ...]
    types: tuple[str, ...]
    n_rows: int

    def identifier(self, name: str) -> str:
        """Return a column's name in SQL. Raises `DataError` for a column that is not there."""
        if name not in self.names:
            raise DataError(f"{self.source} has no column {name!r}; its columns are {', '.join(self.names)}")
        return f"c{self.names.index(name)}"

    def text(self, name: str) -> str:
        """Return the SQL of a column's cells as texts."""
        identifier = self.identifier(name)
        is_text = self.types[self.names.index(name)] == "VARCHAR"
        return identifier if is_text else f"CAST({identifier} AS VARCHAR)"

    def sql(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query on `data`."""
        return self.connection.execute(query, list(parameters)).fetchall()

    def frames(self, names: Sequence[str] | None = None, *, rows: int = CHUNK_ROWS) -> Iterator[pd.DataFrame]:
        """Yield the cells as they are, `rows` rows at a time in the file's order; the index has the row numbers."""
        chosen = list(self.names if names is None else names)
        columns = ", ".join(["rowid", *map(self.identifier, chosen)])
        for first in range(0, self.n_rows, rows):
            query = f"SELECT {columns} FROM data WHERE rowid >= {first} AND rowid < {first + rows} ORDER BY rowid"
            frame = self.connection.execute(query).df().set_index("rowid")
            yield frame.set_axis(chosen, axis="columns").rename_axis(None)

    def sample(self, k: int, *, seed: int) -> NDArray[np.int64]:
        """Return the numbers of `k` rows in order, the same for the same seed; all rows if there are no more."""
        if k >= self.n_rows:
            return np.arange(self.n_rows)
        return np.sort(np.random.default_rng(seed).choice(self.n_rows, k, replace=False, shuffle=False))


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
    threads: int = 2,
) -> Iterator[Relation]:
    """Read a table and yield it as a relation, which is gone afterwards.

    What is None is detected. Raises `DataError` for what is no table, with every fault of it.
    """
    path = Path(source)
    with tempfile.TemporaryDirectory(prefix="table-") as folder:
        connection = duckdb.connect(
            str(Path(folder) / "table.duckdb"),
            config={"memory_limit": memory_limit, "threads": threads, "temp_directory": str(Path(folder) / "spill")},
        )
        try:
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            read = f"read_csv('{path}', all_varchar = true, header = true, delim = ',')"
            names = tuple(row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {read}").fetchall())
            columns = ", ".join(f"c{number}" for number in range(len(names)))
            connection.execute(f"CREATE TABLE data AS SELECT * FROM {read} AS t({columns})")
            counted = connection.execute("SELECT count(*) FROM data").fetchone()
            n_rows = counted[0] if counted else 0
            types = ("VARCHAR",) * len(names)
            yield Relation(connection, str(source), sha256, Dialect(CSV), (), names, types, n_rows)
        except (OSError, duckdb.Error) as error:
            raise DataError(f"{source} cannot be read: {first_line(error)}") from None
        finally:
            connection.close()
