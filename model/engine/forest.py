"""Evaluate a forest for many rows at once with bit vectors in numpy, bit-identical to walking the trees.

After QuickScorer (Lucchese et al., SIGIR 2015). When a row goes right at a split, the leaves on the left of that split
are excluded. The rank of a row's value among all thresholds of a feature therefore determines the leaves that this
feature excludes in all trees. Each rank has one precomputed vector with a few bits per tree. The vectors of a row's
features are combined by AND. In each tree the row reaches the first leaf whose bit is still set.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import numpy as np
from numpy.typing import NDArray

from model.schema.features import Matrix

MAX_LEAVES = 64  # per tree: the bits of the widest integer
MAX_VECTOR_BYTES = 2**24  # all vectors together: more do not fit into a cache
MANY_ROWS = 4_096  # batches of this size always use the vectors, so that the proof covers them
# Rows times trees; below it, calling numpy takes longer than walking the trees.
_MIN_WORK, _MIN_WORK_PER_FEATURE = 2_500, 500
_LEAVES_PER_CHUNK = 2**16  # 0.5 MiB of float64, which stays in the cache


@dataclass(frozen=True, slots=True)
class Forest:
    """The splits of all trees, in any order, and the trees' leaves.

    A row whose value of `feature` is above `threshold` goes right, which excludes the leaves of `tree` whose bits are
    set in `excluded`; each is `(n_splits,)`. `leaves` `(n_trees, n_leaves)` are numbered from left to right, from bit 0
    on. The prediction is the sum of the row's leaves, added in the order of the trees.
    """

    feature: NDArray[np.int32]
    threshold: NDArray[np.float64]
    tree: NDArray[np.int32]
    excluded: NDArray[np.uint64]
    leaves: NDArray[np.float64]

    def pack(self) -> bytes:
        """Return the forest in numpy's .npz format; equal forests give equal bytes."""
        file = io.BytesIO()
        np.savez(file, **{field.name: getattr(self, field.name) for field in fields(self)})
        return file.getvalue()

    @classmethod
    def unpack(cls, content: bytes) -> Forest:
        """Return the forest that `pack` wrote. Raises `ValueError` for anything else."""
        try:
            with ZipFile(io.BytesIO(content)) as members:
                if any(member.compress_type != ZIP_STORED for member in members.infolist()):
                    raise ValueError("compressed")  # could unpack to any size
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                forest = cls(**{field.name: arrays[field.name] for field in fields(cls)})
        except Exception as error:  # numpy and zipfile raise many classes
            raise ValueError(f"not a file of splits and leaves: {error!r}") from None
        dtypes = [getattr(forest, field.name).dtype.name for field in fields(cls)]
        if dtypes != ["int32", "float64", "int32", "uint64", "float64"]:
            raise ValueError(f"its arrays are of the types {', '.join(dtypes)}")
        return forest

    def fits(self) -> bool:
        """Return whether the forest can be evaluated by bit vectors that fit into a cache."""
        n_trees, n_leaves = self.leaves.shape
        if not (n_trees and 0 < n_leaves <= MAX_LEAVES):
            return False
        n_vectors = len(self.feature) + len(np.unique(self.feature))
        return bool(self.leaves.nbytes + n_vectors * n_trees * _mask_type(n_leaves).itemsize <= MAX_VECTOR_BYTES)


def _mask_type(n_leaves: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Return the smallest integer with a bit for each leaf of a tree."""
    return np.dtype(next(f"uint{bits}" for bits in (8, 16, 32, 64) if n_leaves <= bits))


class BitVectors:
    """Evaluator of a forest that `fits`; faster than walking the trees from `min_rows` rows on."""

    def __init__(self, forest: Forest, n_features: int) -> None:
        """Compute the vectors for rows of `n_features`. Raises `ValueError` if the forest does not fit."""
        if not forest.fits():
            raise ValueError("the forest has no trees, or is too large for bit vectors")
        n_trees, n_leaves = forest.leaves.shape
        if len(forest.feature) > n_trees * (n_leaves - 1):
            raise ValueError("it has more splits than its leaves allow")
        for numbers, bound in ((forest.feature, n_features), (forest.tree, n_trees)):
            if len(numbers) and not 0 <= numbers.min() <= numbers.max() < bound:
                raise ValueError("a split names a feature or a tree that does not exist")
        self._mask_type = _mask_type(n_leaves)
        n_words = -(-n_trees * self._mask_type.itemsize // 8)
        self._features = []
        for number in np.unique(forest.feature).tolist() or [0]:
            is_of_feature = forest.feature == number
            edges, rank = np.unique(forest.threshold[is_of_feature], return_inverse=True)
            vectors = np.full((len(edges) + 1, n_words), 2**64 - 1, dtype=np.uint64)
            allowed = ~forest.excluded[is_of_feature].astype(self._mask_type)
            np.bitwise_and.at(vectors.view(self._mask_type), (rank + 1, forest.tree[is_of_feature]), allowed)
            np.bitwise_and.accumulate(vectors, axis=0, out=vectors)
            self._features.append((number, edges, vectors))
        self._leaves = forest.leaves.reshape(-1)
        self._first_leaves = np.arange(0, self._leaves.size, n_leaves).reshape(-1, 1)
        self.min_rows = min(MANY_ROWS, max(2, (_MIN_WORK + _MIN_WORK_PER_FEATURE * len(self._features)) // n_trees))
        self._chunk_rows = max(4, _LEAVES_PER_CHUNK // n_trees)
        # Allocated anew these can take several times as long as the rest, because the system zeroes pages.
        self._spare_buffers: list[tuple[NDArray[np.intp], NDArray[np.float64]]] = []  # per concurrent thread

    def predict(self, X: Matrix) -> NDArray[np.float64]:
        """Return `(n_rows,)` float64 for `X` of shape `(n_rows, n_features)`, float64, `n_rows` at least 2."""
        n_chunks = -(-len(X) // self._chunk_rows)
        if n_chunks == 1:
            return self._predict_chunk(X)
        return np.concatenate([self._predict_chunk(chunk) for chunk in np.array_split(X, n_chunks)])

    def _predict_chunk(self, X: Matrix) -> NDArray[np.float64]:
        ranks = [edges.searchsorted(X[:, number]) for number, edges, _ in self._features]
        masks = self._features[0][2].take(ranks[0], axis=0)  # (n_rows, n_words)
        for (_, _, vectors), rank in zip(self._features[1:], ranks[1:]):
            masks &= vectors.take(rank, axis=0)
        bits = masks.view(self._mask_type)
        lowest_bit = np.bitwise_count((bits - self._mask_type.type(1)) & ~bits)
        n_trees, n_rows = len(self._first_leaves), len(X)
        try:
            buffers = self._spare_buffers.pop()
        except IndexError:
            size = n_trees * self._chunk_rows
            buffers = np.empty(size, dtype=np.intp), np.empty(size)
        leaf_numbers = buffers[0][: n_trees * n_rows].reshape(n_trees, n_rows)
        leaf_values = buffers[1][: n_trees * n_rows].reshape(n_trees, n_rows)
        np.add(lowest_bit.T[:n_trees], self._first_leaves, out=leaf_numbers)
        self._leaves.take(leaf_numbers, out=leaf_values, mode="clip")  # with "raise" numpy allocates its own buffer
        # Along a non-contiguous axis numpy adds sequentially, in the order of the trees. A single row would make this
        # axis contiguous, and numpy would add pairwise.
        y: NDArray[np.float64] = np.add.reduce(leaf_values, axis=0)
        self._spare_buffers.append(buffers)
        return y
