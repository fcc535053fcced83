"""Rows of any table as a schema's matrix: in the dialect of the model's own table, or in a given one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from model import Matrix
from model.schema.arrow import convert, problems
from model.schema.feature import AS_MISSING, Feature
from model.schema.features import Schema
from model.schema.reading import Reading, from_document, to_document
from model.score.cells import Written
from model.score.inputs import Dialect, open_part, parts_of
from model.score.plan import CSV, JSON, Plan
from model.score.rows import rows_of
from model.table.infer import describe
from model.table.own_reading import reading_of
from model.table.reader import open_table

GERMAN = """Nr;Fläche;Ort;verkauft;Balkon;Baujahr;Preis
1;1.150,4;Köln;31.12.2022;yes;1986;441.480,00
2;73,8;Düsseldorf;01.02.2023;no;;93.810,00
3;42,75;Köln;24.10.2022;yes;-;121.010,00
4;40,7;Münster;22.09.2023;no;1961;128.430,00
5;143,9;Köln;13.03.2022;no;1975;399.000,50
"""
FEATURES = (
    Feature("Fläche"),
    Feature("Ort", type="category", categories=("Düsseldorf", "Köln", "Münster"), unseen=AS_MISSING, missing=True),
    Feature("verkauft", type="date", format="%d.%m.%Y"),
    Feature("Balkon", type="boolean"),
    Feature("Baujahr", type="integer", missing=True),
)
SCHEMA = Schema(FEATURES, Feature("Preis"))
FIRST = {"Fläche": 1150.4, "Ort": "Köln", "verkauft": "2022-12-31", "Balkon": True, "Baujahr": 1986}


@pytest.fixture
def german(tmp_path: Path) -> Path:
    path = tmp_path / "Häuser.csv"
    path.write_bytes(GERMAN.encode("cp1252"))
    return path


@pytest.fixture
def reading(german: Path) -> Reading:
    """How the table was read, as a manifest has it."""
    types = {"Nr": "identifier", "Ort": "category"}
    with open_table(german) as relation:
        description = describe(relation, target="Preis", types=types).description
    found = from_document(json.loads(json.dumps(to_document(reading_of(description)))))
    assert found is not None
    return found


def matrix(source: Path, reading: Reading, *, schema: Schema = SCHEMA, **given: Any) -> tuple[Matrix, list[str]]:
    """Return the matrix of a table, and its problems."""
    (part,) = parts_of(str(source))
    with open_part(part, Dialect.of({**reading.dialect, **given})) as table:
        written = Written.of(reading, given)
        target = JSON if table.form == JSON else CSV
        plan = Plan(table.form, target, names=table.names, marks=table.marks, written=written)
        (piece,) = table.pieces
    rows = rows_of(plan, schema, piece)
    assert not rows.faults
    features = written.features_of(rows.table, schema)
    X, refused = convert(features, schema, texts=True)
    return X, list(map(str, problems(features, schema, np.flatnonzero(refused).tolist(), texts=True)))


def test_own_dialect(german: Path, reading: Reading) -> None:
    """Each cell means what it meant in training."""
    assert not reading.is_plain
    records = [
        {"Fläche": area, "Ort": place, "verkauft": sold, "Balkon": balcony, "Baujahr": year}
        for area, place, sold, balcony, year in zip(
            [1150.4, 73.8, 42.75, 40.7, 143.9],
            ["Köln", "Düsseldorf", "Köln", "Münster", "Köln"],
            ["2022-12-31", "2023-02-01", "2022-10-24", "2023-09-22", "2022-03-13"],
            [True, False, True, False, False],
            [1986, None, None, 1961, 1975],
        )
    ]

    X, found = matrix(german, reading)

    np.testing.assert_array_equal(X, SCHEMA.matrix_from_records(records))
    assert not found


def test_answers_have_the_decimal_mark_of_the_numbers(reading: Reading) -> None:
    """It is that of the table, of all columns that have one, or the one that is given."""
    of_column = Reading({"separator": ";"}, {"Fläche": {"decimal": ",", "thousands": "."}})

    assert Written.of(reading, {}).of_answers == ","
    assert Written.of(of_column, {}).of_answers == ","
    assert Written.of(of_column, {"decimal": "."}).of_answers == "."
    assert Written.of(Reading(), {}).of_answers == "."


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv.gz"])
def test_other_formats(german: Path, reading: Reading, tmp_path: Path, suffix: str) -> None:
    """The same rows as Parquet, JSON lines or compressed are read by what that file is, whatever the model's was."""
    path = tmp_path / f"rows{suffix}"
    if suffix == ".csv.gz":
        pd.read_csv(german, sep=";", encoding="cp1252", dtype=str).to_csv(path, sep=";", index=False)
    else:
        rows = pd.DataFrame([FIRST])
        kind = "PARQUET" if suffix == ".parquet" else "JSON"
        duckdb.sql(f"COPY (SELECT * FROM rows) TO '{path}' (FORMAT {kind})")
        assert len(rows) == 1

    X, found = matrix(path, reading)

    assert X[0].tolist() == SCHEMA.matrix_from_records([FIRST])[0].tolist()
    assert not found


