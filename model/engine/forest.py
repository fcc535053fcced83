"""Evaluate trees for many rows at once with bit vectors in numpy, bit-identical to walking the trees.

After QuickScorer (Lucchese et al., SIGIR 2015). When a row goes right at a split, the leaves on the left of that split
are excluded. The place of a row's value among the thresholds of a feature, or its category, therefore determines the
leaves that this feature excludes in all trees. Each place has one precomputed vector with a few bits per tree. The
vectors of a row's features are combined by AND. In each tree the row reaches the first leaf whose bit is still set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.engine.trees import Trees, unpack_arrays
from model.schema.features import Matrix

MAX_LEAVES = 64  # per tree: the bits of the widest integer
MAX_VECTOR_BYTES = 2**24  # all vectors together: more do not fit into a cache
MANY_ROWS = 4_096  # batches of this size always use the vectors, so that the proof covers them
# Rows times trees; below it, calling numpy takes longer than walking the trees.
_MIN_WORK, _MIN_WORK_PER_FEATURE = 2_500, 500
_NUMBERS_PER_CHUNK = 160_000  # 1.3 MB of float64, which stays in the cache
_LEAVES_OF_PAIRS = 8  # per tree: those of two trees have a number of 6 bits
_ROWS_PER_SEARCH = 8_192
_MIN_SEARCHED = 256  # for fewer values the calls of numpy take longer than a binary search
_MAX_IN_BUCKET = 3  # thresholds: each costs a comparison of every value
_MAX_BUCKETS = 32  # per threshold
_ALL = 2**64 - 1  # a vector that excludes no leaf


@dataclass(frozen=True, slots=True)
class Forest:
    """The splits of all trees, in any order, and the trees' leaves.

    At a split a row goes left or right as `Trees` says. Going right excludes the leaves of `tree` whose bits are set in
    `excluded`. `leaves` `(n_trees, n_leaves, width)` are numbered from left to right, from bit 0 on, and added to
    `output` `(n_trees,)` in the order of the trees. `codes` has the categories of all splits, one after the other; the
    others are `(n_splits,)`.
    """

    feature: NDArray[np.int32]
    threshold: NDArray[np.float64]
    missing_left: NDArray[np.bool_]
    n_codes: NDArray[np.int32]
    codes: NDArray[np.int32]
    tree: NDArray[np.int32]
    excluded: NDArray[np.uint64]
    leaves: NDArray[np.floating[Any]]
    output: NDArray[np.int32]

    @classmethod
    def unpack(cls, content: bytes) -> Forest:
        """Return the forest in the file of an artifact of format 1 or 2. Raises `ValueError` for anything else."""
        arrays: dict[str, NDArray[Any]] = unpack_arrays(content, ["feature", "threshold", "tree", "excluded", "leaves"])
        kinds = [array.dtype.name for array in arrays.values()]
        if kinds != ["int32", "float64", "int32", "uint64", "float64"]:
            raise ValueError(f"its arrays are of the types {', '.join(kinds)}")
        n_splits, leaves = len(arrays["feature"]), arrays.pop("leaves")
        return cls(
            **arrays,
            missing_left=np.zeros(n_splits, dtype=np.bool_),
            n_codes=np.zeros(n_splits, dtype=np.int32),
            codes=np.zeros(0, dtype=np.int32),
            leaves=leaves[:, :, np.newaxis],
            output=np.zeros(len(leaves), dtype=np.int32),
        )

    def fits(self) -> bool:
        """Return whether the forest can be evaluated by bit vectors that fit into a cache."""
        n_trees, n_leaves, _ = self.leaves.shape
        if not (n_trees and 0 < n_leaves <= MAX_LEAVES):
            return False
        n_bytes = self._n_places() * n_trees * _mask_type(n_leaves).itemsize
        return bool(self.leaves.nbytes + n_bytes <= MAX_VECTOR_BYTES)

    def _n_places(self) -> int:
        """Return the number of vectors of all features, or a little more."""
        features, number = np.unique(self.feature, return_inverse=True)
        n_codes = np.zeros(len(features), dtype=np.int64)
        np.maximum.at(n_codes, np.repeat(number, self.n_codes), self.codes + 1)
        return 3 * len(features) + int(np.count_nonzero(self.n_codes == 0) + n_codes.sum())


def forest_of(trees: Trees) -> Forest | None:
    """Return the trees as a forest for `BitVectors`; None if it does not fit."""
    is_leaf, tree = trees.is_leaf, trees.tree
    n_leaves = np.bincount(tree[is_leaf], minlength=len(trees.roots))
    if n_leaves.max() > MAX_LEAVES:
        return None
    levels = []  # the splits of each level of all trees
    level = trees.roots[~is_leaf[trees.roots]]
    while level.size:
        levels.append(level)
        below = np.concatenate([trees.left[level], trees.right[level]])
        level = below[~is_leaf[below]]
    n_below = is_leaf.astype(np.int64)  # leaves in the subtree of each node
    for level in reversed(levels):
        n_below[level] = n_below[trees.left[level]] + n_below[trees.right[level]]
    n_before = np.zeros(len(is_leaf), dtype=np.int64)  # leaves of the tree on the left of that subtree
    for level in levels:
        n_before[trees.left[level]] = n_before[level]
        n_before[trees.right[level]] = n_before[level] + n_below[trees.left[level]]
    leaves = np.zeros((len(trees.roots), int(n_leaves.max()), trees.leaves.shape[1]), dtype=trees.leaves.dtype)
    leaves[tree[is_leaf], n_before[is_leaf]] = trees.leaves
    split = np.flatnonzero(~is_leaf)
    one = np.uint64(1)
    n_excluded = n_below[trees.left[split]].astype(np.uint64)
    forest = Forest(
        feature=trees.feature[split],
        threshold=trees.threshold[split],
        missing_left=trees.missing_left[split],
        n_codes=trees.n_codes[split],
        codes=trees.codes,
        tree=tree[split].astype(np.int32),
        excluded=((one << n_excluded) - one) << n_before[split].astype(np.uint64),
        leaves=leaves,
        output=trees.output,
    )
    return forest if forest.fits() else None


def _mask_type(n_leaves: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Return the smallest integer with a bit for each leaf of a tree."""
    return np.dtype(next(f"uint{bits}" for bits in (8, 16, 32, 64) if n_leaves <= bits))


