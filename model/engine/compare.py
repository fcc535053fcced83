"""Compares the predictions of two engines."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.engine.forest import MANY_ROWS
from model.engine.runtime import Predict
from model.schema.features import Matrix


def predict_by_batch_size(predict: Predict, X: Matrix) -> NDArray[np.float64]:
    """Return the predictions for `X` in batches of one row, of two and of thousands, `(n_batch_sizes, n_rows)`.

    Engines have different code paths for one row, for few and for many. `X` has at least one row.
    """
    alone = [predict(X[i : i + 1]) for i in range(len(X))]
    beside = [predict(X[i : i + 2]) for i in range(0, len(X), 2)]
    among = predict(np.tile(X, (-(-MANY_ROWS // len(X)), 1)))
    return np.vstack([np.concatenate(alone), np.concatenate(beside), among.reshape(-1, len(X))])


def differing(expected: NDArray[np.float64], actual: NDArray[np.float64], tolerance: float) -> NDArray[np.bool_]:
    """Return which predictions `(…, n_rows)` differ from `expected` in any bit, or by more than the tolerance."""
    if tolerance == 0:
        return np.not_equal(expected.view(np.int64), actual.view(np.int64))
    near: NDArray[np.bool_] = np.abs(actual - expected) <= tolerance * np.abs(expected)
    return ~near  # negated, so that NaN differs from everything
