"""Owns what "the same prediction" means: every bit, or a relative difference within a tolerance."""

from __future__ import annotations

import math

import numpy as np
import pytest

from model import Matrix
from model.engine.compare import differing, predict_by_batch_size
from model.engine.forest import MANY_ROWS

NAN, INFINITY = math.nan, math.inf


@pytest.mark.parametrize(
    ("expected", "actual", "tolerance", "differs"),
    [
        (1.0, 1.0, 0, False),
        (1.0, math.nextafter(1, 2), 0, True),
        (0.0, -0.0, 0, True),
        (NAN, NAN, 0, False),
        (2.0, 2.5, 0.25, False),
        (-2.0, -2.5, 0.25, False),
        (2.0, math.nextafter(2.5, 3), 0.25, True),
        (2.5, 2.0, 0.2, False),  # relative to what is expected
        (2.0, 1.4, 0.25, True),
        (0.0, 0.0, 0.25, False),
        (0.0, 5e-324, 0.25, True),
        (1.0, NAN, 0.25, True),
        (NAN, NAN, 0.25, True),
        (1.0, INFINITY, 0.25, True),
    ],
)
def test_differing(expected: float, actual: float, tolerance: float, differs: bool) -> None:
    """Without a tolerance one bit makes a difference; with one, a larger relative difference or NaN does."""
    with np.errstate(invalid="ignore"):
        found = differing(np.array([expected, 1.0]), np.array([[actual, 1.0], [1.0, actual]]), tolerance)

    assert found[0].tolist() == [differs, False]


@pytest.mark.parametrize("n_rows", [1, 2, 3, 7])
def test_predictions_by_batch_size(n_rows: int) -> None:
    """An engine is asked about each row alone, beside another one, and among as many as bit vectors need."""
    sizes = []

    def predict(X: Matrix) -> Matrix:
        sizes.append(len(X))
        return 10.0 * X[:, 0]

    X = np.arange(2.0 * n_rows).reshape(n_rows, 2)
    found = predict_by_batch_size(predict, X)

    assert found[:2].tolist() == [(10 * X[:, 0]).tolist()] * 2
    assert (found == 10 * X[:, 0]).all()
    assert {*sizes} == {1, min(2, n_rows), sizes[-1]}
    assert sizes[-1] >= MANY_ROWS


@pytest.mark.parametrize(
    ("expected", "actual", "differs"),
    [
        ([0, 0.5, 0.5, 0.0], [1, 0.5, 0.5, 0.0], False),
        ([0, 0.5 + 9e-7, 0.5 - 9e-7, 0.0], [1, 0.5, 0.5, 0.0], False),
        ([0, 0.5 + 2e-6, 0.5 - 2e-6, 0.0], [1, 0.5 + 2e-6, 0.5 - 2e-6, 0.0], True),
        ([0, 0.5, 0.5, 0.0], [2, 0.5, 0.5, 0.0], True),
        ([0, 0.5, 0.5, 0.0], [3, 0.5, 0.5, 0.0], True),
        ([0, 0.5, 0.5, 0.0], [0.5, 0.5, 0.5, 0.0], True),
        ([0, 0.5, 0.5, 0.0], [NAN, 0.5, 0.5, 0.0], True),
        ([0, 0.5, 0.5, 0.0], [0, 0.5 + 2e-6, 0.5, 0.0], True),
        ([0, 0.5, 0.5, 0.0], [0, 0.5 + 9e-7, 0.5, 0.0], False),
        ([0, 0.4, 0.6, 0.0], [1, 0.4, 0.6, 0.0], True),  # of a model whose label is not the most probable one
    ],
)
def test_labels_differ_unless_they_tie(expected: list[float], actual: list[float], differs: bool) -> None:
    """With a tolerance of 1e-6 for probabilities, another label is one that is as probable within 2e-6."""
    sure = [2.0, 0.1, 0.2, 0.7]
    found = differing(np.array([sure, expected]), np.array([[sure, actual], [sure, actual]]), 1e-6)

    assert found.tolist() == [[False, differs]] * 2
    assert differing(np.array([expected]), np.array([actual]), 0.0).tolist() == [expected != actual]
