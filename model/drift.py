"""The training distribution as reference bins: what live values are counted into and compared with.

In production the service only counts; Prometheus computes the distances from the counts of all pods. The same
distances are here for the report, which has the values themselves.
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

# How rarely chance alone may exceed a threshold, for one distribution, statistic and window. Seven distributions, two
# statistics and windows of an hour are 10,000 looks a month, and windows that overlap count more than once. Simulated,
# with 105 to 1,000 independent rows an hour and 404 in training: at most one false alarm in two months (1e-4: three a
# month), but two a month where training had some values in a handful of rows only.
ALPHA = 1e-5
Z = NormalDist().inv_cdf(1 - ALPHA)
# Kolmogorov's distribution in its first term (Smirnov 1948): P(KS > c * sqrt(1/N + 1/M)) = 2 * exp(-2 * c**2).
C = math.sqrt(math.log(2 / ALPHA) / 2)

# Below a PSI of 0.1 practitioners call a population stable, and nobody acts, however significant it is; a KS of 0.1
# means that a tenth of the rows lie elsewhere.
MINIMUM_PSI = 0.1
MINIMUM_KS = 0.1
# A feature that is missing in one row of a hundred more than in training.
MINIMUM_MISSING = 0.01
# An empty bin would make PSI infinite. Half a row stands for none: a small constant share alone would make drift of
# every small bin that chance leaves empty. With very many rows, that share is the least.
EMPTY_ROWS = 0.5
SMALLEST_SHARE = 1e-4


@dataclass(frozen=True, slots=True)
class Bins:
    """What one column was in training: bins up to and with each of `edges`, and the share of rows in each.

    `labels` names the bins that live values are counted into: below the training range, the bins of the range,
    above it, and missing. The last bin of the range is always "10", however many there are, so that what is above
    it has a neighbour of known name.
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
    """The training distribution of a model's features, in the schema's order, and of its answers."""

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


def parse(content: Any, schema: Schema) -> Reference:
    """Return what `reference` wrote. Raises `KeyError`, `TypeError` or `ValueError` if it is anything else."""
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
    """Return the population stability index of live counts by `bins.labels`; the missing, not all, are left out.

    What is outside of the range counts in the bin beside it (Siddiqi, Credit Risk Scorecards, 2006, section 10).
    """
    inside = counts[1:-2].astype(np.float64)
    inside[0] += counts[0]
    inside[-1] += counts[-2]
    p, q = np.maximum(np.maximum(inside, EMPTY_ROWS) / inside.sum(), SMALLEST_SHARE), bins.shares
    return float(((p - q) * np.log(p / q))[q > 0].sum())


def ks(counts: NDArray[np.intp], bins: Bins) -> float:
    """Return the largest distance of the two distribution functions at the bins' edges (Kolmogorov and Smirnov)."""
    known = counts[:-1]
    distances = np.abs(np.cumsum(known / known.sum()) - np.cumsum(bins.all_shares[:-1]))
    return float(distances.max())


def psi_threshold(n_live: int, n_reference: int, n_bins: int) -> float:
    """Return the index that `n_live` rows of the training distribution exceed with probability ALPHA, at least 0.1.

    Without drift PSI is distributed as (1/N + 1/M) times chi-square with one degree of freedom less than there are
    bins (Yurdakul and Naranjo 2020); its quantile after Wilson and Hilferty (1931), 11 % too high at most.
    """
    freedom = max(n_bins - 1, 1)
    spread = 2 / (9 * freedom)
    quantile = freedom * (1 - spread + Z * math.sqrt(spread)) ** 3
    return max(quantile * (1 / n_live + 1 / n_reference), MINIMUM_PSI)


def ks_threshold(n_live: int, n_reference: int) -> float:
    """Return the distance that `n_live` rows of the training distribution exceed no more often, at least 0.1."""
    return max(C * math.sqrt(1 / n_live + 1 / n_reference), MINIMUM_KS)


def missing_threshold(n_live: int) -> float:
    """Return the share of missing values that `n_live` rows exceed no more often, if 1 in 100 is the true one.

    By the score test of a share. Training has no missing values.
    """
    return MINIMUM_MISSING + Z * math.sqrt(MINIMUM_MISSING * (1 - MINIMUM_MISSING) / n_live)
