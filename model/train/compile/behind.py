"""Trees behind steps that cannot be folded into their splits: a program makes the columns that they compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from model.engine.columns import Columns
from model.engine.trees import Trees
from model.errors import ExportError
from model.schema.feature import NUMBER, Feature
from model.schema.features import Matrix, Schema
from model.train.compile.fitted import FittedTrees
from model.train.compile.fold import Ask, NotFoldable, fold
from model.train.frames import Column, Frames

_MAX_COLUMNS = 2_000  # each of which is asked for
_N_ROWS = 2_000


def frames_behind(table: Any, columns: Columns, frames: Frames) -> Frames | None:
    """Return what makes of a program's columns the table with categories that a model takes; None for one of numbers.

    `table` is what the fitted steps make of some rows. Raises `ExportError` for categories that a step makes.
    """
    if not has_categories(table):
        return None
    sources = columns.as_taken(range(1, columns.n_features + 1))
    found = []
    for (name, values), source in zip(table.items(), sources):
        if not isinstance(values.dtype, pd.CategoricalDtype):
            found.append(Column(str(name), NUMBER, np.dtype(np.float64)))
            continue
        if not source:
            raise ExportError(f"a step makes the categories of the column {name!r}; do its work before the pipeline")
        found.append(replace(frames.columns[source - 1], name=str(name)))
    return Frames(tuple(found), is_array=False)


def has_categories(table: Any) -> bool:
    """Return whether a table has columns of pandas' type category."""
    return isinstance(table, pd.DataFrame) and any(isinstance(each, pd.CategoricalDtype) for each in table.dtypes)


def compile_behind(
    fitted: FittedTrees,
    compared: Callable[[Any], Matrix],
    ask: Ask,
    columns: Columns,
    features: Sequence[Feature],
    X: Matrix,
) -> tuple[Trees, Matrix]:
    """Return trees on the columns that a program makes, and the cover of their nodes.

    `compared` takes a matrix of these columns and returns what the trees compare, `ask` the same of rows of `X`
    `(n_rows, n_features)`, through the fitted steps. A category among the `features` that the program takes as it is
    stays one. Raises `ExportError` if the two differ, or for trees that do more
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
    category_places = Schema(tuple(features), Feature("target")).category_places
    numbers = [number if places else 0 for number, places in enumerate(category_places, 1)]
    of_columns = [
        replace(features[source - 1], name=f"column {number}") if source else Feature(f"column {number}", missing=True)
        for number, source in enumerate(columns.as_taken(numbers))
    ]
    try:
        return fold(fitted, compared, of_columns, block)
    except NotFoldable:
        raise ExportError(
            "the members of the model have steps of their own that cannot be folded; put these in front of the whole "
            "model"
        ) from None
