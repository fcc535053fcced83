"""All trees of a model in one form, which a learner makes once, and what is made of it besides the ONNX graph.

Knows no learner and no library.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.engine.forest import MAX_LEAVES, Forest
from model.schema.features import Matrix


@dataclass(frozen=True, slots=True)
class Trees:
    """The nodes of all trees, tree after tree, each before its children.

    A row `(n_features,)` starts at a tree's root and goes to `left` if its raw value of `feature` is at most
    `threshold`, else to `right`. A leaf is its own left and right child. The prediction is the sum of the row's leaves,
    each its `value`, added in the order of the trees: a constant is a first tree of one leaf.

    `roots` is `(n_trees,)`, the others are `(n_nodes,)`. `left`, `right` and `roots` are numbers of nodes. At a leaf
    `feature` and `threshold` are 0, at a split `value` is.
    """

    n_features: int
    roots: NDArray[np.int64]
    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    value: NDArray[np.float64]

    @property
    def is_leaf(self) -> NDArray[np.bool_]:
        """Return which nodes are leaves, `(n_nodes,)`."""
        return np.equal(self.left, np.arange(len(self.left)))


def to_forest(trees: Trees) -> Forest | None:
    """Return the trees as a forest for `BitVectors`; None if it does not fit."""
    is_leaf = trees.is_leaf
    n_leaves = int(np.add.reduceat(is_leaf, trees.roots, dtype=np.int64).max())
    if n_leaves > MAX_LEAVES:
        return None
    leaves = np.zeros((len(trees.roots), n_leaves))
    splits: list[tuple[int, float, int, int]] = []  # feature, threshold, tree, excluded

    def walk(tree: int, node: int, n_left: int) -> int:
        """Collect the subtree of a node with `n_left` leaves to its left; return its number of leaves."""
        if is_leaf[node]:
            leaves[tree, n_left] = trees.value[node]
            return 1
        n_left_leaves = walk(tree, trees.left[node], n_left)
        splits.append((trees.feature[node], trees.threshold[node], tree, (2**n_left_leaves - 1) << n_left))
        return n_left_leaves + walk(tree, trees.right[node], n_left + n_left_leaves)

    for tree, root in enumerate(trees.roots):
        walk(tree, root, 0)
    feature, threshold, tree_number, excluded = zip(*splits) if splits else [()] * 4
    forest = Forest(
        np.array(feature, dtype=np.int32),
        np.array(threshold, dtype=np.float64),
        np.array(tree_number, dtype=np.int32),
        np.array(excluded, dtype=np.uint64),
        leaves,
    )
    return forest if forest.fits() else None


def rows_at_splits(trees: Trees, X: Matrix) -> Matrix:
    """Return rows on both sides of every split, `(2 * n_splits, n_features)`.

    Takes a row of `X` that reaches the split and sets the split's feature to the largest value that goes left, and to
    the next float64, which goes right. A threshold that is off by one bit then changes a prediction.
    """
    is_leaf, result = trees.is_leaf, []
    rows_at = {root: np.arange(len(X)) for root in trees.roots.tolist()}
    for node, threshold in enumerate(trees.threshold):  # each before its children
        rows = rows_at.pop(node)
        if is_leaf[node]:
            continue
        goes_left = X[rows, trees.feature[node]] <= threshold
        rows_at[int(trees.left[node])], rows_at[int(trees.right[node])] = rows[goes_left], rows[~goes_left]
        if len(rows):  # no row is known for a split that no row of X reaches
            for value in (threshold, np.nextafter(threshold, np.inf)):
                row = X[rows[0]].copy()
                row[trees.feature[node]] = value
                result.append(row)
    return np.array(result).reshape(-1, X.shape[1])
