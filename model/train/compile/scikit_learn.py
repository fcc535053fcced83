"""The trees of scikit-learn's estimators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
)
from sklearn.tree import DecisionTreeRegressor

from model.engine.steps import Step
from model.errors import ExportError
from model.schema.features import Matrix
from model.train.compile.fitted import FittedTrees, below_as_float32, below_as_float64

TREES = (
    DecisionTreeRegressor,  # ExtraTreeRegressor, too
    RandomForestRegressor,
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
)
# The steps of a loss's link; numpy computes both.
_STEPS_OF_LINK: dict[str, tuple[Step, ...]] = {"IdentityLink": (), "LogLink": (("exp", ()),)}


NAMES = tuple(kind.__name__ for kind in TREES)
PACKAGES = ("joblib", "scikit-learn", "scipy")  # that determine the bits


def owns(estimator: Any) -> bool:
    """Return whether the trees of an estimator are known here."""
    return isinstance(estimator, TREES)


def fitted_trees(estimator: Any) -> FittedTrees:
    """Return the trees of a fitted estimator of `TREES`. Raises `ExportError` for what has no trees to add."""
    if isinstance(estimator, HistGradientBoostingRegressor):
        return _histogram(estimator)
    if isinstance(estimator, GradientBoostingRegressor):
        return _boosted(estimator)
    if isinstance(estimator, DecisionTreeRegressor):
        return _joined([estimator.tree_], [estimator.tree_.value[:, :, 0]])
    trees = [each.tree_ for each in estimator.estimators_]
    return _joined(trees, [tree.value[:, :, 0] for tree in trees], steps=[("divide", (float(len(trees)),))])


def columns(estimator: Any, table: Any) -> Matrix:
    """Return the columns that the trees compare, `(n_rows, n_columns)`, of what the estimator's `predict` takes."""
    if isinstance(estimator, HistGradientBoostingRegressor):
        return np.asarray(estimator._preprocess_X(table, reset=False), dtype=np.float64)
    return np.asarray(table.toarray() if hasattr(table, "toarray") else table, dtype=np.float64)


def _boosted(estimator: GradientBoostingRegressor) -> FittedTrees:
    init = estimator.init_
    if isinstance(init, str):  # "zero"
        first = 0.0
    elif isinstance(init, DummyRegressor):
        first = float(init.constant_[0, 0])
    else:
        raise ExportError(
            f"GradientBoostingRegressor starts from another model ({type(init).__name__}); fit it with init=None"
        )
    trees = [each.tree_ for each in estimator.estimators_[:, 0]]
    values = [estimator.learning_rate * tree.value[:, :, 0] for tree in trees]
    return _joined(trees, values, first=first)


def _joined(
    trees: Sequence[Any],
    values: Sequence[NDArray[np.float64]],
    *,
    first: float | None = None,
    steps: Sequence[Step] = (),
) -> FittedTrees:
    """Return scikit-learn's trees one after the other; `values` `(n_nodes, n_outputs)` are those of their nodes."""
    n_nodes = np.array([tree.node_count for tree in trees])
    starts = np.cumsum(n_nodes) - n_nodes
    start = np.repeat(starts, n_nodes)
    left, right = (np.concatenate([getattr(tree, f"children_{side}") for tree in trees]) for side in ("left", "right"))
    is_leaf, itself = left == right, np.arange(len(left))
    missing_left = np.concatenate([np.asarray(tree.missing_go_to_left, dtype=bool) for tree in trees])
    nodes = {
        "column": np.where(is_leaf, -1, np.concatenate([tree.feature for tree in trees])),
        "threshold": np.where(is_leaf, 0.0, np.concatenate([tree.threshold for tree in trees])),
        "missing_left": missing_left & ~is_leaf,
        "left": np.where(is_leaf, itself, start + left),
        "right": np.where(is_leaf, itself, start + right),
    }
    leaves, roots = np.concatenate(values)[is_leaf], starts
    if first is not None:
        one = {"column": [-1], "threshold": [0.0], "missing_left": [False], "left": [-1], "right": [-1]}
        nodes = {name: np.concatenate([np.array(one[name]), array]) for name, array in nodes.items()}
        nodes["left"], nodes["right"] = nodes["left"] + 1, nodes["right"] + 1
        leaves, roots = np.concatenate([[[first]], leaves]), np.append(0, roots + 1)
    return FittedTrees(
        roots=roots,
        output=np.zeros(len(roots), dtype=np.int64),
        **nodes,
        other_left=np.zeros(len(nodes["column"]), dtype=bool),
        is_set=np.zeros(len(nodes["column"]), dtype=bool),
        n_codes=np.zeros(len(nodes["column"]), dtype=np.int64),
        codes=np.zeros(0, dtype=np.int64),
        leaves=leaves,
        goes_left=below_as_float32,
        steps=tuple(steps),
        finite_in_float32=True,
        n_constants=int(first is not None),
    )


