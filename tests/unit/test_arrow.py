"""Tables of Arrow become the matrix that the same cells become as JSON or CSV, or are refused for the same reasons."""

from __future__ import annotations

import csv
import io
import math
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from model import Feature, Problem, Schema, SchemaError, columns_from_csv
from model.schema import dates
from model.schema.arrow import convert, matrix_from_arrow, problems
from model.schema.feature import CATEGORY, DATE
from model.schema.features import REASONS, Matrix
from tests.support.service import bits
from tests.unit.test_features import DATES, FEATURES, TEXTS

KINDS = [*FEATURES.values(), Feature("f", type=CATEGORY, categories=(2**53 + 1, -7, 2**60))]
any_feature = st.sampled_from(KINDS)
some_text = st.sampled_from([*TEXTS, *DATES, "ideal", "nan", "North", "é" * 40]) | st.text(max_size=3)
number_text = (
    st.floats().map(repr)
    | st.text(alphabet="0123456789.eE+-_ infaty", max_size=12)
    | st.sampled_from(["1e999", "1e-999", "-nan", "nan(1)", "+-1", "١", " 1 ", "1\n", "0x10", "1e-320", "NA", "-0"])
)
HALVES = pa.array(np.array([1, 2], np.float16))


def exactly(cell: Any) -> Any:
    """Return a cell as it is."""
    return cell


def for_feature(feature: Feature, cells: list[Any]) -> list[Any]:
    """Return cells with dates as texts where the feature is of dates, and as an object where it is not."""
    is_date = feature.type == DATE
    texts = {cell: cell.isoformat() if is_date else {"date": str(cell)} for cell in cells if isinstance(cell, date)}
    return [texts[cell] if isinstance(cell, date) else cell for cell in cells]


# Types of Arrow: values that each can have, and what the same cell is in JSON.
ARRAYS: list[tuple[pa.DataType, st.SearchStrategy[Any], Any]] = [
    *((getattr(pa, f"int{n}")(), st.integers(-(2 ** (n - 1)), 2 ** (n - 1) - 1), exactly) for n in (8, 16, 32, 64)),
    *((getattr(pa, f"uint{n}")(), st.integers(0, 2**n - 1), exactly) for n in (8, 16, 32, 64)),
    (pa.int64(), st.integers(-3, 3) | st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 2**60, -7]), exactly),
    (pa.float16(), st.floats(width=16).map(np.float16), float),
    (pa.float32(), st.floats(width=32), float),
    (pa.float64(), st.floats() | st.sampled_from([0.0, -0.0, 1.0, 0.5, 2.0, -1e300]), exactly),
    (pa.bool_(), st.booleans(), exactly),
    (pa.decimal128(38, 6), st.decimals(-(10**30), 10**30, places=6), float),
    (pa.decimal128(38, 0), st.decimals(-(10**30), 10**30, places=0) | st.just(Decimal(2**53 + 1)), int),
    (pa.decimal256(76, 40), st.decimals(-(10**30), 10**30, places=40), float),
    (pa.decimal128(5, -2), st.integers(-999, 999).map(lambda n: Decimal(n) * 100), float),
    *((kind, some_text | number_text, exactly) for kind in (pa.string(), pa.large_string(), pa.string_view())),
    (pa.date32(), st.dates(), exactly),
    (pa.date64(), st.dates(), exactly),
    (pa.timestamp("s"), st.datetimes().map(lambda at: at.replace(microsecond=0)), exactly),
    (pa.timestamp("us"), st.datetimes(), exactly),
    (pa.timestamp("us", "Europe/Vienna"), st.datetimes(timezones=st.just(UTC)), exactly),
    (pa.timestamp("ns"), st.datetimes(datetime(1678, 1, 1), datetime(2262, 1, 1)), exactly),
    (pa.null(), st.none(), exactly),
    (pa.binary(), st.binary(max_size=2), list),
    (pa.time64("us"), st.times(), lambda cell: [str(cell)]),
    (pa.duration("s"), st.integers(-5, 5).map(lambda n: timedelta(seconds=n)), lambda cell: [str(cell)]),
    (pa.list_(pa.float64()), st.lists(st.floats(0, 1), max_size=2), exactly),
    (pa.struct([("x", pa.int64())]), st.integers(0, 3).map(lambda n: {"x": n}), exactly),
]


