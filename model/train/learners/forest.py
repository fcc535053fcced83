"""Random forests and extremely randomised trees of scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor, RandomForestClassifier, RandomForestRegressor
from sklearn.pipeline import Pipeline

from model.task import REGRESSION, Task
from model.train.frames import Column
from model.train.learners.family import Family, Parameters, Size
from model.train.learners.in_front import ONE_HOT, encoded

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

    from model.engine.formulas import Derived

_N_TREES = 100
_MAX_LEAVES = 2_000  # of a tree: 200,000 of a forest are 80 MB when it is served


def build(
    parameters: Parameters, columns: Sequence[Column], derived: Sequence[Derived], task: Task, seed: int
) -> Pipeline:
    """Return a forest behind encoded categories; its trees take missing numbers as they are."""
    settings = dict(parameters)
    kind = settings.pop("kind")
    random, extra = (
        (RandomForestRegressor, ExtraTreesRegressor)
        if task is REGRESSION
        else (RandomForestClassifier, ExtraTreesClassifier)
    )
    model = (random if kind == "random" else extra)(_N_TREES, **settings, max_leaf_nodes=_MAX_LEAVES, random_state=seed)
    return Pipeline([("columns", encoded(columns, derived, task, seed, one_hot=ONE_HOT)), ("model", model)])


def _cost(size: Size) -> float:
    """Return what a trial costs: a forest sorts all rows for each tree, where histograms do once."""
    return 3 + size.n_rows / 600


def _defaults(task: Task) -> Parameters:
    return {"kind": "random", "min_samples_leaf": 1, "max_features": 1.0 if task is REGRESSION else "sqrt"}


def _suggest(trial: BaseTrial, task: Task) -> Parameters:
    return {
        "kind": trial.suggest_categorical("forest kind", ["random", "extra"]),
        "min_samples_leaf": trial.suggest_int("forest min_samples_leaf", 1, 20, log=True),
        "max_features": trial.suggest_float("forest max_features", 0.1, 1.0),
    }


_SECOND = {"forest kind": "extra", "forest min_samples_leaf": 2, "forest max_features": 0.5}
FAMILY = Family(build, _defaults, _suggest, cost=_cost, second=_SECOND)