def _histogram(estimator: HistGradientBoostingRegressor) -> FittedTrees:
    """Return the trees on the columns of `_preprocess_X`: encoded categories first, if there are any."""
    n_places = 256  # the bits of a set of categories
    known_bits, place_of = estimator._bin_mapper.make_known_categories_bitsets()
    known = [_bits(bits) for bits in known_bits]
    predictors = [(output, predictor) for stage in estimator._predictors for output, predictor in enumerate(stage)]
    n_outputs = estimator._baseline_prediction.size
    output = np.array([*range(n_outputs), *(output for output, _ in predictors)])
    tables = [predictor.nodes for _, predictor in predictors]
    n_nodes = np.array([1] * n_outputs + [len(table) for table in tables])
    roots = np.cumsum(n_nodes) - n_nodes
    table = np.concatenate(tables)
    start = np.repeat(roots[n_outputs:], n_nodes[n_outputs:])
    is_leaf = table["is_leaf"].astype(bool)
    itself = np.arange(n_outputs, n_outputs + len(table))
    is_set, missing_left = table["is_categorical"].astype(bool) & ~is_leaf, table["missing_go_to_left"].astype(bool)
    codes = []
    for node in np.flatnonzero(is_set):
        bitsets = predictors[np.searchsorted(roots, node + n_outputs, side="right") - 1 - n_outputs][
            1
        ].raw_left_cat_bitsets
        goes_left = _bits(bitsets[table["bitset_idx"][node]])
        if missing_left[node]:  # a category that the encoder knows and the binning does not
            goes_left |= ~known[place_of[table["feature_idx"][node]]]
        codes.append(np.flatnonzero(goes_left))
    n_codes = np.zeros(len(table), dtype=np.int64)
    n_codes[is_set] = [len(each) for each in codes]
    constants = np.arange(n_outputs)

    def behind_constants(values: Any, first: Any) -> NDArray[Any]:
        return np.concatenate([np.full(n_outputs, first), values])

    return FittedTrees(
        roots=roots,
        output=output,
        column=behind_constants(np.where(is_leaf, -1, table["feature_idx"].astype(np.int64)), -1),
        threshold=behind_constants(np.where(is_leaf | is_set, 0.0, table["num_threshold"]), 0.0),
        missing_left=behind_constants(missing_left & ~is_leaf, False),
        other_left=behind_constants(missing_left & ~is_leaf, False),
        n_codes=np.concatenate([constants * 0, n_codes]),
        codes=np.concatenate([*codes, np.zeros(0, dtype=np.int64)]),
        left=np.concatenate([constants, np.where(is_leaf, itself, start + table["left"].astype(np.int64))]),
        right=np.concatenate([constants, np.where(is_leaf, itself, start + table["right"].astype(np.int64))]),
        leaves=np.concatenate([estimator._baseline_prediction.reshape(-1), table["value"][is_leaf]])[:, np.newaxis],
        goes_left=below_as_float64,
        n_places=n_places,
        is_set=behind_constants(is_set, False),
        steps=_STEPS_OF_LINK[type(estimator._loss.link).__name__],
        n_constants=n_outputs,
    )


def _bits(words: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Return the bits of a set, from the lowest of the first word on."""
    return np.unpackbits(words.view(np.uint8), bitorder="little").astype(bool)
