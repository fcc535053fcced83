"""The metrics of a regression are scikit-learn's."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as reference

from model import metrics

pairs = st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=2, max_size=50)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.23456e-7, "1.235e-07"),
        (43.6, "43.6"),
        (9999.4, "9999"),
        (9999.6, "10,000"),
        (-16263.4, "-16,263"),
        (1e9, "1e+09"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_for_people(value: float, text: str) -> None:
    """A number has four significant digits, and prices in the thousands and millions have no exponent."""
    assert metrics.short(value) == text


def expected_metrics(y: NDArray[np.float64], predicted: NDArray[np.float64]) -> dict[str, float]:
    """Return scikit-learn's metrics of the same predictions."""
    return {
        "rows": len(y),
        "mse": reference.mean_squared_error(y, predicted),
        "rmse": reference.root_mean_squared_error(y, predicted),
        "mae": reference.mean_absolute_error(y, predicted),
        "bias": float(predicted.mean() - y.mean()),
        "r2": reference.r2_score(y, predicted),
    }


@given(cells=pairs)
def test_metrics_are_those_of_scikit_learn(cells: list[tuple[float, float]]) -> None:
    """Every metric equals scikit-learn's; bias is the mean prediction minus the mean truth."""
    y, predicted = (np.array(column) for column in zip(*cells))
    assume(np.ptp(y) > 1e-3)  # the ratio of r2 needs a spread, see below

    assert asdict(metrics.regression(y, predicted)) == pytest.approx(expected_metrics(y, predicted), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("predicted", [[5.0, 5.0, 5.0], [5.0, 6.0, 7.0]], ids=["perfect", "wrong"])
def test_metrics_of_one_target_value_are_those_of_scikit_learn(predicted: list[float]) -> None:
    """Validation rows with a single target value, such as rows at a cap, have metrics, too."""
    y = np.full(3, 5.0)

    assert asdict(metrics.regression(y, np.array(predicted))) == pytest.approx(expected_metrics(y, np.array(predicted)))


def test_metrics_of_a_known_case() -> None:
    """Predictions of 2, 2 and 5 for truths of 1, 2 and 3 have metrics that can be checked by hand."""
    assert asdict(metrics.regression(np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 5.0]))) == pytest.approx(
        {"rows": 3, "mse": 5 / 3, "rmse": (5 / 3) ** 0.5, "mae": 1.0, "bias": 1.0, "r2": -1.5}
    )
