"""Columns: each operation does what it says, in any batch, and no file makes more than an error."""

from __future__ import annotations

import io
import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.engine import columns
from model.engine.columns import FUNCTIONS, Columns, Operation
from tests.support.service import bits

NAN = np.nan
X = np.array([[0.0, -1.5, NAN], [1.0, 2.5, 3.0], [2.0, 0.0, -7.0], [NAN, 1e300, 0.1]])


def floats(*numbers: float) -> NDArray[np.float64]:
    return np.array(numbers, dtype=np.float64)


def whole(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, dtype=np.int64)


def of_all(name: str, *parameters: NDArray[Any]) -> Columns:
    """Return the program of one operation on all three features."""
    return Columns(3, [Operation(name, (0,), parameters)])


@pytest.mark.parametrize(
    ("name", "parameters", "expected"),
    [
        ("take", [whole(2, 0, 2)], X[:, [2, 0, 2]]),
        ("one", [], np.ones((4, 1))),
        ("add", [floats(1, 2, 0.1)], X + floats(1, 2, 0.1)),
        ("subtract", [floats(1, 2, 0.1)], X - floats(1, 2, 0.1)),
        ("multiply", [floats(3, 2, 0.1)], X * floats(3, 2, 0.1)),
        ("divide", [floats(3, 2, 0.1)], X / floats(3, 2, 0.1)),
        ("clip", [floats(1, -1, 0), floats(1, 1, 2)], np.clip(X, floats(1, -1, 0), floats(1, 1, 2))),
        ("fill", [floats(9, 8, 7)], [[0, -1.5, 7], [1, 2.5, 3], [2, 0, -7], [9, 1e300, 0.1]]),
        ("is missing", [], [[0, 0, 1], [0, 0, 0], [0, 0, 0], [1, 0, 0]]),
        ("equal", [floats(1, 0, -7)], [[0, 0, 0], [1, 0, 0], [0, 1, 1], [0, 0, 0]]),
        ("numbers", [floats(3, 5)], [[3, 5]] * 4),
        ("finite", [], X),
        ("in float32", [], [[0, -1.5, NAN], [1, 2.5, 3], [2, 0, -7], [NAN, NAN, 0.1]]),
        ("not", [], [[1, 0, NAN], [0, 0, 0], [0, 1, 0], [NAN, 0, 0]]),
        ("year", [], [[1970, 1969, NAN], [1970, 1970, 1970], [1970, 1970, 1969], [NAN, NAN, 1970]]),
        ("quarter", [], [[1, 4, NAN], [1, 1, 1], [1, 1, 4], [NAN, NAN, 1]]),
        ("month", [], [[1, 12, NAN], [1, 1, 1], [1, 1, 12], [NAN, NAN, 1]]),
        ("day", [], [[1, 31, NAN], [1, 1, 1], [1, 1, 31], [NAN, NAN, 1]]),
        ("day of year", [], [[1, 365, NAN], [1, 1, 1], [1, 1, 365], [NAN, NAN, 1]]),
        ("weekday", [], [[3, 2, NAN], [3, 3, 3], [3, 3, 2], [NAN, NAN, 3]]),
        ("hour", [], [[0, 23, NAN], [0, 0, 0], [0, 0, 23], [NAN, NAN, 0]]),
        ("minute", [], [[0, 59, NAN], [0, 0, 0], [0, 0, 59], [NAN, NAN, 0]]),
        ("above", [floats(1, 0, -7)], [[0, 0, 0], [0, 1, 1], [1, 0, 0], [0, 1, 1]]),
        ("float32", [], [[0, -1.5, NAN], [1, 2.5, 3], [2, 0, -7], [NAN, np.inf, float(np.float32(0.1))]]),
        (
            "bins",
            [floats(1, 0, 2.5, 3), whole(1, 2, 1)],
            [[0, 0, 1], [1, 2, 1], [1, 1, 0], [1, 2, 0]],  # a missing value is above all edges
        ),
        (
            "places",
            [floats(0, 2, -1.5, 0, 3), whole(2, 2, 1)],
            [[0, 0, NAN], [2, 2, 0], [1, 1, 1], [NAN, 2, 1]],
        ),
        ("quantiles", [floats(0, 1, -1.5, 2.5, 0, 3).reshape(3, 2), floats(0, 1)], None),
        ("yeo-johnson", [floats(0.5, 2, 0)], None),
    ],
)
def test_operation_does_what_it_says(name: str, parameters: list[Any], expected: Any) -> None:
    """Each operation gives the numbers of its formula, for every row alone and for all together."""
    program = of_all(name, *parameters)
    found = program.run(X)

    if expected is not None:
        assert np.array_equal(found, expected, equal_nan=True)
    assert program.n_columns == found.shape[1]
    assert np.array_equal(np.vstack([program.run(row[np.newaxis]) for row in X]), found, equal_nan=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plus", [3, NAN, 3]),
        ("minus", [-1, NAN, 3]),
        ("product", [2, NAN, 0]),
        ("over", [0.5, NAN, np.inf]),
        ("smaller", [1, NAN, 0]),
        ("larger", [2, NAN, 3]),
        ("is less", [1, NAN, 0]),
        ("is at most", [1, NAN, 0]),
        ("is equal", [0, NAN, 0]),
        ("is not equal", [1, NAN, 1]),
        ("both", [1, NAN, 0]),
        ("either", [1, 1, 1]),
    ],
)
def test_operation_on_two_blocks(name: str, expected: list[float]) -> None:
    """An operation takes the numbers of two blocks, one by one, and the widths must be the same."""
    first, second = floats(1, NAN, 3).reshape(3, 1), floats(2, 5, 0).reshape(3, 1)

    assert np.array_equal(columns.apply(Operation(name, (0, 1)), [first, second])[:, 0], expected, equal_nan=True)
    with pytest.raises(ValueError, match="another length"):
        columns.apply(Operation(name, (0, 1)), [first, X])


