"""The search itself: trial after trial, then the last fit of the best that can be served."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from model.engine.formulas import Derived
from model.errors import DataError, ModelError
from model.plots import training as plots
from model.schema.feature import Category
from model.task import REGRESSION, Task
from model.train.frames import Frames
from model.train.learners import LEARNERS
from model.train.learners.family import Family, Size
from model.train.search import rows as parts
from model.train.search import verdicts
from model.train.search.choice import CHEAP, next_trial
from model.train.search.journal import Journal
from model.train.search.leaderboard import Leaderboard, interval, leaderboard
from model.train.search.one import Fit
from model.train.search.process import Outcome, Worker
from model.train.search.progress import Progress, print_resumed
from model.train.search.trials import BASELINE, COMPLETE, FAILED, STOPPED, Trial, best_of
from model.train.search.work import Problem, n_threads

DEFAULT_BUDGET_S = 120.0
_LEAST_LEFT = 0.25  # of the time that a search has, however much of it is spent before
_LEAST_SHARE = 0.4  # of that which the trials get, whatever is behind them
_PROVEN_ROWS, _PROVEN_TIMES = 500_000, 4  # predictions of a proof and an evaluation, and those of each row, about
_FIXED_SECONDS = 10.0  # of a proof, an evaluation and their pictures for any model
_MEASURED_SHARE, _MEASURED_SECONDS = 0.05, 10.0  # of the time, at most, to see what each family costs
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
_PACKAGES = ("numpy", "scipy", "scikit-learn", "pandas", "optuna", "xgboost", "xgboost-cpu", "lightgbm", "torch")


@dataclass(frozen=True, slots=True)
class Search(Fit):
    """What a search has found: the best learner, fitted, and how all compare.

    `n_trials` repeats the search, as the number of trials. `share` is how many rows a fold is judged by for each that
    it is fitted on. `seconds` are those of this call, which are in no other facts.
    """

    leaderboard: Leaderboard
    verdicts: tuple[str, ...]
    warnings: tuple[str, ...]
    trials: tuple[Trial, ...]
    seed: int
    share: float
    seconds: float

    @property
    def n_trials(self) -> int:
        """Return after how many trials the search ended."""
        return len(self.trials)

    def to_facts(self) -> dict[str, Any]:
        """Return what the manifest keeps; the same search gives the same facts."""
        return {
            "learner": self.family,
            "parameters": dict(self.parameters),
            "seed": self.seed,
            "split": self.rows.how,
            "leaderboard": self.leaderboard.to_facts(),
            "verdicts": list(self.verdicts),
            "warnings": list(self.warnings),
        }

    def figure(self) -> Figure:
        """Draw the trials of each family, with their intervals."""
        complete = [trial for trial in self.trials if trial.state == COMPLETE]
        found = [interval(trial.scores, self.share, lowest=0.0) for trial in complete]
        return plots.trials(
            [(t.number, t.family, each.mean, each.low, each.high) for t, each in zip(complete, found)],
            metric=self.leaderboard.metric,
        )


def parse_budget(text: str) -> float:
    """Return a time such as `90`, `90s`, `2m`, `1.5h` in seconds. Raises `ValueError`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if found is None or not float(found[1]):
        raise ValueError(f"the time {text!r} is none; write seconds, or 90s, 10m, 1h")
    return float(found[1]) * _UNITS[found[2]]


def search(
    frame: pd.DataFrame,
    frames: Frames,
    y: Any,
    *,
    task: Task,
    labels: Sequence[Category] = (),
    derived: Sequence[Derived] = (),
    groups: NDArray[Any] | None = None,
    times: NDArray[Any] | None = None,
    seed: int = 7,
    budget_s: float | None = None,
    spent_s: float = 0.0,
    trials: int | None = None,
    families: Sequence[str] | None = None,
    journal: Path | None = None,
    max_search_rows: int = parts.MAX_SEARCHED,
    threads: int | None = None,
    backend: str = "",
    progress: bool | None = None,
) -> Search:
    """Return the best pipeline for a model frame that can be served exactly.

    `y` `(n_rows,)` are numbers, or labels, of which `labels` are all in order. `groups` and `times` `(n_rows,)` say
    which rows belong together, and when each was: see `rows.part`. A search ends after `budget_s` seconds, of which
    `spent_s` are gone before, and in which time for the last fit, the proof and the evaluation is kept
    (`DEFAULT_BUDGET_S` if nothing is said), or after a number of `trials`, and is then the same each time on this kind
    of machine with these libraries and `threads`, with or without a `backend` of joblib that fits folds side by side.
    `families` are names of learners; the default is all that are installed and suited. `journal` is a folder in which a
    search that was stopped at any moment goes on. The search sees `max_search_rows` at most; the last fit sees all.
    Without `progress` said, a bar is shown if standard error is a terminal, and else a line now and then.

    Raises `DataError` if there is nothing to learn, or no family can be served, `ModelError` for names that are wrong.
    """
    started = monotonic()
    targets, labels, rows = parts.parted(y, labels, groups=groups, times=times, seed=seed, max_rows=max_search_rows)
    jobs = threads or n_threads()
    known = (targets, task.name, len(labels), tuple(derived))
    problem = Problem(frame, frames, *known, rows, seed=seed, threads=jobs, backend=backend)
    size = Size(len(rows.searched), len(frames.columns) + len(derived), len(labels))
    chosen, left_out = _families(families, size)
    head = _head(problem, labels, list(chosen), groups, times, max_search_rows)
    asked_s = (budget_s or DEFAULT_BUDGET_S) if trials is None else None
    share = float(np.mean([len(judged) / len(training) for training, judged in rows.folds]))
    metric = "RMSE" if task is REGRESSION else "log loss"
    with Journal(journal, head) as found, Worker(problem) as worker:
        run = _Run(problem, worker, found, chosen, size, task, started, asked_s, spent_s, metric)
        tried = run.trials(trials, progress=progress)
        board = leaderboard(tried, metric, share, left_out, {})
        final, entry, failures = run.final(board)
        measured = run.measured(board, tried, {entry.family: final})
    board = leaderboard(tried, metric, share, left_out, measured)
    board = Leaderboard(
        board.metric,
        tuple(sorted(board.entries, key=lambda each: each.family in failures)),
        board.n_trials,
        board.n_stopped,
        {**board.left_out, **_not_reached(chosen, tried), **failures},
    )
    warned = verdicts.warnings_of(problem, [str(label) for label in labels], groups, board)
    return Search(
        pipeline=pickle.loads(final["pipeline"]),
        family=entry.family,
        parameters=entry.parameters,
        labels=labels,
        rows=rows,
        leaderboard=board,
        verdicts=tuple(verdicts.verdicts(board, share)),
        warnings=tuple(warned),
        trials=tuple(tried),
        seed=seed,
        share=share,
        seconds=monotonic() - started,
    )


