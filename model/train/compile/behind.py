"""Trees behind steps that cannot be folded into their splits: a program makes the columns that they compare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from model.engine.columns import Columns
from model.engine.trees import Trees
from model.errors import ExportError
from model.schema.feature import Feature
from model.schema.features import Matrix
from model.train.compile.fitted import FittedTrees
from model.train.compile.fold import Ask, NotFoldable, fold

_MAX_COLUMNS = 2_000  # each of which is asked for
_N_ROWS = 2_000


def compile_behind(
    fitted: FittedTrees, compared: Callable[[Any], Matrix], ask: Ask, columns: Columns, X: Matrix
) -> Trees:
    """Return trees on the columns that a program makes.

    `compared` takes a matrix of these columns and returns what the trees compare, `ask` the same of rows of `X`
    `(n_rows, n_features)`, through the fitted steps. Raises `ExportError` if the two differ, or for trees that do more
    than compare numbers.
    """
    if columns.n_columns > _MAX_COLUMNS:
        raise ExportError(
            f"the steps make {columns.n_columns:,} columns, more than {_MAX_COLUMNS:,}; select those that matter, for "
            "example by SelectKBest"
        )
    X = X[:_N_ROWS]
    block = columns.run(X)
    found, expected = compared(block), ask(X)
    if found.shape != expected.shape or not np.array_equal(found, expected, equal_nan=True):
        raise ExportError(
            "the trees see other columns than the steps make; if the steps give a sparse matrix, whose zeros XGBoost "
            "takes for missing, set sparse_output=False and sparse_threshold=0, and fit again"
        )
    features = [Feature(f"column {number}", missing=True) for number in range(columns.n_columns)]
    try:
        return fold(fitted, compared, features, block)
    except NotFoldable:
        raise ExportError(
            "the members of the model have steps of their own that cannot be folded; put these in front of the whole "
            "model"
        ) from None
