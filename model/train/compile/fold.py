"""Fold the steps in front of trees into their splits, so that the compiled model compares raw features.

No step is known here: the fitted steps are asked. A split of trees compares one encoded column. If that column depends
on one raw feature alone, there are two cases. A category, or a boolean, has few values: each is encoded, and the split
becomes the set of those that go left. A number is encoded by a map that rises or falls, such as
`float32((x - mean) / scale)`. So the numbers that go left end at one float64, which bisection over the ordered bit
patterns of float64 finds in at most 64 questions. It replaces the threshold, and every float64 takes the same branch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.engine.chunks import in_chunks
from model.engine.trees import Trees
from model.errors import ExportError
from model.schema.feature import BOOLEAN, CATEGORY, INTEGER, ROUNDED, Feature
from model.schema.features import Matrix
from model.train.compile.fitted import FittedTrees

Accepted = Callable[[Matrix], NDArray[np.bool_]]
"""Whether a number of each feature is accepted, the other features as in a row that is: `(n,)` to `(n,)`."""

Guess = Callable[[Matrix, Matrix], Matrix]
"""A guess of the last number of each feature that is accepted, from a low to a high one: both `(n,)`, to `(n,)`."""

Ask = Callable[[Matrix], Matrix]
"""What the steps in front of the trees make of rows: `(n_rows, n_features)` to `(n_rows, n_columns)`, both float64."""

_SAMPLE = 1_000  # rows to find out which raw feature a column depends on
_PROBES = 2_000  # numbers to find out whether a column rises or falls with its feature
_SENTINELS = (-1, -9, -99, -999, -9999, 99, 999, 9999)  # that often stand for missing numbers
_ROWS_AT_ONCE = 50_000
_AT_ONCE = 15  # numbers of each feature, of which the last that is accepted is looked for
_LARGEST = float(np.finfo(np.float64).max)
_LARGEST_SINGLE = math.nextafter(2.0**128 - 2.0**103, 0)  # the largest that is finite as a float32
_NO_CODES = np.zeros(0, dtype=np.intp)


class NotFoldable(ExportError):
    """A column cannot be folded into splits, but may be computed; the message says which."""


def find_limits(
    ask: Ask,
    features: Sequence[Feature],
    X: Matrix,
    *,
    unchecked: Ask,
    in_float32: bool,
    is_answered: Callable[[Matrix], NDArray[np.bool_]] | None = None,
) -> tuple[Matrix, Matrix]:
    """Return the lowest and highest value of each feature that is accepted, `(n_features,)`.

    The steps refuse a value by raising; trees that round their input to float32 refuse one whose encoded columns are
    not finite there. `unchecked` asks without the library's checks, where it has them: its answers are but guesses.
    A value at which a column becomes missing is refused, unless `is_answered` says of `(n_rows, n_features)` that the
    model has an answer, `(n_rows,)`: the steps may make missing values on purpose. `X` are rows that are accepted.
    Raises `ExportError` if a row of `X` is beyond what was found.
    """
    lowest = np.array([feature.lowest for feature in features]).clip(-_LARGEST, _LARGEST)
    highest = np.array([feature.highest for feature in features]).clip(-_LARGEST, _LARGEST)
    numbers = [n for n, feature in enumerate(features) if feature.type not in (CATEGORY, BOOLEAN)]

    def accepted(values: Matrix, of_features: Sequence[int] = numbers, *, asked: Ask = ask) -> NDArray[np.bool_]:
        rows = np.repeat(X[:1], len(of_features), axis=0)
        rows[np.arange(len(of_features)), of_features] = values
        try:
            encoded = asked(rows)
        except Exception:  # every library has classes of its own
            if len(of_features) == 1:
                return np.array([False])
            alone = [accepted(value, [number], asked=asked) for value, number in zip(values, of_features)]
            return np.concatenate(alone)
        with np.errstate(over="ignore", invalid="ignore"):
            is_finite = np.isfinite(encoded.astype(np.float32)).all(axis=1)
        # Where numbers become missing, such as the logarithms of negative ones, the map is at its end, too.
        same = (np.isnan(encoded) == missing).all(axis=1)
        found: NDArray[np.bool_] = same & (is_finite | (not in_float32))
        if is_answered and not found.all():
            found[~found] = is_answered(rows[~found])
        return found

    def finite(rows: Matrix) -> Matrix:
        """Ask without checks, and make infinite columns missing, unless they usually are infinite."""
        encoded = unchecked(rows)
        return np.where(np.isinf(encoded) & usual, np.nan, encoded)

    def last(side: float, end: Matrix) -> Matrix:
        """Return the last number that is accepted on one side, 1 or -1, up to the end."""

        def turned(asked: Ask) -> Accepted:
            return lambda values: accepted(side * values, numbers * (len(values) // len(numbers)), asked=asked)

        start, end = side * X[0, numbers], side * end
        if is_answered:  # what is refused may lie in between: a division by 0
            zero = np.zeros(len(numbers))
            end = np.where((start < 0) & (end > 0) & ~turned(ask)(zero), zero, end)
        # To ask about one number more costs nothing, but for those that are answered one by one.
        at_once = 1 if is_answered else _AT_ONCE

        def searched(asked: Ask) -> Guess:
            return lambda low, high: largest(turned(asked), low, high, at_once=at_once)

        guesses = [searched(finite), searched(unchecked)]
        if in_float32:  # where a number is compared as it is, nothing else ends it
            guesses.insert(0, lambda low, high: np.clip(_LARGEST_SINGLE, low, high))
        return side * _last(turned(ask), guesses, start, end)

    if numbers:
        base = ask(X[:1])
        missing, usual = np.isnan(base), np.isfinite(base)
        highest[numbers], lowest[numbers] = last(1.0, highest[numbers]), last(-1.0, lowest[numbers])
        whole = np.array([feature.type in ROUNDED for feature in features])
        lowest[whole], highest[whole] = np.ceil(lowest[whole]), np.floor(highest[whole])
        beyond = (X[:, numbers] < lowest[numbers]) | (X[:, numbers] > highest[numbers])
        for number in np.flatnonzero(beyond.any(axis=0)):
            raise ExportError(
                f"the steps make some numbers of {features[numbers[number]].name!r} missing, or refuse them, and take "
                "others on both sides of them; make it a category, or, if the steps give a sparse matrix, whose zeros "
                "XGBoost takes for missing, set sparse_output=False and sparse_threshold=0, and fit again"
            )
    return lowest, highest


def _last(accepted: Accepted, guesses: Sequence[Guess], low: Matrix, high: Matrix) -> Matrix:
    """Return what `largest` does of `accepted`, with few questions where a guess ends at the same number.

    A library that refuses all rows for one must be asked about each alone. The guesses do without its checks, and ask
    about all at once. Whether a guess is right, `accepted` tells of the last number, and of the next one.
    """
    low = np.where(accepted(high), high, low)
    for guess_between in guesses:
        if (low == high).all():
            break
        guess = guess_between(low, high)
        is_end = accepted(guess)
        above = np.where(is_end, np.nextafter(guess, high), guess)
        is_end &= (guess == high) | ~accepted(above)
        low, high = np.where(is_end, guess, low), np.where(is_end, guess, high)
    return largest(accepted, low, high)


def fold(fitted: FittedTrees, ask: Ask, features: Sequence[Feature], X: Matrix) -> tuple[Trees, Matrix]:
    """Return the trees on raw features, whose sums have the same bits for every row that the schema accepts.

    Beside them is the cover of their nodes, `(n_nodes,)`. `X` `(n_rows, n_features)` are rows of the training table.
    Raises `NotFoldable` for a column that depends on several raw features, or that neither rises nor falls with its
    feature; `ExportError` for trees that take numbers for sets.
    """
    return _Fold(fitted, ask, features, X).trees()


class _Fold:
    """Finds for each split which values of its raw feature go left."""

    def __init__(self, fitted: FittedTrees, ask: Ask, features: Sequence[Feature], X: Matrix) -> None:
        self._fitted, self._ask, self._features, self._base = fitted, ask, features, X[:1]
        n_nodes = len(fitted.column)
        self._splits = np.flatnonzero(fitted.column >= 0)
        self._columns, self._column_of_split = np.unique(fitted.column[self._splits], return_inverse=True)
        # The codes of all sets as one sorted array, in which a set's codes are looked up by its number and the code.
        self._set_number = np.cumsum(fitted.is_set) - 1
        self._keys = np.repeat(np.arange(fitted.is_set.sum()), fitted.n_codes[fitted.is_set]) * fitted.n_places
        self._keys = np.sort(self._keys + fitted.codes)
        self._probes = [self._probes_of(number, X[:, number]) for number in range(len(features))]
        source = self._sources(X)
        self._feature = np.full(n_nodes, -1)
        self._feature[self._splits] = source[self._column_of_split]
        self._threshold = np.zeros(n_nodes)
        self._missing_left = np.zeros(n_nodes, dtype=bool)
        self._codes: dict[int, NDArray[np.intp]] = {}
        self._swapped = np.zeros(n_nodes, dtype=bool)
        self._goes = np.zeros(n_nodes, dtype=np.int8)  # where every row goes: 1 left, 2 right, 0 for a real split

    def trees(self) -> tuple[Trees, Matrix]:
        """Return the trees on raw features, and the cover of their nodes."""
        constant = self._splits[self._feature[self._splits] < 0]
        values = self._encoded(self._base)[0][np.searchsorted(self._columns, self._fitted.column[constant])]
        self._goes[constant] = np.where(self._goes_left(constant, values), 1, 2)
        of_numbers = []
        for number, feature in enumerate(self._features):
            nodes = self._splits[self._feature[self._splits] == number]
            if feature.missing and len(nodes):
                self._missing_left[nodes] = self._goes_left(nodes, self._at(number, [np.nan])[0][self._column(nodes)])
            if feature.type in (CATEGORY, BOOLEAN):
                self._fold_places(number, nodes)
            elif self._fitted.is_set[nodes].any():
                raise ExportError(
                    f"the trees take the numbers {feature.name!r} for categories; make the column one of the type "
                    "category in a data frame, and fit the model on that"
                )
            elif len(nodes):
                of_numbers.append(nodes)
        if of_numbers:
            self._fold_numbers(np.concatenate(of_numbers))
        return self._pruned()

    def _probes_of(self, number: int, values: Matrix) -> Matrix:
        """Return values of a feature, in order: all of a category's, or numbers in and beyond the training range."""
        feature = self._features[number]
        if feature.type in (CATEGORY, BOOLEAN):
            return np.arange(feature.cells.n_places, dtype=np.float64)
        known = np.unique(values[~np.isnan(values)])
        if len(known) > _PROBES:
            known = np.unique(np.quantile(known, np.linspace(0, 1, _PROBES), method="nearest"))
        between = (known[1:] + known[:-1]) / 2
        width = max(known[-1] - known[0], 1.0) if len(known) else 1.0
        ends = [feature.lowest, feature.highest, *(known[:1] - width), *(known[-1:] + width), 0.0, *_SENTINELS]
        probes = np.unique(np.clip(np.concatenate([known, between, ends]), feature.lowest, feature.highest))
        probes = np.clip(probes, -_LARGEST, _LARGEST)
        return np.unique(np.round(probes)) if feature.type in ROUNDED else probes

    def _sources(self, X: Matrix) -> NDArray[np.intp]:
        """Return the raw feature that each of the used columns depends on, -1 for one that never changes."""
        rows = X[np.random.default_rng(0).permutation(len(X))[:_SAMPLE]]
        before, base = self._encoded(rows), self._encoded(self._base)
        source = np.full(len(self._columns), -1)
        for number, feature in enumerate(self._features):
            changed = rows.copy()
            changed[:, number] = np.random.default_rng(number + 1).permutation(rows[:, number])
            probes = np.append(self._probes[number], np.nan) if feature.missing else self._probes[number]
            depends = _differ(self._encoded(changed), before) | _differ(self._at(number, probes), base)
            # A product may be 0 in the base row, and the other factor the same in all rows.
            usual = self._probes[number][
                np.abs(self._probes[number]) <= 10 * np.nanmax(np.abs(X[:, number]), initial=10)
            ]
            changed[:, number] = np.random.default_rng(number + 1).choice(usual, len(rows))
            depends |= _differ(self._encoded(changed), before)
            taken = np.flatnonzero(depends & (source >= 0))
            if len(taken):
                raise NotFoldable(
                    f"a step makes one column of {self._features[source[taken[0]]].name!r} and {feature.name!r}"
                )
            source[depends] = number
        return source

    def _encoded(self, rows: Matrix) -> Matrix:
        """Return the columns that splits use, `(n_rows, n_used_columns)`."""
        return in_chunks(lambda chunk: self._ask(chunk)[:, self._columns], rows, _ROWS_AT_ONCE)

    def _at(self, number: int, values: ArrayLike) -> Matrix:
        """Return the used columns for values of one feature, the others as in the base row."""
        rows = np.repeat(self._base, np.size(values), axis=0)
        rows[:, number] = values
        return self._encoded(rows)

    def _column(self, nodes: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the number of each node's column among those that are used."""
        return np.searchsorted(self._columns, self._fitted.column[nodes])

    def _goes_left(self, nodes: NDArray[np.intp], values: Matrix) -> NDArray[np.bool_]:
        """Return whether encoded values `(n_nodes,)` go left, each at its node."""
        fitted = self._fitted
        missing = np.isnan(values)
        with np.errstate(invalid="ignore"):
            left = fitted.goes_left(values, fitted.threshold[nodes])
        is_set = fitted.is_set[nodes] & ~missing
        if is_set.any():
            of_set, place = nodes[is_set], values[is_set]
            listed = (place >= 0) & (place < fitted.n_places)
            keys = self._set_number[of_set] * fitted.n_places + np.where(listed, place, 0).astype(np.int64)
            found = np.searchsorted(self._keys, keys).clip(max=max(len(self._keys) - 1, 0))
            is_in = self._keys[found] == keys if len(self._keys) else np.zeros(len(keys), dtype=bool)
            left[is_set] = np.where(listed, is_in, fitted.other_left[of_set])
        return np.where(missing, fitted.missing_left[nodes], left)

    def _fold_places(self, number: int, nodes: NDArray[np.intp]) -> None:
        """Find for each split which categories go left."""
        encoded = self._at(number, self._probes[number])
        left = np.array(
            [self._goes_left(nodes, place[self._column(nodes)]) for place in encoded]
        )  # (n_places, n_nodes)
        missing = self._missing_left[nodes] if self._features[number].missing else left[0]
        self._goes[nodes] = np.where(left.all(axis=0) & missing, 1, np.where(~left.any(axis=0) & ~missing, 2, 0))
        n_left = left.sum(axis=0)
        # A split has the categories of the side that has fewer, but one at least: the sides may change places.
        swapped = (n_left == 0) | ((2 * n_left > len(left)) & (n_left < len(left)))
        self._swapped[nodes] = swapped
        for node, places in zip(nodes.tolist(), np.where(swapped, ~left, left).T):
            self._codes[node] = np.flatnonzero(places)

    def _fold_numbers(self, nodes: NDArray[np.intp]) -> None:
        """Find for each split the largest number that goes left, for all features at once."""
        fitted, feature = self._fitted, self._feature[nodes]
        # Many splits compare the same column with the same threshold: one of them stands for all.
        pairs = np.stack([self._column(nodes).astype(np.float64), fitted.threshold[nodes]])
        _, first, same = np.unique(pairs, axis=1, return_index=True, return_inverse=True)
        different, source = nodes[first], feature[first]
        columns, rows = self._column(different), np.arange(len(first))
        falling = np.zeros(len(first), dtype=bool)
        for number in np.unique(source):
            falling[source == number] = self._falling(number, columns[source == number])

        def goes_left(values: Matrix) -> NDArray[np.bool_]:
            asked = np.repeat(self._base, len(values), axis=0)
            asked[rows, source] = values
            return self._goes_left(different, self._encoded(asked)[rows, columns])

        limits = np.array([(each.lowest, each.highest) for each in self._features]).clip(-_LARGEST, _LARGEST)
        low, high = limits[source].T
        at_low, at_high = goes_left(low), goes_left(high)
        is_real = at_low != at_high
        # Where all numbers go the same way and missing values the other, the threshold is beyond all numbers.
        threshold = np.where(at_low, np.inf, -np.inf)
        if is_real.any():
            # Most columns are numbers as they are. Then the threshold is the answer, which two questions find out.
            is_whole = np.array([each.type == INTEGER for each in self._features])[source]
            guess = fitted.threshold[different].clip(low, high) + 0.0
            guess = np.where(is_whole, np.floor(guess), guess)
            with np.errstate(over="ignore"):
                above = np.where(is_whole, guess + 1, np.nextafter(guess, np.inf))
            is_found = (goes_left(guess) ^ falling) & ~(goes_left(above) ^ falling) & (low <= guess) & (guess < high)
            low, high = np.where(is_found, guess, low), np.where(is_found, guess, high)
            found = largest(lambda values: (goes_left(values) ^ falling) | ~is_real, low, high)
            threshold[is_real] = found[is_real]
        may_be_missing = np.array([each.missing for each in self._features])[feature]
        missing = np.where(may_be_missing, self._missing_left[nodes], at_low[same])
        self._goes[nodes] = np.where(is_real[same] | (missing != at_low[same]), 0, np.where(at_low[same], 1, 2))
        self._threshold[nodes], self._swapped[nodes] = threshold[same], (falling & is_real)[same]

    def _falling(self, number: int, columns: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return which columns `(n,)` fall as the feature rises. Raises `ExportError` for one that does both."""
        encoded = self._at(number, self._probes[number])
        with np.errstate(invalid="ignore"):
            steps = np.nan_to_num(np.sign(encoded[1:] - encoded[:-1]))  # NaN, of infinity less infinity, is no step
        rises = np.all(steps >= 0, axis=0)[columns]
        falls = np.all(steps <= 0, axis=0)[columns]
        if np.isnan(encoded[:, columns]).any() or not np.all(rises | falls):
            raise NotFoldable(
                f"a step turns the number {self._features[number].name!r} into a column that neither rises nor falls "
                "with it"
            )
        falling: NDArray[np.bool_] = np.logical_not(rises)
        return falling

    def _pruned(self) -> tuple[Trees, Matrix]:
        """Return the trees without the splits at which all rows go the same way, and the cover of their nodes."""
        fitted = self._fitted
        left = np.where(self._swapped, fitted.right, fitted.left)
        right = np.where(self._swapped, fitted.left, fitted.right)
        # The node that stands in for each: itself, or the one to which all rows go.
        stand_in = np.choose(self._goes, [np.arange(len(left)), fitted.left, fitted.right])
        while not np.array_equal(further := stand_in[stand_in], stand_in):
            stand_in = further
        levels, tree = [], np.arange(len(fitted.roots))
        level = stand_in[fitted.roots]
        trees_of_levels = []
        while level.size:
            levels.append(level)
            trees_of_levels.append(tree)
            is_split = self._feature[level] >= 0
            level = np.concatenate([stand_in[left[level[is_split]]], stand_in[right[level[is_split]]]])
            tree = np.tile(tree[is_split], 2)
        kept, tree = np.concatenate(levels), np.concatenate(trees_of_levels)
        # Within a tree level after level, so that a node is before its children.
        order = np.argsort(tree, kind="stable")
        kept, tree = kept[order], tree[order]
        number = np.full(len(left), -1)
        number[kept] = np.arange(len(kept))
        is_split = self._feature[kept] >= 0
        itself = np.arange(len(kept))
        codes = [self._codes.get(node, _NO_CODES) for node in kept.tolist()]
        leaf_number = np.cumsum(fitted.column < 0) - 1
        trees = Trees(
            roots=np.searchsorted(tree, np.arange(len(fitted.roots))).astype(np.int32),
            output=fitted.output.astype(np.int32),
            feature=self._feature[kept].astype(np.int32),
            threshold=self._threshold[kept],
            missing_left=(self._missing_left ^ self._swapped)[kept] & is_split,
            n_codes=np.array([len(each) for each in codes], dtype=np.int32),
            codes=np.concatenate([*codes, _NO_CODES]).astype(np.int32),
            left=np.where(is_split, number[stand_in[left[kept]]], itself).astype(np.int32),
            right=np.where(is_split, number[stand_in[right[kept]]], itself).astype(np.int32),
            leaves=fitted.leaves[leaf_number[kept[~is_split]]],
        )
        return trees, fitted.cover[kept]


def largest(holds: Callable[[Matrix], NDArray[np.bool_]], low: Matrix, high: Matrix, *, at_once: int = 1) -> Matrix:
    """Return the largest float64 from `low` to `high`, all `(n,)`, for which each of `n` monotone predicates holds.

    `holds` evaluates all predicates at `(n,)` float64, or at `(at_once * n,)`, `n` numbers after the other `n`; each is
    true at `low` and up to a number, and false above it. Parts the ordered bit patterns of float64, which takes at most
    64 steps where a step asks once, and 16 where it asks 15 times.
    """
    below, above = _ordinal(low), _ordinal(high)
    below = np.where(holds(high), above, below)
    part = np.arange(1, at_once + 1, dtype=np.uint64)[:, np.newaxis]
    n_parts = np.uint64(at_once + 1)
    while (below < above).any():
        span = np.where(below < above, above.view(np.uint64) - below.view(np.uint64), np.uint64(0))
        # The upper of two middles, without a product that could overflow.
        offset = span // n_parts * part + (span % n_parts * part + n_parts - np.uint64(1)) // n_parts
        points = (below.view(np.uint64) + offset).view(np.int64)  # (at_once, n)
        is_true = np.logical_and.accumulate(holds(_float(points.ravel())).reshape(points.shape))
        above = np.where(is_true, above, points - 1).min(axis=0)
        below = np.where(is_true, points, below).max(axis=0)
    return _float(below)


def _differ(first: Matrix, second: Matrix) -> NDArray[np.bool_]:
    """Return which columns differ in any row."""
    same = (first == second) | (np.isnan(first) & np.isnan(second))
    different: NDArray[np.bool_] = np.logical_not(np.all(same, axis=0))
    return different


def _ordinal(x: Matrix) -> NDArray[np.int64]:
    """Return the rank of each float64 among all float64s, as an integer."""
    bits = x.view(np.int64)
    return np.where(bits < 0, np.int64(-(2**63)) - bits, bits)


def _float(ordinal: NDArray[np.int64]) -> Matrix:
    """Return the float64 of each rank, the inverse of `_ordinal`."""
    return np.where(ordinal < 0, np.int64(-(2**63)) - ordinal, ordinal).view(np.float64)
