"""Gradient boosting of scikit-learn behind scaled columns, as in the published example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from model.task import REGRESSION, Task
from model.train.frames import Column
from model.train.learners.family import Family, Parameters, Size, few_classes, most_rounds, staged
from model.train.learners.in_front import ONE_HOT, are_plain, encoded

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

    from model.engine.formulas import Derived

_MAX_ROWS = 5_000  # beyond which histograms find splits as good in a tenth of the time


def build(
    parameters: Parameters, columns: Sequence[Column], derived: Sequence[Derived], task: Task, seed: int
) -> Pipeline:
    """Return gradient boosting behind scaled columns; numbers alone, none missing, are scaled and no more."""
    estimator = GradientBoostingRegressor if task is REGRESSION else GradientBoostingClassifier
    model = ("model", estimator(**parameters, random_state=seed))
    if are_plain(columns, derived):
        return Pipeline([("scaler", StandardScaler()), model])
    return Pipeline([("columns", encoded(columns, derived, task, seed, one_hot=ONE_HOT, scaled=True)), model])


def _defaults(task: Task) -> Parameters:
    return {"n_estimators": 400, "learning_rate": 0.1, "max_depth": 3, "min_samples_leaf": 1, "subsample": 1.0}


def _suggest(trial: BaseTrial, task: Task) -> Parameters:
    rate = trial.suggest_float("gbm learning_rate", 0.02, 0.3, log=True)
    return {
        "n_estimators": most_rounds(rate),
        "learning_rate": rate,
        "max_depth": trial.suggest_int("gbm max_depth", 2, 6),
        "min_samples_leaf": trial.suggest_int("gbm min_samples_leaf", 1, 50, log=True),
        "subsample": trial.suggest_float("gbm subsample", 0.5, 1.0),
    }


def _unsuited(size: Size) -> str:
    if size.n_rows > _MAX_ROWS:
        return f"it is slow on more than {_MAX_ROWS:,} rows, where hist-gbm is as good"
    return few_classes(size)


_SECOND = {
    "gbm learning_rate": 0.05,
    "gbm max_depth": 4,
    "gbm min_samples_leaf": 5,
    "gbm subsample": 0.7,
}
FAMILY = Family(
    build, _defaults, _suggest, _unsuited, cost=lambda size: 5.0, second=_SECOND, rounds="n_estimators", staged=staged
)
