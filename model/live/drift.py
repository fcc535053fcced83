"""Distances of live values from the training distribution, and the thresholds that chance alone hardly exceeds.

In production Prometheus computes the distances from the counts of all pods. The report has the values themselves and
computes the same distances here.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from model.store.reference import AnyBins, Bins

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
# So much more than in training: one row in a hundred.
MINIMUM_MISSING = 0.01
# An empty bin would make PSI infinite, so it counts as half a row. A small constant share alone would report drift for
# every small bin that is empty by chance; it is the lower limit for very many rows. It is also the training share of a
# bin that was empty in training, such as that of all infrequent categories: so 2 % of unseen ones are drift.
EMPTY_ROWS = 0.5
SMALLEST_SHARE = 1e-4


def psi(counts: NDArray[np.intp], bins: AnyBins) -> float:
    """Return the population stability index of live counts by `bins.labels`, without the missing values.

    Not all values may be missing; it is NaN if all were in training. Values outside the range count in the nearest bin
    (Siddiqi, Credit Risk Scorecards, 2006, section 10), and unseen categories among those without a bin of their own.
    """
    inside, expected = bins.in_range(counts).astype(np.float64), bins.expected
    p = np.maximum(np.maximum(inside, EMPTY_ROWS) / inside.sum(), SMALLEST_SHARE)
    q = np.where(expected == 0, SMALLEST_SHARE, expected)
    return float(((p - q) * np.log(p / q))[(expected != 0) | (inside > 0)].sum())


def ks(counts: NDArray[np.intp], bins: Bins) -> float:
    """Return the largest distance between the two distribution functions at the edges (Kolmogorov and Smirnov).

    Not all values may be missing; it is NaN if all were in training.
    """
    known, expected = counts[:-1], bins.expected
    distances = np.abs(np.cumsum(known / known.sum()) - np.cumsum([0.0, *expected, 0.0]))
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


def missing_threshold(n_live: int, share: float = 0.0) -> float:
    """Return the share of missing values that `n_live` rows exceed with probability ALPHA if the true one is usual.

    Usual is up to 0.01 more than the `share` in training. By the score test of a proportion.
    """
    usual = min(share + MINIMUM_MISSING, 1.0)
    return usual + Z * math.sqrt(usual * (1 - usual) / n_live)