def test_another_dialect_is_given(reading: Reading, tmp_path: Path) -> None:
    """What is said of the file comes before what the model's own table was; ISO 8601 is always a date."""
    path = tmp_path / "plain.csv"
    path.write_text("Fläche,Ort,verkauft,Balkon,Baujahr\n1.5,Köln,2022-12-31,yes,1986\n1.234,Köln,31.12.2022,no,\n")

    X, found = matrix(path, reading, separator=",", decimal=".", thousands="")

    assert X[:, 0].tolist() == [1.5, 1.234]
    assert X[0, 2] == X[1, 2]
    assert not found


@pytest.mark.parametrize(
    ("column", "cell", "problem"),
    [
        ("Fläche", "12.5", "row 1, column 'Fläche': not a number"),
        ("Fläche", "groß", "row 1, column 'Fläche': not a number"),
        ("Fläche", "", "row 1, column 'Fläche': missing"),
        ("Baujahr", "1986.5", "row 1, column 'Baujahr': not a whole number"),
        ("Balkon", "ja", "row 1, column 'Balkon': not true or false"),
        (
            "verkauft",
            "12/31/2022",
            "row 1, column 'verkauft': not a date; accepted is ISO 8601, such as 2026-01-31 or 2026-01-31T14:30:00Z, "
            "and %d.%m.%Y, such as 31.01.2026",
        ),
    ],
)
def test_cell_that_does_not_fit(reading: Reading, tmp_path: Path, column: str, cell: str, problem: str) -> None:
    """A cell that is not of its feature's type is an error with its row and column, and never a missing value."""
    lines = [line.split(";") for line in GERMAN.splitlines()]
    lines[2][lines[0].index(column)] = cell
    path = tmp_path / "wrong.csv"
    path.write_text("\n".join(map(";".join, lines)) + "\n", "utf-8")

    (found,) = matrix(path, reading)[1]

    assert found.startswith(problem)


@pytest.mark.parametrize(
    "facts",
    [
        None,
        [],
        {},
        {"dialect": {}, "columns": {}},
        {"dialect": {"quotes": "'"}, "columns": {}, "left_out": []},
        {"dialect": {"separator": 1}, "columns": {}, "left_out": []},
        {"dialect": {"header": "yes"}, "columns": {}, "left_out": []},
        {"dialect": {}, "columns": {"a": {"missing": "-"}}, "left_out": []},
        {"dialect": {}, "columns": {"a": {"missing": [1]}}, "left_out": []},
        {"dialect": {}, "columns": {"a": {"type": "date"}}, "left_out": []},
        {"dialect": {}, "columns": {"a": 1}, "left_out": []},
        {"dialect": {}, "columns": {}, "left_out": [["a"]]},
    ],
)
def test_malformed_facts_are_no_reading(facts: Any) -> None:
    """A manifest may come from anyone: facts of another form are as good as none."""
    assert from_document(facts) is None


@pytest.mark.parametrize("format", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("categories", "cells", "expected"),
    [
        (("DE", "NA"), ["NA", "DE", ""], [1.0, 0.0, math.nan]),
        (("1", "2", "3"), ["3", "1", ""], [2.0, 0.0, math.nan]),
        ((1, 2, 3), ["3", "1", ""], [2.0, 0.0, math.nan]),
    ],
)
def test_categories_that_look_like_something_else(
    tmp_path: Path, format: str, categories: tuple[Any, ...], cells: list[str], expected: list[float]
) -> None:
    """A category is one in every format, also where its text could mean a missing value, or a column has numbers."""
    path = tmp_path / f"table.{format}"
    frame = pd.DataFrame({"c": cells, "x": 1.0})
    if format == "csv":
        frame.to_csv(path, index=False)
    else:
        cells_of_one_type = pd.to_numeric(frame.c) if cells[0].isdecimal() else frame.c.where(frame.c != "", None)
        duckdb.from_df(frame.assign(c=cells_of_one_type)).write_parquet(str(path))
    feature = Feature("c", type="category", categories=categories, missing=True)

    X, found = matrix(path, Reading(), schema=Schema((feature, Feature("x")), Feature("y")))

    np.testing.assert_array_equal(X[:, 0], expected)
    assert not found
