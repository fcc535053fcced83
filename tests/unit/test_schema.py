"""The schema: named cells become one matrix in the schema's order, and every bad cell has a reason."""

from __future__ import annotations

import csv
import io
import json
import math
import random
import sys
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from model import Feature, Problem, Schema, SchemaError, TooManyRowsError, columns_from_csv
from model.schema.feature import parse_cell
from model.schema.features import REASONS, from_manifest, shape_problems, to_manifest
from model.store.artifact import to_json
from tests.support.service import bits

SCHEMA = Schema((Feature("a", lowest=-1e30, highest=1e30), Feature("b"), Feature("c")), target=Feature("y"))
HUGE = 10**400

good_cells = st.floats(-1e30, 1e30) | st.integers(-(10**30), 10**30)
any_cells = (
    st.none()
    | st.booleans()
    | st.text()
    | st.lists(st.integers(), max_size=2)
    | st.floats()
    | st.integers()
    | st.integers(10**300, HUGE)
    | st.sampled_from([1e30, -1e30, math.nextafter(1e30, math.inf), math.nextafter(-1e30, -math.inf), -HUGE])
    # Integers above a limit that are rounded to it, and the first that is not.
    | st.sampled_from([int(1e30) + 1, -int(1e30) - 1, 2**1024 - 2**970 - 1, 2**1024 - 2**970])
)
tables = st.lists(st.tuples(good_cells, good_cells, good_cells), min_size=1, max_size=5)


def problems_of(records: list[dict[str, Any]]) -> list[Problem]:
    """Return the problems of the records by `SCHEMA`, none for good ones."""
    try:
        SCHEMA.matrix_from_records(records)
    except SchemaError as error:
        return list(error.problems)
    return []


@given(table=tables, seed=st.integers(0, 2**32))
def test_names_in_any_order_give_one_matrix(table: list[tuple[Any, ...]], seed: int) -> None:
    """Records and columns give the same bits, in the schema's order, whatever the order of the names."""
    order = random.Random(seed).sample(range(3), 3)
    records = [{SCHEMA.names[i]: row[i] for i in order} for row in table]
    columns = {SCHEMA.names[i]: [row[i] for row in table] for i in order}
    expected = [[float(cell) for cell in row] for row in table]

    assert bits(SCHEMA.matrix_from_records(records)).tolist() == bits(expected).tolist()
    assert bits(SCHEMA.matrix_from_columns(columns)).tolist() == bits(expected).tolist()


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (None, "missing"),
        (True, "not a number"),
        ("1", "not a number"),
        ([1.0], "not a number"),
        ({}, "not a number"),
        (math.nan, "not finite"),
        (math.inf, "not finite"),
        (-math.inf, "not finite"),
        (HUGE, "not finite"),
        (-HUGE, "not finite"),
        (math.nextafter(1e30, math.inf), "out of range"),
        (math.nextafter(-1e30, -math.inf), "out of range"),
        (1e30, None),
        (-1e30, None),
        (0, None),
        (5e-324, None),
    ],
)
def test_each_bad_cell_has_its_reason(cell: Any, reason: str | None) -> None:
    """A bad cell has the one right reason, in records and in columns; the limits themselves are accepted, and named."""
    limit = math.copysign(1e30, cell) if reason == "out of range" else None
    expected = [] if reason is None else [Problem(0, "a", reason, limit)]
    assert problems_of([{"a": cell, "b": 1, "c": 1.5}]) == expected

    columns = {"a": [cell], "b": [1], "c": [1.5]}
    if expected:
        with pytest.raises(SchemaError) as caught:
            SCHEMA.matrix_from_columns(columns)
        assert list(caught.value.problems) == expected
    else:
        assert SCHEMA.matrix_from_columns(columns).tolist() == [[float(cell), 1.0, 1.5]]


