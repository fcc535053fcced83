"""Networks of PyTorch for any table, behind scaled columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sklearn.pipeline import Pipeline

from model.task import REGRESSION, Task
from model.train.frames import Column
from model.train.learners.family import Family, Parameters
from model.train.learners.in_front import are_plain, encoded

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

    from model.engine.formulas import Derived

_ONE_HOT = 30  # categories that get a column each


def build(
    parameters: Parameters, columns: Sequence[Column], derived: Sequence[Derived], task: Task, seed: int
) -> Pipeline:
    """Return a multilayer perceptron behind imputed and scaled columns; plain numbers it scales itself."""
    from model.train.learners.mlp import NetworkClassifier, NetworkRegressor  # PyTorch takes seconds to import

    settings = {"deterministic": True, **parameters}
    estimator = NetworkRegressor if task is REGRESSION else NetworkClassifier
    model = ("model", estimator(**{**settings, "hidden": tuple(settings["hidden"])}, random_state=seed))
    if are_plain(columns, derived):
        return Pipeline([model])
    return Pipeline([("columns", encoded(columns, derived, task, seed, one_hot=_ONE_HOT, scaled=True)), model])


def _defaults(task: Task) -> Parameters:
    # Half of the epochs that the network takes on its own, since it is fitted for each fold.
    return {"hidden": [64, 64], "learning_rate": 0.003, "weight_decay": 0.1, "max_epochs": 50}


def _suggest(trial: BaseTrial, task: Task) -> Parameters:
    width = trial.suggest_int("mlp width", 16, 256, log=True)
    return {
        "hidden": [width] * trial.suggest_int("mlp layers", 1, 3),
        "learning_rate": trial.suggest_float("mlp learning_rate", 3e-4, 0.03, log=True),
        "weight_decay": trial.suggest_float("mlp weight_decay", 1e-3, 1.0, log=True),
        "max_epochs": 50,
    }


FAMILY = Family(build, _defaults, _suggest, cost=lambda size: 6 + size.n_rows / 600)
