"""Owns the join of tables: every cell in one form, newer rows behind older ones, and in their place by a key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from model.errors import DataError
from model.table import join, schema_file
from model.table.description import Description
from model.table.join import Joined
from model.table.reader import open_table

DESCRIBED = """
target = "price"
[dialect]
separator = ";"
[columns.id]
type = "identifier"
use = false
[columns.area]
type = "number"
decimal = ","
thousands = "."
missing = ["n.v."]
[columns.sold]
type = "date"
format = "%d.%m.%Y"
[columns.new]
type = "boolean"
[columns.zone]
type = "category"
[columns.price]
type = "number"
"""
OLD = "id;area;sold;new;zone;price\n1;1.234,5;31.12.2024;yes; Nord;10\n2;n.v.;01.01.2025;no;West;20\n;5;;;;30\n"


@pytest.fixture
def known() -> Description:
    """What is known of both tables."""
    return schema_file.parse(DESCRIBED)


def read(path: Path) -> tuple[list[str], list[list[Any]]]:
    """Return the names of a file's columns, and its rows."""
    found = duckdb.read_parquet(str(path))
    return found.columns, [list(row) for row in found.fetchall()]


def written(table: Path, known: Description, path: Path, **given: Any) -> Path:
    """Return the file of a table in the one form."""
    with open_table(table, **join.arguments(known, given)) as relation:
        join.write(relation, join.as_written(relation, known, given), known, path)
    return path


def joined(tmp_path: Path, known: Description, old: str, new: str, *key: str) -> tuple[Joined, list[list[str | None]]]:
    """Return the counts and the rows of two tables of CSV, joined."""
    files = []
    for name, text in (("old", old), ("new", new)):
        (tmp_path / f"{name}.csv").write_text(text)
        files.append(written(tmp_path / f"{name}.csv", known, tmp_path / f"{name}.parquet"))
    counts = join.join(files[0], files[1], tmp_path / "rows.parquet", known, key=key)
    names, rows = read(tmp_path / "rows.parquet")
    assert names == [column.name for column in known.columns]
    return counts, rows


def test_cells_have_one_form(tmp_path: Path, known: Description) -> None:
    """Numbers, dates, booleans and missing cells are written in one way, and a cell of another type stays as it is."""
    counts, rows = joined(tmp_path, known, OLD, "id;area;sold;new;zone;price\n4;wide;2025-02-01T10:30;1;;1e3\n")

    assert counts == Joined(3, 1, 0, 0)
    assert rows == [
        ["1", "1234.5", "2024-12-31T00:00:00.000000Z", "1", "Nord", "10.0"],
        ["2", None, "2025-01-01T00:00:00.000000Z", "0", "West", "20.0"],
        [None, "5.0", None, None, None, "30.0"],
        ["4", "wide", "2025-02-01T10:30:00.000000Z", "1", None, "1000.0"],
    ]


def test_whole_numbers_stay_whole(tmp_path: Path, known: Description) -> None:
    """A whole number of a column of these is written without a point; any other cell of it stays as it is."""
    columns = [replace(each, type="integer") if each.name == "price" else each for each in known.columns]
    cells = ["10", "2e3", "-7.0", "1.5", "9007199254740994", "ten", "inf"]
    old = "id;area;sold;new;zone;price\n" + "".join(f"1;;;;;{cell}\n" for cell in cells)
    _, rows = joined(tmp_path, replace(known, columns=tuple(columns)), old, old)

    found = [row[-1] for row in rows[: len(cells)]]
    assert found == ["10", "2000", "-7", "1.5", "9007199254740994.0", "ten", "inf"]


def test_newer_row_replaces_that_of_its_key(tmp_path: Path, known: Description) -> None:
    """By a key, the newer row counts, the last of several; a row without its key is kept."""
    new = "id;area;sold;new;zone;price\n2;1;;;a;1\n2;2;;;b;2\n;3;;;c;3\n;4;;;d;4\n9;5;;;e;5\n"
    counts, rows = joined(tmp_path, known, OLD, new, "id")

    assert counts == Joined(2, 4, 1, 1)
    assert [(row[0], row[5]) for row in rows] == [
        ("1", "10.0"),
        (None, "30.0"),
        ("2", "2.0"),
        (None, "3.0"),
        (None, "4.0"),
        ("9", "5.0"),
    ]


def test_a_key_of_several_columns(tmp_path: Path, known: Description) -> None:
    """A key of two columns is the same if both are, however their cells are written."""
    new = "id;area;sold;new;zone;price\n1;1;2024-12-31;;a;1\n2;1;2024-12-31;;b;2\n"
    counts, rows = joined(tmp_path, known, OLD, new, "id", "sold")

    assert counts == Joined(2, 2, 1, 0)
    assert [row[0] for row in rows] == ["2", None, "1", "2"]


def test_typed_table_is_read_as_it_is(tmp_path: Path, known: Description) -> None:
    """Numbers of Parquet have a point, whatever the description says of CSV; 1.125 is not 1125."""
    row = "1.125::DOUBLE AS area, DATE '2025-01-31' AS sold, true AS new, 'a' AS zone, 3 AS price"
    duckdb.sql(f"COPY (SELECT {row}) TO '{tmp_path / 'new.parquet'}' (FORMAT parquet)")
    path = written(tmp_path / "new.parquet", known, tmp_path / "cells.parquet")

    assert read(path)[1] == [[None, "1.125", "2025-01-31T00:00:00.000000Z", "1", "a", "3.0"]]


def test_said_marks_come_first(tmp_path: Path, known: Description) -> None:
    """What a person says of a file comes before what the description says of its columns."""
    (tmp_path / "new.csv").write_text("area,sold,new,zone,price\n1.5,,,,2.5\n")
    path = written(tmp_path / "new.csv", known, tmp_path / "cells.parquet", separator=",", decimal=".")

    assert read(path)[1] == [[None, "1.5", None, None, None, "2.5"]]


def test_cells_of_a_log_are_a_table(tmp_path: Path, known: Description) -> None:
    """Cells as a client sends them are read back with the types that are described."""
    plain = join.plain(known)
    columns: dict[str, list[Any]] = {
        "area": [0.1, None],
        "sold": ["2025-01-31", None],
        "new": [True, False],
        "zone": ["a", "b"],
        "price": [1, 2.5],
    }
    join.write_cells(columns, plain, tmp_path / "log.parquet")
    path = written(tmp_path / "log.parquet", plain, tmp_path / "cells.parquet")

    assert read(path)[1] == [
        [None, "0.1", "2025-01-31T00:00:00.000000Z", "1", "a", "1.0"],
        [None, None, None, "0", "b", "2.5"],
    ]


def test_what_cannot_be_joined(tmp_path: Path, known: Description) -> None:
    """A table without a column that the model needs, and a key that is no column, are errors that name them."""
    with pytest.raises(DataError, match="the key 'ident' is no column"):
        joined(tmp_path, known, OLD, OLD, "ident")
    with pytest.raises(DataError, match=r"old\.csv has no column 'area', 'zone', which the recipe needs"):
        joined(tmp_path, known, "id;sold;new;price\n1;;;2\n", OLD)
