"""What is known about a table before a row of it is read: its columns, its rules and the limits of its use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from model.task import REGRESSION, Task


@dataclass(frozen=True, slots=True)
class Column:
    """What is known about a column before any row is read: unit, plausible range, allowed values."""

    name: str
    unit: str = ""
    description: str = ""
    plausible: tuple[float, float] = (float("-inf"), float("inf"))
    allowed: frozenset[float] | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition on the columns of one row; `holds` returns a boolean for each row of a frame."""

    sentence: str
    holds: Callable[[pd.DataFrame], pd.Series]


@dataclass(frozen=True, slots=True)
class Timeliness:
    """A column of ISO dates, and how old the newest row may be."""

    column: str
    max_age_days: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """A table that a model is trained on: its columns, its rules and the limits of its use.

    `content` returns the CSV that `read` parses, the same bytes each time. `algorithm` names the default learner.
    """

    name: str
    title: str
    content: Callable[[], bytes]
    source: str
    features: tuple[Column, ...]
    target: Column
    limits: str = ""
    rules: tuple[Rule, ...] = ()
    timeliness: Timeliness | None = None
    algorithm: str = "gbm"
    task: Task = REGRESSION

    @property
    def columns(self) -> tuple[Column, ...]:
        return (*self.features, self.target)