class Places:
    """Finds the places of values among sorted edges, the last of which is infinity: those of `ndarray.searchsorted`.

    A binary search of random values misses a branch prediction at every step. Here equal steps from the first edge to
    the last make buckets, of which a value finds its own by arithmetic. That is monotone, so the edges of lower buckets
    are below the value, those of higher ones are not, and the few of its own are compared.
    """

    def __init__(self, edges: NDArray[np.float64]) -> None:
        self._edges = edges
        self._n_compared = 0  # 0: there are no such buckets
        finite = edges[np.isfinite(edges)]
        if len(finite) < 2:
            return
        self._first, steps = finite[0], 2
        while steps <= _MAX_BUCKETS:
            self._last_bucket = steps * len(edges) - 1
            with np.errstate(over="ignore"):
                self._per_unit = self._last_bucket / (finite[-1] - finite[0])
            if not 0 < self._per_unit < np.inf:
                return
            n_edges = np.bincount(self._buckets(edges), minlength=self._last_bucket + 1)
            if n_edges.max() <= _MAX_IN_BUCKET:
                self._n_compared = int(n_edges.max())
                self._n_below = np.cumsum(n_edges) - n_edges
                return
            steps *= 2

    def _buckets(self, values: NDArray[np.float64]) -> NDArray[np.intp]:
        with np.errstate(over="ignore", invalid="ignore"):
            numbers = values - self._first
            numbers *= self._per_unit
            np.fmax(numbers, 0, out=numbers)  # NaN, too
            np.fmin(numbers, self._last_bucket, out=numbers)
        buckets: NDArray[np.intp] = numbers.astype(np.intp)
        return buckets

    def of(self, values: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return how many edges are below each value, `(n_rows,)`; all of them for NaN."""
        if len(values) < _MIN_SEARCHED or not self._n_compared:
            return self._edges.searchsorted(values)
        places: NDArray[np.intp] = self._n_below.take(self._buckets(values))
        for _ in range(self._n_compared):
            places += self._edges.take(places) < values
        missing = np.isnan(values)
        if missing.any():
            places[missing] = len(self._edges)
        return places


class BitVectors:
    """Evaluator of a forest that `fits`; faster than walking the trees from `min_rows` rows on."""

    def __init__(self, forest: Forest, n_features: int) -> None:
        """Compute the vectors for rows of `n_features`. Raises `ValueError` if the forest does not fit."""
        if not forest.fits():
            raise ValueError("the forest has no trees, or is too large for bit vectors")
        n_trees, n_leaves, width = forest.leaves.shape
        if len(forest.feature) > n_trees * (n_leaves - 1):
            raise ValueError("it has more splits than its leaves allow")
        for numbers, bound in ((forest.feature, n_features), (forest.tree, n_trees)):
            if len(numbers) and not 0 <= numbers.min() <= numbers.max() < bound:
                raise ValueError("a split names a feature or a tree that does not exist")
        # The trees of an output follow each other, in their order.
        order = np.argsort(forest.output, kind="stable")
        position = np.empty(n_trees, dtype=np.intp)
        position[order] = np.arange(n_trees)
        ends = np.cumsum(np.bincount(forest.output)).tolist()
        self._outputs = [slice(start, end) for start, end in zip([0, *ends], ends)]
        self._mask_type = _mask_type(n_leaves)
        # Trees of up to 8 leaves are looked up in pairs, those of both halves, by one number for both leaves.
        n_lanes = 2 if self._mask_type.itemsize == 1 else 1
        self._n_columns = -(-n_trees // n_lanes)
        lane, column = np.divmod(position, self._n_columns)
        n_words = -(-self._n_columns * n_lanes * self._mask_type.itemsize // 8)
        allowed = ~forest.excluded.astype(self._mask_type)
        tree = (column * n_lanes + lane)[forest.tree]
        first_code = np.cumsum(forest.n_codes) - forest.n_codes
        self._features: list[tuple[int, Places | None, NDArray[np.uint64]]] = []
        for number in np.unique(forest.feature).tolist() or [0]:
            of_feature = np.flatnonzero(forest.feature == number)
            edges = None
            if forest.n_codes[of_feature].any():
                codes = [
                    forest.codes[first : first + n]
                    for first, n in zip(first_code[of_feature], forest.n_codes[of_feature])
                ]
                vectors = np.full((max(int(each.max()) for each in codes) + 3, n_words), _ALL, dtype=np.uint64)
                masks = vectors.view(self._mask_type)
                for split, each in zip(of_feature, codes):
                    goes_right = np.ones(len(vectors), dtype=np.bool_)
                    goes_right[each] = False
                    masks[goes_right, tree[split]] &= allowed[split]
            else:
                # Infinity is the last edge, so that missing values, which numpy sorts after it, have their own place.
                edges, rank = np.unique(np.append(forest.threshold[of_feature], np.inf), return_inverse=True)
                vectors = np.full((len(edges) + 1, n_words), _ALL, dtype=np.uint64)
                masks = vectors.view(self._mask_type)
                np.bitwise_and.at(masks, (rank[:-1] + 1, tree[of_feature]), allowed[of_feature])
                np.bitwise_and.accumulate(vectors, axis=0, out=vectors)
            vectors[-1] = _ALL
            right = of_feature[~forest.missing_left[of_feature]]
            np.bitwise_and.at(masks[-1], tree[right], allowed[right])
            self._features.append((number, None if edges is None else Places(edges), vectors))
        leaves = forest.leaves[order]
        if n_lanes == 2:
            leaves = np.pad(leaves, [(0, 2 * self._n_columns - n_trees), (0, _LEAVES_OF_PAIRS - n_leaves), (0, 0)])
            lanes = leaves.reshape(2, self._n_columns, _LEAVES_OF_PAIRS, width)
            leaves = np.stack([np.tile(lanes[0], (1, _LEAVES_OF_PAIRS, 1)), lanes[1].repeat(_LEAVES_OF_PAIRS, axis=1)])
        # For each lane. Numbers alone are taken in half the time that rows of one number need.
        self._leaves = leaves.reshape((n_lanes, -1, width) if width > 1 else (n_lanes, -1))
        self._first_leaves = np.arange(0, self._leaves.shape[1], leaves.shape[-2]).reshape(-1, 1)
        self.min_rows = min(MANY_ROWS, max(2, (_MIN_WORK + _MIN_WORK_PER_FEATURE * len(self._features)) // n_trees))
        self._chunk_rows = max(4, _NUMBERS_PER_CHUNK // (n_trees * width))
        # Allocated anew these can take several times as long as the rest, because the system zeroes pages.
        self._spare_buffers: list[tuple[NDArray[np.intp], NDArray[np.floating[Any]]]] = []  # per concurrent thread

    def predict(self, X: Matrix) -> NDArray[Any]:
        """Return the sums `(n_rows, n_outputs)` for `X` of shape `(n_rows, n_features)`, float64, 2 rows or more."""
        if len(X) <= self._chunk_rows:
            return self._predict_chunk(self._places(X))
        sums = []
        for start, stop in _parts(len(X), _ROWS_PER_SEARCH):
            places = self._places(X[start:stop])
            sums += [
                self._predict_chunk([each[first:last] for each in places])
                for first, last in _parts(stop - start, self._chunk_rows)
            ]
        return np.concatenate(sums)

    def _places(self, X: Matrix) -> list[NDArray[np.intp]]:
        """Return for each of the features the place of its vector for each row, `(n_rows,)`."""
        found = []
        for number, places, vectors in self._features:
            values = X[:, number]
            if places:
                found.append(places.of(values))
                continue
            last = len(vectors) - 1
            codes = np.minimum(values, last - 1)  # other categories than those of the splits
            found.append(np.where(np.isnan(codes), last, codes).astype(np.intp))
        return found

    def _predict_chunk(self, places: Sequence[NDArray[np.intp]]) -> NDArray[Any]:
        vectors = (of_feature.take(place, axis=0) for place, (_, _, of_feature) in zip(places, self._features))
        masks = next(vectors)  # (n_rows, n_words)
        for others in vectors:
            masks &= others
        bits = masks.view(self._mask_type)
        lowest_bit = np.bitwise_count((bits - self._mask_type.type(1)) & ~bits)
        if len(self._leaves) == 2:
            pairs = lowest_bit.view("<u2")
            lowest_bit = ((pairs >> np.uint16(5)) | pairs) & np.uint16(63)
        n_lanes, n_rows, width = len(self._leaves), len(masks), self._leaves.shape[2:]
        try:
            buffers = self._spare_buffers.pop()
        except IndexError:
            size = self._n_columns * self._chunk_rows
            buffers = np.empty(size, dtype=np.intp), np.empty((size * n_lanes, *width), dtype=self._leaves.dtype)
        n_leaves = self._n_columns * n_rows
        leaf_numbers = buffers[0][:n_leaves].reshape(self._n_columns, n_rows)
        lanes = buffers[1][: n_leaves * n_lanes].reshape(n_lanes, self._n_columns, n_rows, *width)
        # In two steps: numpy would convert for an addition in small pieces.
        np.copyto(leaf_numbers, lowest_bit.T[: self._n_columns])
        leaf_numbers += self._first_leaves
        for leaves, values in zip(self._leaves, lanes):
            # With "raise" numpy would allocate a buffer of its own.
            leaves.take(leaf_numbers, axis=0, out=values, mode="clip")
        leaf_values = lanes.reshape(n_lanes * self._n_columns, n_rows, *width)
        # Along a non-contiguous axis numpy adds sequentially, in the order of the trees. A single number would make
        # this axis contiguous, and numpy would add pairwise.
        sums = [np.add.reduce(leaf_values[trees], axis=0) for trees in self._outputs]  # each (n_rows, *width)
        self._spare_buffers.append(buffers)
        return sums[0].reshape(n_rows, -1) if len(sums) == 1 else np.column_stack(sums)


def _parts(n_rows: int, most: int) -> list[tuple[int, int]]:
    """Return where parts of nearly equal length start and stop, so that none has one row unless `most` is below 3."""
    n_parts = -(-n_rows // most)
    bounds = [n_rows * number // n_parts for number in range(n_parts + 1)]
    return list(pairwise(bounds))
