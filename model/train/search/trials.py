"""The trials of a search: what is known of each, and when one stops before its last fold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from model.store.runs import MAX_TRIALS

BASELINE, LINEAR = "baseline", "linear"
COMPLETE, STOPPED, FAILED = "complete", "stopped", "failed"
_MANY = 1_000  # rows of a fold, from which the first may stop a trial


@dataclass(frozen=True, slots=True)
class Trial:
    """A finished trial.

    `asked` are the parameters as Optuna knows them, none for a family's defaults, and `parameters` those of the
    learner. `scores` are those of the folds that it was judged by, the share `done` of all; a trial that failed has a
    `reason`. `seconds` are those of the whole trial, `fit_seconds` those of a fold's fit, `row_seconds` those of a
    prediction, by the fitted pipeline itself.
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
    done: float = 1.0

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


def steps(trials: Sequence[Trial], found: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what the record of a run keeps of a search: every trial, the best ones where there are too many.

    `found` are the search's facts in the manifest, None for a search that did not end.
    """
    kept = sorted(sorted(trials, key=lambda trial: trial.score)[:MAX_TRIALS], key=lambda trial: trial.number)
    facts: dict[str, Any] = {
        "n_trials": len(trials),
        "trials": [
            {
                "number": trial.number,
                "learner": trial.family,
                "state": trial.state,
                "scores": list(trial.scores),
                "seconds": round(trial.seconds, 3),
                "parameters": dict(trial.parameters),
                **({"reason": trial.reason} if trial.reason else {}),
            }
            for trial in kept
        ],
    }
    if found:
        board = found["leaderboard"]
        facts |= {"learner": found["learner"], "metric": board["metric"], "left_out": board["left_out"]}
        facts["leaderboard"] = [
            {"learner": each["family"], "trial": each["trial"], "trials": each["n_trials"], **each["score"]}
            for each in board["entries"]
        ]
    return facts


def stops(scores: Sequence[float], best: Sequence[float] | None, n_judged: int) -> bool:
    """Return whether a trial stops after these scores, of folds that judge by `n_judged` rows each, about.

    It does if each is worse than the best trial's of that fold, and their mean by more than chance would have it: by
    one over the root of the rows. One fold of few rows says too little.
    """
    if best is None or not (1 if n_judged >= _MANY else 2) <= len(scores) < len(best):
        return False
    same = best[: len(scores)]
    margin = 1 / math.sqrt(n_judged * len(scores))
    return all(mine > its for mine, its in zip(scores, same)) and sum(scores) > (1 + margin) * sum(same)
