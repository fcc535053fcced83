"""Linear models: sums in the stated order, the bound of any other order, and no file makes more than an error."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model import Matrix
from model.engine import steps
from model.engine.columns import Columns, Operation
from model.engine.linear import LinearEngine
from model.engine.steps import Step
from tests.support.service import bits

TWO = (("logistic", (1.0,)), ("two classes", ()))
SOFTMAX = (("numpy softmax by column", ()),)
REST = (("logistic", (1.0,)), ("shares", ()))
REGRESSIONS: dict[str, tuple[Step, ...]] = {
    "identity": (),
    "exp": (("exp", ()),),
    "scaled": (("multiply", (3.7,)), ("add", (-1.3,)), ("expm1", ())),
    "square": (("square", ()),),
    "power": (("yeo-johnson back", (0.3,)),),
}
CLASSIFIERS: dict[str, tuple[int, tuple[Step, ...], str]] = {
    "two": (1, TWO, "sum > 0"),
    "softmax": (4, SOFTMAX, "largest sum"),
    "rest": (3, REST, "largest sum"),
}


def linear(
    coefficients: NDArray[np.float64],
    intercepts: NDArray[np.float64],
    of_sums: tuple[Step, ...] = (),
    decision: str | None = None,
) -> LinearEngine:
    """Return a linear model of the features themselves."""
    return LinearEngine(Columns(coefficients.shape[1], []), coefficients, intercepts, of_sums, decision)


def added(row: Matrix, coefficients: Matrix, intercept: float, order: Any) -> float:
    """Return a sum in an order of addition, with Python's own floats."""
    products = [float(row[n]) * float(coefficients[n]) for n in order]
    total = products[0]
    for product in products[1:]:
        total += product
    return total + intercept


def numbers(random: np.random.Generator, *shape: int) -> NDArray[np.float64]:
    """Return numbers of both signs and many sizes, so that sums cancel."""
    return random.normal(size=shape) * 10.0 ** random.integers(-3, 4, shape)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), n_columns=st.integers(1, 70), n_outputs=st.integers(1, 3))
def test_sum_is_added_column_by_column(seed: int, n_columns: int, n_outputs: int) -> None:
    """The sum has the bits of the stated order, for one row and for many."""
    random = np.random.default_rng(seed)
    X, coefficients, intercepts = (
        numbers(random, 9, n_columns),
        numbers(random, n_outputs, n_columns),
        numbers(random, 3),
    )
    engine = linear(coefficients, intercepts[:n_outputs], decision="largest sum")
    order = range(n_columns)
    expected = np.array([[added(row, c, b, order) for c, b in zip(coefficients, intercepts)] for row in X])

    assert np.array_equal(bits(engine.sums(X)), bits(expected))
    assert np.array_equal(bits(np.vstack([engine.sums(row[np.newaxis]) for row in X])), bits(expected))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n_rows=st.sampled_from([1, 2, 30, 400]),
    n_columns=st.sampled_from([1, 30, 64, 150, 600]),
    n_outputs=st.sampled_from([1, 3, 15]),
    n_set=st.sampled_from([0, 1, 3, 60]),
    special=st.sampled_from([None, 5e-324, -1e300, np.inf, np.nan]),
    intercept=st.sampled_from([None, 0.0, -0.0]),
)
def test_sum_of_columns_that_are_mostly_zero_is_the_same(
    seed: int, n_rows: int, n_columns: int, n_outputs: int, n_set: int, special: float | None, intercept: float | None
) -> None:
    """Zeros of both signs, and numbers at the ends of float64, give the bits of the sum of all columns."""
    random = np.random.default_rng(seed)
    X = random.choice([0.0, -0.0], (n_rows, n_columns))
    for row in X:
        chosen = random.permutation(n_columns)[:n_set]
        row[chosen] = 1.0 if seed % 2 else numbers(random, len(chosen))
    if special is not None:
        X[random.integers(n_rows), random.integers(n_columns)] = special
    coefficients, intercepts = numbers(random, n_outputs, n_columns), numbers(random, n_outputs)
    coefficients[:, random.integers(n_columns)] *= -0.0
    if intercept is not None:
        intercepts[0] = intercept
    with np.errstate(all="ignore"):
        expected = np.column_stack(
            [np.add.accumulate(X * c, axis=1)[:, -1] + b for c, b in zip(coefficients, intercepts)]
        )
        found = linear(coefficients, intercepts, decision="largest sum").sums(X)

    is_missing = np.isnan(expected)
    assert np.array_equal(is_missing, np.isnan(found))
    assert np.array_equal(bits(found)[~is_missing], bits(expected)[~is_missing])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), n_columns=st.integers(1, 40), steps_of=st.sampled_from(sorted(REGRESSIONS)))
