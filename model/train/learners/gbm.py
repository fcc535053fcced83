"""The scaled GBM of scikit-learn: of the published example, and for any table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from model.schema.features import Matrix
from model.task import REGRESSION, Task
from model.train import frames
from model.train.candidate import Candidate
from model.train.frames import Column
from model.train.learners import fitted
from model.train.learners.family import Family, Parameters, Size, few_classes
from model.train.learners.in_front import ONE_HOT, encoded

if TYPE_CHECKING:
    from optuna import Trial

    from model.engine.formulas import Derived

_MAX_ROWS = 5_000  # beyond which histograms find splits as good in a tenth of the time


def build(
    parameters: Parameters, columns: Sequence[Column], derived: Sequence[Derived], task: Task, seed: int
) -> Pipeline:
    """Return gradient boosting behind scaled columns; with numbers alone, none missing, it is what `fit` fits."""
    estimator = GradientBoostingRegressor if task is REGRESSION else GradientBoostingClassifier
    front = encoded(columns, derived, task, seed, one_hot=ONE_HOT, scaled=True)
    return Pipeline([("columns", front), ("model", estimator(**parameters, random_state=seed))])


def _defaults(task: Task) -> Parameters:
    return {"n_estimators": 400, "learning_rate": 0.1, "max_depth": 3, "min_samples_leaf": 1, "subsample": 1.0}


def _suggest(trial: Trial, task: Task) -> Parameters:
    return {
        "n_estimators": trial.suggest_int("gbm n_estimators", 50, 400, log=True),
        "learning_rate": trial.suggest_float("gbm learning_rate", 0.02, 0.3, log=True),
        "max_depth": trial.suggest_int("gbm max_depth", 2, 6),
        "min_samples_leaf": trial.suggest_int("gbm min_samples_leaf", 1, 50, log=True),
        "subsample": trial.suggest_float("gbm subsample", 0.5, 1.0),
    }


def _unsuited(size: Size) -> str:
    if size.n_rows > _MAX_ROWS:
        return f"it is slow on more than {_MAX_ROWS:,} rows, where hist-gbm is as good"
    return few_classes(size)


FAMILY = Family(build, _defaults, _suggest, _unsuited)


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