@st.composite
def columns(draw: st.DrawFn) -> tuple[pa.ChunkedArray, list[Any]]:
    """Return a column of any type, as it is or encoded, in any chunks and slices, and its cells as JSON has them."""
    kind, values, as_json = draw(st.sampled_from(ARRAYS))
    chunks, cells = [], []
    for _ in range(draw(st.integers(1, 3))):
        drawn = draw(st.lists(st.none() | values, max_size=12))
        array = pa.array(drawn, kind)
        if draw(st.booleans()) and not pa.types.is_nested(kind) and not pa.types.is_null(kind):
            array = array.dictionary_encode()
        start = draw(st.integers(0, len(drawn)))
        chunks.append(array[start:])
        cells += [None if value is None else as_json(value) for value in drawn[start:]]
    kinds = {chunk.type for chunk in chunks}
    if len(kinds) > 1:
        chunks = [chunk if pa.types.is_dictionary(chunk.type) else chunk.dictionary_encode() for chunk in chunks]
    return pa.chunked_array(chunks), cells


def expected(schema: Schema, table: dict[str, list[Any]]) -> tuple[Matrix | None, tuple[Problem, ...]]:
    """Return the matrix of columns of cells, or their problems."""
    try:
        return schema.matrix_from_columns(table), ()
    except SchemaError as error:
        return None, error.problems


def one(feature: Feature) -> Schema:
    """Return a schema of one feature."""
    return Schema((feature,), Feature("y"))


def check(schema: Schema, table: pa.Table, cells: dict[str, list[Any]], *, texts: bool) -> None:
    """Compare all that a table of Arrow becomes with what its cells become."""
    matrix, found = expected(schema, cells)
    converted = convert(table, schema, texts=texts)
    refused = sorted({problem.row for problem in found if problem.row is not None})

    assert np.flatnonzero(converted.refused).tolist() == refused
    assert problems(table, schema, refused, texts=texts) == list(found)
    if matrix is not None:
        X = matrix_from_arrow(table, schema, texts=texts)
        assert same_bits(X, matrix)
        assert same_bits(converted.X, matrix)
    else:
        with pytest.raises(SchemaError) as caught:
            matrix_from_arrow(table, schema, texts=texts)
        assert (caught.value.problems, caught.value.n_rows) == (found, table.num_rows)
        accepted = [row for row in range(table.num_rows) if row not in refused]
        alone, _ = expected(schema, {name: [column[row] for row in accepted] for name, column in cells.items()})
        assert same_bits(converted.X[accepted], alone)


def same_bits(X: Any, Y: Any) -> bool:
    """Return whether two matrices have the same bits, with one NaN for all."""
    X, Y = np.asarray(X), np.asarray(Y)
    return X.shape == Y.shape and bool(((bits(X) == bits(Y)) | (np.isnan(X) & np.isnan(Y))).all())


@given(feature=any_feature, column=columns())
@example(feature=FEATURES["number"], column=(pa.chunked_array([], pa.int8()), []))
@example(
    feature=FEATURES["number"],
    column=(
        pa.chunked_array([pa.array([np.float16(n)], pa.float16()).dictionary_encode() for n in (1, 2)]),
        [1.0, 2.0],
    ),
)
@example(feature=KINDS[-1], column=(pa.chunked_array([[2**53, 2**53 + 1]]), [2**53, 2**53 + 1]))
def test_cells_count_as_in_json(feature: Feature, column: tuple[pa.ChunkedArray, list[Any]]) -> None:
    """A column of any type, encoding, chunks and slices becomes what its cells become in JSON, or is refused alike."""
    array, cells = column
    check(one(feature), pa.table({"f": array}), {"f": for_feature(feature, cells)}, texts=False)


@given(feature=any_feature, cells=st.lists(st.none() | some_text | number_text, min_size=1, max_size=12))
@example(feature=FEATURES["number or missing"], cells=["1\n", "+1", "", "NaN", "-nan", "1e999", None])
def test_texts_count_as_in_csv(feature: Feature, cells: list[str | None]) -> None:
    """Texts that are read as CSV become what the same table becomes as CSV, whatever their encoding."""
    assume(not any(cell and "\x00" in cell for cell in cells))
    written = io.StringIO()
    csv.writer(written, quoting=csv.QUOTE_ALL).writerows([["f"], *([cell or ""] for cell in cells)])
    parsed, _ = columns_from_csv(written.getvalue(), names=("f",), parsers=one(feature).parsers)
    parsed["f"] = [None if cell is None else read for cell, read in zip(cells, parsed["f"])]
    array = pa.array(cells, pa.string())

    for same in (array, array.dictionary_encode(), array.cast(pa.large_string()), array.cast(pa.string_view())):
        check(one(feature), pa.table({"f": same}), parsed, texts=True)


