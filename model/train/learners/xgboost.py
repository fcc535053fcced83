"""XGBoost, with categories and missing values as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sklearn.pipeline import Pipeline

from model.task import REGRESSION, Task
from model.train.frames import Column
from model.train.learners.family import Family, Parameters, few_classes, most_rounds
from model.train.learners.in_front import ONE_HOT, coded, encoded

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from optuna.trial import BaseTrial

    from model.engine.formulas import Derived


def build(
    parameters: Parameters, columns: Sequence[Column], derived: Sequence[Derived], task: Task, seed: int
) -> Pipeline:
    """Return XGBoost's histogram trees behind codes of categories; as pandas has them it refuses unseen ones."""
    from xgboost import XGBClassifier, XGBRegressor

    front, codes = coded(columns, derived, task, seed)
    if codes is None:
        front, codes = encoded(columns, derived, task, seed, one_hot=ONE_HOT), []
    types = ["q"] * codes[0] + ["c"] * len(codes) if codes else None  # the categories are last
    estimator = XGBRegressor if task is REGRESSION else XGBClassifier
    model = estimator(**parameters, tree_method="hist", feature_types=types, enable_categorical=True, random_state=seed)
    return Pipeline([("columns", front), ("model", model)])


def _defaults(task: Task) -> Parameters:
    return {
        "n_estimators": 100,
        "learning_rate": 0.3,
        "max_depth": 6,
        "min_child_weight": 1.0,
        "subsample": 1.0,
        "colsample_bytree": 1.0,
        "reg_lambda": 1.0,
    }


def _suggest(trial: BaseTrial, task: Task) -> Parameters:
    rate = trial.suggest_float("xgboost learning_rate", 0.02, 0.3, log=True)
    return {
        "n_estimators": most_rounds(rate),
        "learning_rate": rate,
        "max_depth": trial.suggest_int("xgboost max_depth", 2, 8),
        "min_child_weight": trial.suggest_float("xgboost min_child_weight", 0.5, 50.0, log=True),
        "subsample": trial.suggest_float("xgboost subsample", 0.5, 1.0),
        "colsample_bytree": trial.suggest_float("xgboost colsample_bytree", 0.4, 1.0),
        "reg_lambda": trial.suggest_float("xgboost reg_lambda", 1e-3, 100.0, log=True),
    }


def _staged(
    pipeline: Pipeline, table: pd.DataFrame, rounds: Sequence[int], task: Task
) -> Sequence[NDArray[np.float64]]:
    X, model = pipeline[:-1].transform(table), pipeline[-1]
    predict = model.predict if task is REGRESSION else model.predict_proba
    return [predict(X, iteration_range=(0, n_rounds)) for n_rounds in rounds]


_SECOND = {
    "xgboost learning_rate": 0.05,
    "xgboost max_depth": 5,
    "xgboost min_child_weight": 5.0,
    "xgboost subsample": 0.8,
    "xgboost colsample_bytree": 0.7,
    "xgboost reg_lambda": 1.0,
}
FAMILY = Family(build, _defaults, _suggest, few_classes, second=_SECOND, rounds="n_estimators", staged=_staged)