def test_where_takes_one_of_two() -> None:
    """The second number where the first is true, the third where it is false, and none where that is not known."""
    found = columns.apply(Operation("where", (0, 1, 2)), [floats(1, 0, NAN, 2).reshape(4, 1), X[:, :1], X[:, 1:2]])

    assert np.array_equal(found[:, 0], [0, 2.5, NAN, NAN], equal_nan=True)


def test_columns_that_are_features() -> None:
    """What is taken as it is keeps its number, through any other taking; what is computed has none."""
    operations = [
        Operation("take", (0,), (whole(2, 0),)),
        Operation("square", (0,)),
        Operation("join", (1, 2, 0)),
        Operation("take", (3,), (whole(7, 1, 3),)),
    ]

    assert Columns(3, operations[:3]).as_taken([7, 8, 9]) == [9, 7, 0, 0, 0, 7, 8, 9]
    assert Columns(3, operations).as_taken([7, 8, 9]) == [9, 7, 0]
    assert Columns(3, []).as_taken([7, 8, 9]) == [7, 8, 9]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_is_that_of_numpy(name: str) -> None:
    """A function gives numpy's own bits, for every row alone and for all together."""
    with np.errstate(all="ignore"):
        expected = FUNCTIONS[name](X)

    assert np.array_equal(of_all(name).run(X), expected, equal_nan=True)
    assert np.array_equal(np.vstack([of_all(name).run(row[np.newaxis]) for row in X]), expected, equal_nan=True)


def test_quantiles_are_shares_of_what_is_below() -> None:
    """A number between two quantiles lies as far between their references, and one beyond all at their end."""
    program = Columns(1, [Operation("quantiles", (0,), (floats(0, 10, 20).reshape(1, 3), floats(0, 0.5, 1)))])

    assert program.run(floats(-5, 0, 5, 15, 20, 99).reshape(-1, 1))[:, 0].tolist() == [0, 0, 0.25, 0.75, 1, 1]


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0, 3.0])
def test_yeo_johnson_is_the_transform_of_the_paper(exponent: float) -> None:
    """The transform is near to its formula: powers of x + 1 above 0 and of 1 - x below."""
    x = floats(-3, -0.5, 0, 0.5, 3)
    up = np.log(1 + x[2:]) if exponent == 0 else ((1 + x[2:]) ** exponent - 1) / exponent
    down = -np.log(1 - x[:2]) if exponent == 2 else -((1 - x[:2]) ** (2 - exponent) - 1) / (2 - exponent)
    program = Columns(1, [Operation("yeo-johnson", (0,), (floats(exponent),))])

    assert program.run(x.reshape(-1, 1))[:, 0] == pytest.approx([*down, *up], rel=1e-14)


