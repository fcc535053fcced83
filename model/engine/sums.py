"""Sums in a stated order: `((x1*c1 + x2*c2) + x3*c3 + …) + intercept`, each operation rounded to float64.

A product with a column that is 0 is 0 or -0, which changes no sum but the sign of one that is 0, and the intercept
makes that sign its own unless it is -0 itself. So rows that are mostly 0, such as those of a one-hot encoder, add the
products of their other columns alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.engine.chunks import in_chunks
from model.schema.features import Matrix

# Where it was measured to be faster: to look for columns that are 0, and to add a column to all rows at once.
_MIN_SKIPPED_COLUMNS = 64
_MIN_SKIPPED_PRODUCTS = 2**14
_MIN_SUMS_AT_ONCE = 2**9
_MOSTLY = 8  # times as many columns as those that are not 0
_NUMBERS_PER_CHUNK = 2**18  # 2 MiB of float64


class Sums:
    """Adds the columns of each row, times coefficients; in every batch a row gets the same bits."""

    def __init__(self, coefficients: NDArray[np.float64], intercepts: NDArray[np.float64]) -> None:
        """Take finite coefficients `(n_outputs, n_columns)` and intercepts `(n_outputs,)`, both float64."""
        self._coefficients, self._intercepts = np.ascontiguousarray(coefficients), intercepts
        self._of_columns = np.ascontiguousarray(coefficients.T)
        n_outputs, n_columns = coefficients.shape
        is_negative_zero = (intercepts == 0) & np.signbit(intercepts)
        self._may_skip = n_columns >= _MIN_SKIPPED_COLUMNS and not is_negative_zero.any()
        self.chunk_rows = max(1, _NUMBERS_PER_CHUNK // max(n_columns, n_outputs))

    def __call__(self, block: Matrix) -> NDArray[np.float64]:
        """Return the sums `(n_rows, n_outputs)` of columns `(n_rows, n_columns)`, float64."""
        if len(block) == 1:
            return self._of_row(block)
        return in_chunks(self._of_rows, block, self.chunk_rows)

    def _of_row(self, block: Matrix) -> NDArray[np.float64]:
        row = block[0]
        if self._may_skip and len(self._intercepts) > 1:  # one sum is faster than a look
            chosen = row.nonzero()[0]
            if 0 < len(chosen) * _MOSTLY <= len(row):
                products = self._of_columns.take(chosen, axis=0) * row.take(chosen)[:, np.newaxis]
                return np.add.accumulate(products, axis=0)[-1:] + self._intercepts
        # A sum along an axis may add pairwise; an accumulated one adds column after column.
        sums: Matrix = (np.add.accumulate(self._coefficients * row, axis=1)[:, -1] + self._intercepts)[np.newaxis]
        return sums

    def _of_rows(self, block: Matrix) -> NDArray[np.float64]:
        if self._may_skip and block.size * len(self._intercepts) >= _MIN_SKIPPED_PRODUCTS:
            is_set = block != 0
            counts = np.count_nonzero(is_set, axis=1)
            if counts.max(initial=0) * _MOSTLY <= block.shape[1]:
                return self._without_zeros(block, is_set, counts)
        if len(block) * len(self._intercepts) >= _MIN_SUMS_AT_ONCE:
            return self._by_column(block)
        totals = [np.add.accumulate(block * each, axis=1)[:, -1:] for each in self._coefficients]
        return np.concatenate(totals, axis=1) + self._intercepts

    def _by_column(self, block: Matrix) -> NDArray[np.float64]:
        columns, coefficients = np.ascontiguousarray(block.T), self._of_columns[:, :, np.newaxis]
        totals = columns[0] * coefficients[0]  # (n_outputs, n_rows)
        products = np.empty_like(totals)
        for column, of_column in zip(columns[1:], coefficients[1:]):
            np.multiply(column, of_column, out=products)
            totals += products
        return np.ascontiguousarray(totals.T) + self._intercepts

    def _without_zeros(self, block: Matrix, is_set: NDArray[np.bool_], counts: NDArray[np.intp]) -> NDArray[np.float64]:
        """Add the columns that are not 0: each row's first one, then each row's second one, and so on."""
        rows, columns = is_set.nonzero()
        place = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]
        number = np.zeros((counts.max(), len(block)), dtype=np.intp)
        value = np.zeros(number.shape)  # 0 behind a row's last column
        number[place, rows], value[place, rows] = columns, block[rows, columns]
        totals = np.zeros((len(block), len(self._intercepts)))
        for nth in range(len(number)):
            totals += self._of_columns.take(number[nth], axis=0) * value[nth, :, np.newaxis]
        sums: Matrix = totals + self._intercepts
        return sums
