"""Linear and generalised linear models: columns of features, sums in a stated order, and the steps behind them.

`sums` adds column after column in the model's order, then the intercept. A library hands its sums to a BLAS, which adds
in an order that depends on the processor and on how many rows it is given. So it differs from itself, and there are no
bits to match: `allowed` says how far the answers for a row may be apart.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.engine import steps
from model.engine.answers import Answers
from model.engine.chunks import in_chunks
from model.engine.columns import Columns
from model.engine.steps import Step
from model.engine.sums import Sums
from model.engine.trees import MAX_OUTPUTS, unpack_arrays
from model.schema.features import Matrix

ORDER = "((x1*c1 + x2*c2) + …) + intercept, column by column"
BOUND = "(columns + 2) * 2**-52 * (sum of |x*c| + |intercept|), carried through the steps behind the sum"

_EPSILON = 2.0**-52
_SMALLEST = 2.0**-1074  # what a product that is almost 0 is rounded by, unless it is added in one operation
_LIBRARY_UNITS = 4  # in the last place, by which two libraries' exponentials may differ
_ARRAYS = ["coefficients", "intercepts"]


class LinearEngine:
    """Runs a linear model; in every batch a row gets the same bits."""

    def __init__(
        self,
        columns: Columns,
        coefficients: NDArray[np.float64],
        intercepts: NDArray[np.float64],
        of_sums: Sequence[Step] = (),
        decision: str | None = None,
    ) -> None:
        """Take coefficients `(n_outputs, n_columns)` and intercepts `(n_outputs,)`.

        A regression has one output and no `decision`; a classifier decides on a label by one of `steps.DECISIONS`.
        Raises `ValueError` for arrays that do not fit.
        """
        kinds = {array.dtype.name for array in (coefficients, intercepts)}
        if kinds != {"float64"} or coefficients.ndim != 2 or intercepts.ndim != 1:
            raise ValueError("its coefficients and intercepts are not lists of float64")
        n_outputs, n_columns = coefficients.shape
        if n_columns != columns.n_columns or len(intercepts) != n_outputs or not 0 < n_outputs <= MAX_OUTPUTS:
            raise ValueError(
                f"it has {n_outputs} lists of {n_columns} coefficients and {len(intercepts)} intercepts for "
                f"{columns.n_columns} columns"
            )
        if not (np.isfinite(coefficients).all() and np.isfinite(intercepts).all()):
            raise ValueError("a coefficient or an intercept is not finite")
        if decision is None and n_outputs > 1:
            raise ValueError(f"it has {n_outputs} outputs for a number")
        self.columns = columns
        self.coefficients, self.intercepts = coefficients, intercepts
        self._steps, self._decision = tuple(of_sums), decision
        self._answers = Answers(n_outputs, of_sums, decision)
        self.sums = Sums(coefficients, intercepts)

    def predict(self, X: Matrix) -> NDArray[np.float64]:
        """Return `(n_rows,)` float64 for `X` of shape `(n_rows, n_features)`, float64.

        A classifier returns `(n_rows, 1 + n_classes)`: the position of the label, then the probability of each class.
        """
        return self._answers(in_chunks(lambda rows: self.sums(self.columns.run(rows)), X, self.sums.chunk_rows))

    def allowed(self, X: Matrix) -> NDArray[np.float64]:
        """Return how far another order of addition may be from `predict(X)`, in its shape.

        Two orders of addition differ by at most (d + 2) * 2**-52 * (sum of |x*c| + |intercept|) for d columns (Higham,
        Accuracy and Stability of Numerical Algorithms, section 3.1, for each of the two). A label may be another one
        where the sums do not decide on it within that: there any position is allowed.
        """
        return in_chunks(self._allowed, X, self.sums.chunk_rows)

    def _allowed(self, X: Matrix) -> NDArray[np.float64]:
        block = self.columns.run(X)
        sums = self.sums(block)
        sizes = np.abs(block) @ np.abs(self.coefficients).T + np.abs(self.intercepts)
        bounds = (block.shape[1] + 2) * (_EPSILON * sizes + _SMALLEST)
        values, carried = sums, bounds
        for step in self._steps:
            values, carried = _carry(step, values, carried)
        if self._decision is None:
            of_number: Matrix = carried[:, 0]
            return of_number
        label = steps.decide(self._decision, sums, values)
        of_label = np.where(_is_open(sums, bounds, label), np.inf, 0.0)
        answers: Matrix = np.column_stack([of_label, carried])
        return answers

    def sizes(self, X: Matrix) -> NDArray[np.float64]:
        """Return what bounds a row's numbers, `(n_rows, n_sizes)`: sums of |x*c| + |intercept|.

        Of a regression, sums of both signs and answers, too. While all are finite, no answer overflows on the way.
        """
        with np.errstate(all="ignore"):
            return in_chunks(self._sizes, X, self.sums.chunk_rows)

    def _sizes(self, X: Matrix) -> Matrix:
        block = self.columns.run(X)
        # Differences of sums are of up to twice their size.
        sizes: Matrix = 4 * (np.abs(block) @ np.abs(self.coefficients).T + np.abs(self.intercepts))
        sums = self.sums(block)
        answers = steps.run(self._steps, sums)
        if self._decision is None:
            return np.hstack([sizes, sums, -sums, answers])
        # Where differences of sums are finite, so are probabilities.
        sizes[~np.isfinite(answers).all(axis=1)] = np.inf
        return sizes

    def pack(self) -> bytes:
        """Return program and coefficients in numpy's .npz format; equal models give equal bytes."""
        file = io.BytesIO()
        arrays = dict(zip(_ARRAYS, (self.coefficients, self.intercepts)))
        np.savez(file, allow_pickle=False, **self.columns.arrays(), **arrays)
        return file.getvalue()

    @classmethod
    def unpack(
        cls, content: bytes, n_features: int, of_sums: Sequence[Step] = (), decision: str | None = None
    ) -> LinearEngine:
        """Return the engine of a model that `pack` wrote. Raises `ValueError` for anything else."""
        columns = Columns.unpack(content, n_features)
        return cls(columns, **unpack_arrays(content, _ARRAYS), of_sums=of_sums, decision=decision)