def test_table_has_a_value_for_each_place_and_for_missing() -> None:
    """A place has the value in its list, and a missing one the last of it; what is beyond the list breaks nothing."""
    program = Columns(2, [Operation("table", (0,), (floats(10, 11, 12, 20, 21), whole(3, 2)))])

    assert program.run(floats(0, 0, 1, NAN, NAN, 0).reshape(-1, 2)).tolist() == [[10, 20], [11, 21], [12, 20]]
    assert program.run(floats(-1e300, np.inf, 7, -np.inf).reshape(-1, 2)).shape == (2, 2)


def test_blocks_are_joined_and_multiplied() -> None:
    """An operation takes the results of earlier ones."""
    operations = [
        Operation("take", (0,), (whole(0),)),
        Operation("take", (0,), (whole(1),)),
        Operation("product", (1, 2)),
        Operation("join", (3, 0, 1)),
    ]

    assert Columns(2, operations).run(floats(3, 5).reshape(1, 2)).tolist() == [[15, 3, 5, 3]]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), n_rows=st.integers(1, 3_000), n_operations=st.integers(1, 12))
def test_row_has_the_same_bits_in_every_batch(seed: int, n_rows: int, n_operations: int) -> None:
    """Whatever the program, a row's columns do not depend on the rows beside it; a packed program gives them, too."""
    random = np.random.default_rng(seed)
    program = random_program(random, n_operations)
    rows = random.normal(size=(n_rows, 4)) * 10.0 ** random.integers(-5, 6)
    rows[random.random(rows.shape) < 0.1] = NAN
    found = program.run(rows)
    chosen = random.integers(0, n_rows, 5)

    assert np.array_equal(bits(np.vstack([program.run(rows[n : n + 1]) for n in chosen])), bits(found[chosen]))
    packed = program.pack()
    again = Columns.unpack(packed, 4)
    assert np.array_equal(bits(again.run(rows)), bits(found))
    assert again.pack() == packed


def random_program(random: np.random.Generator, n_operations: int) -> Columns:
    """Return a program of four features; each operation takes an earlier block."""
    widths, operations = [4], []
    for _ in range(n_operations):
        block = int(random.integers(len(widths)))
        k = widths[block]
        name = str(random.choice(["take", "join", "divide", "fill", "bins", "clip", "yeo-johnson", "log1p", "places"]))
        blocks: tuple[int, ...] = (block,)
        parameters: list[NDArray[Any]] = []
        width = k
        if name == "take":
            width = int(random.integers(1, 6))
            parameters = [random.integers(0, k, width)]
        elif name == "join":
            other = int(random.integers(len(widths)))
            blocks, width = (block, other), k + widths[other]
        elif name in ("bins", "places"):
            counts = random.integers(1, 4, k)
            parameters = [np.concatenate([np.sort(random.normal(size=n)) for n in counts]), counts]
        elif name == "clip":
            parameters = [np.full(k, -2.0), np.full(k, 2.0)]
        elif name != "log1p":
            parameters = [random.normal(size=k)]
        operations.append(Operation(name, blocks, tuple(parameters)))
        widths.append(width)
    return Columns(4, operations)


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (Operation("exec", (0,)), "'exec', which does not exist"),
        (Operation("log", (1,)), "takes blocks that do not exist"),
        (Operation("log", (-1,)), "takes blocks that do not exist"),
        (Operation("log", ()), "takes blocks that do not exist"),
        (Operation("join", ()), "takes blocks that do not exist"),
        (Operation("product", (0,)), "takes blocks that do not exist"),
        (Operation("take", (0,), (whole(3),)), "a column that does not exist"),
        (Operation("take", (0,), (whole(-1),)), "a column that does not exist"),
        (Operation("take", (0,), (whole(),)), "makes no columns"),
        (Operation("take", (0,), (floats(0),)), "other parameters than it takes"),
        (Operation("add", (0,), (floats(1, 2),)), "another length than its columns"),
        (Operation("add", (0,), (floats(1, 2, 3).reshape(1, 3),)), "other parameters than it takes"),
        (Operation("add", (0,)), "other parameters than it takes"),
        (Operation("table", (0,), (floats(1, 2, 3), whole(1, 2, 1))), "lists are not those of its columns"),
        (Operation("table", (0,), (floats(1, 2, 3), whole(0, 2, 1))), "lists are not those of its columns"),
        (Operation("bins", (0,), (floats(1), whole(2**62, 2**62, -(2**63) + 1))), "lists are not those of its"),
        (Operation("quantiles", (0,), (floats(1, 2, 3).reshape(3, 1), floats())), "quantiles are not those of its"),
    ],
)
def test_operation_that_does_not_fit_is_refused(operation: Operation, reason: str) -> None:
    """An operation is checked before it runs, against the columns that it takes."""
    with pytest.raises(ValueError, match=reason):
        Columns(3, [operation])


