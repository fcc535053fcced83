"""What a model is about, beside its candidate: its target, its table and its words for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.schema.feature import Feature
from model.schema.features import Matrix
from model.store.manifest import Data
from model.task import Task


@dataclass(frozen=True, slots=True)
class Subject:
    """What a model is about, and the rows that it is judged by.

    `name` is that in the store. `purpose` and `limits` are a person's words; `was_checked` says whether the faults of
    the table were looked for. `X` `(n_rows, n_features)` are all rows of its table. `training` and `validation` are
    features and targets `(n_rows,)`, of a classifier the positions of the labels; without rows that were held out there
    is no validation.
    """

    name: str
    title: str
    task: Task
    target: Feature
    purpose: str
    limits: str
    tags: Mapping[str, str]
    data: Data
    was_checked: bool
    X: Matrix
    training: tuple[Matrix, NDArray[np.float64]]
    validation: tuple[Matrix, NDArray[np.float64]] | None


def title_of(name: str) -> str:
    """Return the words that stand for a model's name where no title was given."""
    return name.replace("-", " ").capitalize()
