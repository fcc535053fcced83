"""Trees as a library has them, on the columns that it sees, before the steps in front of them are folded in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.engine.steps import Step
from model.schema.features import Matrix

GoesLeft = Callable[[Matrix, Matrix], NDArray[np.bool_]]
"""Whether numbers `(n,)` go left at thresholds `(n,)`, as the library compares them. Monotone; NaN is not asked."""


def below_as_float64(values: Matrix, thresholds: Matrix) -> NDArray[np.bool_]:
    """Compare as scikit-learn's HistGradientBoosting and LightGBM do."""
    return values <= thresholds


def below_as_float32(values: Matrix, thresholds: Matrix) -> NDArray[np.bool_]:
    """Compare as scikit-learn's other trees do, which round their input to float32."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32) <= thresholds


def under_as_float32(values: Matrix, thresholds: Matrix) -> NDArray[np.bool_]:
    """Compare as XGBoost does, which rounds its input to float32 and sends the threshold itself right."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32) < thresholds


@dataclass(frozen=True, slots=True)
class FittedTrees:
    """The nodes of all trees, tree after tree, each before its children.

    A row of encoded columns `(n_columns,)` goes left at a split

    - where its value of `column` is missing, if `missing_left`;
    - at a split that `is_set`, if the value is one of its codes, or, where it is none of 0 to `n_places` - 1, if
      `other_left`;
    - else, if `goes_left(value, threshold)`.

    The first `n_constants` trees are constants. The rest is as in `engine.trees.Trees`: a leaf has the column -1
    and is its own left and right child. `steps` are done to the sums, and give predictions or, for a classifier,
    the probability of each of `classes`. Its label is that of the largest probability, unless `decision`, one of
    those in `engine.steps`, says otherwise. With `finite_in_float32` the library refuses a row whose values are not.
    `cover` `(n_nodes,)` is how many training rows came to each node, by their weights, as the library knows it.
    """

    roots: NDArray[np.int64]
    output: NDArray[np.int64]
    column: NDArray[np.int64]
    threshold: NDArray[np.float64]
    missing_left: NDArray[np.bool_]
    other_left: NDArray[np.bool_]
    is_set: NDArray[np.bool_]
    n_codes: NDArray[np.int64]
    codes: NDArray[np.int64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    leaves: NDArray[np.floating]
    cover: NDArray[np.float64]
    goes_left: GoesLeft
    n_places: int = 0
    steps: Sequence[Step] = ()
    finite_in_float32: bool = False
    n_constants: int = 0
    classes: Sequence[Any] = ()
    decision: str = ""
