"""Reading a table: the built-in one is the published one, and a bad one is refused with its whole report."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from model.train.dataset import Column, Dataset, Rule, Timeliness
from model.train.examples import BOSTON_HOUSING, DATASETS, HEIGHT_WEIGHT
from model.train.tables import Table, read

from model.cli.main import main
from model.errors import DataError
from tests.support import tables as shared
from tests.support.service import HOUSE
from tests.support.tables import HEADER, LINES, Write

write = shared.write

# What a rule and a date column need: two measurements and the day of each row.
READINGS = Dataset(
    name="readings",
    title="",
    content=bytes,  # none of its own
    source="",
    features=(Column("low"), Column("high")),
    target=Column("y"),
    rules=(Rule("low is not above high", lambda frame: frame["low"] <= frame["high"]),),
    timeliness=Timeliness("day", max_age_days=30),
)
DAYS = [f"{i},{i + 10},{2 * i},2026-01-{i + 1:02}" for i in range(25)]


def report_of(dataset: Dataset, path: Path, today: date | None = None) -> str:
    """Return the report with which a table is refused."""
    with pytest.raises(DataError) as caught:
        read(dataset, path, today=today)
    return str(caught.value)


def warnings_of(table: Table) -> list[str]:
    """Return the warnings of a table that is accepted."""
    assert not any(finding.fatal for finding in table.warnings)
    return [f"{finding.dimension}: {finding.problem}" for finding in table.warnings]


def test_built_in_table_is_the_published_one() -> None:
    """The table has the published 506 rows and 7 columns, 16 rows at the cap, and no warnings."""
    table = read(DATASETS["boston-housing"])

    assert list(table.frame.columns) == HEADER.split(",")
    assert table.frame.shape == (506, 7)
    assert set(table.frame.dtypes) == {np.dtype("float64")}
    assert int((table.y == 50).sum()) == 16
    assert int(table.X["CHAS"].sum()) == 35
    assert table.y.mean() == pytest.approx(22.5328, abs=1e-4)
    assert table.frame.iloc[0].to_dict() == {**HOUSE, "MEDV": 24.0}
    assert table.warnings == ()


def test_drawn_table_has_the_published_moments() -> None:
    """The 25,000 heights and weights have the published mean, deviation and correlation, and so its least squares."""
    table = read(DATASETS["height-weight"])
    height, weight = table.X["Height-Inches"], table.y
    slope, intercept = np.polyfit(height, weight, 1)

    assert table.frame.shape == (25_000, 2)
    assert f"{height.mean():.6f} {height.std():.6f}" == "67.993114 1.901679"
    assert f"{weight.mean():.6f} {weight.std():.6f}" == "127.079421 11.660898"
    assert f"{height.corr(weight):.7f}" == "0.5028585"
    assert f"{slope:.4f} {intercept:.3f}" == "3.0835 -82.576"
    assert f"{np.std(weight - slope * height - intercept):.3f}" == "10.079"


def test_drawn_table_is_always_the_same() -> None:
    """The table is drawn to the same bytes on every machine: a model that was trained on it can be trained again."""
    assert read(HEIGHT_WEIGHT).sha256 == "80cc3db98691eb7f0f051c8eb22a3de6081c4454abf823da141d9f4f492e097f"


def test_heights_and_weights_are_read_as_they_were_published(tmp_path: Path) -> None:
    """The original's form is read: a byte order mark, a column Index, CR and LF between lines and none at the end."""
    rows = [f"{i},{60 + i / 8:.7g},{100 + i * i / 8:.7g}" for i in range(1, 21)]
    path = tmp_path / "original.csv"
    path.write_bytes("\r\n".join(["\ufeffIndex,Height-Inches,Weight-Pounds", *rows]).encode())
    table = read(HEIGHT_WEIGHT, path)

    assert warnings_of(table) == ["consistency: column 'Index': is no column of the data set and is left out"]
    assert list(table.frame.columns) == ["Height-Inches", "Weight-Pounds"]
    assert table.frame.iloc[[0, -1]].to_numpy().tolist() == [[60.125, 100.125], [62.5, 150.0]]


