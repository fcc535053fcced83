"""Prediction intervals by split conformal prediction: half widths from residuals of held-out rows, and their coverage.

Vovk, Gammerman and Shafer (2005), "Algorithmic learning in a random world"; Lei and others (2018), "Distribution-free
predictive inference for regression". Of n held-out rows and a further one, all exchangeable, each is as likely to have
the k-th smallest residual. So the further one's residual is at most the ceil((n + 1) level)-th smallest of the n with
a probability of at least the level, whatever the model and the distribution.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

SPLITS = 100  # of the held-out rows, by which coverage is measured
METHOD = "split conformal prediction with the absolute residuals of held-out rows"

_PERCENTS = range(50, 100)
_MEASURED = (50, 80, 90, 95)  # levels whose coverage is measured
_MAX_SPLIT_ROWS = 20_000  # in two halves; a coverage of 10,000 rows is known to a percentage point
_SEED = 0
# Rounding may leave prediction + residual just below the true value. So much more reaches it, for any two numbers.
_ROUNDING = 1 + 2**-50


def half_widths(residuals: NDArray[np.float64]) -> dict[int, float]:
    """Return the half width of each level in whole percent that the absolute residuals `(n_rows,)` are enough for."""
    n_rows = len(residuals)
    ordered = np.sort(residuals)
    ranks = {percent: rank(n_rows, percent) for percent in _PERCENTS}
    return {percent: float(ordered[at - 1] * _ROUNDING) for percent, at in ranks.items() if at <= n_rows}


def rank(n_rows: int, percent: int) -> int:
    """Return which of the ordered residuals is the half width, from 1: the ceiling of (n_rows + 1) * percent / 100."""
    return -(-(n_rows + 1) * percent // 100)


def facts(residuals: NDArray[np.float64]) -> dict[str, Any] | None:
    """Return what a manifest says of the intervals; None if no level has enough rows, or a residual is infinite."""
    widths = half_widths(residuals)
    if not widths or not np.isfinite(list(widths.values())).all():
        return None
    return {
        "method": METHOD,
        "rows": len(residuals),
        "levels": [percent / 100 for percent in widths],
        "half_widths": list(widths.values()),
        "coverage": coverage(residuals),
    }


def coverage(residuals: NDArray[np.float64]) -> list[Mapping[str, float]]:
    """Return for some levels how often intervals held the true value, over random halves of the held-out rows.

    The half width comes from one half, and the coverage from the other: its mean over the splits, and its range.
    """
    random = np.random.default_rng(_SEED)
    drawn = random.permutation(residuals)[:_MAX_SPLIT_ROWS]
    n_half = len(drawn) // 2
    measured = [percent for percent in _MEASURED if n_half and rank(n_half, percent) <= n_half]
    shares = np.empty((SPLITS, len(measured)))
    for split in range(SPLITS if measured else 0):
        drawn = random.permutation(drawn)
        ordered, others = np.sort(drawn[:n_half]), drawn[n_half : 2 * n_half]
        shares[split] = [(others <= ordered[rank(n_half, percent) - 1]).mean() for percent in measured]
    return [
        {
            "level": percent / 100,
            "rows": n_half,
            "splits": SPLITS,
            "mean": float(of_level.mean()),
            "lowest": float(of_level.min()),
            "highest": float(of_level.max()),
        }
        for percent, of_level in zip(measured, shares.T)
    ]