class _Run:
    """One call of the search: its problem, its process, its journal and its time."""

    def __init__(
        self,
        problem: Problem,
        worker: Worker,
        journal: Journal,
        families: Mapping[str, Family],
        size: Size,
        task: Task,
        started: float,
        asked_s: float | None,
        spent_s: float,
        metric: str,
    ) -> None:
        self._problem, self._worker, self._journal = problem, worker, journal
        self._families, self._size, self._task, self._metric = families, size, task, metric
        self._n_judged = sum(len(judged) for _, judged in problem.rows.folds)
        self._started = started - sum(trial.seconds for trial in journal.trials)
        self._asked_s = asked_s
        self._budget_s = None if asked_s is None else max(asked_s - spent_s, _LEAST_LEFT * asked_s)

    def trials(self, n_trials: int | None, *, progress: bool | None) -> list[Trial]:
        """Return the trials, those of the journal first, until there is no time or their number is reached."""
        n_known = None if self._asked_s is None else self._journal.finished.get(self._asked_s)
        before = self._journal.trials[: n_known if n_known is not None else n_trials]
        if before and progress is not False:
            print_resumed(len(before))
        if n_known is not None:
            return before
        with Progress(self._metric, n_trials=n_trials, budget_s=self._budget_s, shown=progress) as shown:
            while n_trials is None or len(self._journal.trials) < n_trials:
                if not self._goes_on() or not self._one_more(shown):
                    break
        if self._asked_s is not None:
            self._journal.finish(self._asked_s)
        found = self._journal.trials[:n_trials]
        if best_of(found) is None:
            reasons = "; ".join(f"{trial.family}: {trial.reason}" for trial in found if trial.reason)
            raise DataError(f"no learner could be fitted in this time: {reasons or 'give it more time'}")
        return found

    def final(self, board: Leaderboard) -> tuple[Mapping[str, Any], Any, dict[str, str]]:
        """Return the best that can be fitted on all rows and be served, its entry, and the families that cannot."""
        failures: dict[str, str] = {}
        for entry in board.entries:
            outcome = self._worker.run("final", entry.family, entry.parameters, until=None)
            if outcome.facts is not None:
                return outcome.facts, entry, failures
            failures[entry.family] = f"its best was not served: {outcome.reason}"
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise DataError(f"no learner could be fitted on all rows and served: {reasons}")

    def measured(
        self, board: Leaderboard, tried: Sequence[Trial], known: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, dict[str, float]]:
        """Return what the best of each family costs, while there is time: to fit, to keep and to serve.

        Nothing is measured of a family that cannot be served.
        """
        until = None if self._budget_s is None else self._started + self._budget_s - self._proof_seconds()
        found: dict[str, dict[str, float]] = {}
        for entry in board.entries:
            facts = known.get(entry.family)
            if facts is None and (until is None or monotonic() < until):
                facts = self._worker.run("measure", entry.family, entry.parameters, until=until).facts
            numbers = {name: float(value) for name, value in (facts or {}).items() if name != "pipeline"}
            found[entry.family] = {"fit_seconds": tried[entry.trial].fit_seconds, **numbers}
        return found

    def _goes_on(self) -> bool:
        until = self._until()
        return until is None or not self._journal.trials or monotonic() < until

    def _until(self) -> float | None:
        """Return when the trials end, for what is behind them to be in time; None for no such time."""
        if self._budget_s is None:
            return None
        behind = self._proof_seconds() + min(_MEASURED_SHARE * self._budget_s, _MEASURED_SECONDS)
        if best := best_of(self._journal.trials):
            training, _ = self._problem.rows.folds[-1]
            behind += 1.5 * best.fit_seconds * len(self._problem.rows.training) / len(training)
        return self._started + max(_LEAST_SHARE * self._budget_s, self._budget_s - behind)

    def _proof_seconds(self) -> float:
        """Return how long the proof and the evaluation of the best so far will take, about."""
        best = best_of(self._journal.trials)
        n_rows = _PROVEN_ROWS + _PROVEN_TIMES * len(self._problem.frame)
        return _FIXED_SECONDS + (n_rows * best.row_seconds if best else 0.0)

    def _one_more(self, shown: Progress) -> bool:
        """Do the next trial; return whether there was one and it ended in time."""
        finished = self._journal.trials
        upcoming = next_trial(finished, self._families, self._task, self._problem.seed, self._size, self._n_judged)
        if upcoming is None:
            return False
        family, parameters, asked = upcoming
        best = best_of(finished)
        is_whole = self._families[family].cost(self._size) <= CHEAP and all(each.family != family for each in finished)
        begun = monotonic()

        def tell(score: float | None) -> None:
            shown.tell(monotonic() - self._started, finished, family)

        outcome = self._worker.run(
            "score",
            family,
            dict(parameters),
            None if is_whole or best is None else best.scores,
            until=None if not finished else self._until(),
            tell=tell,
        )
        if outcome.facts is None and not outcome.reason:
            return False
        self._journal.add(self._trial(outcome, family, parameters, asked, monotonic() - begun))
        return True

    def _trial(
        self, outcome: Outcome, family: str, parameters: Mapping[str, Any], asked: Mapping[str, Any], seconds: float
    ) -> Trial:
        number = len(self._journal.trials)
        if outcome.facts is None:
            return Trial(number, family, parameters, asked, FAILED, reason=outcome.reason, seconds=seconds)
        scores, n_folds = tuple(outcome.facts["scores"]), len(self._problem.rows.folds)
        return Trial(
            number,
            family,
            {**parameters, **outcome.facts["chosen"]},
            asked,
            COMPLETE if len(scores) == n_folds else STOPPED,
            scores,
            seconds=seconds,
            fit_seconds=outcome.facts["fit_seconds"],
            row_seconds=outcome.facts["row_seconds"],
            done=len(scores) / n_folds,
        )


