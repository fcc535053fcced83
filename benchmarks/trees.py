"""The models of `benchmarks.families`: each family of trees in two sizes, and the table that they are fitted on."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

REGRESSION, BINARY, MULTICLASS = "regression", "binary", "multiclass"
N_CLASSES = {BINARY: 2, MULTICLASS: 4}
TASKS = (REGRESSION, *N_CLASSES)
SIZES = SMALL, LARGE = "small", "large"
N_TRAINED = 20_000  # rows


@dataclass(frozen=True, slots=True)
class Family:
    """Models of one kind: a class of a library, and its settings for either size."""

    title: str
    path: str  # of the class, without Regressor or Classifier at its end
    package: str  # whose version is reported
    sizes: Mapping[str, Mapping[str, Any]]
    always: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = (REGRESSION,)

    def make(self, task: str, size: str) -> Any:
        """Return a model that is to be fitted."""
        module, _, name = self.path.rpartition(".")
        kind = "Regressor" if task == REGRESSION else "Classifier"
        return getattr(importlib.import_module(module), name + kind)(**self.always, **self.sizes[size])


_ONE_JOB = {"random_state": 0, "n_jobs": 1}
_FOREST = {
    SMALL: {"n_estimators": 100, "max_leaf_nodes": 31},
    LARGE: {"n_estimators": 500, "max_depth": 10},
}

FAMILIES = {
    "hist-gradient-boosting": Family(
        "scikit-learn HistGradientBoosting",
        "sklearn.ensemble.HistGradientBoosting",
        "scikit-learn",
        {SMALL: {"max_iter": 100, "max_leaf_nodes": 31}, LARGE: {"max_iter": 1_000, "max_leaf_nodes": 255}},
        {"random_state": 0, "early_stopping": False},
        TASKS,
    ),
    "gradient-boosting": Family(
        "scikit-learn GradientBoosting",
        "sklearn.ensemble.GradientBoosting",
        "scikit-learn",
        {SMALL: {"n_estimators": 100, "max_depth": 3}, LARGE: {"n_estimators": 500, "max_depth": 6, "subsample": 0.2}},
        {"random_state": 0},
    ),
    "random-forest": Family(
        "scikit-learn RandomForest", "sklearn.ensemble.RandomForest", "scikit-learn", _FOREST, _ONE_JOB, TASKS
    ),
    "extra-trees": Family("scikit-learn ExtraTrees", "sklearn.ensemble.ExtraTrees", "scikit-learn", _FOREST, _ONE_JOB),
    "decision-tree": Family(
        "scikit-learn DecisionTree",
        "sklearn.tree.DecisionTree",
        "scikit-learn",
        {SMALL: {"max_leaf_nodes": 31}, LARGE: {"max_leaf_nodes": 5_000}},
        {"random_state": 0},
    ),
    "xgboost": Family(
        "XGBoost",
        "xgboost.XGB",
        "xgboost-cpu",
        {SMALL: {"n_estimators": 100, "max_leaves": 31}, LARGE: {"n_estimators": 1_000, "max_leaves": 255}},
        {**_ONE_JOB, "max_depth": 0, "grow_policy": "lossguide", "learning_rate": 0.1},
        TASKS,
    ),
    "lightgbm": Family(
        "LightGBM",
        "lightgbm.LGBM",
        "lightgbm",
        {SMALL: {"n_estimators": 100, "num_leaves": 31}, LARGE: {"n_estimators": 1_000, "num_leaves": 255}},
        {**_ONE_JOB, "verbose": -1},
        TASKS,
    ),
    "catboost": Family(
        "CatBoost",
        "catboost.CatBoost",
        "catboost",
        {SMALL: {"iterations": 100, "depth": 4}, LARGE: {"iterations": 1_000, "depth": 8}},
        {"random_seed": 0, "thread_count": 1, "logging_level": "Silent", "allow_writing_files": False},
        TASKS,
    ),
}


def table(task: str, n_rows: int = N_TRAINED, n_features: int = 10) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Return a simulated table, `X` `(n_rows, n_features)` and `y` `(n_rows,)`.

    Half of the columns have all digits, and half are on a grid, as prices and counts are.
    """
    random = np.random.default_rng(0)
    X = random.normal(size=(n_rows, n_features))
    X[:, 5:8] = (X[:, 5:8] * 20 + 50).round(1)
    X[:, 8:] = random.integers(0, 50, X[:, 8:].shape)
    y = np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2] + np.abs(X[:, 5] - 50) / 20 + (X[:, 8] % 7) / 3
    y += random.normal(size=n_rows) / 4
    if task == REGRESSION:
        return X, 10 + y
    n_classes = N_CLASSES[task]
    return X, np.digitize(y, np.quantile(y, np.linspace(0, 1, n_classes + 1)[1:-1]))
