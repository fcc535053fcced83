"""What learners see of a table: the numbers that Python reads, categories, dates, and the target."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from model.errors import DataError
from model.schema import dates
from model.schema.feature import parse_cell
from model.table.checks import check
from model.table.description import ColumnDescription, Description
from model.table.frame import Table, prepare
from model.table.infer import describe
from model.table.reader import open_table
from model.table.values import text_of, value_of
from model.train.table_frames import frames_of

QUICK = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
    st.integers(-(10**30), 10**30).map(str),
    st.from_regex(r"[+-]?([0-9]{1,20}\.?[0-9]{0,20}|\.[0-9]{1,9})([eE][+-]?[0-9]{1,3})?", fullmatch=True),
)
MOMENTS = st.datetimes().map(lambda moment: moment.replace(tzinfo=None).isoformat())
CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=9)


def values(cells: list[str], column: ColumnDescription) -> list[float | None]:
    """Return the values of cells of a column of JSON lines."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        path.write_text("c\n" + "".join('"' + cell.replace('"', '""') + '"\n' for cell in cells), newline="")
        with open_table(path, separator=",", header=True, encoding="utf-8") as relation:
            text = text_of(relation, column)
            query = f"SELECT {value_of(relation, column, 't')} FROM (SELECT rowid AS row, {text} AS t FROM data)"
            return [value for (value,) in relation.sql(f"{query} ORDER BY row")]


@QUICK
@given(st.lists(NUMBERS | CELLS, min_size=1, max_size=200))
def test_numbers_have_the_bits_of_python(cells: list[str]) -> None:
    """A cell becomes the number that the server makes of it, to the last bit; what is no finite number is none."""
    expected = [parse_cell(cell) for cell in cells]
    finite = [each if isinstance(each, float) and math.isfinite(each) else None for each in expected]

    found = values(cells, ColumnDescription("c"))

    assert [None if each is None else each.hex() for each in found] == [
        None if each is None else each.hex() for each in finite
    ]


@QUICK
@given(st.lists(MOMENTS | CELLS, min_size=1, max_size=200))
@example(["2020-01-02T03:04:05.1234567", "2020-01-02 03:04:05,999999999Z", "1969-12-31t23:59:59.1234569z"])
@example(["2000-01-01T00:00:00", "1969-12-31T23:59:58.999996", "9999-12-31T23:59:58.999999"])
@example(["2020-01-02T03:04:05.1234567+05:30", "2020-01-02T03:04 Z", "2020-01-02t03:04 z", "2020-01-02T03:04-0930"])
def test_dates_are_those_of_the_server(cells: list[str]) -> None:
    """A cell becomes the seconds that the server makes of it."""
    assert values(cells, ColumnDescription("c", "date")) == [dates.parse(cell.strip()) for cell in cells]


@st.composite
def nearly(draw: st.DrawFn, dates: st.SearchStrategy[str]) -> str:
    """Return a date with at most two characters more, less or other than it has."""
    text = draw(dates)
    for _ in range(draw(st.integers(0, 2))):
        place, other = draw(st.integers(0, len(text))), draw(st.sampled_from([*"0129 :/-.+aTZ,", ""]))
        text = text[:place] + other + text[place + draw(st.integers(0, 1)) :]
    return text


ISO = st.builds(
    "{}-{}-{}{}".format,
    st.sampled_from(["0000", "0001", "0999", "1582", "2020", "9999", "10000", "12020", "-0001", "999"]),
    st.sampled_from(["00", "01", "02", "12", "13"]),
    st.sampled_from(["00", "01", "28", "29", "30", "31", "32"]),
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["T", "t", " "]),
        st.sampled_from(["00:00", "24:00", "23:59:59.999999", "23:59:59,9999999", "10:30:60", "10:3", "25:00"]),
        st.sampled_from(["", "Z", " z", "+02", "-0230", "+14:00", "+23:59", "-24:00", "+2400", "+24", "+23:60", "+99"]),
    )
    | st.just(""),
)
MONTHS = ("%Y-%m", "%m/%Y", "%b %Y", "%y-%m")
FORMATS = (
    *("%d.%m.%Y", "%m/%d/%y", "%d %b %Y %H:%M", "%Y%m%d", "%d%m%y", "%B %d, %Y", "%A %d.%m.%y %I:%M:%S %p"),
    *("%d/%m/%Y %H:%M:%S.%f", "%Y-%m-%d %H:%M%z", "%d.%m.%Y%%", *MONTHS),
)


