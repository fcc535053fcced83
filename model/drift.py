"""The training distribution as reference bins, into which live values are counted.

In production the service only counts, and Prometheus computes the distances from the counts of all pods. The report
has the values themselves and computes the same distances here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.manifest import is_number
from model.schema import Matrix, Schema

# Ten bins is the usual number for a population stability index: fewer hide a shift, more need larger samples.
BINS = 10
BELOW, ABOVE, MISSING = "below", "above", "missing"

# Probability that chance alone exceeds a threshold, for one distribution, statistic and window. Seven distributions,
# two statistics and windows of an hour make 10,000 tests a month, more because windows overlap. In simulations with 105
# to 1,000 independent rows an hour and 404 in training there was at most one false alarm in two months (with 1e-4 three
# a month), but two a month if some training values occurred in only a few rows.
ALPHA = 1e-5
Z = NormalDist().inv_cdf(1 - ALPHA)
# The first term of Kolmogorov's distribution (Smirnov 1948): P(KS > c * sqrt(1/N + 1/M)) = 2 * exp(-2 * c**2).
C = math.sqrt(math.log(2 / ALPHA) / 2)

# Practitioners call a population with a PSI below 0.1 stable, however significant it is. A KS of 0.1 means that a tenth
# of the rows moved.
MINIMUM_PSI = 0.1
MINIMUM_KS = 0.1
# One row in a hundred more than in training.
MINIMUM_MISSING = 0.01
# An empty bin would make PSI infinite, so it counts as half a row. A small constant share alone would report drift for
# every small bin that is empty by chance; it is the lower limit for very many rows.
EMPTY_ROWS = 0.5
SMALLEST_SHARE = 1e-4


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


def psi(counts: NDArray[np.intp], bins: Bins) -> float:
    """Return the population stability index of live counts by `bins.labels`, without the missing values.

    Not all values may be missing. Values outside the range count in the nearest bin (Siddiqi, Credit Risk Scorecards,
    2006, section 10).
    """
    inside = counts[1:-2].astype(np.float64)
    inside[0] += counts[0]
    inside[-1] += counts[-2]
    p, q = np.maximum(np.maximum(inside, EMPTY_ROWS) / inside.sum(), SMALLEST_SHARE), bins.shares
    return float(((p - q) * np.log(p / q))[q > 0].sum())


def ks(counts: NDArray[np.intp], bins: Bins) -> float:
    """Return the largest distance between the two distribution functions at the edges (Kolmogorov and Smirnov)."""
    known = counts[:-1]
    distances = np.abs(np.cumsum(known / known.sum()) - np.cumsum(bins.all_shares[:-1]))
    return float(distances.max())


def psi_threshold(n_live: int, n_reference: int, n_bins: int) -> float:
    """Return the PSI that `n_live` rows of the training distribution exceed with probability ALPHA, at least 0.1.

    Without drift PSI is distributed as (1/N + 1/M) times chi-square with one degree of freedom less than there are
    bins (Yurdakul and Naranjo 2020); its quantile after Wilson and Hilferty (1931), 11 % too high at most.
    """
    freedom = max(n_bins - 1, 1)
    spread = 2 / (9 * freedom)
    quantile = freedom * (1 - spread + Z * math.sqrt(spread)) ** 3
    return max(quantile * (1 / n_live + 1 / n_reference), MINIMUM_PSI)


def ks_threshold(n_live: int, n_reference: int) -> float:
    """Return the KS that `n_live` rows of the training distribution exceed with probability ALPHA, at least 0.1."""
    return max(C * math.sqrt(1 / n_live + 1 / n_reference), MINIMUM_KS)


def missing_threshold(n_live: int) -> float:
    """Return the share of missing values that `n_live` rows exceed with probability ALPHA if the true share is 0.01.

    By the score test of a proportion. Training has no missing values.
    """
    return MINIMUM_MISSING + Z * math.sqrt(MINIMUM_MISSING * (1 - MINIMUM_MISSING) / n_live)
