"""What is done in a process of its own: a trial's folds, the last fit, and how fast a model is when it is served."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from time import perf_counter
from typing import Any, NamedTuple

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from model.engine.formulas import Derived
from model.metrics import log_losses
from model.task import REGRESSION, TASKS
from model.train.frames import Frames
from model.train.learners import LEARNERS
from model.train.learners.family import Family
from model.train.search.rows import Places, Rows
from model.train.search.trials import stops

_N_BATCH = 10_000  # rows that are predicted at once to time an engine
_N_TIMED = 4_096  # rows that a pipeline predicts to be timed
_MAX_THREADS = 8
_N_ALONE = 200  # requests of one row
_SHARES_OF_ROUNDS = (1.0, 0.8, 0.64, 0.5, 0.4, 0.32, 0.25, 0.2, 0.16, 0.1, 0.05)  # after which boosting is judged
_MORE_ROUNDS = 1.6  # times those that are best in the first fold


def n_threads() -> int:
    """Return how many threads fit a learner: one for each core that this process may use, up to a limit."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2, _MAX_THREADS)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is searched for: a model frame, its targets `(n_rows,)`, positions of labels for classes, and its rows.

    `backend` is one of joblib, by which folds are fitted side by side on other machines.
    """

    frame: pd.DataFrame
    frames: Frames
    y: NDArray[Any]
    task: str
    n_classes: int
    derived: Sequence[Derived]
    rows: Rows
    seed: int
    threads: int
    backend: str = ""

    def build(self, family: str, parameters: Mapping[str, Any]) -> Any:
        """Return an unfitted pipeline."""
        build = LEARNERS[family].family().build
        return build(parameters, self.frames.columns, self.derived, TASKS[self.task], self.seed)

    def searched(self) -> Problem:
        """Return the problem with the rows that a search sees alone, which is less to send."""
        kept = self.rows.searched
        places = np.zeros(len(self.frame), dtype=np.intp)
        places[kept] = np.arange(len(kept))
        folds = tuple((places[training], places[judged]) for training, judged in self.rows.folds)
        rows = replace(self.rows, training=places[kept], searched=places[kept], validation=places[:0], folds=folds)
        return replace(self, frame=self.frame.iloc[kept], y=self.y[kept], rows=rows)


def score(
    problem: Problem,
    family: str,
    parameters: Mapping[str, Any],
    best: Sequence[float] | None,
    tell: Callable[[Any], None] = lambda score: None,
) -> dict[str, Any]:
    """Return the score of each fold: RMSE or log loss. `tell` is called with each.

    It stops early if it is much worse than the `best` trial. Boosting is judged after some numbers of rounds, of which
    `parameters` have the most, and the facts the one that is best over the folds; what is behind the best of the first
    fold is not fitted in the others, but for a margin. Raises `ValueError` for predictions that are not finite.
    """
    kind = LEARNERS[family].family()
    most = parameters[kind.rounds] if kind.rounds else 0
    rounds = sorted({max(round(most * share), 1) for share in _SHARES_OF_ROUNDS}) if most else [0]
    scores: list[list[float]] = []  # of each fold, for each number of rounds
    fit_seconds = []
    n_judged = len(problem.rows.folds[-1][1])
    first = _fold(problem, family, parameters, rounds, 0)
    if most:
        rounds = [n for n in rounds if n <= _MORE_ROUNDS * rounds[int(np.argmin(first.losses))]]
    for found in chain([first], _others(problem, family, parameters, rounds)):
        scores.append(found.losses)
        fit_seconds.append(found.seconds)
        tell(min(found.losses))
        if stops([min(of_fold) for of_fold in scores], best, n_judged):
            break
    of_rounds = np.array([of_fold[: len(rounds)] for of_fold in scores])  # (n_folds, n_rounds)
    place = int(of_rounds.mean(axis=0).argmin())
    return {
        "scores": of_rounds[:, place].tolist(),
        "chosen": {kind.rounds: rounds[place]} if most else {},
        "fit_seconds": float(np.mean(fit_seconds)),
        "row_seconds": first.row_seconds * (rounds[place] / most if most else 1),  # which were those of the most rounds
    }


class _Fold(NamedTuple):
    """What a fold gives: the loss after each number of rounds, and the seconds of its fit and of predicting a row."""

    losses: list[float]
    seconds: float
    row_seconds: float


def _fold(problem: Problem, family: str, parameters: Mapping[str, Any], rounds: Sequence[int], number: int) -> _Fold:
    """Fit and judge a fold. Raises `ValueError` for predictions that are not finite, or a fold of one class."""
    kind = LEARNERS[family].family()
    training, judged = problem.rows.folds[number]
    y, classes = problem.y[training], np.zeros(0, dtype=np.int64)
    if problem.n_classes:  # a fold may lack a rare class, and learners want positions without a gap
        classes, y = np.unique(y, return_inverse=True)
    if problem.n_classes and len(classes) < 2:
        raise ValueError("a fold has rows of one class alone")
    asked = {**parameters, kind.rounds: rounds[-1]} if kind.rounds else parameters
    started = perf_counter()
    pipeline = fit(problem, family, asked, training, y)
    seconds, row_seconds = perf_counter() - started, 0.0
    with _quiet(1):
        losses = _losses(problem, kind, pipeline, judged, classes, rounds)
        if number == 0:  # many rows, since a call of a pipeline takes milliseconds for few
            many = problem.frame.iloc[np.resize(judged, _N_TIMED)]
            started = perf_counter()
            pipeline.predict(many)
            row_seconds = (perf_counter() - started) / _N_TIMED
    if not np.isfinite(losses).all():
        raise ValueError("a prediction is not finite")
    return _Fold(losses, seconds, row_seconds)


def _others(problem: Problem, family: str, parameters: Mapping[str, Any], rounds: Sequence[int]) -> Iterator[_Fold]:
    """Yield the folds behind the first: one after another, or, with a backend, all fitted side by side.

    Either way a fold that fails raises its error when its turn comes, so that both give the same.
    """
    numbers = range(1, len(problem.rows.folds))
    if not problem.backend:
        yield from (_fold(problem, family, parameters, rounds, number) for number in numbers)
        return
    from joblibspark import register_spark  # here, since only clusters have it

    register_spark()
    few = problem.searched()
    with warnings.catch_warnings(), joblib.parallel_config(backend=problem.backend, n_jobs=len(numbers)):
        warnings.simplefilter("ignore")  # of a cluster with fewer cores, for which the others wait
        tasks = (joblib.delayed(_attempt)(few, family, parameters, rounds, number) for number in numbers)
        found = joblib.Parallel()(tasks)
    for each in found:
        if isinstance(each, Exception):
            raise each
        yield each


def _attempt(*arguments: Any) -> _Fold | Exception:
    """Return what `_fold` does, or its error. Runs on a worker of the backend."""
    try:
        return _fold(*arguments)
    except Exception as error:
        return error


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
    from model.train.learners import fitted  # what compiles models takes a second to import, and no trial needs it

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


def _losses(
    problem: Problem, kind: Family, pipeline: Any, judged: Places, classes: NDArray[Any], rounds: Sequence[int]
) -> list[float]:
    """Return the RMSE, or the log loss, after each number of rounds; of a family without rounds it is one."""
    table, task = problem.frame.iloc[judged], TASKS[problem.task]
    if kind.staged:
        return [_loss(problem, each, judged, classes) for each in kind.staged(pipeline, table, rounds, task)]
    predict = pipeline.predict if task is REGRESSION else pipeline.predict_proba
    return [_loss(problem, predict(table), judged, classes)]


def _loss(problem: Problem, predicted: Any, judged: Places, classes: NDArray[Any]) -> float:
    """Return the RMSE, or the log loss, in which a class that the pipeline does not know has the probability 0."""
    y = problem.y[judged]
    if problem.task == REGRESSION.name:
        return float(np.sqrt(np.mean((np.asarray(predicted, dtype=np.float64).reshape(-1) - y) ** 2)))
    answers = np.zeros((len(judged), 1 + problem.n_classes))
    answers[:, 1 + classes] = predicted
    return float(log_losses(y.astype(np.float64), answers).mean())


@contextmanager
def _quiet(threads: int) -> Iterator[None]:
    """Do without warnings, in this number of threads; BLAS takes one, since its bits depend on how many it has."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        with ThreadpoolController().limit(limits={"openmp": threads, "blas": 1}):
            yield