@QUICK
@given(st.lists(nearly(ISO), min_size=50, max_size=100))
@example(["2020-01-02T03:04+24:00", "0000-12-31T23:00-05:00", "0001-01-01T00:00+05:00", "9999-12-31T23:59:59-09:00"])
def test_what_is_nearly_a_date_is_to_training_what_it_is_to_the_server(cells: list[str]) -> None:
    """Both read the same cells as dates of ISO 8601, and give them the same seconds."""
    assert values(cells, ColumnDescription("c", "date")) == [dates.parse(cell.strip()) for cell in cells]


@pytest.mark.parametrize("format", FORMATS)
@settings(QUICK, max_examples=3)
@given(st.data())
def test_what_is_nearly_of_a_format_is_to_training_what_it_is_to_the_server(format: str, data: st.DataObject) -> None:
    """Both read the same cells as dates of a format, and give them the same seconds."""
    zones = st.sampled_from([UTC, timezone(timedelta(hours=-9, minutes=-30))])
    moments = st.datetimes(datetime(1000, 1, 1), datetime(9999, 12, 30), timezones=zones)
    texts = moments.map(lambda moment: moment.strftime(format))
    cells = data.draw(st.lists(nearly(texts), min_size=20, max_size=50))
    dates.check_format(format)

    expected = [dates.parse(cell.strip(), format) for cell in cells]

    assert values(cells, ColumnDescription("c", "date", format=format)) == expected


@pytest.mark.parametrize("format", ["%d.%m.%Y", "%m/%d/%y", "%d %b %Y %H:%M", *MONTHS])
def test_dates_of_a_format_are_those_of_the_server(format: str) -> None:
    """Dates in a format become the seconds that the server makes of them."""
    days = pd.date_range("1999-12-20", periods=300, freq="37h").strftime(format).tolist()

    assert values(days, ColumnDescription("c", "date", format=format)) == [dates.parse(day, format) for day in days]


def write(folder: Path, rows: Callable[[int], dict[str, object]], n_rows: int = 60) -> Path:
    """Write rows as JSON lines."""
    path = folder / "table.jsonl"
    path.write_text("".join(json.dumps(rows(row)) + "\n" for row in range(n_rows)))
    return path


def prepared(path: Path, *, types: dict[str, str] | None = None, target: str = "y", **options: object) -> Table:
    """Describe a table and prepare it."""
    with open_table(path) as relation:
        description = describe(relation, target=target, types=types).description
        return prepare(relation, description, **options)  # type: ignore[arg-type]


def house(row: int) -> dict[str, object]:
    """Return a row with a column of each type, some cells of which are missing."""
    return {
        "size": None if row == 3 else row % 11 * 1.5,
        "rooms": row % 5,
        "garden": row % 3 == 0,
        "zone": ["north", "south", None][row % 3],
        "sold": f"2026-0{row % 3 + 1}-05T06:00:00",
        "id": f"h{row}",
        "y": None if row == 7 else row * row % 17 + 0.5,
    }


def test_frame_has_the_types_that_learners_see(tmp_path: Path) -> None:
    """Numbers and booleans are float64, categories have sorted strings, dates are datetime64[us]; ids are left out."""
    table = prepared(write(tmp_path, house))

    assert list(table.frame) == ["size", "rooms", "garden", "zone", "sold"]
    assert [str(dtype) for dtype in table.frame.dtypes] == ["float64"] * 3 + ["category", "datetime64[us]"]
    assert table.frame["zone"].cat.categories.tolist() == ["north", "south"]
    assert table.frame["garden"].tolist()[:4] == [1.0, 0.0, 0.0, 1.0]
    assert np.isnan(table.frame["size"][3])
    assert table.frame["sold"][1] == pd.Timestamp("2026-02-05 06:00")


def test_rows_without_a_target_are_set_aside(tmp_path: Path) -> None:
    """A row without a target is not used, and counted; the others keep their numbers."""
    table = prepared(write(tmp_path, house))

    assert table.set_aside == {"y is missing": 1}
    assert table.row_numbers.tolist() == [row for row in range(60) if row != 7]
    assert table.target.dtype == np.float64
    assert table.task == "regression"


def test_server_accepts_what_the_frame_has(tmp_path: Path) -> None:
    """The matrix of a prepared table makes the same frame again."""
    table = prepared(write(tmp_path, house))
    frames = frames_of(table, ())

    assert [column.type for column in frames.columns] == ["number", "integer", "boolean", "category", "date"]
    again = frames.frame(frames.matrix(table.frame))
    pd.testing.assert_frame_equal(again, table.frame.reset_index(drop=True), check_dtype=False, check_categorical=False)


