"""One learner without a search: it is fitted on the rows that a search would fit its best on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from model.engine.formulas import Derived
from model.errors import DataError, ModelError, first_line
from model.schema.feature import Category
from model.task import Task
from model.train.frames import Frames
from model.train.learners import LEARNERS, check_names
from model.train.search import rows as parts
from model.train.search.rows import Rows
from model.train.search.work import Problem, fitted_on, n_threads


@dataclass(frozen=True, slots=True)
class Fit:
    """A learner that is fitted on `rows.training`; of a classifier it predicts the positions of `labels`."""

    pipeline: Pipeline
    family: str
    parameters: Mapping[str, Any]
    labels: tuple[Category, ...]
    rows: Rows


def fit_one(
    frame: pd.DataFrame,
    frames: Frames,
    y: Any,
    *,
    family: str,
    parameters: Mapping[str, Any],
    task: Task,
    labels: Sequence[Category] = (),
    derived: Sequence[Derived] = (),
    groups: NDArray[Any] | None = None,
    times: NDArray[Any] | None = None,
    seed: int = 7,
    progress: bool | None = None,
) -> Fit:
    """Return a learner of this family, with its defaults for parameters that are not given.

    The arguments are those of `search`. Raises `DataError` if there is nothing to learn, an option is unknown, or the
    learner refuses the table, `ModelError` if a package that the learner needs is not installed.
    """
    targets, known, rows = parts.parted(y, labels, groups=groups, times=times, seed=seed)
    chosen = LEARNERS[family].family()
    defaults = chosen.defaults(task)
    check_names(family, parameters, defaults)
    settings = {**defaults, **parameters}
    problem = Problem(frame, frames, targets, task.name, len(known), derived, rows, seed=seed, threads=n_threads())
    pipeline = problem.build(family, settings)
    if "progress" in pipeline[-1].get_params():
        pipeline[-1].set_params(progress=progress is not False)  # a bar on a terminal
    try:
        fitted_on(problem, pipeline, rows.training)
    except ModelError:
        raise
    except Exception as error:  # each library has classes of its own
        raise DataError(f"{family} cannot be fitted on this table: {first_line(error)}") from error
    return Fit(pipeline, family, settings, known, rows)