def _not_reached(chosen: Iterable[str], tried: Iterable[Trial]) -> dict[str, str]:
    """Return the families that the leaderboard says nothing of, since no trial reached the last fold, and why."""
    found = {}
    for name in chosen:
        states = [trial.state for trial in tried if trial.family == name]
        if not states:
            found[name] = "there was no time or trial left for it; give more time or trials"
        elif STOPPED in states and COMPLETE not in states:
            found[name] = "it was stopped after some folds, in which it was behind"
    return found


def _families(names: Sequence[str] | None, size: Size) -> tuple[dict[str, Family], dict[str, str]]:
    """Return the families that are tried, the baseline first, and why others are not."""
    unknown = [name for name in names or () if name not in LEARNERS]
    if unknown:
        raise ModelError(f"there is no learner {unknown[0]!r}; choose among {', '.join(LEARNERS)}")
    chosen, left_out = {}, {}
    for name, learner in LEARNERS.items():
        if names is not None and name not in (*names, BASELINE):
            continue
        try:
            family = learner.family()
        except ModelError as error:
            if names is not None:
                raise
            left_out[name] = str(error)
            continue
        if names is None and (reason := family.unsuited(size)):
            left_out[name] = reason
        else:
            chosen[name] = family
    return chosen, left_out


def _head(
    problem: Problem,
    labels: Sequence[Category],
    families: Sequence[str],
    groups: NDArray[Any] | None,
    times: NDArray[Any] | None,
    max_search_rows: int,
) -> dict[str, Any]:
    """Return what the search is: of which data, with which options and libraries."""
    data = hashlib.sha256()
    data.update(_hashes(problem.frame))
    data.update(np.ascontiguousarray(problem.y).tobytes())
    for values in (groups, times):
        data.update(
            b"-" if values is None else pd.util.hash_pandas_object(pd.Series(values), index=False).to_numpy().tobytes()
        )
    columns = [
        (each.name, each.type, str(each.dtype), list(each.categories), each.has_gaps) for each in problem.frames.columns
    ]
    facts = {
        "data": data.hexdigest(),
        "columns": hashlib.sha256(repr(columns).encode()).hexdigest(),
        "derived": [asdict(each) for each in problem.derived],
        "labels": list(labels),
        "task": problem.task,
        "families": list(families),
        "seed": problem.seed,
        "max_search_rows": max_search_rows,
        "threads": problem.threads,
        "versions": _versions(),
    }
    return {"key": hashlib.sha256(repr(facts).encode()).hexdigest(), **facts}


def _hashes(table: pd.DataFrame | pd.Series) -> bytes:
    return pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes()


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