@pytest.mark.parametrize("options", [{}, {"max_rows": 40}])
def test_column_with_a_gap_anywhere_in_the_table_may_be_missing(tmp_path: Path, options: dict[str, int]) -> None:
    """A gap in a row that is set aside or not drawn counts as one in the others; a column without any has none."""

    def row_of(row: int) -> dict[str, object]:
        gone = {"rooms": None, "zone": None, "sold": None, "garden": None, "y": None} if row == 7 else {}
        return {**house(row), "size": row / 2, "zone": "ns"[row % 2], **gone}

    with open_table(write(tmp_path, row_of)) as relation:
        description = describe(relation, target="y").description
        profiles = check(relation, description).profiles
        table = prepare(relation, description, **options)  # type: ignore[arg-type]

    assert not table.frame.isna().any(axis=None)
    assert {each.name: each.has_gaps for each in frames_of(table, profiles).columns} == {
        **dict.fromkeys(("rooms", "garden", "zone", "sold"), True),
        "size": False,
    }


@pytest.mark.parametrize(
    ("cells", "labels", "task"),
    [
        (lambda row: "abc"[row % 3], ("a", "b", "c"), "classification"),
        (lambda row: row % 2 == 0, (False, True), "classification"),
        (lambda row: row % 2, (0, 1), "classification"),
        (lambda row: row % 4, (), "regression"),
        (lambda row: row / 7, (), "regression"),
    ],
)
def test_task_follows_from_the_target(
    tmp_path: Path, cells: Callable[[int], object], labels: tuple[object, ...], task: str
) -> None:
    """Numbers make a regression; texts, booleans and two whole numbers a classification; few numbers are mentioned."""
    table = prepared(write(tmp_path, lambda row: {**house(row), "y": cells(row)}))

    assert (table.labels, table.task) == (labels, task)
    assert any("say --task" in str(problem) for problem in table.problems) == isinstance(cells(1), int | None) * (
        not isinstance(cells(1), bool)
    )


def test_task_can_be_given(tmp_path: Path) -> None:
    """A task that is named holds."""
    path = write(tmp_path, lambda row: {**house(row), "y": row % 4})

    assert prepared(path, task="classification").labels == (0, 1, 2, 3)


def test_sample_of_rows_is_the_same_for_a_seed(tmp_path: Path) -> None:
    """At most so many rows are drawn, of those with a target, in order, the same for a seed."""
    path = write(tmp_path, house)

    first, again, other = (prepared(path, max_rows=20, seed=seed).row_numbers.tolist() for seed in (1, 1, 2))

    assert first == again == sorted(first)
    assert len(first) == 20
    assert 7 not in first
    assert first != other


def test_groups_and_times(tmp_path: Path) -> None:
    """Groups are numbers, a row without one is its own, and times order the rows; a group is no feature."""
    table = prepared(write(tmp_path, house), group="zone", time="sold", max_rows=30)

    assert table.groups is not None
    assert table.times is not None
    zones = [house(row)["zone"] or row for row in table.row_numbers.tolist()]
    assert len(set(table.groups.tolist())) == len(set(zones)) == len(set(zip(zones, table.groups.tolist())))
    assert "zone" not in table.frame
    assert table.times.tolist() == [dates.parse(str(house(row)["sold"])) for row in table.row_numbers]


def test_time_needs_an_order(tmp_path: Path) -> None:
    """A time of texts is an error that names the column, and says what to do."""
    with pytest.raises(DataError, match="the time 'zone' is of the type category, which has no order; name a column"):
        prepared(write(tmp_path, house), time="zone")


def test_wrong_cells_count_as_missing(tmp_path: Path) -> None:
    """A few texts among numbers are named by row and count as missing; many are an error."""
    path = tmp_path / "table.csv"
    path.write_text(
        "x,zone,y\n" + "".join(f"{'bad' if row == 9 else row % 9},z{row % 4},{row % 7}.5\n" for row in range(60))
    )

    table = prepared(path)

    assert [str(problem) for problem in table.problems] == [
        "row 9, column 'x': 'bad' is no integer, and counts as missing"
    ]
    assert np.isnan(table.frame["x"][9])
    with pytest.raises(DataError, match="column 'zone' is no number: 60 of 60 cells"):
        prepared(path, types={"zone": "number"})


@pytest.mark.parametrize(
    ("description", "part"),
    [
        (Description((ColumnDescription("size"),)), "no target is named"),
        (Description((ColumnDescription("sise"), ColumnDescription("y")), target="y"), "the nearest is 'size'"),
        (Description((ColumnDescription("y"),), target="y"), "no column is left"),
        (Description((ColumnDescription("size"), ColumnDescription("y", "text")), target="y"), "cannot be predicted"),
        (Description((ColumnDescription("size"),), target="y"), "the target 'y' is no column"),
    ],
)
def test_description_that_does_not_fit(tmp_path: Path, description: Description, part: str) -> None:
    """A description of other columns, or without a target, is an error that says what to do."""
    with open_table(write(tmp_path, house)) as relation, pytest.raises(DataError, match=part):
        prepare(relation, description)
