"""A forest for many rows at once: bit vectors in numpy, with the bits that walking tree by tree gives.

After QuickScorer (Lucchese et al., SIGIR 2015). A split rules out the leaves on its left for a row that goes right. So
where the row's value stands among all thresholds of a feature says which leaves of all trees that feature rules out:
for each such place there is one vector, some bits a tree. The vectors of a row's features are joined, and of the leaves
that are left in a tree the first is the one that the row reaches.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import numpy as np
from numpy.typing import NDArray

from model.schema import Matrix

MAX_LEAVES = 64  # of a tree: the bits of the widest integer
MAX_VECTOR_BYTES = 2**24  # of all vectors: beyond that no cache holds them
MANY_ROWS = 4_096  # that are always answered by vectors, where there are any: so that the proof asks them
# Rows times trees; for fewer, to call numpy takes longer than to walk.
_MIN_WORK, _MIN_WORK_PER_FEATURE = 2_500, 500
_LEAVES_PER_CHUNK = 2**16  # 0.5 MiB of float64, which stays in the cache


@dataclass(frozen=True, slots=True)
class Forest:
    """The splits of all trees, in any order, and the trees' leaves.

    A row whose value of `feature` is above `threshold` goes right there, and then reaches none of the leaves of `tree`
    whose bits are set in `excluded`; each `(n_splits,)`. `leaves` `(n_trees, n_leaves)` are numbered from left to
    right, the first from bit 0. A row is worth the sum of its leaves, added in the order of the trees.
    """

    feature: NDArray[np.int32]
    threshold: NDArray[np.float64]
    tree: NDArray[np.int32]
    excluded: NDArray[np.uint64]
    leaves: NDArray[np.float64]

    def pack(self) -> bytes:
        """Return it as numpy's file of arrays, always the same bytes."""
        file = io.BytesIO()
        np.savez(file, **{field.name: getattr(self, field.name) for field in fields(self)})
        return file.getvalue()

    @classmethod
    def unpack(cls, content: bytes) -> Forest:
        """Return what was packed. Raises `ValueError` for what is no forest."""
        try:
            with ZipFile(io.BytesIO(content)) as members:
                if any(member.compress_type != ZIP_STORED for member in members.infolist()):
                    raise ValueError("compressed")  # to any size
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                forest = cls(**{field.name: arrays[field.name] for field in fields(cls)})
        except Exception as error:  # whatever numpy and zipfile raise
            raise ValueError(f"not a file of splits and leaves: {error!r}") from None
        dtypes = [getattr(forest, field.name).dtype.name for field in fields(cls)]
        if dtypes != ["int32", "float64", "int32", "uint64", "float64"]:
            raise ValueError(f"its arrays are of the types {', '.join(dtypes)}")
        return forest

    def fits(self) -> bool:
        """Return whether bit vectors can be made of it, and are small enough to be of use."""
        n_trees, n_leaves = self.leaves.shape
        if not (n_trees and 0 < n_leaves <= MAX_LEAVES):
            return False
        n_vectors = len(self.feature) + len(np.unique(self.feature))
        return bool(self.leaves.nbytes + n_vectors * n_trees * _mask_type(n_leaves).itemsize <= MAX_VECTOR_BYTES)


def _mask_type(n_leaves: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Return the smallest integer with a bit for each leaf of a tree."""
    return np.dtype(next(f"uint{bits}" for bits in (8, 16, 32, 64) if n_leaves <= bits))


class BitVectors:
    """A forest that fits, as it is asked about rows; for `min_rows` or more that is quicker than to walk."""

    def __init__(self, forest: Forest, n_features: int) -> None:
        """Make the vectors; rows have `n_features`. Raises `ValueError` for a forest that does not fit or is broken."""
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
        # To get as much memory anew can take several times as long as all the rest: the system hands out empty pages.
        self._spare_buffers: list[tuple[NDArray[np.intp], NDArray[np.float64]]] = []  # as many as threads ever met

    def predict(self, X: Matrix) -> NDArray[np.float64]:
        """Return `(n_rows,)` float64 for `X` of shape `(n_rows, n_features)`, float64, of two rows or more."""
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
        self._leaves.take(leaf_numbers, out=leaf_values, mode="clip")  # with "raise" numpy makes a buffer of its own
        # Along the axis that is not contiguous numpy adds one after the other; along the other it would add pairwise,
        # which is why one row cannot be asked about.
        y: NDArray[np.float64] = np.add.reduce(leaf_values, axis=0)
        self._spare_buffers.append(buffers)
        return y
