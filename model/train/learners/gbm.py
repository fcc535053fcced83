"""Fit the scaled GBM of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from model.schema.features import Matrix
from model.train import frames
from model.train.candidate import Candidate
from model.train.learners import fitted


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
    made = fitted.candidate(pipeline, frames.read(X), X)
    return replace(made, facts={**made.facts, "search": dict(search)})
