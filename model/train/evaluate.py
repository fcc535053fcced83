"""The split that holds out validation rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from model.schema.features import Matrix


@dataclass(frozen=True, slots=True)
class Split:
    """Training and validation rows: matrices `(n_rows, n_features)`, targets `(n_rows,)`, all float64."""

    X_train: Matrix
    X_validation: Matrix
    y_train: NDArray[np.float64]
    y_validation: NDArray[np.float64]
    validation_share: float
    random_state: int


def split(X: pd.DataFrame, y: pd.Series, *, validation_share: float = 0.2, random_state: int = 7) -> Split:
    """Split the rows of `X` and `y` at random, reproducibly by `random_state`."""
    X_train, X_validation, y_train, y_validation = train_test_split(
        X.to_numpy(), y.to_numpy(), test_size=validation_share, random_state=random_state
    )
    return Split(X_train, X_validation, y_train, y_validation, validation_share, random_state)
