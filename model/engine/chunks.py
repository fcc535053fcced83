"""Run a function of many rows in pieces, so that what it makes on the way stays small."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from model.schema.features import Matrix


def in_chunks(run: Callable[[Matrix], NDArray[np.float64]], X: Matrix, n_rows: int) -> NDArray[np.float64]:
    """Return what `run` makes of the rows of `X`, of which it gets `n_rows` at a time."""
    if len(X) <= n_rows:
        return run(X)
    return np.concatenate([run(X[start : start + n_rows]) for start in range(0, len(X), n_rows)])
