"""Fold a scaler into thresholds, so that a compiled model compares raw features.

Trees behind a scaler evaluate `float32((x - mean) / scale) <= threshold` for a float64 `x`. Subtraction, division by a
positive number and rounding are monotone, so each split has a largest float64 that goes left. This number replaces the
threshold: no scaler is needed, and every float64 takes the same branch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from model.schema.features import Matrix


def largest_float64(holds: Callable[[Matrix], NDArray[np.bool_]], n: int) -> Matrix:
    """Return the largest float64, infinities included, for which each of `n` monotone predicates holds.

    `holds` evaluates all predicates at `(n,)` float64; each is true up to a number and false above it. Bisects over the
    ordered bit patterns of float64, which takes at most 64 steps. Raises `ValueError` if a predicate never holds.
    """
    low = np.full(n, _ordinal(np.array(-np.inf)), dtype=np.int64)
    high = np.full(n, _ordinal(np.array(np.inf)), dtype=np.int64)
    if not holds(_float(low)).all():
        raise ValueError("a predicate holds for no float64")
    while (low < high).any():
        # The upper middle, without the sum of two ordinals, which could overflow.
        middle = (low >> 1) + (high >> 1) + ((low | high) & 1)
        is_true = holds(_float(middle))
        low = np.where(is_true, middle, low)
        high = np.where(is_true, high, middle - 1)
    return _float(low)


def _ordinal(x: Matrix) -> NDArray[np.int64]:
    """Return the rank of each float64 among all float64s, as an integer."""
    bits = x.view(np.int64)
    return np.where(bits < 0, np.int64(-(2**63)) - bits, bits)


def _float(ordinal: NDArray[np.int64]) -> Matrix:
    """Return the float64 of each rank, the inverse of `_ordinal`."""
    return np.where(ordinal < 0, np.int64(-(2**63)) - ordinal, ordinal).view(np.float64)


def _scaled(x: Matrix, mean: Matrix, scale: Matrix) -> NDArray[np.float32]:
    """Scale like StandardScaler, then round like the trees."""
    with np.errstate(over="ignore"):
        return ((x - mean) / scale).astype(np.float32)


def fold_thresholds(thresholds: Matrix, *, mean: Matrix, scale: Matrix) -> Matrix:
    """Return, for each split, the largest float64 `x` with `float32((x - mean) / scale) <= threshold`.

    All three are `(n_splits,)`. This replaces a threshold on a scaled feature by one on the raw feature with the same
    result for every float64.
    """
    return largest_float64(lambda x: _scaled(x, mean, scale) <= thresholds, len(thresholds))


def accepted_limits(*, mean: Matrix, scale: Matrix) -> tuple[Matrix, Matrix]:
    """Return the lowest and highest value of each feature whose scaled value is a finite float32, both `(n_features,)`.

    scikit-learn raises for a value beyond them.
    """
    highest = largest_float64(lambda x: _scaled(x, mean, scale) <= np.finfo(np.float32).max, len(mean))
    below = largest_float64(lambda x: _scaled(x, mean, scale) < np.finfo(np.float32).min, len(mean))
    return np.nextafter(below, np.inf), highest
