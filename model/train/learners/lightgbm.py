"""LightGBM, with categories and missing values as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sklearn.pipeline import Pipeline

from model.task import REGRESSION, Task
from model.train.frames import Column
from model.train.learners.family import Family, Parameters, few_classes, most_rounds
from model.train.learners.in_front import coded

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from optuna.trial import BaseTrial

    from model.engine.formulas import Derived


def build(
    parameters: Parameters, columns: Sequence[Column], derived: Sequence[Derived], task: Task, seed: int
) -> Pipeline:
    """Return LightGBM's trees behind codes of categories; `deterministic` gives the same bits in any number of jobs."""
    from lightgbm import LGBMClassifier, LGBMRegressor

    front, codes = coded(columns, derived, task, seed)
    estimator = LGBMRegressor if task is REGRESSION else LGBMClassifier
    model = estimator(
        **parameters,
        subsample_freq=1,
        random_state=seed,
        deterministic=True,
        force_row_wise=True,
        verbosity=-1,
        **({"categorical_feature": codes} if codes else {}),
    )
    return Pipeline([("columns", front), ("model", model)])


def _defaults(task: Task) -> Parameters:
    return {
        "n_estimators": 100,
        "learning_rate": 0.1,
        "num_leaves": 31,
        "min_child_samples": 20,
        "subsample": 1.0,
        "colsample_bytree": 1.0,
        "reg_lambda": 0.0,
    }


def _suggest(trial: BaseTrial, task: Task) -> Parameters:
    rate = trial.suggest_float("lightgbm learning_rate", 0.02, 0.3, log=True)
    return {
        "n_estimators": most_rounds(rate),
        "learning_rate": rate,
        "num_leaves": trial.suggest_int("lightgbm num_leaves", 4, 128, log=True),
        "min_child_samples": trial.suggest_int("lightgbm min_child_samples", 2, 100, log=True),
        "subsample": trial.suggest_float("lightgbm subsample", 0.5, 1.0),
        "colsample_bytree": trial.suggest_float("lightgbm colsample_bytree", 0.4, 1.0),
        "reg_lambda": trial.suggest_float("lightgbm reg_lambda", 1e-6, 10.0, log=True),
    }


def _staged(
    pipeline: Pipeline, table: pd.DataFrame, rounds: Sequence[int], task: Task
) -> Sequence[NDArray[np.float64]]:
    X, model = pipeline[:-1].transform(table), pipeline[-1]
    predict = model.predict if task is REGRESSION else model.predict_proba
    return [predict(X, num_iteration=n_rounds) for n_rounds in rounds]


_SECOND = {
    "lightgbm learning_rate": 0.05,
    "lightgbm num_leaves": 16,
    "lightgbm min_child_samples": 15,
    "lightgbm subsample": 0.8,
    "lightgbm colsample_bytree": 0.7,
    "lightgbm reg_lambda": 1.0,
}
FAMILY = Family(build, _defaults, _suggest, few_classes, second=_SECOND, rounds="n_estimators", staged=_staged)
