"""The leaderboard of a search: the best trial of each family, with its interval, and what it costs to serve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from model.metrics import short
from model.train.search.trials import COMPLETE, Trial

_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over the folds, and the interval of 95 % around it."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Entry:
    """The best trial of a family, of `n_trials` in all.

    `measured` are figures of this machine: seconds of a fold's fit, microseconds of a row when it is served, alone and
    among 10,000, and bytes of the served files. They are empty where nothing was measured.
    """

    family: str
    trial: int
    score: Interval
    parameters: Mapping[str, Any]
    n_trials: int
    n_failed: int
    fold_scores: tuple[float, ...]
    measured: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """The families, the best first; `metric` is what their scores are, lower is better."""

    metric: str
    entries: tuple[Entry, ...]
    n_trials: int
    n_stopped: int
    left_out: Mapping[str, str]

    def to_facts(self) -> dict[str, Any]:
        """Return what the manifest has: no times, so that the same search writes the same bytes."""
        entries = [
            {name: value for name, value in asdict(entry).items() if name != "measured"} for entry in self.entries
        ]
        return {
            "metric": self.metric,
            "trials": self.n_trials,
            "stopped_early": self.n_stopped,
            "left_out": dict(self.left_out),
            "entries": [
                {**entry, "score": _finite(entry["score"]), "fold_scores": list(entry["fold_scores"])}
                for entry in entries
            ],
        }

    def measured(self) -> dict[str, dict[str, float]]:
        """Return what was measured on this machine, by family: for the run's folder, and for a page."""
        return {entry.family: dict(entry.measured) for entry in self.entries if entry.measured}

    def table(self) -> str:
        """Return the leaderboard as lines of text."""
        head = ("family", self.metric, "95 % interval", "trials", "fit", "one row", "a row of 10,000", "size")
        lines = [head, *map(_line, self.entries)]
        widths = [max(map(len, column)) for column in zip(*lines)]
        return "\n".join(
            "  ".join(cell.ljust(width) if number == 0 else cell.rjust(width) for number, (cell, width) in cells)
            for cells in (enumerate(zip(line, widths)) for line in lines)
        )


def _finite(score: Mapping[str, float]) -> dict[str, float | None]:
    """Return the mean and the interval of a score; None for an end of which one fold says nothing."""
    return {name: value if math.isfinite(value) else None for name, value in score.items()}


def _line(entry: Entry) -> tuple[str, ...]:
    measured = entry.measured
    score = entry.score

    def shown(name: str, form: str, scale: float = 1.0) -> str:
        return form.format(measured[name] * scale) if name in measured else ""

    return (
        entry.family,
        short(score.mean),
        f"{short(score.low)} to {short(score.high)}" if math.isfinite(score.high) else "one fold: none",
        f"{entry.n_trials}" + (f" ({entry.n_failed} failed)" if entry.n_failed else ""),
        shown("fit_seconds", "{:.2g} s"),
        shown("microseconds_one_row", "{:.3g} µs"),
        shown("microseconds_a_row", "{:.2g} µs"),
        shown("bytes", "{:,.0f} KiB", 1 / 1024),
    )


def leaderboard(
    trials: Sequence[Trial],
    metric: str,
    share: float,
    left_out: Mapping[str, str],
    measured: Mapping[str, Mapping[str, float]],
) -> Leaderboard:
    """Return the leaderboard of finished trials.

    `share` is how many rows a fold is judged by for each that it is fitted on.
    """
    entries = []
    for family in dict.fromkeys(trial.family for trial in trials):
        own = [trial for trial in trials if trial.family == family]
        complete = [trial for trial in own if trial.state == COMPLETE]
        if complete:
            best = min(complete, key=lambda trial: trial.score)
            n_failed = sum(1 for trial in own if trial.reason)
            found = interval(best.scores, share, lowest=0.0)
            entries.append(
                Entry(
                    family,
                    best.number,
                    found,
                    best.parameters,
                    len(own),
                    n_failed,
                    best.scores,
                    measured.get(family, {}),
                )
            )
    entries.sort(key=lambda entry: (entry.score.mean, entry.trial))
    n_stopped = sum(1 for trial in trials if trial.state == "stopped")
    return Leaderboard(metric, tuple(entries), len(trials), n_stopped, left_out)


def interval(values: Sequence[float], share: float, *, lowest: float = -math.inf) -> Interval:
    """Return the mean of the folds' values, with an interval by Student's t.

    The folds share rows that they are fitted on, for which the variance is corrected (Nadeau and Bengio, "Inference for
    the generalization error", 2003): it has `share` beside the inverse of the number of folds.
    """
    mean, n_folds = float(np.mean(values)), len(values)
    if n_folds < 2:
        return Interval(mean, lowest, math.inf)
    deviation = math.sqrt((1 / n_folds + share) * float(np.var(values, ddof=1)))
    half = float(stats.t.ppf((1 + _CONFIDENCE) / 2, n_folds - 1)) * deviation
    return Interval(mean, max(mean - half, lowest), mean + half)


def difference(better: Entry, other: Entry, share: float) -> Interval:
    """Return by how much the scores of one are above those of the other, fold by fold."""
    return interval([theirs - its for its, theirs in zip(better.fold_scores, other.fold_scores)], share)