def test_program_without_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program has at most so many operations, and makes at most so many columns."""
    doubling = [Operation("join", (number, number)) for number in range(40)]
    with pytest.raises(ValueError, match="makes more than 65536 columns"):
        Columns(1, doubling)
    with pytest.raises(ValueError, match="has 8193 operations, more than 8192"):
        Columns(1, [Operation("log", (0,))] * 8_193)
    monkeypatch.setattr(columns, "MAX_OPERATIONS", 3)
    with pytest.raises(ValueError, match="has 4 operations, more than 3"):
        Columns.unpack(Columns.pack(packable([Operation("log", (0,))] * 4)), 1)


def packable(operations: list[Operation]) -> Any:
    """Return what `Columns.pack` takes, without a check of the operations."""
    program = Columns(1, [])
    program.operations = tuple(operations)
    return program


def packed(program: bytes, **arrays: NDArray[Any]) -> bytes:
    """Return a file with this program."""
    file = io.BytesIO()
    np.savez(file, program=np.frombuffer(program, dtype=np.uint8), allow_pickle=False, **arrays)
    return file.getvalue()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["take", "log"]),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(
    facts=json_values
    | st.lists(st.tuples(st.sampled_from(["take", "log", "join", "bins"]), json_values, st.integers(-1, 3)))
)
def test_any_program_is_refused_or_runs(facts: Any) -> None:
    """Any JSON in place of a program is a `ValueError`, or a program that runs."""
    content = packed(json.dumps(facts).encode(), parameter0=whole(0), parameter1=floats(1))
    try:
        program = Columns.unpack(content, 1)
    except ValueError:
        return
    assert program.run(np.ones((2, 1))).shape == (2, program.n_columns)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), n_bytes=st.integers(1, 30))
def test_any_damage_is_refused_or_runs(seed: int, n_bytes: int) -> None:
    """Bytes of a file that are changed, or missing, give a `ValueError` or a program that runs, in little memory."""
    random = np.random.default_rng(seed)
    content = bytearray(random_program(random, 6).pack())
    for place in random.integers(0, len(content), n_bytes):
        content[place] = random.integers(256)
    changed = bytes(content[: random.integers(1, len(content))] if seed % 4 == 0 else content)
    tracemalloc.start()
    try:
        program = Columns.unpack(changed, 4)
        program.run(random.normal(size=(3, 4)))
    except ValueError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 2**24


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (b"not json", "not a list of operations"),
        (b"[" * 100_000, "not a list of operations"),
        (b"7", "not a list of operations"),
        (b'[["log", [0], 3]]', "not a list of operations"),
        (b'[["log", [true], 0]]', "not a list of operations"),
        (b'[["take", [0], 1]]', "not a file of these arrays"),
    ],
)
def test_file_without_a_program_is_refused(program: bytes, reason: str) -> None:
    """What is no program, or lacks its numbers, is a `ValueError` with the reason."""
    with pytest.raises(ValueError, match=reason):
        Columns.unpack(packed(program), 1)


def test_program_knows_whether_other_machines_give_its_bits() -> None:
    """IEEE 754 gives the bits of sums and square roots, and not those of logarithms."""
    assert of_all("sqrt").is_portable
    assert of_all("divide", floats(1, 2, 3)).is_portable
    assert not of_all("log1p").is_portable
    assert not of_all("yeo-johnson", floats(1, 2, 3)).is_portable
