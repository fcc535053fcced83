"""Fit the scaled GBM of scikit-learn, and compile it to one bit-identical ONNX graph.

At each split scikit-learn evaluates `float32((x - mean) / scale) <= threshold` for a float64 `x`. Subtraction, division
by a positive number and rounding are monotone, so each split has a largest float64 that goes left. The compiler
replaces the threshold by this number: the graph needs no scaler, and every float64 takes the same branch.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import joblib
import numpy as np
import onnx
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from model.engine.forest import MAX_LEAVES, Forest
from model.engine.graph import INPUT_NAME, OUTPUT_NAME
from model.schema.features import Matrix
from model.train.candidate import Candidate
from model.train.compile.onnx import to_onnx

ALGORITHM = "StandardScaler + GradientBoostingRegressor"
ONNX_ML_OPSET = 5
PIPELINE = "pipeline.joblib"


def fit(X: Matrix, y: NDArray[np.float64], *, n_estimators: int = 400, random_state: int = 7) -> Pipeline:
    """Fit the scaler and the trees on `X` `(n_rows, n_features)` and `y` `(n_rows,)`."""
    steps = [
        ("scaler", StandardScaler()),
        ("gbm", GradientBoostingRegressor(n_estimators=n_estimators, random_state=random_state)),
    ]
    return Pipeline(steps).fit(X, y)


def search(
    X: Matrix,
    y: NDArray[np.float64],
    *,
    n_estimators: Sequence[int] = range(50, 401, 50),
    folds: int = 10,
    random_state: int = 7,
) -> dict[str, Any]:
    """Return the cross-validated mean squared error for each number of trees, and the best.

    The folds are not shuffled and the scaler is fitted once on all of `X`, as in the published example. Strictly the
    scaler belongs inside each fold. Since trees depend only on the order of values, this changes no more than rounding.
    """
    grid = GridSearchCV(
        GradientBoostingRegressor(random_state=random_state),
        {"n_estimators": list(n_estimators)},
        scoring="neg_mean_squared_error",
        cv=KFold(folds),
    ).fit(StandardScaler().fit_transform(X), y)
    results = grid.cv_results_
    return {
        "folds": folds,
        "best": {**grid.best_params_, "mse": float(-grid.best_score_)},
        "results": [
            {"n_estimators": int(parameters["n_estimators"]), "mse": float(-mean), "mse_sd": float(sd)}
            for parameters, mean, sd in zip(results["params"], results["mean_test_score"], results["std_test_score"])
        ],
    }


def candidate(pipeline: Pipeline, X: Matrix, *, search: Mapping[str, Any]) -> Candidate:
    """Return the pipeline, fitted on `X` `(n_rows, n_features)`, as a candidate with the results of `search`."""

    def predict(rows: Matrix) -> NDArray[np.float64]:
        with np.errstate(over="ignore", invalid="ignore"):  # scikit-learn's checks overflow at the limits
            predictions: NDArray[np.float64] = pipeline.predict(rows)
            return predictions

    lowest, highest = accepted_limits(pipeline)
    file = io.BytesIO()
    joblib.dump(pipeline, file)
    return Candidate(
        algorithm=ALGORITHM,
        summary=f"{pipeline['gbm'].n_estimators} trees",
        predict=predict,
        graph=compile(pipeline),
        forest=forest(pipeline),
        lowest=lowest,
        highest=highest,
        split_rows=rows_at_splits(pipeline, X),
        packages=("joblib", "scikit-learn", "scipy"),
        files={PIPELINE: file.getvalue()},
        facts={
            "hyperparameters": {
                name: value
                for name, value in pipeline["gbm"].get_params().items()
                if isinstance(value, (int, float, str)) and value != "deprecated"
            },
            "search": dict(search),
        },
    )


def largest_float64(holds: Callable[[Matrix], NDArray[np.bool_]], n: int) -> Matrix:
    """Return the largest float64, infinities included, for which each of `n` monotone predicates holds.

    `holds` evaluates all predicates at `(n,)` float64; each is true up to a number and false above it. Bisects over the
    ordered bit patterns of float64, which takes at most 64 steps. Raises `ValueError` if a predicate never holds.
    """
    low = np.full(n, _ordinal(np.array(-np.inf)), dtype=np.int64)
    high = np.full(n, _ordinal(np.array(np.inf)), dtype=np.int64)
    if not holds(_float(low)).all():
        raise ValueError("a predicate holds for no float64")
    while (low < high).any():
        # The upper middle, without the sum of two ordinals, which could overflow.
        middle = (low >> 1) + (high >> 1) + ((low | high) & 1)
        is_true = holds(_float(middle))
        low = np.where(is_true, middle, low)
        high = np.where(is_true, high, middle - 1)
    return _float(low)


def _ordinal(x: Matrix) -> NDArray[np.int64]:
    """Return the rank of each float64 among all float64s, as an integer."""
    bits = x.view(np.int64)
    return np.where(bits < 0, np.int64(-(2**63)) - bits, bits)


def _float(ordinal: NDArray[np.int64]) -> Matrix:
    """Return the float64 of each rank, the inverse of `_ordinal`."""
    return np.where(ordinal < 0, np.int64(-(2**63)) - ordinal, ordinal).view(np.float64)


def _scaled(x: Matrix, mean: Matrix, scale: Matrix) -> NDArray[np.float32]:
    """Scale like StandardScaler, then round like the trees."""
    with np.errstate(over="ignore"):
        return ((x - mean) / scale).astype(np.float32)


def fold_thresholds(thresholds: Matrix, *, mean: Matrix, scale: Matrix) -> Matrix:
    """Return, for each split, the largest float64 `x` with `float32((x - mean) / scale) <= threshold`.

    All three are `(n_splits,)`. This replaces a threshold on a scaled feature by one on the raw feature with the same
    result for every float64.
    """
    return largest_float64(lambda x: _scaled(x, mean, scale) <= thresholds, len(thresholds))


def accepted_limits(pipeline: Pipeline) -> tuple[Matrix, Matrix]:
    """Return the lowest and highest value of each feature that the pipeline accepts, both `(n_features,)`.

    Beyond them the scaled value overflows float32, and scikit-learn raises.
    """
    mean, scale = pipeline["scaler"].mean_, pipeline["scaler"].scale_
    highest = largest_float64(lambda x: _scaled(x, mean, scale) <= np.finfo(np.float32).max, len(mean))
    below = largest_float64(lambda x: _scaled(x, mean, scale) < np.finfo(np.float32).min, len(mean))
    return np.nextafter(below, np.inf), highest


def _trees(pipeline: Pipeline) -> list[Any]:
    return [estimator.tree_ for estimator in pipeline["gbm"].estimators_[:, 0]]


def _folded(pipeline: Pipeline) -> list[Matrix]:
    """Return each tree's thresholds on the raw features, `(n_nodes,)`; the values at leaves are meaningless."""
    trees = _trees(pipeline)
    feature = np.concatenate([np.maximum(tree.feature, 0) for tree in trees])  # a leaf's feature is -2
    threshold = np.concatenate([tree.threshold for tree in trees])
    scaler = pipeline["scaler"]
    raw = fold_thresholds(threshold, mean=scaler.mean_[feature], scale=scaler.scale_[feature])
    return np.split(raw, np.cumsum([tree.node_count for tree in trees])[:-1])


