"""Linear models on scaled columns: ridge and elastic net, and logistic regression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import ElasticNet, LogisticRegression, Ridge
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from model.task import REGRESSION, Task
from model.train.frames import Column
from model.train.learners.family import Family, Parameters
from model.train.learners.in_front import encoded

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

    from model.engine.formulas import Derived

_ONE_HOT = 60  # categories that get a coefficient each
_MAX_ITERATIONS = 1_000


def build(
    parameters: Parameters, columns: Sequence[Column], derived: Sequence[Derived], task: Task, seed: int
) -> Pipeline:
    """Return a linear model behind imputed and scaled columns. The penalty of an elastic net is for a scaled target."""
    settings = dict(parameters)
    front = encoded(
        columns, derived, task, seed, one_hot=_ONE_HOT, min_frequency=settings.pop("min_frequency"), scaled=True
    )
    return Pipeline([("columns", front), ("model", _estimator(settings, task, seed))])


def _estimator(settings: dict[str, Any], task: Task, seed: int) -> Any:
    if task is not REGRESSION:
        return LogisticRegression(C=settings["C"], max_iter=_MAX_ITERATIONS)
    if settings["penalty"] == "ridge":
        return Ridge(alpha=settings["alpha"])
    net = ElasticNet(alpha=settings["alpha"], l1_ratio=settings["l1_ratio"], max_iter=_MAX_ITERATIONS)
    return TransformedTargetRegressor(net, transformer=StandardScaler())


def _defaults(task: Task) -> Parameters:
    penalty = {"penalty": "ridge", "alpha": 1.0, "l1_ratio": 0.5} if task is REGRESSION else {"C": 1.0}
    return {**penalty, "min_frequency": 1}


def _suggest(trial: BaseTrial, task: Task) -> Parameters:
    rare = {"min_frequency": trial.suggest_categorical("linear min_frequency", [1, 5, 20])}
    if task is not REGRESSION:
        return {"C": trial.suggest_float("linear C", 1e-4, 1e3, log=True), **rare}
    if trial.suggest_categorical("linear penalty", ["ridge", "elastic-net"]) == "ridge":
        return {"penalty": "ridge", "alpha": trial.suggest_float("linear ridge alpha", 1e-3, 1e4, log=True), **rare}
    return {
        "penalty": "elastic-net",
        "alpha": trial.suggest_float("linear net alpha", 1e-4, 1.0, log=True),
        "l1_ratio": trial.suggest_float("linear l1_ratio", 0.1, 1.0),
        **rare,
    }


FAMILY = Family(build, _defaults, _suggest)