def _carry(step: Step, values: Matrix, bounds: Matrix) -> tuple[Matrix, Matrix]:
    """Return what a step makes of values, and how far it may be apart for values that are apart by the bounds."""
    found = steps.run([step], values)
    with np.errstate(over="ignore", invalid="ignore"):
        if "softmax" in step[0]:
            # Each power, and so their sum, changes by a factor of at most exp(bound).
            spread = found * np.expm1(bounds + bounds.max(axis=1, keepdims=True))
            return found, spread + (_LIBRARY_UNITS + found.shape[1]) * _EPSILON * found
        if step[0] == "shares":
            total = values.sum(axis=1, keepdims=True)
            spread = (bounds + found * bounds.sum(axis=1, keepdims=True)) / np.where(total > 0, total, 1.0)
            return found, spread + (_LIBRARY_UNITS + found.shape[1]) * _EPSILON * found
        # Every other step is monotone on each side of 0, for each number alone.
        if step[0] == "two classes":
            bounds = np.hstack([bounds, bounds])
        else:
            ends = [np.abs(steps.run([step], values + side * bounds) - found) for side in (-1, 1)]
            bounds = np.fmax(*ends)
        return found, bounds + _LIBRARY_UNITS * _EPSILON * np.abs(found)


def _is_open(sums: Matrix, bounds: Matrix, label: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return whether sums that are apart by the bounds may give another label than this, `(n_rows,)`."""
    if sums.shape[1] == 1:
        open_: NDArray[np.bool_] = np.abs(sums[:, 0]) <= bounds[:, 0]
        return open_
    rows = np.arange(len(sums))
    highest = sums + bounds
    lowest = highest[rows, label] - 2 * bounds[rows, label]
    highest[rows, label] = -np.inf
    found: NDArray[np.bool_] = highest.max(axis=1) >= lowest
    return found