def test_any_order_of_addition_is_within_what_is_allowed(seed: int, n_columns: int, steps_of: str) -> None:
    """Sums in other orders, or rounded only once, give numbers within the bound of their row."""
    random = np.random.default_rng(seed)
    X, coefficients, intercept = random.normal(size=(20, n_columns)), random.normal(size=n_columns), random.normal()
    engine = linear(coefficients.reshape(1, -1), np.array([intercept]), REGRESSIONS[steps_of])
    rows = X[np.isfinite(engine.predict(X))] if steps_of == "power" else X
    found, allowed = engine.predict(rows), engine.allowed(rows)
    orders = [random.permutation(n_columns) for _ in range(5)]
    sums = [[added(row, coefficients, intercept, order) for row in rows] for order in orders]
    sums.append([math.fsum([*(row * coefficients), intercept]) for row in rows])

    for others in np.array(sums):
        answers = steps.run(REGRESSIONS[steps_of], others.reshape(-1, 1))[:, 0]
        assert (np.abs(answers - found) <= allowed).all()
    assert (allowed <= 1e-10 * np.maximum(1, np.abs(found)) * (1 + np.abs(X).sum())).all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), n_columns=st.integers(1, 40), kind=st.sampled_from(sorted(CLASSIFIERS)))
def test_any_order_gives_the_label_and_near_probabilities(seed: int, n_columns: int, kind: str) -> None:
    """Sums in other orders give near probabilities and the same label, unless the row is undecided within the bound."""
    n_outputs, of_sums, decision = CLASSIFIERS[kind]
    random = np.random.default_rng(seed)
    X, coefficients = random.normal(size=(20, n_columns)), random.normal(size=(n_outputs, n_columns))
    intercepts = random.normal(size=n_outputs)
    if seed % 3 == 0 and n_outputs > 1:  # two classes that only rounding tells apart
        coefficients[1], intercepts[1] = coefficients[0], intercepts[0]
    engine = linear(coefficients, intercepts, of_sums, decision)
    found, allowed = engine.predict(X), engine.allowed(X)
    order = random.permutation(n_columns)
    sums = np.array([[added(row, c, b, order) for c, b in zip(coefficients, intercepts)] for row in X])
    probabilities = steps.run(of_sums, sums)
    others = np.column_stack([steps.decide(decision, sums, probabilities), probabilities])

    assert found.shape == (20, 1 + max(2, n_outputs))
    assert (np.abs(others - found) <= allowed).all()
    assert (allowed[:, 1:] < 1e-11).all()


def test_label_is_open_only_where_the_sums_are_that_near() -> None:
    """A row right at the border may have either label, one beside it has one."""
    engine = linear(np.array([[1.0, 1.0]]), np.array([0.0]), TWO, "sum > 0")
    X = np.array([[1.0, -1.0], [1.0, -1.0 + 2.0**-53], [1.0, -1.0 + 2.0**-40], [5.0, 1.0]])

    assert np.isinf(engine.allowed(X)[:, 0]).tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("coefficients", "intercepts", "reason"),
    [
        (np.zeros((1, 2)), np.zeros(1), "1 lists of 2 coefficients and 1 intercepts for 3 columns"),
        (np.zeros((2, 3)), np.zeros(2), "2 outputs for a number"),
        (np.zeros((1, 3)), np.zeros(2), "2 intercepts for 3 columns"),
        (np.zeros((0, 3)), np.zeros(0), "0 lists of 3 coefficients"),
        (np.zeros(3), np.zeros(1), "not lists of float64"),
        (np.zeros((1, 3), dtype=np.float32), np.zeros(1), "not lists of float64"),
        (np.array([[1.0, np.nan, 0.0]]), np.zeros(1), "is not finite"),
        (np.zeros((1, 3)), np.array([np.inf]), "is not finite"),
    ],
)
def test_model_that_does_not_fit_is_refused(coefficients: Any, intercepts: Any, reason: str) -> None:
    """Coefficients that are not those of the columns, or not finite, are a `ValueError`, from a file, too."""
    with pytest.raises(ValueError, match=reason):
        LinearEngine(Columns(3, []), coefficients, intercepts)
    file = io.BytesIO()
    arrays = {**Columns(3, []).arrays(), "coefficients": coefficients, "intercepts": intercepts}
    np.savez(file, allow_pickle=False, **arrays)
    with pytest.raises(ValueError, match=reason):
        LinearEngine.unpack(file.getvalue(), 3)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), n_bytes=st.integers(1, 30))
def test_any_damage_is_refused_or_runs(seed: int, n_bytes: int) -> None:
    """Bytes of a file that are changed give a `ValueError`, or a model that answers."""
    random = np.random.default_rng(seed)
    program = Columns(
        2, [Operation("fill", (0,), (np.zeros(2),)), Operation("square", (1,)), Operation("join", (1, 2))]
    )
    content = bytearray(LinearEngine(program, np.ones((1, 4)), np.ones(1)).pack())
    for place in random.integers(0, len(content), n_bytes):
        content[place] = random.integers(256)
    try:
        engine = LinearEngine.unpack(bytes(content), 2)
    except ValueError:
        return
    with np.errstate(all="ignore"):
        assert engine.predict(np.ones((3, 2))).shape == (3,)


def test_packed_model_gives_the_same_bits_and_the_same_bytes() -> None:
    """A packed model is unpacked unchanged, and packed again to the same bytes."""
    random = np.random.default_rng(0)
    X = random.normal(size=(50, 3))
    engine = linear(random.normal(size=(2, 3)), random.normal(size=2), SOFTMAX, "largest sum")
    again = LinearEngine.unpack(engine.pack(), 3, SOFTMAX, "largest sum")

    assert np.array_equal(bits(again.predict(X)), bits(engine.predict(X)))
    assert again.pack() == engine.pack()