def rows_at_splits(pipeline: Pipeline, X: Matrix) -> Matrix:
    """Return rows on both sides of every split, `(2 * n_splits, n_features)`.

    Takes a row of `X` that reaches the split and sets the split's feature to the largest value that goes left, and to
    the next float64, which goes right. A threshold that is off by one bit then changes a prediction.
    """
    scaled = pipeline["scaler"].transform(X).astype(np.float32)
    result = []
    for tree, thresholds in zip(_trees(pipeline), _folded(pipeline)):
        splits = np.flatnonzero(tree.children_left != tree.children_right)
        is_reached = tree.decision_path(scaled).toarray()[:, splits].astype(bool)  # (n_rows, n_splits)
        for split, rows in zip(splits, is_reached.T):
            if rows.any():  # no row is known for a split that no row of X reaches
                for value in (thresholds[split], np.nextafter(thresholds[split], np.inf)):
                    row = X[rows.argmax()].copy()
                    row[tree.feature[split]] = value
                    result.append(row)
    return np.array(result).reshape(-1, X.shape[1])


def compile(pipeline: Pipeline) -> bytes:
    """Return the fitted pipeline as one ONNX graph, `X` `(n_rows, n_features)` float64 to `y` `(n_rows, 1)`.

    The first tree is one leaf with the initial prediction. The others follow in the order of fitting, their leaves
    multiplied by the learning rate, so that a sum in this order gives scikit-learn's bits.
    """
    gbm = pipeline["gbm"]
    modes, features, thresholds, leaves, roots = [], [], [], [float(gbm.init_.constant_[0, 0])], []
    true_ids, true_leafs, false_ids, false_leafs = [], [], [], []

    def add_split(feature: int, threshold: float, true: tuple[int, bool], false: tuple[int, bool]) -> None:
        """Add a split whose branches are pairs (number, whether it is a leaf's)."""
        modes.append(0)  # BRANCH_LEQ
        features.append(feature)
        thresholds.append(threshold)
        true_ids.append(int(true[0]))
        true_leafs.append(int(true[1]))
        false_ids.append(int(false[0]))
        false_leafs.append(int(false[1]))

    def add_lone_leaf(leaf: int) -> None:
        """Add a tree of one leaf. TreeEnsemble requires a split, so both branches are this leaf."""
        roots.append(len(features))
        add_split(0, 0.0, (leaf, True), (leaf, True))

    add_lone_leaf(0)
    for tree, folded in zip(_trees(pipeline), _folded(pipeline)):
        is_leaf = tree.children_left == tree.children_right
        # Splits and leaves are numbered separately, each across all trees.
        number = np.where(is_leaf, np.cumsum(is_leaf) - 1 + len(leaves), np.cumsum(~is_leaf) - 1 + len(features))
        if is_leaf[0]:
            add_lone_leaf(number[0])
        else:
            roots.append(len(features))
        for node in np.flatnonzero(~is_leaf):
            left, right = tree.children_left[node], tree.children_right[node]
            add_split(
                int(tree.feature[node]),
                float(folded[node]),
                (number[left], is_leaf[left]),
                (number[right], is_leaf[right]),
            )
        leaves.extend((gbm.learning_rate * tree.value[is_leaf, 0, 0]).tolist())
    node = onnx.helper.make_node(
        "TreeEnsemble",
        [INPUT_NAME],
        [OUTPUT_NAME],
        domain="ai.onnx.ml",
        n_targets=1,
        aggregate_function=1,  # SUM
        post_transform=0,  # NONE
        tree_roots=roots,
        nodes_modes=_tensor("nodes_modes", onnx.TensorProto.UINT8, modes),
        nodes_featureids=features,
        nodes_splits=_tensor("nodes_splits", onnx.TensorProto.DOUBLE, thresholds),
        nodes_truenodeids=true_ids,
        nodes_trueleafs=true_leafs,
        nodes_falsenodeids=false_ids,
        nodes_falseleafs=false_leafs,
        leaf_targetids=[0] * len(leaves),
        leaf_weights=_tensor("leaf_weights", onnx.TensorProto.DOUBLE, leaves),
    )
    return to_onnx("gbm", [node], n_features=gbm.n_features_in_, opsets={"ai.onnx.ml": ONNX_ML_OPSET})


