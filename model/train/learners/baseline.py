"""The baseline that any other learner must beat: the mean of the target, or the share of each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sklearn.pipeline import Pipeline
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from model.task import REGRESSION, Task
from model.train.frames import Column
from model.train.learners.family import Family, Parameters
from model.train.learners.in_front import ONE_HOT, encoded

if TYPE_CHECKING:
    from model.engine.formulas import Derived


def build(
    parameters: Parameters, columns: Sequence[Column], derived: Sequence[Derived], task: Task, seed: int
) -> Pipeline:
    """Return a tree of one leaf, since no split leaves nine tenths of the rows on both sides."""
    tree = DecisionTreeRegressor if task is REGRESSION else DecisionTreeClassifier
    front = encoded(columns, (), task, seed, one_hot=ONE_HOT)
    return Pipeline([("columns", front), ("model", tree(min_samples_leaf=0.9))])


FAMILY = Family(build, defaults=lambda task: {}, cost=lambda size: 0.1)
