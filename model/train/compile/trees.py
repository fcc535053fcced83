"""Rows that tell whether trees were compiled exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.engine.trees import MAX_CODE, Trees
from model.schema.feature import INTEGER, Feature
from model.schema.features import Matrix, Schema

MAX_ROWS = 10_000  # that are sent down the trees
MAX_SPLITS = 50_000  # that get rows; of more, each distinct threshold comes first


def rows_at_splits(trees: Trees, X: Matrix, schema: Schema) -> Matrix:
    """Return rows on both sides of every split that a row of `X` reaches, `(n_rows, n_features)`.

    Takes a row of `X` that reaches the split, and sets the split's feature to the largest number that goes left and to
    the next one, which goes right, or to a category of each side; and to a missing value where the schema accepts one.
    A threshold that is off by one bit then changes a prediction.
    """
    X = X[:MAX_ROWS]
    row_at, result = _rows_at_nodes(trees, X), []
    first_code = np.cumsum(trees.n_codes) - trees.n_codes
    splits = np.flatnonzero(~trees.is_leaf & (row_at >= 0))
    if len(splits) > MAX_SPLITS:
        pairs = np.stack([trees.feature[splits].astype(np.float64), trees.threshold[splits]])
        _, first = np.unique(pairs, axis=1, return_index=True)
        random = np.random.default_rng(0)
        others = np.setdiff1d(np.arange(len(splits)), first)
        chosen = np.append(random.permutation(first), random.permutation(others))[:MAX_SPLITS]
        splits = splits[np.sort(chosen)]
    for node in splits.tolist():
        feature, threshold = int(trees.feature[node]), float(trees.threshold[node])
        if trees.n_codes[node]:
            codes = trees.codes[first_code[node] : first_code[node] + trees.n_codes[node]]
            is_in = np.isin(np.arange(schema.n_places[feature]), codes)
            tried = [float(np.flatnonzero(side)[0]) for side in (is_in, ~is_in) if side.any()]
        else:
            tried = _sides(threshold, schema.features[feature])
        if schema.features[feature].missing:
            tried.append(np.nan)
        rows = np.repeat(X[row_at[node]][np.newaxis], len(tried), axis=0)
        rows[:, feature] = tried
        result.append(rows)
    return np.vstack([X[:0], *result])


def _rows_at_nodes(trees: Trees, X: Matrix) -> NDArray[np.intp]:
    """Return for each node the number of a row of `X` that reaches it, -1 if none does."""
    is_leaf, row_at = trees.is_leaf, np.full(len(trees.feature), -1)
    has_codes = trees.n_codes > 0
    # Sorted, since the categories of a split are in no order.
    keys = np.sort(np.repeat(np.flatnonzero(has_codes), trees.n_codes[has_codes]) * MAX_CODE + trees.codes)
    for root in trees.roots.tolist():
        rows, node = np.arange(len(X)), np.full(len(X), root)
        while len(rows):
            row_at[node[::-1]] = rows[::-1]  # the first row of several
            on = ~is_leaf[node]
            rows, node = rows[on], node[on]
            values = X[rows, trees.feature[node]]
            missing = np.isnan(values)
            goes_left = np.where(missing, trees.missing_left[node], values <= trees.threshold[node])
            of_set = has_codes[node] & ~missing
            key = node[of_set] * MAX_CODE + values[of_set].astype(np.intp)
            goes_left[of_set] = keys.take(keys.searchsorted(key), mode="clip") == key
            node = np.where(goes_left, trees.left[node], trees.right[node])
    return row_at


def _sides(threshold: float, feature: Feature) -> list[float]:
    """Return the accepted numbers that are next to a threshold: the largest that is not above it, and the next."""
    if feature.type == INTEGER and np.isfinite(threshold):
        numbers = [np.floor(threshold), np.floor(threshold) + 1]
    else:
        numbers = [threshold, np.nextafter(threshold, np.inf)]
    return [float(number) for number in numbers if np.isfinite(number) and feature.lowest <= number <= feature.highest]