def forest(pipeline: Pipeline) -> Forest | None:
    """Return the trees of `compile`'s graph as a forest for `BitVectors`; None if it does not fit."""
    gbm, trees = pipeline["gbm"], _trees(pipeline)
    n_leaves = max(int(tree.n_leaves) for tree in trees)
    if n_leaves > MAX_LEAVES:
        return None
    leaves = np.zeros((1 + len(trees), n_leaves))
    leaves[0, 0] = gbm.init_.constant_[0, 0]
    splits: list[tuple[int, float, int, int]] = []  # feature, threshold, tree, excluded

    def walk(tree: Any, folded: Matrix, node: int, number: int, n_left: int) -> int:
        """Collect the subtree of a node with `n_left` leaves to its left; return its number of leaves."""
        left, right = tree.children_left[node], tree.children_right[node]
        if left == right:
            leaves[number, n_left] = gbm.learning_rate * tree.value[node, 0, 0]
            return 1
        n_left_leaves = walk(tree, folded, left, number, n_left)
        splits.append((int(tree.feature[node]), float(folded[node]), number, (2**n_left_leaves - 1) << n_left))
        return n_left_leaves + walk(tree, folded, right, number, n_left + n_left_leaves)

    for number, (tree, folded) in enumerate(zip(trees, _folded(pipeline)), start=1):
        walk(tree, folded, 0, number, 0)
    feature, threshold, tree_number, excluded = zip(*splits) if splits else [()] * 4
    result = Forest(
        np.array(feature, dtype=np.int32),
        np.array(threshold, dtype=np.float64),
        np.array(tree_number, dtype=np.int32),
        np.array(excluded, dtype=np.uint64),
        leaves,
    )
    return result if result.fits() else None


def _tensor(name: str, kind: int, values: Sequence[float]) -> onnx.TensorProto:
    return onnx.helper.make_tensor(name, kind, [len(values)], values)
