"""The metrics of a regression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Scores:
    """The metrics of a regression over a number of rows.

    `bias` is the mean of prediction minus truth; `r2` is the coefficient of determination, which is 0 where all targets
    are equal and any prediction differs, as in scikit-learn.
    """

    rows: int
    mse: float
    rmse: float
    mae: float
    bias: float
    r2: float


def regression(y: NDArray[np.float64], predicted: NDArray[np.float64]) -> Scores:
    """Return the usual metrics for targets and predictions, both `(n_rows,)`, two rows at least."""
    mse = float(np.average((y - predicted) ** 2))
    total = float(((y - np.average(y)) ** 2).sum())
    unexplained = float(((y - predicted) ** 2).sum())
    return Scores(
        rows=len(y),
        mse=mse,
        rmse=mse**0.5,
        mae=float(np.average(np.abs(predicted - y))),
        bias=float(np.mean(predicted - y)),
        r2=1 - unexplained / total if total else float(not unexplained),
    )
