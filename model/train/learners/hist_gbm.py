"""Gradient boosting of scikit-learn on histograms, with categories and missing values as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.pipeline import Pipeline

from model.task import REGRESSION, Task
from model.train.frames import Column
from model.train.learners.family import Family, Parameters, few_classes, most_rounds, staged
from model.train.learners.in_front import coded

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

    from model.engine.formulas import Derived


def build(
    parameters: Parameters, columns: Sequence[Column], derived: Sequence[Derived], task: Task, seed: int
) -> Pipeline:
    """Return histogram gradient boosting behind codes of categories."""
    front, codes = coded(columns, derived, task, seed)
    estimator = HistGradientBoostingRegressor if task is REGRESSION else HistGradientBoostingClassifier
    which = "from_dtype" if codes is None else codes or None
    model = estimator(**parameters, categorical_features=which, early_stopping=False, random_state=seed)
    return Pipeline([("columns", front), ("model", model)])


def _defaults(task: Task) -> Parameters:
    return {
        "learning_rate": 0.1,
        "max_iter": 100,
        "max_leaf_nodes": 31,
        "min_samples_leaf": 20,
        "l2_regularization": 0.0,
        "max_features": 1.0,
    }


def _suggest(trial: BaseTrial, task: Task) -> Parameters:
    rate = trial.suggest_float("hist-gbm learning_rate", 0.02, 0.3, log=True)
    return {
        "learning_rate": rate,
        "max_iter": most_rounds(rate),
        "max_leaf_nodes": trial.suggest_int("hist-gbm max_leaf_nodes", 4, 128, log=True),
        "min_samples_leaf": trial.suggest_int("hist-gbm min_samples_leaf", 2, 100, log=True),
        "l2_regularization": trial.suggest_float("hist-gbm l2_regularization", 1e-6, 10.0, log=True),
        "max_features": trial.suggest_float("hist-gbm max_features", 0.3, 1.0),
    }


_SECOND = {
    "hist-gbm learning_rate": 0.05,
    "hist-gbm max_leaf_nodes": 16,
    "hist-gbm min_samples_leaf": 15,
    "hist-gbm l2_regularization": 1.0,
    "hist-gbm max_features": 0.7,
}
FAMILY = Family(
    build, _defaults, _suggest, few_classes, cost=lambda size: 1.5, second=_SECOND, rounds="max_iter", staged=staged
)
