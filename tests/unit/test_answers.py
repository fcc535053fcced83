"""One row's answers in plain floats have the bits that it gets among other rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.engine import steps
from model.engine.answers import Answers

NUMBERS = st.one_of(
    st.floats(-800, 800),
    st.floats(-1e-3, 1e-3),
    st.floats(-1e300, 1e300),
    st.sampled_from(
        [math.inf, -math.inf, math.nan, 0.0, -0.0, 5e-324, 709.782712893384, -708.3964185322641, 88.7, -103.97, 0.5]
    ),
)
ADD = ("add", (0.1,))
REGRESSIONS = [  # of two steps at least, of which some are not taken in plain floats
    *([step, ADD] for step in (ADD, ("multiply", (3.3,)), ("divide", (100.0,)), ("add", (0.0,)))),
    *([(name, ()), ADD] for name in ("square", "libm exp", "exp32", "fast exp", "above zero", "exp", "log1p")),
    [],
]
OF_ONE_SUM = [
    [("logistic", (1.0,)), ("two classes", ())],
    [("multiply", (1.0,)), ("logistic", (2.5,)), ("two classes", ())],
    [("logistic32", ()), ("two classes32", ())],
]
OF_EACH_CLASS = [
    *([(name, ())] for name in ("softmax", "fast softmax", "softmax32", "numpy softmax", "numpy softmax by column")),
    *([("divide", (7.0,))], [("logistic", (1.0,)), ("shares", ())], []),
]
FLOAT32 = {"exp32", "logistic32", "softmax32"}


def check(of_sums: list[steps.Step], decision: str | None, sums: np.ndarray) -> None:
    """Compare the answer to one row with the answers to two and to five of it."""
    if FLOAT32 & {name for name, _ in of_sums}:  # a float32 library adds leaves in float32
        with np.errstate(over="ignore"):
            sums = np.where(np.isfinite(sums), sums.clip(-3e38, 3e38), sums).astype(np.float32).astype(np.float64)
    answers = Answers(sums.shape[1], of_sums, decision)
    with np.errstate(all="ignore"):
        alone = answers(sums)
        for copies in (2, 5):
            among = answers(np.repeat(sums, copies, axis=0))
            assert alone.dtype == among.dtype
            assert alone.shape[1:] == among.shape[1:]
            assert [row.tobytes() for row in among] == [alone[0].tobytes()] * copies


@pytest.mark.parametrize("of_sums", REGRESSIONS, ids=str)
@given(value=NUMBERS)
def test_a_number(of_sums: list[steps.Step], value: float) -> None:
    """A regression's number."""
    check(of_sums, None, np.array([[value]]))


@pytest.mark.parametrize("decision", ["", "sum > 0", "sum >= 0", "probability > 0.5"])
@pytest.mark.parametrize("of_sums", OF_ONE_SUM, ids=str)
@given(value=NUMBERS)
def test_two_classes(of_sums: list[steps.Step], decision: str, value: float) -> None:
    """The label and both probabilities, by each decision."""
    check(of_sums, decision, np.array([[value]]))


@pytest.mark.parametrize("decision", ["", "largest sum"])
@pytest.mark.parametrize("of_sums", OF_EACH_CLASS, ids=str)
@given(values=st.lists(NUMBERS, min_size=2, max_size=40))
def test_many_classes(of_sums: list[steps.Step], decision: str, values: list[float]) -> None:
    """The label and the probability of each class, also where two are equal."""
    check(of_sums, decision, np.array([[*values, values[0]]]))


def test_division_by_zero() -> None:
    """A division by zero is infinite in one row as in many."""
    check([ADD, ("divide", (0.0,))], None, np.array([[1.0]]))


@pytest.mark.parametrize(("decision", "n_sums"), [("sum > 0", 3), ("largest sum", 1), ("probability > 0.5", 4)])
def test_sums_that_do_not_fit(decision: str, n_sums: int) -> None:
    """A decision on another number of classes is refused before there is a row."""
    with pytest.raises(ValueError, match=f"it decides on .* of {n_sums} sums"):
        Answers(n_sums, [("two classes", ())] if decision == "largest sum" else [], decision)
