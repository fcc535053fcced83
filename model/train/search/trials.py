"""The trials of a search: which settings are tried next, and when a trial stops before its last fold.

What is tried next depends on the seed, the trial's number and the finished trials alone, so that a search that was
interrupted goes on as it would have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.samplers import TPESampler
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from model.task import Task
from model.train.learners.family import Family

BASELINE, LINEAR = "baseline", "linear"
COMPLETE, STOPPED, FAILED = "complete", "stopped", "failed"
_FAMILY = "family"
_MIN_FOLDS, _MARGIN = 2, 0.05  # after which a trial stops that is so much worse than the best


@dataclass(frozen=True, slots=True)
class Trial:
    """A finished trial.

    `asked` are the parameters as Optuna knows them, and `parameters` those of the learner. `scores` are those of the
    folds that it was judged by; a trial that failed has a `reason`. `seconds` are those of the whole trial,
    `fit_seconds` those of a fold's fit, `row_seconds` those of a prediction, by the fitted pipeline itself.
    """

    number: int
    family: str
    parameters: Mapping[str, Any]
    asked: Mapping[str, Any]
    state: str
    scores: tuple[float, ...] = ()
    reason: str = ""
    seconds: float = 0.0
    fit_seconds: float = 0.0
    row_seconds: float = 0.0

    @property
    def score(self) -> float:
        """Return the mean of the folds' scores; infinity for a trial that has not finished them."""
        return float(np.mean(self.scores)) if self.state == COMPLETE else math.inf

    def to_facts(self) -> dict[str, Any]:
        """Return the trial for a line of JSON."""
        return asdict(self)

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Trial:
        """Return the trial that `to_facts` returned. Raises `TypeError` for other facts."""
        return cls(**{**facts, "scores": tuple(facts["scores"])})


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """Return the complete trial with the lowest score, the earliest of equal ones; None if there is none."""
    complete = [trial for trial in trials if trial.state == COMPLETE]
    return min(complete, key=lambda trial: trial.score, default=None)


def next_trial(
    finished: Sequence[Trial], families: Mapping[str, Family], task: Task, seed: int
) -> tuple[str, Mapping[str, Any], Mapping[str, Any]] | None:
    """Return the family, the parameters and what Optuna calls them for the trial after those that have finished.

    First come the defaults of each family, in their order; then Optuna chooses family and parameters. None if there is
    nothing more to choose.
    """
    number, names = len(finished), list(families)
    if number < len(names):
        name = names[number]
        return name, families[name].defaults(task), {_FAMILY: name}
    free = [name for name in names if families[name].suggest]
    if not free:
        return None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    own_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    study = optuna.create_study(sampler=TPESampler(seed=own_seed))
    study.add_trials([_frozen(trial, families, free, task) for trial in finished if trial.family in free])
    asked = study.ask()
    family, parameters = _suggested(asked, families, free, task)
    return family, parameters, asked.params


def stops(scores: Sequence[float], best: Sequence[float] | None) -> bool:
    """Return whether a trial stops after these scores: with two folds or more, each worse than the best trial's, and by
    a twentieth in their mean.
    """
    if best is None or not _MIN_FOLDS <= len(scores) < len(best):
        return False
    same = best[: len(scores)]
    return all(mine > its for mine, its in zip(scores, same)) and sum(scores) > (1 + _MARGIN) * sum(same)


def _suggested(
    trial: Any, families: Mapping[str, Family], free: Sequence[str], task: Task
) -> tuple[str, Mapping[str, Any]]:
    family = trial.suggest_categorical(_FAMILY, list(free))
    suggest = families[family].suggest
    assert suggest is not None  # as for all that are free
    return family, suggest(trial, task)


def _frozen(trial: Trial, families: Mapping[str, Family], free: Sequence[str], task: Task) -> FrozenTrial:
    """Return a finished trial as Optuna's own."""
    distributions: dict[str, Any] = {_FAMILY: CategoricalDistribution(list(free))}
    if len(trial.asked) > 1:
        fixed = FixedTrial(dict(trial.asked))
        _suggested(fixed, families, free, task)
        distributions = fixed.distributions
    known: dict[str, Any] = {"params": dict(trial.asked), "distributions": distributions}
    if trial.state == COMPLETE:
        return create_trial(**known, value=trial.score)
    means = np.cumsum(trial.scores) / np.arange(1, len(trial.scores) + 1)
    steps = {fold: float(mean) for fold, mean in enumerate(means)} if trial.state == STOPPED else {}
    return create_trial(**known, state=TrialState.PRUNED, intermediate_values=steps)
