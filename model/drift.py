"""The training distribution as reference bins: what live values will be compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.schema import Matrix, Schema

# Ten bins is the usual number for a population stability index: fewer hide a shift, more need larger samples.
BINS = 10


def reference(X: Matrix, predictions: NDArray[np.float64], schema: Schema) -> dict[str, Any]:
    """Return the bins of each feature of `X` `(n_rows, n_features)` and of the predictions `(n_rows,)`."""
    return {
        "features": {name: reference_bins(column) for name, column in zip(schema.names, X.T)},
        "prediction": reference_bins(predictions),
    }


def reference_bins(values: NDArray[np.float64]) -> dict[str, Any]:
    """Return the quantile bins of `values` `(n,)` and the share of them in each.

    `edges` rise strictly to the largest value, and are values that occur. Bin `i` of `shares` holds the values up
    to and with `edges[i]` that no earlier bin holds. A column of few values, such as 0 and 1, has a bin for each.
    """
    edges = np.unique(values)
    if len(edges) > BINS:
        last = -(-np.arange(1, BINS + 1) * len(values) // BINS) - 1  # of each tenth of the sorted values
        edges = np.unique(np.sort(values)[last])
    counts = np.bincount(bin_numbers(values, edges), minlength=len(edges))
    return {"minimum": float(values.min()), "edges": edges.tolist(), "shares": (counts / len(values)).tolist()}


def bin_numbers(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the bin of each value `(n,)`: the first whose edge is not below it; `len(edges)` is above them all."""
    return np.searchsorted(edges, values, side="left")
