"""What is done in a process of its own: a trial's folds, the last fit, and how fast a model is when it is served."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from model.engine.formulas import Derived
from model.metrics import log_losses
from model.task import REGRESSION, TASKS
from model.train.frames import Frames
from model.train.learners import LEARNERS, fitted
from model.train.search.rows import Places, Rows
from model.train.search.trials import stops

_N_BATCH = 10_000  # rows that are predicted at once to time an engine
_N_TIMED = 4_096  # rows that a pipeline predicts to be timed
_MAX_THREADS = 8
_N_ALONE = 200  # requests of one row


def n_threads() -> int:
    """Return how many threads fit a learner: one for each core that this process may use, up to a limit."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2, _MAX_THREADS)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is searched for: a model frame, its targets `(n_rows,)`, positions of labels for classes, and its rows."""

    frame: pd.DataFrame
    frames: Frames
    y: NDArray[Any]
    task: str
    n_classes: int
    derived: Sequence[Derived]
    rows: Rows
    seed: int
    threads: int

    def build(self, family: str, parameters: Mapping[str, Any]) -> Any:
        """Return an unfitted pipeline."""
        build = LEARNERS[family].family().build
        return build(parameters, self.frames.columns, self.derived, TASKS[self.task], self.seed)


def score(
    problem: Problem,
    family: str,
    parameters: Mapping[str, Any],
    best: Sequence[float] | None,
    tell: Callable[[Any], None] = lambda score: None,
) -> dict[str, Any]:
    """Return the score of each fold: RMSE or log loss. `tell` is called with each.

    It stops early if it is much worse than the `best` trial. Raises `ValueError` for predictions that are not finite.
    """
    scores: list[float] = []
    fit_seconds, row_seconds = [], 0.0
    for training, judged in problem.rows.folds:
        y, classes = problem.y[training], np.zeros(0, dtype=np.int64)
        if problem.n_classes:  # a fold may lack a rare class, and learners want positions without a gap
            classes, y = np.unique(y, return_inverse=True)
        if problem.n_classes and len(classes) < 2:
            raise ValueError("a fold has rows of one class alone")
        started = perf_counter()
        pipeline = fit(problem, family, parameters, training, y)
        fit_seconds.append(perf_counter() - started)
        with _quiet(1):
            found = _loss(problem, pipeline, judged, classes)
            if not scores:  # many rows, since a call of a pipeline takes milliseconds for few
                many = problem.frame.iloc[np.resize(judged, _N_TIMED)]
                started = perf_counter()
                pipeline.predict(many)
                row_seconds = (perf_counter() - started) / _N_TIMED
        if not np.isfinite(found):
            raise ValueError("a prediction is not finite")
        scores.append(found)
        tell(found)
        if stops(scores, best):
            break
    return {
        "scores": scores,
        "fit_seconds": float(np.mean(fit_seconds)),
        "row_seconds": row_seconds,
    }


def fit(
    problem: Problem, family: str, parameters: Mapping[str, Any], places: Places, y: NDArray[Any] | None = None
) -> Any:
    """Return a pipeline that is fitted on these rows, with `y` for their targets, and that predicts in one job."""
    return fitted_on(problem, problem.build(family, parameters), places, y)


def fitted_on(problem: Problem, pipeline: Any, places: Places, y: NDArray[Any] | None = None) -> Any:
    """Do what `fit` does, with an unfitted pipeline."""
    model = pipeline["model"]
    has_jobs = "n_jobs" in model.get_params(deep=False)
    if has_jobs:
        model.set_params(n_jobs=problem.threads)
    with _quiet(problem.threads):
        pipeline.fit(problem.frame.iloc[places], problem.y[places] if y is None else y)
    if has_jobs:
        model.set_params(n_jobs=1)
    return pipeline


def final(problem: Problem, family: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pipeline, fitted on all training rows, as a pickle, and how long that took.

    Raises `ExportError` if it cannot be served exactly.
    """
    started = perf_counter()
    pipeline = fit(problem, family, parameters, problem.rows.training)
    seconds = perf_counter() - started
    measured = _served(problem, pipeline, problem.rows.training)
    return {"pipeline": pickle.dumps(pipeline), "final_fit_seconds": seconds, **measured}


def measure(problem: Problem, family: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the size of a model that is fitted on the rows of the search, and how fast it is when it is served."""
    pipeline = fit(problem, family, parameters, problem.rows.searched)
    return _served(problem, pipeline, problem.rows.searched)


def _served(problem: Problem, pipeline: Any, places: Places) -> dict[str, Any]:
    X = problem.frames.matrix(problem.frame.iloc[places])
    found = fitted.candidate(pipeline, problem.frames, X)
    rows = X[np.arange(_N_BATCH) % len(X)]
    alone = [rows[number : number + 1] for number in range(_N_ALONE)]
    for row in alone[:10]:
        found.engine.predict(row)
    started = perf_counter()
    for row in alone:
        found.engine.predict(row)
    one = (perf_counter() - started) / _N_ALONE
    found.engine.predict(rows)
    started = perf_counter()
    found.engine.predict(rows)
    many = (perf_counter() - started) / _N_BATCH
    served = [name for name in found.files if not name.endswith(".joblib")]
    return {
        "bytes": sum(len(found.files[name]) for name in served),
        "microseconds_one_row": one * 1e6,
        "microseconds_a_row": many * 1e6,
    }


def _loss(problem: Problem, pipeline: Any, judged: Places, classes: NDArray[Any]) -> float:
    """Return the RMSE, or the log loss, in which a class that the pipeline does not know has the probability 0."""
    table, y = problem.frame.iloc[judged], problem.y[judged]
    if problem.task == REGRESSION.name:
        return float(np.sqrt(np.mean((np.asarray(pipeline.predict(table), dtype=np.float64).reshape(-1) - y) ** 2)))
    answers = np.zeros((len(judged), 1 + problem.n_classes))
    answers[:, 1 + classes] = pipeline.predict_proba(table)
    return float(log_losses(y.astype(np.float64), answers).mean())


@contextmanager
def _quiet(threads: int) -> Iterator[None]:
    """Do without warnings, in this number of threads; BLAS takes one, since its bits depend on how many it has."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        with ThreadpoolController().limit(limits={"openmp": threads, "blas": 1}):
            yield
