"""What a family of learners is to the search: how a pipeline is built, and which settings are tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from model.task import Task
from model.train.frames import Column

if TYPE_CHECKING:
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
    None where there is nothing to choose. `unsuited` says why the family is not tried on a problem, "" if it is.
    """

    build: Build
    defaults: Callable[[Task], Parameters]
    suggest: Callable[[BaseTrial, Task], Parameters] | None = None
    unsuited: Callable[[Size], str] = lambda size: ""


def few_classes(size: Size) -> str:
    """Return why trees that are boosted class by class are not tried on a problem."""
    if size.n_classes > _MAX_BOOSTED_CLASSES:
        return f"boosting needs a tree for each of {size.n_classes} classes in each round"
    return ""


_MAX_BOOSTED_CLASSES = 30  # 100 rounds are then 3,000 trees
