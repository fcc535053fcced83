"""Owns the half widths of prediction intervals: the exact guarantee of the rule, and what is said of their coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.store.manifest import Intervals
from model.train import conformal

residuals = st.lists(st.one_of(st.floats(0, 1e9), st.sampled_from([0.0, 1.0, 2.0])), min_size=2, max_size=150)
numbers = (
    st.floats(-1e300, 1e300) | st.integers(-1000, 1000).map(float) | st.floats(-100, 100).map(lambda x: round(x, 1))
)


@given(found=residuals, percent=st.integers(50, 99))
def test_level_is_guaranteed_for_exchangeable_rows(found: list[float], percent: int) -> None:
    """Whichever of the rows is the new one, of all choices at least the level's share is within the others' half width.

    All orders of exchangeable rows are equally likely, so this share is the probability of coverage. Ties add to it.
    """
    within = 0
    for new, residual in enumerate(found):
        widths = conformal.half_widths(np.array(found[:new] + found[new + 1 :]))
        within += percent not in widths or residual <= widths[percent]

    assert within * 100 >= percent * len(found)


@given(found=st.lists(st.integers(0, 10_000), unique=True, min_size=1, max_size=150))
def test_level_has_enough_rows_or_is_left_out(found: list[int]) -> None:
    """A half width is the ceil((n + 1) level)-th smallest residual, and a level for which there is none is left out."""
    widths = conformal.half_widths(np.array(found, dtype=np.float64))
    expected = {}
    for percent in range(50, 100):
        below = next((k for k in range(1, len(found) + 1) if 100 * k >= (len(found) + 1) * percent), None)
        if below:
            expected[percent] = sorted(found)[below - 1]

    assert widths == pytest.approx(expected, rel=1e-14)


@given(truth=numbers, prediction=numbers)
def test_interval_reaches_the_row_that_it_is_from(truth: float, prediction: float) -> None:
    """One addition of float64 may round a number away from the true value; the half width allows for that."""
    facts = conformal.facts(np.array([abs(truth - prediction)]))
    assert facts
    intervals = Intervals(1, dict(zip(facts["levels"], facts["half_widths"])))
    lower, upper = intervals.around(np.array([prediction]), 0.5)

    assert lower[0] <= truth <= upper[0]


@pytest.mark.parametrize(
    ("n_rows", "highest"), [(0, None), (1, 0.5), (2, 0.66), (9, 0.9), (10, 0.9), (98, 0.98), (99, 0.99)]
)
def test_highest_level(n_rows: int, highest: float | None) -> None:
    """A level p needs p / (1 - p) rows; without a single row there are no intervals at all."""
    facts = conformal.facts(np.arange(n_rows, dtype=np.float64))

    assert (facts["levels"][-1] if facts else None) == highest


def test_infinite_residuals_give_no_intervals() -> None:
    """What could not be written as JSON is left out."""
    assert conformal.facts(np.array([1.0, np.inf])) is None


def test_coverage_is_measured_on_other_rows() -> None:
    """The mean coverage over random halves is near its level, within its range, and the same each time."""
    found = np.abs(np.random.default_rng(1).standard_t(3, 2_000))
    measured = conformal.coverage(found)

    assert [each["level"] for each in measured] == [0.5, 0.8, 0.9, 0.95]
    assert measured == conformal.coverage(found)
    for each in measured:
        assert each["mean"] == pytest.approx(each["level"], abs=0.01)
        assert each["lowest"] < each["mean"] < each["highest"]
    assert [each["level"] for each in conformal.coverage(found[:8])] == [0.5, 0.8]
    assert conformal.coverage(found[:1]) == []