@given(rows=st.lists(st.tuples(good_cells | any_cells, good_cells, good_cells | any_cells), min_size=1, max_size=3))
@example(rows=[(1, 2.0, math.inf)])
@example(rows=[(1, 2.0, math.nan)])
def test_quick_path_refuses_exactly_the_bad_cells(rows: list[tuple[Any, ...]]) -> None:
    """Rows are refused exactly if a cell has a reason, with all its problems."""
    expected = [
        Problem(number, feature.name, reason, feature.cells.nearest(cell) if reason == "out of range" else None)
        for number, row in enumerate(rows)
        for feature, cell in zip(SCHEMA.features, row)
        if (reason := feature.cells.reason(cell))
    ]
    assert problems_of([dict(zip(SCHEMA.names, row)) for row in rows]) == expected
    assert {problem.reason for problem in expected} <= set(REASONS)


def test_all_problems_of_records_come_at_once() -> None:
    """One error carries every problem of every row, and the number of checked rows."""
    rows: list[dict[str, Any]] = [{"a": None, "b": True, "c": 1}, {"a": 1, "b": 2, "c": 3}, {"b": 1, "c": "x", "d": 4}]
    with pytest.raises(SchemaError, match=r"^5 problems, the first: row 0, column 'a': missing$") as caught:
        SCHEMA.matrix_from_records(rows)

    assert caught.value.n_rows == 3
    assert caught.value.problems == (
        Problem(0, "a", "missing"),
        Problem(0, "b", "not a number"),
        Problem(2, "a", "missing"),
        Problem(2, "c", "not a number"),
        Problem(2, "d", "unknown"),
    )


def test_all_problems_of_columns_come_at_once() -> None:
    """A missing or unknown column is one problem of the table, reported together with bad cells."""
    with pytest.raises(SchemaError) as caught:
        SCHEMA.matrix_from_columns({"c": [1, None], "a": [math.nan, 1], "d": [1, 1]})

    assert caught.value.n_rows == 2
    assert caught.value.problems == (
        Problem(None, "b", "missing"),
        Problem(None, "d", "unknown"),
        Problem(0, "a", "not finite"),
        Problem(1, "c", "missing"),
    )


