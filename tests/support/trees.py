"""Trees of fitted models and random ones, and a plain walk down them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model import Feature, Matrix, Schema
from model.engine.trees import Trees
from model.train import frames
from model.train.compile.compiled import Compiled, compile_model
from model.train.compile.trees import rows_at_splits


def compiled(fitted: Any, X: Matrix) -> Compiled:
    """Return a model that was fitted on the array `X` in its compiled form."""
    return compile_model(fitted, frames.read(X), X)


def trees_of(model: Compiled) -> Trees:
    """Return the trees of a compiled model, which has some."""
    assert model.trees is not None
    return model.trees


def split_rows(model: Compiled, X: Matrix) -> Matrix:
    """Return rows on both sides of every split."""
    return rows_at_splits(trees_of(model), X, Schema(model.features, Feature("target")))


def random_trees(
    random: np.random.Generator,
    *,
    n_features: int,
    n_categories: int = 0,
    n_trees: int = 5,
    max_leaves: int = 9,
    width: int = 1,
    n_outputs: int = 1,
    max_code: int = 20,
    decimals: int = 9,
    dtype: Any = np.float64,
) -> Trees:
    """Return trees of any form; the first `n_categories` features are compared by their categories."""
    nodes: list[dict[str, Any]] = []
    roots = []

    def add_leaf() -> int:
        nodes.append({"feature": -1, "threshold": 0.0, "missing_left": False, "codes": []})
        nodes[-1]["left"] = nodes[-1]["right"] = len(nodes) - 1
        return len(nodes) - 1

    for _ in range(n_trees):
        roots.append(add_leaf())
        leaves = [roots[-1]]
        for _ in range(int(random.integers(max_leaves))):
            node = nodes[leaves.pop(int(random.integers(len(leaves))))]
            node["feature"] = int(random.integers(n_features))
            node["missing_left"] = bool(random.integers(2))
            if node["feature"] < n_categories:
                node["codes"] = sorted(random.choice(max_code, random.integers(1, max_code), replace=False).tolist())
            else:
                node["threshold"] = float(random.choice([random.normal(), round(random.normal(), 1), np.inf]))
            node["left"], node["right"] = add_leaf(), add_leaf()
            leaves += [node["left"], node["right"]]
    of_nodes = {
        name: [node[name] for node in nodes] for name in ("feature", "threshold", "missing_left", "left", "right")
    }
    return Trees(
        roots=np.array(roots, dtype=np.int32),
        output=random.permutation(np.arange(n_trees) % n_outputs).astype(np.int32),
        feature=np.array(of_nodes["feature"], dtype=np.int32),
        threshold=np.array(of_nodes["threshold"]),
        missing_left=np.array(of_nodes["missing_left"]),
        n_codes=np.array([len(node["codes"]) for node in nodes], dtype=np.int32),
        codes=np.array([code for node in nodes for code in node["codes"]], dtype=np.int32),
        left=np.array(of_nodes["left"], dtype=np.int32),
        right=np.array(of_nodes["right"], dtype=np.int32),
        leaves=random.normal(size=(of_nodes["feature"].count(-1), width)).round(decimals).astype(dtype),
    )


def walk(trees: Trees, X: Matrix) -> NDArray[np.floating[Any]]:
    """Return the sums of leaves, `(n_rows, n_outputs)`, as the docstring of `Trees` says, one node after the other."""
    first_code, leaf_number = np.cumsum(trees.n_codes) - trees.n_codes, np.cumsum(trees.is_leaf) - 1
    sums = np.zeros((len(X), trees.n_outputs), dtype=trees.leaves.dtype)
    for row, values in zip(sums, X):
        for root, output in zip(trees.roots, trees.output):
            node = root
            while (feature := trees.feature[node]) >= 0:
                codes = trees.codes[first_code[node] : first_code[node] + trees.n_codes[node]]
                if np.isnan(values[feature]):
                    goes_left = trees.missing_left[node]
                elif len(codes):
                    goes_left = values[feature] in codes
                else:
                    goes_left = values[feature] <= trees.threshold[node]
                node = trees.left[node] if goes_left else trees.right[node]
            leaf = trees.leaves[leaf_number[node]]
            if len(leaf) > 1:
                row += leaf
            else:
                row[output] += leaf[0]
    return sums