def test_columns_are_matched_by_name(write: Write) -> None:
    """A table with its columns in another order and a byte order mark is the same table."""
    expected = read(BOSTON_HOUSING, write(LINES))
    path = write([line + "," + line.split(",")[0] for line in LINES], "\ufeff" + HEADER.replace("CHAS", "x") + ",CHAS")

    pd.testing.assert_frame_equal(read(BOSTON_HOUSING, path).frame, expected.frame)


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (("6.575", ""), "completeness  row 0, column 'RM': missing"),
        (("6.575", "NA"), "completeness  row 0, column 'RM': missing"),
        (("6.575", "six"), "accuracy      row 0, column 'RM': 'six' is not a number"),
        (("6.575", "65.75"), "accuracy      row 0, column 'RM': 65.75 is not plausible: 1 to 20 rooms"),
        (("6.575", "inf"), "accuracy      row 0, column 'RM': inf is not plausible: 1 to 20 rooms"),
        (("0,6.575", "2,6.575"), "accuracy      row 0, column 'CHAS': 2 is none of 0, 1"),
        ((",24", ",50.1"), "accuracy      row 0, column 'MEDV': 50.1 is not plausible: 0 to 50 1,000 USD"),
        ((",24", ",24,7"), "consistency   row 0: has 8 cells where there are 7 columns"),
        ((",24", ""), "consistency   row 0: has 6 cells where there are 7 columns"),
    ],
)
def test_bad_cell_is_reported_with_its_place(write: Write, change: tuple[str, str], finding: str) -> None:
    """A missing, misread or implausible cell is fatal, and the report names its dimension, row and column."""
    path = write([LINES[0].replace(*change), *LINES[1:]])

    assert report_of(BOSTON_HOUSING, path) == (
        f"{path}: 1 errors, 0 warnings; no model can be trained on it\n  error    {finding}"
    )


def test_all_problems_are_in_one_report(write: Write) -> None:
    """One `DataError` lists every problem of every dimension, errors before warnings."""
    lines = ["a,20,2026-02-01", ",6,yesterday", "1,2,2026-01-01"]
    path = write(lines, "low,y,day")
    report = report_of(replace(READINGS, target=Column("y", plausible=(0, 10))), path, today=date(2026, 1, 31))

    assert report.splitlines() == [
        f"{path}: 7 errors, 0 warnings; no model can be trained on it",
        "  error    completeness  3 rows; at least 20 are needed",
        "  error    accuracy      row 0, column 'low': 'a' is not a number",
        "  error    completeness  row 1, column 'low': missing",
        "  error    completeness  column 'high': the table does not have this column",
        "  error    accuracy      row 0, column 'y': 20 is not plausible: 0 to 10",
        "  error    timeliness    row 0, column 'day': 2026-02-01 is in the future",
        "  error    timeliness    row 1, column 'day': 'yesterday' is not a date such as 2026-01-31",
    ]


def test_repeated_and_contradicting_rows_are_warnings(write: Write) -> None:
    """A row that repeats another, or has its features and another target, causes a warning and is used."""
    other = LINES[1].rsplit(",", 1)[0] + ",9.9"
    table = read(BOSTON_HOUSING, write([*LINES, LINES[0], other]))

    assert warnings_of(table) == [
        "consistency: row 40: repeats an earlier row",
        "consistency: row 41, column 'MEDV': contradicts an earlier row alike",
    ]
    assert len(table.frame) == 42


@pytest.mark.parametrize(
    ("n_rows", "warnings"),
    [
        (2, ["row 40: repeats an earlier row", "row 41: repeats an earlier row"]),
        (10, [f"row {row}: repeats an earlier row" for row in range(40, 50)]),
        (11, ["row 40: repeats an earlier row (the first of 11 such rows)"]),
    ],
)
def test_many_rows_of_one_kind_are_one_line(write: Write, n_rows: int, warnings: list[str]) -> None:
    """Up to ten rows with the same problem are listed one by one, more in one line with their number and the first."""
    table = read(BOSTON_HOUSING, write([*LINES, *LINES[:n_rows]]))

    assert warnings_of(table) == [f"consistency: {warning}" for warning in warnings]


@pytest.mark.parametrize(
    ("line", "findings"),
    [
        ("1,,2,2026-01-01", ["completeness  row 25, column 'high': missing"]),
        ("six,1,2,2026-01-01", ["accuracy      row 25, column 'low': 'six' is not a number"]),
        ("3,1,2,2026-01-01", ["consistency   row 25: breaks the rule: low is not above high"]),
        ("1,2", ["consistency   row 25: has 2 cells where there are 4 columns"]),
        ("1,2,3,today", ["timeliness    row 25, column 'day': 'today' is not a date such as 2026-01-31"]),
        (
            "six,,2,2027-01-01",
            [
                "accuracy      row 25, column 'low': 'six' is not a number",
                "completeness  row 25, column 'high': missing",
                "timeliness    row 25, column 'day': 2027-01-01 is in the future",
            ],
        ),
    ],
)
def test_errors_throughout_are_a_line_each(write: Write, line: str, findings: list[str]) -> None:
    """A table with the same errors in a thousand rows is refused with one line for each kind of error."""
    report = report_of(READINGS, write([*DAYS, *[line] * 1000], "low,high,y,day"), today=date(2026, 2, 1))

    assert [found for found in report.splitlines()[1:] if "error" in found] == [
        f"  error    {finding} (the first of 1,000 such rows)" for finding in findings
    ]