@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1), bad=st.booleans())
def test_numbers_in_texts_are_rounded_to_the_nearest(values: list[float], bad: bool) -> None:
    """A number as a text is the nearest float64, and a text that is no number refuses its own row alone."""
    array = pa.array([*map(repr, values), "x"] if bad else [*map(repr, values)])
    converted = convert(pa.table({"f": array}), one(Feature("f")), texts=True)

    assert bits(converted.X[: len(values), 0]).tolist() == bits(values).tolist()
    assert np.flatnonzero(converted.refused).tolist() == ([len(values)] if bad else [])


@given(data=st.data(), seed=st.integers(0, 2**32))
def test_columns_may_have_any_order(data: st.DataObject, seed: int) -> None:
    """Several columns come into the schema's order, and their problems in the order that columns of cells have."""
    drawn = data.draw(st.lists(st.tuples(any_feature, columns()), min_size=2, max_size=4))
    n_rows = min(len(cells) for _, (_, cells) in drawn)
    names = [f"f{number}" for number in range(len(drawn))]
    schema = Schema(tuple(replace(feature, name=name) for name, (feature, _) in zip(names, drawn)), Feature("y"))
    order = random.Random(seed).sample(range(len(drawn)), len(drawn))
    table = pa.table({names[i]: drawn[i][1][0][:n_rows] for i in order})

    cells = {name: for_feature(feature, cells[:n_rows]) for name, (feature, (_, cells)) in zip(names, drawn)}
    check(schema, table, cells, texts=False)


def test_a_batch_is_as_its_table() -> None:
    """A record batch is converted like a table."""
    batch = pa.record_batch({"b": [1, None], "a": [1.5, 2.5]})
    schema = Schema((Feature("a"), Feature("b", missing=True)), Feature("y"))

    assert same_bits(matrix_from_arrow(batch, schema), [[1.5, 1.0], [2.5, math.nan]])


def test_all_problems_of_a_table_come_at_once() -> None:
    """Missing and unknown columns are one problem each, reported together with bad cells; the target is ignored."""
    schema = Schema((Feature("a"), Feature("b"), Feature("c", missing=True)), Feature("y"))
    table = pa.table({"a": [1.0, None], "d": [1, 1], "y": [1, 2]})

    with pytest.raises(SchemaError) as caught:
        matrix_from_arrow(table, schema)
    with pytest.raises(SchemaError) as as_columns:
        schema.matrix_from_columns(table.to_pydict())
    assert caught.value.problems == as_columns.value.problems
    assert caught.value.problems[-1] == Problem(1, "a", "missing")


def test_absent_column_counts_as_missing() -> None:
    """A feature without a column is NaN where it may be missing; where it may not be, each row is refused for it."""
    schema = Schema((Feature("a"), Feature("b", missing=True)), Feature("y"))

    assert same_bits(convert(pa.table({"a": [1, 2]}), schema).X, [[1, math.nan], [2, math.nan]])
    refused = convert(pa.table({"b": [1, 2]}), schema)
    assert refused.refused.tolist() == [True, True]
    assert problems(pa.table({"b": [1, 2]}), schema, [1]) == [Problem(1, "a", "missing")]


def test_repeated_column_is_refused() -> None:
    """A feature that has two columns is refused, whatever is in them."""
    schema = Schema((Feature("a"), Feature("b")), Feature("y"))
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], names=["a", "b", "a"])

    assert convert(table, schema).refused.tolist() == [True]
    assert problems(table, schema, [0]) == [Problem(0, "a", "repeated")]
    with pytest.raises(SchemaError) as caught:
        matrix_from_arrow(table, schema)
    assert caught.value.problems == (Problem(None, "a", "repeated"),)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *((pa.timestamp(unit), value) for unit in ("s", "ms", "us") for value in (2**63 - 1, -(2**63))),
        *((pa.date32(), value) for value in (2**31 - 1, -(2**31))),
        *((pa.date64(), value) for value in (86_400_000 * 10**8, -86_400_000 * 10**8)),
        (pa.timestamp("s"), int(dates.HIGHEST) + 1),
        (pa.timestamp("s"), int(dates.LOWEST) - 1),
        (pa.date32(), int(dates.LOWEST) // 86_400 - 1),
    ],
)
def test_dates_beyond_the_calendar_are_out_of_range(kind: pa.DataType, value: int) -> None:
    """A day that is in no year from 1 to 9999 is refused, with the nearest one, however far it is."""
    array = pa.array([value], pa.int32() if kind == pa.date32() else pa.int64()).view(kind)
    nearest = "9999-12-31T23:59:59Z" if value > 0 else "0001-01-01"

    assert convert(pa.table({"f": array}), one(FEATURES["date"])).refused.tolist() == [True]
    assert problems(pa.table({"f": array}), one(FEATURES["date"]), [0]) == [Problem(0, "f", "out of range", nearest)]


