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

from model.schema import dates
from model.schema.feature import BOOLEAN, CATEGORY, DATE, Feature
from model.schema.features import Matrix, Schema
from model.schema.numbers import is_number

# Ten bins is the usual number for a population stability index: fewer hide a shift, more need larger samples.
BINS = 10
# Categories with a bin of their own, the most frequent ones. Each bin of each feature is a series of a metric.
CATEGORY_BINS = 20
BELOW, ABOVE, REST, UNSEEN, MISSING = "below", "above", "rest", "unseen", "missing"


@dataclass(frozen=True, slots=True)
class Bins:
    """The training distribution of numbers: bins up to and including each of `edges`, and the share of rows in each.

    `labels` names the bins for live values: below the training range, the bins of the range, above it, and missing. The
    last bin of the range is always "10", however many there are, so the neighbour of `above` has a fixed name.
    """

    minimum: float
    edges: NDArray[np.float64]
    shares: NDArray[np.float64]
    missing: float = 0.0

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the name of each bin, in the order of `count`."""
        return (BELOW, *(f"{number:02}" for number in range(1, len(self.edges))), f"{BINS}", ABOVE, MISSING)

    @property
    def all_shares(self) -> NDArray[np.float64]:
        """Return the share in training of every bin of `labels`."""
        return np.concatenate([[0.0], self.shares, [0.0, self.missing]])

    @property
    def expected(self) -> NDArray[np.float64]:
        """Return the share in training of each bin of `in_range`; NaN if all values were missing."""
        return _among_known(self.shares, self.missing)

    def in_range(self, counts: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return how many values fall into each bin that training has; those outside count in the nearest bin."""
        inside = counts[1:-2].copy()
        inside[0] += counts[0]
        inside[-1] += counts[-2]
        return inside

    def outside(self, counts: NDArray[np.intp]) -> int:
        """Return how many values are outside the training range."""
        return int(counts[0] + counts[-2])

    def count(self, values: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return how many of `values` `(n,)` fall into each bin of `labels`."""
        bins = bin_numbers(values, self.edges) + 1
        bins[values < self.minimum] = 0
        bins[np.isnan(values)] = len(self.edges) + 2
        return np.bincount(bins, minlength=len(self.edges) + 3)


@dataclass(frozen=True, slots=True)
class CategoryBins:
    """The training distribution of a category or a boolean: a bin for each frequent category, and the share in each.

    `codes` are the numbers of these categories, and `names` what they are called. `labels` has them with an equals sign
    in front, then all other known categories together, the unseen ones, and missing.
    """

    names: tuple[str, ...]
    codes: NDArray[np.intp]
    n_categories: int
    shares: NDArray[np.float64]
    rest: float
    missing: float

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the name of each bin, in the order of `count`."""
        return (*(f"={name}" for name in self.names), REST, UNSEEN, MISSING)

    @property
    def all_shares(self) -> NDArray[np.float64]:
        """Return the share in training of every bin of `labels`."""
        return np.concatenate([self.shares, [self.rest, 0.0, self.missing]])

    @property
    def expected(self) -> NDArray[np.float64]:
        """Return the share in training of each bin of `in_range`; NaN if all values were missing."""
        return _among_known(np.append(self.shares, self.rest), self.missing)

    def in_range(self, counts: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return how many values are each frequent category, and how many are any other, known or unseen."""
        return np.append(counts[:-3], counts[-3] + counts[-2])

    def outside(self, counts: NDArray[np.intp]) -> int:
        """Return how many values are unseen categories."""
        return int(counts[-2])

    def count(self, values: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return how many of the categories' numbers `(n,)` fall into each bin of `labels`."""
        n_bins = len(self.codes)
        bin_of_code = np.full(self.n_categories + 2, n_bins)
        bin_of_code[self.codes] = np.arange(n_bins)
        bin_of_code[self.n_categories :] = n_bins + 1, n_bins + 2
        codes = np.where(np.isnan(values), self.n_categories + 1, values).astype(np.intp)
        return np.bincount(bin_of_code[codes], minlength=n_bins + 3)


AnyBins = Bins | CategoryBins


@dataclass(frozen=True, slots=True)
class Reference:
    """The training distribution of a model's features, in the schema's order, and of its predictions.

    The predictions of a classifier are the positions of its labels.
    """

    features: Mapping[str, AnyBins]
    prediction: AnyBins


def reference(X: Matrix, predictions: NDArray[np.float64], schema: Schema) -> dict[str, Any]:
    """Return the bins of each feature of `X` `(n_rows, n_features)` and of the predictions `(n_rows,)`."""
    return {
        "features": {feature.name: _bins(feature, column) for feature, column in zip(schema.features, X.T)},
        "prediction": _bins(schema.target, predictions),
    }


def _bins(feature: Feature, values: NDArray[np.float64]) -> dict[str, Any]:
    if feature.type == DATE:  # new dates are later by nature, so all are in one bin: missing ones alone are watched
        return {**reference_bins(np.where(np.isnan(values), np.nan, dates.HIGHEST)), "minimum": dates.LOWEST}
    return category_bins(values) if feature.type in (CATEGORY, BOOLEAN) else reference_bins(values)


def reference_bins(values: NDArray[np.float64]) -> dict[str, Any]:
    """Return the quantile bins of `values` `(n,)` and the share of them in each.

    `edges` are values that occur, strictly increasing up to the largest. Bin `i` of `shares` has the values up to and
    including `edges[i]` that no earlier bin has. A column of few distinct values, such as 0 and 1, has a bin for each.
    The share of missing values is there if it is not 0; a column that has no others has the one edge 0.
    """
    known = values[~np.isnan(values)]
    edges = np.unique(known if len(known) else 0.0)
    if len(edges) > BINS:
        last = -(-np.arange(1, BINS + 1) * len(known) // BINS) - 1  # of each decile
        edges = np.unique(np.sort(known)[last])
    counts = np.bincount(bin_numbers(known, edges), minlength=len(edges))
    facts = {
        "minimum": float(known.min(initial=edges[-1])),
        "edges": edges.tolist(),
        "shares": (counts / len(values)).tolist(),
    }
    n_missing = len(values) - len(known)
    return {**facts, "missing": n_missing / len(values)} if n_missing else facts


def category_bins(values: NDArray[np.float64]) -> dict[str, Any]:
    """Return the numbers of the most frequent categories in `values` `(n,)`, and the share of rows with each.

    `rest` is the share of all other categories, `missing` that of missing values.
    """
    missing = np.isnan(values)
    counts = np.bincount(values[~missing].astype(np.intp))
    frequent = np.sort(np.argsort(-counts, kind="stable")[:CATEGORY_BINS])
    frequent = frequent[counts[frequent] > 0]
    return {
        "categories": frequent.tolist(),
        "shares": (counts[frequent] / len(values)).tolist(),
        "rest": float(counts.sum() - counts[frequent].sum()) / len(values),
        "missing": float(missing.sum()) / len(values),
    }


def bin_numbers(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the bin of each value `(n,)`: the first whose edge is not below the value, `len(edges)` if none is."""
    return np.searchsorted(edges, values, side="left")


def parse(content: Any, schema: Schema) -> Reference:
    """Return the reference that `reference` wrote. Raises `KeyError`, `TypeError` or `ValueError` for anything else."""
    return Reference(
        features={feature.name: _parse(content["features"][feature.name], feature) for feature in schema.features},
        prediction=_parse(content["prediction"], schema.target),
    )


def _parse(facts: Mapping[str, Any], feature: Feature) -> AnyBins:
    return _parse_categories(facts, feature) if feature.type in (CATEGORY, BOOLEAN) else _parse_bins(facts)


def _parse_bins(facts: Mapping[str, Any]) -> Bins:
    minimum, *lists = (facts[name] for name in ("minimum", "edges", "shares"))
    missing = facts.get("missing", 0.0)
    if not all(map(is_number, (minimum, missing, *lists[0], *lists[1]))):
        raise ValueError("the bins are not finite numbers")
    edges, shares = (np.array(values, dtype=np.float64) for values in lists)
    bins = Bins(float(minimum), edges, shares, float(missing))
    if not 1 <= len(edges) <= BINS or edges.shape != shares.shape:
        raise ValueError(f"{edges.shape} edges and {shares.shape} shares are not 1 to {BINS} bins")
    if not (np.diff(edges) > 0).all() or not bins.minimum <= edges[0]:
        raise ValueError("the edges do not rise")
    _check_shares(bins)
    return bins


def _parse_categories(facts: Mapping[str, Any], feature: Feature) -> CategoryBins:
    codes, shares, rest, missing = (facts[name] for name in ("categories", "shares", "rest", "missing"))
    names = feature.texts
    if not all(map(is_number, (*shares, rest, missing))) or len(codes) != len(shares) or len(codes) > CATEGORY_BINS:
        raise ValueError("the bins of categories are not finite numbers, one for each category")
    if not all(type(code) is int and 0 <= code < len(names) for code in codes) or len(set(codes)) < len(codes):
        raise ValueError("a bin is of a category that does not exist, or of one that has another")
    bins = CategoryBins(
        names=tuple(names[code] for code in codes),
        codes=np.array(codes, dtype=np.intp),
        n_categories=len(names),
        shares=np.array(shares, dtype=np.float64),
        rest=float(rest),
        missing=float(missing),
    )
    _check_shares(bins)
    return bins


def _among_known(shares: NDArray[np.float64], missing: float) -> NDArray[np.float64]:
    """Return shares of all rows as shares of those with a value."""
    known = shares / (1 - missing) if missing < 1 else np.full(len(shares), math.nan)
    return np.asarray(known, dtype=np.float64)


def _check_shares(bins: AnyBins) -> None:
    shares = bins.all_shares
    if not (shares >= 0).all() or not math.isclose(shares.sum(), 1):
        raise ValueError("the shares are not from 0 on and do not add up to 1")
