"""The training distribution as reference bins, into which live values are counted.

In production the service only counts, and Prometheus computes the distances from the counts of all pods. The report
has the values themselves and computes the same distances here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.schema.features import Matrix, Schema
from model.schema.numbers import is_number

# Ten bins is the usual number for a population stability index: fewer hide a shift, more need larger samples.
BINS = 10
BELOW, ABOVE, MISSING = "below", "above", "missing"


@dataclass(frozen=True, slots=True)
class Bins:
    """The training distribution of a column: bins up to and including each of `edges`, and the share of rows in each.

    `labels` names the bins for live values: below the training range, the bins of the range, above it, and missing. The
    last bin of the range is always "10", however many there are, so the neighbour of `above` has a fixed name.
    """

    minimum: float
    edges: NDArray[np.float64]
    shares: NDArray[np.float64]

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the name of each bin, in the order of `count`."""
        return (BELOW, *(f"{number:02}" for number in range(1, len(self.edges))), f"{BINS}", ABOVE, MISSING)

    @property
    def all_shares(self) -> NDArray[np.float64]:
        """Return the share in training of every bin of `labels`."""
        return np.concatenate([[0.0], self.shares, [0.0, 0.0]])

    def count(self, values: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return how many of `values` `(n,)` fall into each bin of `labels`."""
        bins = bin_numbers(values, self.edges) + 1
        bins[values < self.minimum] = 0
        bins[np.isnan(values)] = len(self.edges) + 2
        return np.bincount(bins, minlength=len(self.edges) + 3)


@dataclass(frozen=True, slots=True)
class Reference:
    """The training distribution of a model's features, in the schema's order, and of its predictions."""

    features: Mapping[str, Bins]
    prediction: Bins


def reference(X: Matrix, predictions: NDArray[np.float64], schema: Schema) -> dict[str, Any]:
    """Return the bins of each feature of `X` `(n_rows, n_features)` and of the predictions `(n_rows,)`."""
    return {
        "features": {name: reference_bins(column) for name, column in zip(schema.names, X.T)},
        "prediction": reference_bins(predictions),
    }


def reference_bins(values: NDArray[np.float64]) -> dict[str, Any]:
    """Return the quantile bins of `values` `(n,)` and the share of them in each.

    `edges` are values that occur, strictly increasing up to the largest. Bin `i` of `shares` has the values up to and
    including `edges[i]` that no earlier bin has. A column of few distinct values, such as 0 and 1, has a bin for each.
    """
    edges = np.unique(values)
    if len(edges) > BINS:
        last = -(-np.arange(1, BINS + 1) * len(values) // BINS) - 1  # of each decile
        edges = np.unique(np.sort(values)[last])
    counts = np.bincount(bin_numbers(values, edges), minlength=len(edges))
    return {"minimum": float(values.min()), "edges": edges.tolist(), "shares": (counts / len(values)).tolist()}


def bin_numbers(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the bin of each value `(n,)`: the first whose edge is not below the value, `len(edges)` if none is."""
    return np.searchsorted(edges, values, side="left")


def parse(content: Any, schema: Schema) -> Reference:
    """Return the reference that `reference` wrote. Raises `KeyError`, `TypeError` or `ValueError` for anything else."""
    return Reference(
        features={name: _parse_bins(content["features"][name]) for name in schema.names},
        prediction=_parse_bins(content["prediction"]),
    )


def _parse_bins(facts: Mapping[str, Any]) -> Bins:
    minimum, *lists = (facts[name] for name in ("minimum", "edges", "shares"))
    if not all(map(is_number, (minimum, *lists[0], *lists[1]))):
        raise ValueError("the bins are not finite numbers")
    edges, shares = (np.array(values, dtype=np.float64) for values in lists)
    bins = Bins(float(minimum), edges, shares)
    if not 1 <= len(edges) <= BINS or edges.shape != shares.shape:
        raise ValueError(f"{edges.shape} edges and {shares.shape} shares are not 1 to {BINS} bins")
    if not (np.diff(edges) > 0).all() or not bins.minimum <= edges[0]:
        raise ValueError("the edges do not rise")
    if not (shares >= 0).all() or not math.isclose(shares.sum(), 1):
        raise ValueError("the shares are not from 0 on and do not add up to 1")
    return bins
