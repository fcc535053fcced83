"""The trees of scikit-learn's estimators."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from model.engine.steps import Step
from model.errors import ExportError
from model.schema.features import Matrix
from model.train.compile.fitted import FittedTrees, below_as_float32, below_as_float64

_TREE = (DecisionTreeRegressor, DecisionTreeClassifier)  # ExtraTreeRegressor and ExtraTreeClassifier, too
_BOOSTED = (GradientBoostingRegressor, GradientBoostingClassifier)
_HISTOGRAM = (HistGradientBoostingRegressor, HistGradientBoostingClassifier)
TREES = (
    *_TREE,
    *(RandomForestRegressor, RandomForestClassifier, ExtraTreesRegressor, ExtraTreesClassifier),
    *_BOOSTED,
    *_HISTOGRAM,
)
# The steps of a loss's link. numpy computes exponentials of regressors and of many classes, scipy that of two.
_STEPS_OF_LINK: dict[str, tuple[Step, ...]] = {
    "IdentityLink": (),
    "LogLink": (("exp", ()),),
    "LogitLink": (("logistic", (1.0,)), ("two classes", ())),
    "HalfLogitLink": (("logistic", (2.0,)), ("two classes", ())),
}


NAMES = tuple(kind.__name__ for kind in TREES)
PACKAGES = ("joblib", "scikit-learn", "scipy")  # that determine the bits


def owns(estimator: Any) -> bool:
    """Return whether the trees of an estimator are known here."""
    return isinstance(estimator, TREES)


def fitted_trees(estimator: Any) -> FittedTrees:
    """Return the trees of a fitted estimator of `TREES`. Raises `ExportError` for what has no trees to add."""
    if isinstance(estimator, _HISTOGRAM):
        return _histogram(estimator)
    if isinstance(estimator, _BOOSTED):
        return _boosted(estimator)
    classes = _classes(estimator)
    is_tree = isinstance(estimator, _TREE)
    trees = [estimator.tree_] if is_tree else [each.tree_ for each in estimator.estimators_]
    values = [tree.value[:, 0, :] if classes else tree.value[:, :, 0] for tree in trees]
    return _joined(
        trees,
        values,
        output=np.zeros(len(trees), dtype=np.int64),
        steps=() if is_tree else (("divide", (float(len(trees)),)),),
        classes=classes,
    )


def columns(estimator: Any, table: Any) -> Matrix:
    """Return the columns that the trees compare, `(n_rows, n_columns)`, of what the estimator's `predict` takes."""
    if isinstance(estimator, _HISTOGRAM):
        with warnings.catch_warnings():  # of an array in place of the data frame that it was fitted on
            warnings.filterwarnings("ignore", message="X does not have valid feature names")
            return np.asarray(estimator._preprocess_X(table, reset=False), dtype=np.float64)
    if isinstance(table, pd.DataFrame):  # whose missing values may be pandas' own
        table = table.to_numpy(dtype=np.float64, na_value=np.nan)
    return np.asarray(table.toarray() if hasattr(table, "toarray") else table, dtype=np.float64)


def _boosted(estimator: Any) -> FittedTrees:
    init, classes = estimator.init_, _classes(estimator)
    if not (
        isinstance(init, (str, DummyRegressor))  # "zero"
        or (isinstance(init, DummyClassifier) and init.strategy != "stratified")
    ):
        raise ExportError(
            f"{type(estimator).__name__} starts from another model ({type(init).__name__}); fit it with init=None"
        )
    # What it starts from is the same for all rows. As they do, two rows lie one after the other.
    first = estimator._raw_predict_init(np.zeros((2, estimator.n_features_in_), dtype=np.float32))[0]
    stages = estimator.estimators_
    trees = [each.tree_ for each in stages.reshape(-1)]
    values = [estimator.learning_rate * tree.value[:, :, 0] for tree in trees]
    output = np.tile(np.arange(stages.shape[1]), len(stages))
    steps, decision = _answer(estimator)
    return _joined(trees, values, output=output, first=first, steps=steps, classes=classes, decision=decision)


def _classes(estimator: Any) -> list[Any]:
    """Return the labels of a classifier in the order of its probabilities; none for a regressor."""
    classes: list[Any] = np.asarray(getattr(estimator, "classes_", [])).tolist()
    return classes


def _answer(estimator: Any) -> tuple[Sequence[Step], str]:
    """Return the steps from the sums of a boosted model to predictions or probabilities, and the decision."""
    link = type(estimator._loss.link).__name__
    of_histogram = isinstance(estimator, _HISTOGRAM)
    if link == "MultinomialLogit":
        return ((f"numpy softmax{' by column' if of_histogram else ''}", ()),), "largest sum"
    if link not in _STEPS_OF_LINK:
        raise ExportError(
            f"{type(estimator).__name__} with the link {link} cannot be compiled exactly; choose another loss"
        )
    decision = ("sum > 0" if of_histogram else "sum >= 0") if _classes(estimator) else ""
    return _STEPS_OF_LINK[link], decision


def _joined(
    trees: Sequence[Any],
    values: Sequence[NDArray[np.float64]],
    *,
    output: NDArray[np.int64],
    first: Sequence[float] = (),
    **answer: Any,
) -> FittedTrees:
    """Return scikit-learn's trees one after the other, behind a tree of one leaf for each of the first sums.

    `values` `(n_nodes, width)` are those of their nodes, `output` `(n_trees,)` is the sum that each is added to.
    """
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
        "cover": np.concatenate([tree.weighted_n_node_samples for tree in trees]),
    }
    leaves, roots = np.concatenate(values)[is_leaf], starts
    n_first = len(first)
    if n_first:
        constants = np.arange(n_first)
        one = {"column": -1, "threshold": 0.0, "missing_left": False, "left": 0, "right": 0, "cover": 1.0}
        nodes = {name: np.concatenate([np.full(n_first, one[name]), array]) for name, array in nodes.items()}
        nodes["left"] = np.append(constants, nodes["left"][n_first:] + n_first)
        nodes["right"] = np.append(constants, nodes["right"][n_first:] + n_first)
        leaves = np.concatenate([np.reshape(first, (n_first, 1)), leaves])
        roots, output = np.append(constants, roots + n_first), np.append(constants, output)
    return FittedTrees(
        roots=roots,
        output=output,
        **nodes,
        other_left=np.zeros(len(nodes["column"]), dtype=bool),
        is_set=np.zeros(len(nodes["column"]), dtype=bool),
        n_codes=np.zeros(len(nodes["column"]), dtype=np.int64),
        codes=np.zeros(0, dtype=np.int64),
        leaves=leaves,
        goes_left=below_as_float32,
        finite_in_float32=True,
        n_constants=n_first,
        **answer,
    )


def _histogram(estimator: Any) -> FittedTrees:
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
    steps, decision = _answer(estimator)

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
        cover=behind_constants(table["count"].astype(np.float64), 1.0),
        goes_left=below_as_float64,
        n_places=n_places,
        is_set=behind_constants(is_set, False),
        steps=steps,
        n_constants=n_outputs,
        classes=_classes(estimator),
        decision=decision,
    )


def _bits(words: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Return the bits of a set, from the lowest of the first word on."""
    return np.unpackbits(words.view(np.uint8), bitorder="little").astype(bool)