def test_unknown_name_alone_is_refused() -> None:
    """A complete row with one additional name is refused for that name, which may be a typing error."""
    assert problems_of([{"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 2, "c": 3, "C": 3}]) == [Problem(1, "C", "unknown")]


floats = st.floats() | st.sampled_from([1e30, -1e30, math.nextafter(1e30, math.inf), -0.0, 5e-324])


@given(rows=st.lists(st.tuples(floats, floats, floats), min_size=1, max_size=5))
def test_array_is_judged_as_its_cells_are(rows: list[tuple[float, ...]]) -> None:
    """A matrix is returned unchanged, or refused for exactly the same reasons as records of the same cells."""
    X = np.array(rows, dtype=np.float64)
    expected = problems_of([dict(zip(SCHEMA.names, row)) for row in rows])
    if expected:
        with pytest.raises(SchemaError) as caught:
            SCHEMA.matrix_from_array(X)
        assert (list(caught.value.problems), caught.value.n_rows) == (expected, len(rows))
    else:
        assert SCHEMA.matrix_from_array(X) is X


def test_no_rows_give_an_empty_matrix() -> None:
    """A table without rows is a matrix with no rows and all columns."""
    assert SCHEMA.matrix_from_records([]).shape == (0, 3)
    assert SCHEMA.matrix_from_columns({"a": [], "b": [], "c": []}).shape == (0, 3)


@pytest.mark.parametrize(
    ("text", "header", "expected"),
    [
        ("b,a\n1,2\n", True, ({"b": [1.0], "a": [2.0]}, 1)),
        ("b,a\n1,2\n", None, ({"b": [1.0], "a": [2.0]}, 1)),
        ("x,a\n1,2\n", True, ({"x": [], "a": [2.0]}, 1)),
        ("x,y\n1,2\n", False, ({"a": ["x", 1.0], "b": ["y", 2.0]}, 2)),
        ("3,4\n1,2\n", True, ({"3": [], "4": []}, 1)),
        ("3,4\n1,2\n", None, ({"a": [3.0, 1.0], "b": [4.0, 2.0]}, 2)),
        ("3,4\n1,2\n", False, ({"a": [3.0, 1.0], "b": [4.0, 2.0]}, 2)),
        ('\ufeff\n"3", inf\n', None, ({"a": [3.0], "b": [math.inf]}, 1)),
        ("3,\n1,2\n", None, ({"a": [3.0, 1.0], "b": [None, 2.0]}, 2)),
        ("3,\n1,2\n", False, ({"a": [3.0, 1.0], "b": [None, 2.0]}, 2)),
        ("3,NaN\n1,2\n", None, ({"a": [3.0, 1.0], "b": [None, 2.0]}, 2)),
        ("3,4", True, ({"3": [], "4": []}, 0)),
        ("3,4", None, ({"a": [3.0], "b": [4.0]}, 1)),
    ],
)
def test_csv_header(text: str, header: bool | None, expected: tuple[dict[str, list[Any]], int]) -> None:
    """The first line is the header or data by the argument; without one it is data if it has no text.

    Cells of columns that nobody asked for are not read.
    """
    assert columns_from_csv(text, header=header, names=("a", "b")) == expected


@pytest.mark.parametrize("header", [True, False, None])
def test_csv_rows_are_counted_without_the_header(header: bool | None) -> None:
    """As many rows as are allowed are read and one more is too many, whether there is a header or not."""
    lines = "x,y\n" * (header is True) + "1,2\n" * 3

    assert columns_from_csv(lines, max_rows=3, header=header, names=("a", "b"))[1] == 3
    with pytest.raises(TooManyRowsError):
        columns_from_csv(lines + "1,2\n", max_rows=3, header=header, names=("a", "b"))


def test_csv_without_a_header_has_the_width_of_the_names() -> None:
    """Without a header every row has as many cells as there are names."""
    with pytest.raises(SchemaError) as caught:
        columns_from_csv("1,2\n1\n1,2,3\n", header=False, names=("a", "b"))
    assert [problem.row for problem in caught.value.problems] == [1, 2]


@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_csv_keeps_every_float(values: list[float]) -> None:
    """Any float64 that is written with `repr` is read back to the last bit."""
    columns, n_rows = columns_from_csv("x\n" + "".join(f"{value!r}\n" for value in values))

    assert n_rows == len(values)
    assert bits(columns["x"]).tolist() == bits(values).tolist()


@given(cells=st.lists(st.lists(st.text(), min_size=2, max_size=2), min_size=1))
def test_csv_agrees_with_its_writer(cells: list[list[str]]) -> None:
    """Whatever the csv module quotes is read back as the same cells."""
    written = io.StringIO()
    csv.writer(written, quoting=csv.QUOTE_ALL).writerows([["x", "y"], *cells])
    columns, _ = columns_from_csv(written.getvalue())

    assert [list(row) for row in zip(columns["x"], columns["y"])] == [[parse_cell(c) for c in row] for row in cells]


@pytest.mark.parametrize(
    "text",
    [
        "x,y\n1,2\n3,4\n",
        "x,y\n1,2\n3,4",
        "x,y\r\n1,2\r\n3,4\r\n",
        "x,y\r1,2\r3,4\r",
        "\ufeffx,y\n1,2\n3,4\n",
        '\ufeff"x","y"\n"1","2"\n"3","4"\n',
        "\nx,y\n\n1,2\n\n\n3,4\n\n",
        " x , y \n 1 ,\t2\n+3.,4e0\n",
    ],
    ids=["plain", "no last newline", "CRLF", "CR", "BOM", "BOM and quotes", "blank lines", "spaces"],
)
def test_csv_of_every_writer_is_one_table(text: str) -> None:
    """Byte order mark, quotes, line ends, blank lines and spaces around a cell change nothing."""
    assert columns_from_csv(text) == ({"x": [1.0, 3.0], "y": [2.0, 4.0]}, 2)


@pytest.mark.parametrize("text", ["", " ", "NA", "n/a", "NaN", "nan", "NULL", "None", " na "])
def test_csv_cell_without_a_value_is_missing(text: str) -> None:
    """What pandas, R and spreadsheets write for a missing value is a missing cell."""
    assert columns_from_csv(f"x,y\n{text},1\n") == ({"x": [None], "y": [1.0]}, 1)


@pytest.mark.parametrize(
    "text", ["1_000", "١٢", "１", "0x10", "1e", "e5", ".", "+", "1.2.3", "--1", "1 2", "True", "infinit", "1d3"]
)
def test_csv_text_that_is_no_number_stays_text(text: str) -> None:
    """Underscores, digits of other scripts and anything else that is not a decimal number is not parsed as one."""
    assert parse_cell(text) == text


@given(text=st.text(alphabet="0123456789.eE+-_ infaty", max_size=12))
def test_csv_number_is_what_float_says(text: str) -> None:
    """A cell that is parsed as a number has the value of `float`, and `float` accepts all such cells."""
    cell = parse_cell(text)

    if isinstance(cell, float):
        assert bits([cell]).tolist() == bits([float(text)]).tolist()
    elif isinstance(cell, str) and "_" not in text:
        with pytest.raises(ValueError, match="could not convert"):
            float(text)


@pytest.mark.parametrize(
    ("text", "problems", "n_rows"),
    [
        (
            "x,y\n1\n1,2\n1,2,3\n",
            [
                Problem(0, None, "has 1 cells where there are 2 columns"),
                Problem(2, None, "has 3 cells where there are 2 columns"),
            ],
            3,
        ),
        ("x,y,x,y,x\n1,2,3,4,5\n", [Problem(None, "x", "repeated"), Problem(None, "y", "repeated")], 1),
        (
            "x, x\n1,2\n3\n",
            [Problem(None, "x", "repeated"), Problem(1, None, "has 1 cells where there are 2 columns")],
            2,
        ),
    ],
    ids=["ragged", "repeated header", "both"],
)
def test_csv_of_the_wrong_shape_is_refused(text: str, problems: list[Problem], n_rows: int) -> None:
    """A repeated name in the header and each row of another length are reported together."""
    with pytest.raises(SchemaError) as caught:
        columns_from_csv(text)
    assert (list(caught.value.problems), caught.value.n_rows) == (problems, n_rows)


@pytest.mark.parametrize(
    "text",
    ["", "\ufeff", "\n\n", 'x\n"1', 'x\n"1"2\n', f"x\n{'1' * 200_000}\n"],
    ids=["empty", "BOM only", "blank lines", "open quote", "text after quote", "endless cell"],
)
def test_text_that_is_no_csv_is_refused(text: str) -> None:
    """Text without a header, with broken quotes or with an endless cell is not CSV."""
    with pytest.raises(ValueError, match=r"^not CSV: "):
        columns_from_csv(text)


@pytest.mark.parametrize(
    "text",
    [f"x\n{'1' * 130_000}x\n", ",".join(f"x{i}" for i in range(200_000))],
    ids=["long cell", "wide header"],
)
def test_csv_takes_time_in_proportion_to_its_length(text: str) -> None:
    """A hostile text, such as a long cell or a wide header, cannot keep a worker busy."""
    start = time.process_time()
    columns_from_csv(text)
    assert time.process_time() - start < 20  # well under 1 s, where time in proportion to the square takes minutes


def test_problems_of_a_small_table_are_few() -> None:
    """The problems of too short rows take no more space than the text itself."""
    header, rows = [f"x{i}" for i in range(400)], [["1"]] * 400
    assert len(shape_problems(rows, header)) <= len(",".join(header)) + 2 * len(rows)


@given(
    features=st.lists(
        st.builds(
            Feature,
            name=st.text(min_size=1),
            unit=st.text(),
            description=st.text(),
            minimum=st.floats(-1e300, 7.0),
            maximum=st.floats(7.0, 1e300),
            lowest=st.just(-math.inf) | st.floats(-sys.float_info.max, 0),
            highest=st.just(math.inf) | st.floats(0, sys.float_info.max),
        ),
        min_size=2,
        unique_by=lambda feature: feature.name,
    )
)
def test_schema_survives_the_manifest(features: list[Feature]) -> None:
    """A schema written to a manifest, which is strict JSON without infinities, is read back equal to the last bit."""
    schema = Schema(tuple(features[1:]), target=features[0])
    text = to_json(to_manifest(schema)).decode()

    found = from_manifest(json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON")))
    assert found == schema
    assert np.array_equal(bits([f.lowest for f in found.features]), bits([f.lowest for f in schema.features]))
