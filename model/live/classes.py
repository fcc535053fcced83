"""The answers of classifiers in the prediction log: a label is its position among the classes of the version."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import Problem
from model.schema.feature import BOOLEAN, CATEGORY, NOT_A_NUMBER, Category, Cells, Feature


def answers(
    predictions: Sequence[float | None], probabilities: Sequence[NDArray[np.float64] | None], n_classes: int
) -> NDArray[np.float64]:
    """Return logged rows as `Artifact.predict` answered them, `(n_rows, 1 + n_classes)`.

    A row with another number of classes, of another model that had this name and version, is NaN.
    """
    found = np.full((len(predictions), 1 + n_classes), math.nan)
    for number, (position, row) in enumerate(zip(predictions, probabilities)):
        if position is not None and position < n_classes and row is not None and len(row) == n_classes:
            found[number, 0], found[number, 1:] = position, row
    return found


def cells_of(labels: Sequence[Category]) -> Cells:
    """Return what converts labels to their positions."""
    if isinstance(labels[0], bool):  # 0 and 1 are equal to false and true
        return Feature("truth", type=BOOLEAN).cells
    return Feature("truth", type=CATEGORY, categories=tuple(labels)).cells


def position_of(label: Any, cells: Cells, *, with_nearest: bool) -> float | Problem:
    """Return the position of a label that was sent, or what is wrong with it, with the label that is most like it."""
    position = cells.number(label)
    if position is not None:
        return position
    return Problem(None, "truth", cells.reason(label) or NOT_A_NUMBER, cells.nearest(label) if with_nearest else None)
