"""Rows that tell whether trees were compiled exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.engine.columns import Columns
from model.engine.trees import MAX_CODE, Trees
from model.schema import dates
from model.schema.feature import DATE, INTEGER, Feature
from model.schema.features import Matrix, Schema
from model.train.compile.fold import largest

MAX_ROWS = 10_000  # that are sent down the trees
MAX_SPLITS = 50_000  # that get rows; of more, each distinct threshold comes first

MAX_SPLITS_OF_COLUMNS = 5_000  # that get rows, where the trees compare columns


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


def rows_at_splits_of_columns(trees: Trees, columns: Columns, X: Matrix, schema: Schema) -> Matrix:
    """Return pairs of rows that are next to each other and on both sides of a split of columns, `(n_rows, n_features)`.

    Takes a row of `X` that reaches the split, and one of the other side. From the first to the second, feature after
    feature, one feature takes the row across: its numbers are bisected to the two that are next to each other.
    """
    X = X[:MAX_ROWS]
    block = columns.run(X)
    row_at = _rows_at_nodes(trees, block)
    splits = np.flatnonzero(~trees.is_leaf & (row_at >= 0))
    splits = splits[np.sort(np.random.default_rng(0).permutation(len(splits))[:MAX_SPLITS_OF_COLUMNS])]
    of_categories = [
        _sides_of_categories(trees, node, columns, X[row_at[node]], schema)
        for node in splits.tolist()
        if trees.n_codes[node]
    ]
    splits = splits[trees.n_codes[splits] == 0]
    column, threshold = trees.feature[splits], trees.threshold[splits]

    def is_left(rows: Matrix, of_splits: NDArray[np.intp]) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = columns.run(rows)[np.arange(len(rows)), column[of_splits]] <= threshold[of_splits]
        return found

    every = np.arange(len(splits))
    start = X[row_at[splits]]
    left = is_left(start, every)
    without_missing = np.where(np.isnan(block), 0.0, block)
    farthest = np.where(left, without_missing.argmax(axis=0)[column], without_missing.argmin(axis=0)[column])
    end, path = X[farthest], start.copy()
    crossing = np.full(len(splits), -1)
    for feature in range(X.shape[1]):
        on = crossing < 0
        path[on, feature] = end[on, feature]
        crossing[on & (is_left(path, every) != left)] = feature
    crossed = np.flatnonzero(crossing >= 0)
    row, of_row = np.arange(len(crossed)), crossing[crossed]
    after, before = path[crossed], path[crossed]
    before[row, of_row] = start[crossed, of_row]
    ends = np.stack([before[row, of_row], after[row, of_row]])
    is_number = np.array([not n_places for n_places in schema.n_places])[of_row]
    chosen = np.flatnonzero(is_number & ~np.isnan(ends).any(axis=0))
    asked, row, of_row = after[chosen], row[: len(chosen)], of_row[chosen]
    low, high = ends[:, chosen].min(axis=0), ends[:, chosen].max(axis=0)
    whole = np.array([feature.type == INTEGER for feature in schema.features])[of_row]
    is_date = np.array([feature.type == DATE for feature in schema.features])[of_row]

    def rounded(values: Matrix) -> Matrix:
        found = np.where(whole, np.floor(values), values)
        found[is_date] = dates.on_grid(found[is_date])
        return found

    def at(values: Matrix) -> NDArray[np.bool_]:
        asked[row, of_row] = rounded(values)
        return is_left(asked, crossed[chosen])

    left_at_low = at(low)
    last = largest(lambda values: at(values) == left_at_low, low, high)
    pairs = [before, after]
    for side in (last, np.where(whole, np.floor(last) + 1, np.nextafter(last, np.inf))):
        asked[row, of_row] = rounded(side)
        pairs.append(asked.copy())
    return np.vstack([*pairs, *of_categories])


def _sides_of_categories(trees: Trees, node: int, columns: Columns, row: Matrix, schema: Schema) -> Matrix:
    """Return a row `(n_features,)` with a category of each side of a split of categories, and a missing value."""
    feature = columns.as_taken(range(1, columns.n_features + 1))[trees.feature[node]] - 1
    first = int(trees.n_codes[:node].sum())
    is_in = np.isin(np.arange(schema.n_places[feature]), trees.codes[first : first + trees.n_codes[node]])
    tried = [float(np.flatnonzero(side)[0]) for side in (is_in, ~is_in) if side.any()]
    tried += [np.nan] if schema.features[feature].missing else []
    rows = np.repeat(row[np.newaxis], len(tried), axis=0)
    rows[:, feature] = tried
    return rows


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
