"""Fit the scaled GBM of scikit-learn, and turn it into trees on raw features with the same bits."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from model.schema.features import Matrix
from model.train.candidate import Candidate
from model.train.compile.fold import accepted_limits, fold_thresholds
from model.train.compile.onnx import trees_to_onnx
from model.train.compile.trees import Trees, rows_at_splits, to_forest

ALGORITHM = "StandardScaler + GradientBoostingRegressor"
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

    trees, scaler = to_trees(pipeline), pipeline["scaler"]
    lowest, highest = accepted_limits(mean=scaler.mean_, scale=scaler.scale_)
    file = io.BytesIO()
    joblib.dump(pipeline, file)
    return Candidate(
        algorithm=ALGORITHM,
        summary=f"{pipeline['gbm'].n_estimators} trees",
        predict=predict,
        graph=trees_to_onnx("gbm", trees),
        forest=to_forest(trees),
        lowest=lowest,
        highest=highest,
        split_rows=rows_at_splits(trees, X),
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


def to_trees(pipeline: Pipeline) -> Trees:
    """Return the trees of the fitted pipeline, with thresholds on the raw features.

    The first tree is one leaf with the initial prediction. The others follow in the order of fitting, their leaves
    multiplied by the learning rate, so that a sum in this order gives scikit-learn's bits.
    """
    gbm, scaler = pipeline["gbm"], pipeline["scaler"]
    fitted = [estimator.tree_ for estimator in gbm.estimators_[:, 0]]
    n_nodes = [1, *(tree.node_count for tree in fitted)]
    roots = np.cumsum([0, *n_nodes[:-1]])

    def of_nodes(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(tree, name) for tree in fitted])

    first_nodes, itself = np.repeat(roots[1:], n_nodes[1:]), np.arange(1, sum(n_nodes))
    is_leaf = of_nodes("children_left") == of_nodes("children_right")
    feature, threshold = np.where(is_leaf, 0, of_nodes("feature")), np.zeros(len(itself))
    used = feature[~is_leaf]
    threshold[~is_leaf] = fold_thresholds(
        of_nodes("threshold")[~is_leaf], mean=scaler.mean_[used], scale=scaler.scale_[used]
    )
    return Trees(
        n_features=gbm.n_features_in_,
        roots=roots,
        feature=np.append(0, feature),
        threshold=np.append(0.0, threshold),
        left=np.append(0, np.where(is_leaf, itself, first_nodes + of_nodes("children_left"))),
        right=np.append(0, np.where(is_leaf, itself, first_nodes + of_nodes("children_right"))),
        value=np.append(
            gbm.init_.constant_[0, 0], np.where(is_leaf, gbm.learning_rate * of_nodes("value")[:, 0, 0], 0.0)
        ),
    )