@pytest.mark.parametrize("name", ["ZN", ""])
def test_extra_column_is_a_warning_and_ignored(write: Write, name: str) -> None:
    """An unknown column, such as pandas' index without a name, causes a warning and is ignored."""
    table = read(BOSTON_HOUSING, write([f"{i},{line}" for i, line in enumerate(LINES)], f"{name},{HEADER}"))

    assert warnings_of(table) == [f"consistency: column {name!r}: is no column of the data set and is left out"]
    assert list(table.frame.columns) == HEADER.split(",")


def test_column_that_copies_another_is_a_warning(write: Write) -> None:
    """Two columns that agree in every row cause a warning."""
    path = write([f"{i},{i},{2 * i},2026-01-01" for i in range(20)], "low,high,y,day")

    table = read(READINGS, path, today=date(2026, 1, 2))
    assert warnings_of(table) == ["consistency: column 'high': is the same as low, row for row"]


def test_target_of_one_value_is_fatal(write: Write) -> None:
    """A target that never changes cannot be learned."""
    path = write([f"{i},{i + 1},7,2026-01-01" for i in range(20)], "low,high,y,day")

    report = report_of(READINGS, path, today=date(2026, 1, 2))
    assert report.splitlines()[1:] == ["  error    accuracy      column 'y': has only one value"]


@pytest.mark.parametrize(("n_rows", "accepted"), [(19, False), (20, True)])
def test_table_needs_twenty_rows(write: Write, n_rows: int, accepted: bool) -> None:
    """A table of fewer than twenty rows is refused."""
    path = write(LINES[:n_rows])

    if accepted:
        assert len(read(BOSTON_HOUSING, path).frame) == n_rows
    else:
        assert "completeness  19 rows; at least 20 are needed" in report_of(BOSTON_HOUSING, path)


def test_broken_rule_is_fatal(write: Write) -> None:
    """Each row that violates the data set's rule is reported."""
    lines = [*DAYS[:3], "9,1,0,2026-01-01", *DAYS[3:], "5,4,1,2026-01-01"]
    report = report_of(READINGS, write(lines, "low,high,y,day"), today=date(2026, 2, 1))

    assert report.splitlines()[1:] == [
        "  error    consistency   row 3: breaks the rule: low is not above high",
        "  error    consistency   row 26: breaks the rule: low is not above high",
    ]


@pytest.mark.parametrize(
    ("today", "age"), [(date(2026, 1, 25), None), (date(2026, 2, 24), None), (date(2026, 2, 25), 31)]
)
def test_newest_row_must_be_new_enough(write: Write, today: date, age: int | None) -> None:
    """A table is fresh from the day of its newest row up to and including the age that the data set allows."""
    path = write(DAYS, "low,high,y,day")  # the newest of 2026-01-25

    if age is None:
        assert warnings_of(read(READINGS, path, today=today)) == []
    else:
        reason = f"column 'day': the newest row is {age} days old; at most 30 are allowed"
        assert report_of(READINGS, path, today=today).splitlines()[1:] == [f"  error    timeliness    {reason}"]


def test_missing_date_column_is_fatal(write: Write) -> None:
    """Without the date column the age of the rows is unknown."""
    path = write([line.rsplit(",", 1)[0] for line in DAYS], "low,high,y")

    report = report_of(READINGS, path, today=date(2026, 2, 1))
    assert report.splitlines()[1:] == ["  error    timeliness    column 'day': the table does not have this column"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"\xff\xfe\x00", "is not a table: it is not UTF-8 text"),
        (b"", "is not a table: not CSV: it is empty"),
        (b'x\n"1', "is not a table: not CSV: unexpected end of data"),
    ],
)
def test_file_that_is_not_a_table_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    """A file that is missing, not UTF-8 or not CSV is refused in one sentence that names it."""
    path = tmp_path / "table.csv"
    if content is not None:
        path.write_bytes(content)

    assert report_of(BOSTON_HOUSING, path) == f"{path} {message}"


def test_training_on_a_bad_table_writes_nothing(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`train --data` with a bad table exits with 1 and the report on standard error, and leaves no store behind."""
    path = write([*LINES, "0,six,,15,396.9,4.98,24"])

    assert main(["--store", str(tmp_path / "store"), "train", "boston-housing", "--data", str(path)]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == f"error: {report_of(BOSTON_HOUSING, path)}\n"
    assert "row 40, column 'RM': 'six' is not a number" in output.err
    assert not (tmp_path / "store").exists()
