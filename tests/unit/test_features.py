"""The types of features: which cells each accepts, what they become in the matrix and in texts, and the way back."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from model import Feature, Problem, Schema, SchemaError, columns_from_csv, described
from model.schema.feature import (
    AS_MISSING,
    AS_OTHER,
    BOOLEAN,
    CATEGORY,
    DATE,
    ERROR,
    INTEGER,
    from_document,
    to_document,
)
from model.schema.features import REASONS
from tests.support.service import bits

NAN = math.nan
TEXTS = ("Ideal", "1", "NA", " x ", "", "é", "true")
FEATURES = {
    "number": Feature("f", lowest=-1e30, highest=1e30),
    "number or missing": Feature("f", missing=True),
    "integer": Feature("f", type=INTEGER, lowest=-100, highest=100),
    "integer or missing": Feature("f", type=INTEGER, missing=True),
    "boolean": Feature("f", type=BOOLEAN),
    "boolean or missing": Feature("f", type=BOOLEAN, missing=True),
    "text": Feature("f", type=CATEGORY, categories=TEXTS),
    "text or missing": Feature("f", type=CATEGORY, categories=TEXTS[:4], missing=True),
    "text, unseen as missing": Feature("f", type=CATEGORY, categories=TEXTS[:4], missing=True, unseen=AS_MISSING),
    "text, unseen as other": Feature("f", type=CATEGORY, categories=TEXTS[:4], unseen=AS_OTHER),
    "numbers": Feature("f", type=CATEGORY, categories=(2, 0.5, -1e300)),
    "numbers, unseen as other": Feature("f", type=CATEGORY, categories=(2, 0.5), missing=True, unseen=AS_OTHER),
    "date": Feature("f", type=DATE),
    "date or missing": Feature("f", type=DATE, lowest=0.0, highest=1e9, missing=True),
    "date in a format": Feature("f", type=DATE, format="%d.%m.%Y"),
}
DATES = ("2020-02-29", "1969-12-31T23:59:59.999999+02:00", "2020-02-30", "0001-01-01T00:00+01:00", "31.12.2020", "NaT")
any_feature = st.sampled_from(list(FEATURES.values()))
any_cell = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats()
    | st.sampled_from([*TEXTS, *DATES, "ideal", "nan", 0.5, -1e300, 2**53 + 1, 10**400, -(10**400), [], {}, [1.0]])
    | st.text(max_size=3)
)


def plain_bits(values: list[Any]) -> list[int]:
    """Return the bit patterns of numbers, with one for every NaN, since no text tells them apart."""
    found = np.array(values, dtype=np.float64)
    patterns: list[int] = bits(np.where(np.isnan(found), NAN, found)).tolist()
    return patterns


def matrix_of(feature: Feature, cells: list[Any]) -> tuple[list[Any], tuple[Problem, ...]]:
    """Return the column of the matrix, and the problems, of cells that are sent as records."""
    try:
        matrix = Schema((feature,), Feature("y")).matrix_from_records([{"f": cell} for cell in cells])
    except SchemaError as error:
        return [], error.problems
    return plain_bits(matrix[:, 0].tolist()), ()


@pytest.mark.parametrize(
    ("kind", "cell", "number"),
    [
        ("number or missing", None, NAN),
        ("number or missing", NAN, NAN),
        ("integer", 5.0, 5),
        ("integer or missing", None, NAN),
        ("boolean", True, 1),
        ("boolean", False, 0),
        ("boolean", 1, 1),
        ("boolean", -0.0, 0),
        ("boolean or missing", None, NAN),
        ("boolean or missing", NAN, NAN),
        ("text", "1", 1),
        ("text", "", 4),
        ("text or missing", None, NAN),
        ("text, unseen as missing", "new", NAN),
        ("text, unseen as other", "new", 4),
        ("text, unseen as other", "ideal", 4),
        ("numbers", 2, 0),
        ("numbers", 2.0, 0),
        ("numbers", 0.5, 1),
        ("numbers", -(10**300), None),
        ("numbers, unseen as other", 10**400, 2),
        ("numbers, unseen as other", NAN, NAN),
        ("date", "1970-01-02", 86_400),
        ("date", "1970-01-01T02:00:00.5+02:00", 0.5),
        ("date", "31.12.2020", None),
        ("date", 0.0, None),
        ("date or missing", None, NAN),
        ("date or missing", "", None),
        ("date or missing", "2020-01-01", None),
        ("date in a format", "02.01.1970", 86_400),
        ("date in a format", "1970-01-02", 86_400),
    ],
)
def test_cell_becomes_a_number(kind: str, cell: Any, number: float | None) -> None:
    """A number is itself, a boolean 0 or 1, a category its place, a missing value NaN; for one row as for many."""
    expected = [] if number is None else bits([number]).tolist()

    assert matrix_of(FEATURES[kind], [cell])[0] == expected
    assert matrix_of(FEATURES[kind], [cell, cell])[0] == expected * 2


@given(feature=any_feature, cells=st.lists(any_cell, min_size=1, max_size=4))
def test_rows_are_refused_for_their_cells_alone(feature: Feature, cells: list[Any]) -> None:
    """Cells are refused exactly where each has a reason, alone and together, and a refusal is never without one."""
    kinds = feature.cells
    expected = [(row, reason) for row, cell in enumerate(cells) if (reason := kinds.reason(cell))]
    column, problems = matrix_of(feature, cells)

    assert [(problem.row, problem.reason) for problem in problems] == expected
    assert {problem.reason for problem in problems} <= set(REASONS)
    if not expected:
        assert column == [matrix_of(feature, [cell])[0][0] for cell in cells]


@example(feature=Feature("f", type="category", missing=True, categories=("a", "b")), values=[math.nan])
@given(feature=any_feature, values=st.lists(st.floats() | st.sampled_from([0.5, 2.0, 0.0, 1.0, -1e300]), min_size=1))
def test_array_is_as_its_cells(feature: Feature, values: list[float]) -> None:
    """A matrix of numbers becomes what the same numbers become as records, or is refused for the same reasons."""
    column, problems = matrix_of(feature, values)
    schema, X = Schema((feature,), Feature("y")), np.array(values).reshape(-1, 1)
    if problems:
        with pytest.raises(SchemaError) as caught:
            schema.matrix_from_array(X)
        assert caught.value.problems == problems
    else:
        assert plain_bits(schema.matrix_from_array(X)[:, 0].tolist()) == column


@given(feature=any_feature, cell=any_cell)
def test_cells_come_back(feature: Feature, cell: Any) -> None:
    """What a cell became is a cell again, and that cell becomes the same; in the prediction log unseen ones, too."""
    kinds = feature.cells
    number = kinds.number(cell)
    assume(number is not None)
    assert number is not None  # for the type checker
    logged = json.loads(json.dumps(kinds.to_log(number)))

    assert plain_bits(kinds.from_log([logged]).tolist()) == plain_bits([number])
    if number != len(feature.categories) or not feature.categories:
        assert plain_bits([kinds.number(kinds.cell(number))]) == plain_bits([number])


def written(cell: Any) -> str:
    """Return a cell as CSV has it."""
    return "" if cell is None else str(cell)


@given(
    feature=any_feature.filter(lambda feature: "" not in feature.categories),
    cells=st.lists(any_cell.filter(lambda cell: not isinstance(cell, (list, dict))), min_size=1, max_size=4),
)
def test_texts_are_the_cells_that_were_written(feature: Feature, cells: list[Any]) -> None:
    """What a table of text has for accepted cells is read as the same numbers of the matrix."""
    kinds = feature.cells

    def is_readable(cell: Any) -> bool:
        if kinds.number(cell) is None or (type(cell) is int and abs(cell) > 2**53):
            return False
        # An unseen text with spaces around it, or that means a missing value, is another in CSV.
        return type(cell) is not str or cell in feature.categories or kinds.parse(cell) == cell

    cells = [*filter(is_readable, cells), *map(kinds.cell, range(min(kinds.n_places, len(feature.categories))))]
    numbers = [kinds.number(cell) for cell in cells]
    table = io.StringIO()
    csv.writer(table).writerows([["f"], *([written(cell)] for cell in cells)])
    columns, n_rows = columns_from_csv(table.getvalue(), names=("f",), parsers={"f": kinds.parse})

    assert n_rows == len(cells)
    assert plain_bits([kinds.number(cell) for cell in columns["f"]]) == plain_bits(numbers)


@pytest.mark.parametrize(
    ("cell", "nearest"),
    [
        ("Idael", "Ideal"),
        ("IDEAL", "Ideal"),
        (" ideal\n", "Ideal"),
        ("x", " x "),
        ("É", "é"),
        ("#####", None),
        ("Ideal" * 100_000, None),
        (7, None),
    ],
)
def test_nearest_text(cell: Any, nearest: str | None) -> None:
    """The nearest category differs by case, spaces or a few letters; there may be none."""
    assert FEATURES["text"].cells.nearest(cell) == nearest


@pytest.mark.parametrize(
    ("cell", "nearest"), [(1.9, 2), (0, 0.5), (-1e308, -1e300), (math.inf, None), (NAN, None), (10**400, None)]
)
def test_nearest_number(cell: float, nearest: float | None) -> None:
    """The nearest number is that at the smallest distance; nothing is near to a number beyond float64."""
    assert FEATURES["numbers"].cells.nearest(cell) == nearest


def test_nearest_of_many_takes_little_time() -> None:
    """A request cannot keep a worker busy with texts that are compared with very many categories."""
    letters = np.random.default_rng(0).choice(list("abcdefgh"), (10_000, 60))
    names = sorted({"".join(row) for row in letters})
    feature = Feature("f", type=CATEGORY, categories=tuple(names))
    schema = Schema((feature,), Feature("y"))
    records = [{"f": name[::-1]} for name in names[:100]]
    with pytest.raises(SchemaError):
        schema.matrix_from_records(records[:1])
    started = time.process_time()
    with pytest.raises(SchemaError):
        schema.matrix_from_records(records)

    assert time.process_time() - started < 5  # half a second, where all are compared half a minute
    assert feature.cells.nearest(names[-1].upper()) == names[-1]


def test_left_out_and_unknown_names_of_records() -> None:
    """A record may leave out what may be missing; whatever is refused has its problem."""
    schema = Schema((Feature("a"), Feature("b", missing=True)), Feature("y"))

    assert (
        bits(schema.matrix_from_records([{"a": 1.0}, {"b": 2.0, "a": 3.0}])).tolist()
        == bits([[1, NAN], [3, 2]]).tolist()
    )
    for record, problem in (
        ({"b": 1.0}, Problem(0, "a", "missing")),
        ({}, Problem(0, "a", "missing")),
        ({"a": 1.0, "c": 1.0}, Problem(0, "c", "unknown")),
        ({"a": "x"}, Problem(0, "a", "not a number")),
    ):
        with pytest.raises(SchemaError) as caught:
            schema.matrix_from_records([record])
        assert caught.value.problems == (problem,)
    assert replace(schema, ignore_unknown=True).matrix_from_records([{"a": 1.0, "c": 1.0}])[0, 0] == 1


def test_column_is_not_left_out_of_a_table() -> None:
    """A table has a column for every feature, also where all of its values may be missing."""
    schema = Schema((Feature("a"), Feature("b", missing=True)), Feature("y"))
    with pytest.raises(SchemaError) as caught:
        schema.matrix_from_columns({"a": [1.0, 2.0]})

    assert caught.value.problems == (Problem(None, "b", "missing"),)


TWO = {
    "c": Feature("c", type=CATEGORY, categories=("a", "b", "p;q;r")),
    "n": Feature("n", missing=True),
}


@pytest.mark.parametrize(
    ("text", "features", "header"),
    [
        ("a,1\nb,2\n", "cn", False),
        ("1,a\n2,b\n", "nc", False),
        ("new,1\n", "cn", False),
        (",1\n", "cn", False),
        ("c,n\na,1\n", "cn", True),
        ("n,c\n1,a\n", "cn", True),
        (",c,n\n0,a,1\n", "cn", True),
        ("C,N\na,1\n", "cn", True),
        ("a\nb\n", "c", False),
        ("c\nb\n", "c", True),
        ("p;q;r,1\n", "cn", False),
        ("p;q;r\n", "c", False),
    ],
)
def test_first_line_of_categories(text: str, features: str, header: bool) -> None:
    """If nobody says which it is, a first line with text where none is expected, or with all names, is the header."""
    schema = Schema(tuple(TWO[name] for name in features), Feature("y"))
    _, n_rows = columns_from_csv(text, max_rows=9, header=None, names=schema.names, parsers=schema.parsers)

    assert n_rows == len(text.splitlines()) - header


def test_name_with_spaces_in_csv() -> None:
    """A name with spaces around it is found as it is, and others without those of their header."""
    schema = Schema((Feature(" a "), Feature("b")), Feature("y"))
    columns, _ = columns_from_csv(" a , b \n1,2\n", names=schema.names, parsers=schema.parsers)

    assert columns == {" a ": [1.0], "b": [2.0]}


def test_length_of_a_row_has_room_for_categories() -> None:
    """The longest row in JSON, with every character escaped, is within the bound for a row."""
    feature = Feature("f", type=CATEGORY, categories=("short", "\x00" * 500, "😀" * 100))
    schema = Schema((feature,), Feature("y"))

    for category in feature.categories:
        assert len(json.dumps([{"f": category}], indent=4)) <= schema.max_row_bytes


@given(
    feature=st.builds(
        Feature,
        name=st.text(),
        type=st.just(CATEGORY),
        missing=st.booleans(),
        categories=st.lists(st.text(), min_size=1, unique=True).map(tuple)
        | st.lists(st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False), min_size=1, unique=True).map(
            tuple
        ),
        unseen=st.sampled_from([ERROR, AS_MISSING, AS_OTHER]),
    )
)
def test_category_survives_the_manifest(feature: Feature) -> None:
    """A category is read from its document as it was written."""
    assert from_document(json.loads(json.dumps(to_document(feature)))) == feature


@pytest.mark.parametrize(
    ("kind", "cell", "reason", "nearest"),
    [
        ("date", None, "missing", None),
        ("date", 1_577_836_800, "not a date", None),
        ("date", True, "not a date", None),
        ("date", NAN, "not a date", None),
        ("date", ["2020-01-01"], "not a date", None),
        ("date", "2020-02-30", "not a date", None),
        ("date", "20200101", "not a date", None),
        ("date", "2020-01-01" * 100_000, "not a date", None),
        ("date", "0001-01-01T00:00+01:00", "out of range", "0001-01-01"),
        ("date", "9999-12-31T23:59:59-01:00", "out of range", "9999-12-31T23:59:59Z"),
        ("date or missing", "2020-01-01", "out of range", "2001-09-09T01:46:40Z"),
        ("date in a format", "12/31/2020", "not a date", None),
    ],
)
def test_wrong_date_has_its_reason(kind: str, cell: Any, reason: str, nearest: str | None) -> None:
    """A cell that is no date has that reason and how dates are written, a date beyond the limits the limit.

    It is the same for one row as for many.
    """
    accepted = "ISO 8601, such as 2026-01-31 or 2026-01-31T14:30:00Z"
    if FEATURES[kind].format:
        accepted += f", and {FEATURES[kind].format}, such as 31.01.2026"
    for row in (0, 1):
        cells = ["1970-01-01"] * row + [cell]
        problem = Problem(row, "f", reason, nearest, accepted if reason == "not a date" else "")
        assert matrix_of(FEATURES[kind], cells)[1] == (problem,)


@given(
    feature=st.builds(
        Feature,
        name=st.text(),
        type=st.just(DATE),
        minimum=st.sampled_from([-math.inf, 0.0]),
        maximum=st.sampled_from([math.inf, 1.5]),
        missing=st.booleans(),
        format=st.sampled_from(["", "%d.%m.%Y", "%b %d, %y"]),
    )
)
def test_date_survives_the_manifest(feature: Feature) -> None:
    """A date is read from its document as it was written."""
    assert from_document(json.loads(json.dumps(to_document(feature)))) == feature


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"type": "date", "format": "%m/%d"}, "does not have the year"),
        ({"type": "date", "format": 7}, "has a format of dates"),
        ({"type": "number", "format": "%Y-%m-%d"}, "has a format of dates"),
        ({"type": "date", "maximum": 1e18}, "beyond the years 1 to 9999"),
        ({"type": "date", "highest": -1e18}, "beyond the years 1 to 9999"),
        ({"type": "date", "categories": ["a"]}, "has categories"),
    ],
)
def test_document_of_a_date_is_checked(facts: dict[str, Any], message: str) -> None:
    """A date's document has a format that names a day, and ranges within the years 1 to 9999."""
    with pytest.raises(ValueError, match=message):
        from_document({"name": "f", **facts})


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({}, "any date"),
        ({"minimum": 0.0, "maximum": 86_400.0}, "1970-01-01 to 1970-01-02 in training"),
        ({"minimum": 0.0, "maximum": 5_400.5}, "1970-01-01 00:00 to 1970-01-01 01:30 in training"),
        ({"minimum": 0.5, "maximum": 1e9}, "1970-01-01 to 2001-09-09 in training"),
        (
            {"lowest": 0.0, "missing": True},
            "any date, accepted from 1970-01-01 to 9999-12-31T23:59:59Z; may be missing",
        ),
        ({"format": "%d.%m.%Y"}, "any date; also written as %d.%m.%Y"),
    ],
)
def test_date_is_described_in_words(facts: dict[str, Any], words: str) -> None:
    """People read dates, where the manifest has seconds."""
    assert described(Feature("f", type=DATE, **facts)) == words


def test_many_dates_take_little_time() -> None:
    """The dates of the largest request by default are read in a fraction of a second, in a format of their own, too."""
    days = np.datetime64("1900-01-01") + np.arange(10_000)
    feature = FEATURES["date in a format"]
    texts = [day.astype(object).strftime("%d.%m.%Y") for day in days]
    started = time.process_time()
    column = feature.cells.numbers(texts)

    assert time.process_time() - started < 1  # 0.1 s alone
    assert column is not None
    assert column.tolist() == [float(day.astype(int)) * 86_400 for day in days]
