"""LightGBM, with categories and missing values as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sklearn.pipeline import Pipeline

from model.task import REGRESSION, Task
from model.train.frames import Column
from model.train.learners.family import Family, Parameters, few_classes
from model.train.learners.in_front import coded

if TYPE_CHECKING:
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
    return {
        "n_estimators": trial.suggest_int("lightgbm n_estimators", 50, 500, log=True),
        "learning_rate": trial.suggest_float("lightgbm learning_rate", 0.01, 0.3, log=True),
        "num_leaves": trial.suggest_int("lightgbm num_leaves", 4, 128, log=True),
        "min_child_samples": trial.suggest_int("lightgbm min_child_samples", 2, 100, log=True),
        "subsample": trial.suggest_float("lightgbm subsample", 0.5, 1.0),
        "colsample_bytree": trial.suggest_float("lightgbm colsample_bytree", 0.4, 1.0),
        "reg_lambda": trial.suggest_float("lightgbm reg_lambda", 1e-6, 10.0, log=True),
    }


FAMILY = Family(build, _defaults, _suggest, few_classes)
