"""Compares the predictions of two engines."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.engine.forest import MANY_ROWS
from model.engine.runtime import Predict
from model.schema.features import Matrix


def predict_by_batch_size(predict: Predict, X: Matrix) -> NDArray[np.float64]:
    """Return the answers for `X` in batches of one row, of two and of thousands, `(n_batch_sizes, n_rows)`.

    Engines have different code paths for one row, for few and for many. `X` has at least one row. The answers of a
    classifier are `(n_batch_sizes, n_rows, 1 + n_classes)`.
    """
    alone = [predict(X[i : i + 1]) for i in range(len(X))]
    beside = [predict(X[i : i + 2]) for i in range(0, len(X), 2)]
    among = predict(np.tile(X, (-(-MANY_ROWS // len(X)), 1)))
    few = np.stack([np.concatenate(alone), np.concatenate(beside)])
    return np.concatenate([few, among.reshape(-1, *few.shape[1:])])


def differing(
    expected: NDArray[np.float64], actual: NDArray[np.float64], tolerance: float, allowed_difference: float = 0.0
) -> NDArray[np.bool_]:
    """Return which rows `(…, n_rows)` differ from `expected` in any bit, or by more than the tolerance.

    `expected` is `(n_rows,)`, and the tolerance is relative to it; or it is `(n_rows, 1 + n_classes)`, and the
    tolerance is that of a probability. `allowed_difference` is allowed beside it. A label is the expected one, or one
    that is as probable within twice of what is allowed: that far the two probabilities may have moved past each other.
    """
    different: NDArray[np.bool_]
    if tolerance == allowed_difference == 0:
        different = np.not_equal(expected.view(np.int64), actual.view(np.int64))
    else:
        # 1 - p has the absolute error of p, which for a small one is a large relative error.
        scale = np.abs(expected) if expected.ndim == 1 else 1.0
        near = np.abs(actual - expected) <= tolerance * scale + allowed_difference
        if expected.ndim > 1:
            near[..., 0] |= _is_tied(expected, actual[..., 0], 2 * (tolerance + allowed_difference))
        different = ~near  # negated, so that NaN differs from everything
    return different if expected.ndim == 1 else np.any(different, axis=-1)


def _is_tied(expected: NDArray[np.float64], labels: NDArray[np.float64], within: float) -> NDArray[np.bool_]:
    """Return which labels `(…, n_rows)` are about as probable as the expected ones of `(n_rows, 1 + n_classes)`."""
    rows, probabilities = np.arange(len(expected)), expected[:, 1:]
    is_label = np.isin(labels, np.arange(probabilities.shape[1]))
    places = np.where(is_label, labels, 0).astype(np.intp)
    apart = np.abs(probabilities[rows, places] - probabilities[rows, expected[:, 0].astype(np.intp)])
    tied: NDArray[np.bool_] = is_label & (apart <= within)
    return tied


def largest_difference(expected: NDArray[np.float64], actual: NDArray[np.float64]) -> float:
    """Return the largest difference as `differing` measures it, leaving out predictions of 0, and labels."""
    differences = np.abs(actual - expected)
    if expected.ndim > 1:
        return float(differences[..., 1:].max())
    return float((differences[..., expected != 0] / np.abs(expected[expected != 0])).max(initial=0.0))


def shares_of(
    allowed: NDArray[np.float64], expected: NDArray[np.float64], actual: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the largest share of the allowed difference that each row's answers have, `(n_rows,)`; 0 for equal ones.

    `allowed` and `expected` have the shape of the answers, `actual` `(n_batch_sizes, …)` those in every batch size.
    """
    difference = np.abs(actual - expected).max(axis=0)
    shares = np.where(difference == 0, 0.0, difference / np.where(allowed > 0, allowed, 5e-324))
    return shares if shares.ndim == 1 else np.max(shares, axis=1)