def test_last_second_of_the_calendar_is_accepted() -> None:
    """The last second of the year 9999 counts whole, as in a text, and the first of the year 1 is accepted."""
    array = pa.array([datetime(9999, 12, 31, 23, 59, 59, 999_999), datetime(1, 1, 1)], pa.timestamp("us"))

    X = matrix_from_arrow(pa.table({"f": array}), one(FEATURES["date"]))
    assert X[:, 0].tolist() == [dates.HIGHEST, dates.LOWEST]


@pytest.mark.parametrize("scale", [2**31 - 1, -(2**31), 400, -400])
def test_decimals_of_absurd_scale_are_no_numbers(scale: int) -> None:
    """A decimal that no digits can write is refused, and costs nothing."""
    kind = pa.decimal128(5, scale)
    array = pa.Array.from_buffers(kind, 1, [None, pa.py_buffer((7).to_bytes(16, "little"))])

    for feature in KINDS:
        schema = one(feature)
        assert convert(pa.table({"f": array}), schema).refused.tolist() == [True]
        assert {problem.reason for problem in problems(pa.table({"f": array}), schema, [0])} <= set(REASONS)


@pytest.mark.parametrize(
    "array",
    [
        pc.run_end_encode(pa.array([1, 1, 0, None])),
        pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 1, 0, None], pa.int8())),
        pa.DictionaryArray.from_arrays(pa.array([0, 0, 2, 1], pa.uint8()), pa.array([1, None, 0, 9, 9, 9])),
        pa.chunked_array([pc.run_end_encode(pa.array([1, 1])), pc.run_end_encode(pa.array([0, None]))]),
    ],
    ids=["runs", "extension", "dictionary with null", "chunks of runs"],
)
def test_encodings_are_read_through(array: Any) -> None:
    """Runs, extensions and dictionaries are their values."""
    for feature in (FEATURES["boolean or missing"], FEATURES["number or missing"]):
        check(one(feature), pa.table({"f": array}), {"f": [1, 1, 0, None]}, texts=False)


def test_text_that_is_not_utf_8_is_no_category() -> None:
    """Bytes that are no text are refused like any unknown category, and are no number."""
    array = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff1")]
    )
    table = pa.table({"f": array})

    assert problems(table, one(FEATURES["text"]), [0])[0].reason == "unknown category"
    assert problems(table, one(FEATURES["number"]), [0], texts=True)[0].reason == "not a number"
    assert convert(table, one(FEATURES["number"]), texts=True).refused.tolist() == [True]


def test_many_small_chunks_are_one_column() -> None:
    """A column in many chunks, with other dictionaries each, is one column."""
    chunks = [pa.array([TEXTS[n % 4], None]).dictionary_encode() for n in range(500)]
    table = pa.table({"f": pa.chunked_array(chunks)})

    check(one(FEATURES["text or missing"]), table, {"f": table["f"].to_pylist()}, texts=False)


def test_threads_convert_at_the_same_time() -> None:
    """Threads that convert tables by one schema at once get what each gets alone."""
    rng = np.random.default_rng(7)
    schema = Schema((Feature("a"), Feature("b", type=CATEGORY, categories=TEXTS)), Feature("y"))
    tables = [
        pa.table({"a": rng.normal(size=5_000), "b": [TEXTS[n] for n in rng.integers(0, len(TEXTS), 5_000)]})
        for _ in range(8)
    ]
    alone = [convert(table, schema).X for table in tables]

    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda table: convert(table, schema).X, tables * 4))
    assert all(same_bits(X, alone[n % 8]) for n, X in enumerate(together))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_whole_number_is_not_the_category_beside_it(sign: int) -> None:
    """2**53 and 2**53 + 1 are one float64, and two categories."""
    feature = Feature("f", type=CATEGORY, categories=(sign * (2**53 + 1), 7))
    table = pa.table({"f": pa.array([sign * 2**53, sign * (2**53 + 1)])})
    check(one(feature), table, {"f": table["f"].to_pylist()}, texts=False)
