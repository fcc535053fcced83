"""What a family of learners is to the search: how a pipeline is built, and which settings are tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from model.task import REGRESSION, Task
from model.train.frames import Column

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from optuna.trial import BaseTrial
    from sklearn.pipeline import Pipeline

    from model.engine.formulas import Derived

Parameters = Mapping[str, Any]
"""The settings of a learner by name: numbers and strings."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large a problem is: rows to fit on, features, and classes, of which a regression has none."""

    n_rows: int
    n_features: int
    n_classes: int


class Build(Protocol):
    """Builds an unfitted pipeline for the model frame of `columns`, whose last step is called `model`.

    A classifier is fitted on the positions of labels, from 0 to the number of classes less 1.
    """

    def __call__(
        self, parameters: Parameters, columns: Sequence[Column], derived: Sequence[Derived], task: Task, seed: int
    ) -> Pipeline: ...


@dataclass(frozen=True, slots=True)
class Family:
    """Learners of one kind.

    `defaults` are the settings that are tried first, for a task. `suggest` asks a trial of Optuna for others; it is
    None where there is nothing to choose; `second` are, by Optuna's names, the settings that are tried behind the
    defaults. `unsuited` says why the family is not tried on a problem, "" if it is. `cost` is about how long a trial
    takes on a problem, with one of LightGBM as the unit.

    A family that is boosted has the name of the parameter for its `rounds`, and `staged`, which returns the predictions
    of a fitted pipeline for a table after each of some numbers of rounds, rising ones: probabilities of classes.
    """

    build: Build
    defaults: Callable[[Task], Parameters]
    suggest: Callable[[BaseTrial, Task], Parameters] | None = None
    unsuited: Callable[[Size], str] = lambda size: ""
    cost: Callable[[Size], float] = lambda size: 1.0
    second: Parameters = field(default_factory=dict)
    rounds: str = ""
    staged: Callable[[Pipeline, pd.DataFrame, Sequence[int], Task], Sequence[NDArray[np.float64]]] | None = None


def most_rounds(learning_rate: float) -> int:
    """Return with how many rounds boosting is fitted at this rate, of which the search takes those that are best."""
    return int(min(max(_ROUNDS_TIMES_RATE / learning_rate, _LEAST_ROUNDS), _MAX_ROUNDS))


def staged(pipeline: Pipeline, table: pd.DataFrame, rounds: Sequence[int], task: Task) -> Sequence[NDArray[np.float64]]:
    """Return what `Family.staged` does, of boosting of scikit-learn."""
    X, model = pipeline[:-1].transform(table), pipeline[-1]
    predict = model.staged_predict if task is REGRESSION else model.staged_predict_proba
    return [answers.copy() for number, answers in enumerate(predict(X), start=1) if number in rounds]


def few_classes(size: Size) -> str:
    """Return why trees that are boosted class by class are not tried on a problem."""
    if size.n_classes > _MAX_BOOSTED_CLASSES:
        return f"boosting needs a tree for each of {size.n_classes} classes in each round"
    return ""


_ROUNDS_TIMES_RATE, _LEAST_ROUNDS, _MAX_ROUNDS = 25, 100, 500  # more trees are slow to prove and to serve
_MAX_BOOSTED_CLASSES = 30  # 100 rounds are then 3,000 trees
