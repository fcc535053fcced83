"""All trees of a model as arrays: the one form that every learner's trees are put into, and that is served.

The graph of ONNX Runtime and the bit vectors are made of it. Knows no learner and no library.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import numpy as np
from numpy.typing import NDArray

MAX_TREES = 2**14
MAX_NODES = 2**22  # loading takes about 400 bytes for each
MAX_TREES_BYTES = 2**28  # of their file
MAX_DEPTH = 2**10
MAX_OUTPUTS = 2**10
MAX_CODE = 2**20  # the largest number of a category


@dataclass(frozen=True, slots=True)
class Trees:
    """The nodes of all trees, tree after tree, each before its children, and the leaves.

    A row `(n_features,)` starts at a tree's root. At a split it goes to `left` or `right` by its value of `feature`:

    - a missing value (NaN) goes left where `missing_left` says so;
    - at a split with `n_codes` of 0, any other value goes left if it is at most `threshold`;
    - else the value is the number of a category, and goes left if it is one of the split's codes.

    A leaf has the feature -1 and is its own left and right child. The row's result `(n_outputs,)` is the sum of its
    leaves, added in the order of the trees in the leaves' own precision. A leaf of width 1 is added to the `output` of
    its tree, a wider one to all outputs. So a constant is a first tree of one leaf.

    `roots` and `output` are `(n_trees,)`; `codes` has those of all splits, one after the other; `leaves`
    `(n_leaves, width)`, float64 or float32, follow the order of the nodes; the others are `(n_nodes,)`.
    """

    roots: NDArray[np.int32]
    output: NDArray[np.int32]
    feature: NDArray[np.int32]
    threshold: NDArray[np.float64]
    missing_left: NDArray[np.bool_]
    n_codes: NDArray[np.int32]
    codes: NDArray[np.int32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    leaves: NDArray[np.floating[Any]]

    @property
    def is_leaf(self) -> NDArray[np.bool_]:
        """Return which nodes are leaves, `(n_nodes,)`."""
        return np.less(self.feature, 0)

    @property
    def tree(self) -> NDArray[np.intp]:
        """Return the number of each node's tree, `(n_nodes,)`."""
        return np.repeat(np.arange(len(self.roots)), np.diff(self.roots, append=len(self.feature)))

    @property
    def n_outputs(self) -> int:
        """Return the number of sums."""
        width = self.leaves.shape[1]
        return width if width > 1 else int(self.output.max()) + 1

    def pack(self) -> bytes:
        """Return the trees in numpy's .npz format; equal trees give equal bytes."""
        file = io.BytesIO()
        np.savez(file, **{field.name: getattr(self, field.name) for field in fields(self)})
        return file.getvalue()

    @classmethod
    def unpack(cls, content: bytes, n_places: Sequence[int]) -> Trees:
        """Return the trees that `pack` wrote, for features as in `check`. Raises `ValueError` for anything else."""
        trees = cls(**unpack_arrays(content, [field.name for field in fields(cls)]))
        trees.check(n_places)
        return trees

    def check(self, n_places: Sequence[int]) -> None:
        """Raise `ValueError` unless the arrays are trees that can be run in bounded time and memory.

        `n_places` `(n_features,)` is how many numbers the categories of each feature have, 0 for one that has none.
        """
        n_features = len(n_places)
        n_trees, n_nodes = len(self.roots), len(self.feature)
        kinds = {field.name: getattr(self, field.name).dtype.name for field in fields(self)}
        leaf_kind = kinds.pop("leaves")
        expected = dict.fromkeys(kinds, "int32") | {"threshold": "float64", "missing_left": "bool"}
        if kinds != expected or leaf_kind not in ("float32", "float64"):
            raise ValueError(f"its arrays are of the types {', '.join((*kinds.values(), leaf_kind))}")
        of_nodes = ("feature", "threshold", "missing_left", "n_codes", "left", "right")
        shapes = {"roots": (n_trees,), "output": (n_trees,), "codes": (len(self.codes),)}
        shapes |= dict.fromkeys(of_nodes, (n_nodes,))
        if any(getattr(self, name).shape != shape for name, shape in shapes.items()) or self.leaves.ndim != 2:
            raise ValueError("its arrays are of different lengths")
        if not (0 < n_trees <= MAX_TREES and n_nodes <= MAX_NODES and len(self.codes) <= MAX_NODES):
            raise ValueError(
                f"it has {n_trees} trees with {n_nodes} nodes and {len(self.codes)} categories; "
                f"1 to {MAX_TREES} trees with up to {MAX_NODES} of each are allowed"
            )
        n_bytes = sum(getattr(self, field.name).nbytes for field in fields(self))
        if n_bytes > MAX_TREES_BYTES:
            raise ValueError(f"it has {n_bytes} bytes of trees, more than {MAX_TREES_BYTES}")
        width = self.leaves.shape[1]
        if self.leaves.shape[0] != np.count_nonzero(self.is_leaf) or not 0 < width <= MAX_OUTPUTS:
            raise ValueError("its leaves are not those of its nodes")
        if not (np.isfinite(self.leaves).all() and not np.isnan(self.threshold).any()):
            raise ValueError("a leaf is not finite, or a threshold is not a number")
        _check_within(self.output, MAX_OUTPUTS if width == 1 else 1, "an output")
        if not np.bincount(self.output).all():
            raise ValueError("it has an output without a tree")
        _check_within(self.feature + 1, n_features + 1, "a feature")
        _check_within(self.codes, MAX_CODE + 1, "a category")
        if (n_nodes and self.n_codes.min() < 0) or self.n_codes.sum(dtype=np.int64) != len(self.codes):
            raise ValueError("its categories are not those of its nodes")
        self._check_form()
        has_codes = self.n_codes > 0
        is_number = ~self.is_leaf & ~has_codes
        if np.asarray(n_places)[self.feature[is_number]].any():
            raise ValueError("it compares a feature's categories as numbers")
        n_places_of_code = np.repeat(np.asarray(n_places)[self.feature[has_codes]], self.n_codes[has_codes])
        if (self.codes >= n_places_of_code).any():
            raise ValueError("it compares a number, or a category that its feature does not have, with categories")

    def _check_form(self) -> None:
        """Raise `ValueError` unless every node but the roots has one parent, which is before it in the same tree."""
        n_nodes, is_split = len(self.feature), ~self.is_leaf
        numbers = np.arange(n_nodes)
        _check_within(self.roots, n_nodes, "a tree")
        if self.roots[0] != 0 or not (np.diff(self.roots) > 0).all():
            raise ValueError("its trees do not follow each other")
        children = np.concatenate([self.left[is_split], self.right[is_split]])
        parents = np.concatenate([numbers[is_split]] * 2)
        _check_within(children, n_nodes, "a child")
        own = (self.left == numbers) & (self.right == numbers)
        times = np.bincount(np.concatenate([self.roots, children]), minlength=n_nodes)
        tree = self.tree
        if not (
            np.array_equal(own, self.is_leaf)
            and (times == 1).all()
            and (children > parents).all()
            and (tree[children] == tree[parents]).all()
        ):
            raise ValueError("its nodes are not trees: one has no parent before it, or several")
        level, depth = self.roots[is_split[self.roots]], 0
        while level.size:
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"it has a tree of more than {MAX_DEPTH} levels")
            below = np.concatenate([self.left[level], self.right[level]])
            level = below[is_split[below]]


def unpack_arrays(content: bytes, names: list[str]) -> dict[str, NDArray[Any]]:
    """Return the arrays of these names from an uncompressed .npz file without objects.

    Raises `ValueError` for anything else.
    """
    try:
        with ZipFile(io.BytesIO(content)) as members:
            if any(member.compress_type != ZIP_STORED for member in members.infolist()):
                raise ValueError("compressed")  # could unpack to any size
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except Exception as error:  # numpy and zipfile raise many classes
        raise ValueError(f"not a file of these arrays: {error!r}") from None


def _check_within(numbers: NDArray[np.int32], bound: int, kind: str) -> None:
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < bound:
        raise ValueError(f"its nodes name {kind} that does not exist")
