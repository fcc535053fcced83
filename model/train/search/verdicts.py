"""What a person should know of a search's result, in plain sentences."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import cross_val_predict
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from model.metrics import log_losses, short
from model.schema.feature import CATEGORY
from model.train.search.leaderboard import Entry, Interval, Leaderboard, difference
from model.train.search.rows import Rows
from model.train.search.trials import BASELINE, LINEAR
from model.train.search.work import Problem

_MAX_ROWS = 5_000  # of a tree on one feature
_LEAK = 0.98  # of the baseline's error, which hardly any honest feature explains alone
_TOO_GOOD = 0.999
_FEW_ROWS, _FEW_OF_CLASS, _FEW_GROUPS = 200, 20, 10
_MAX_NAMED = 5


def verdicts(found: Leaderboard, share: float) -> list[str]:
    """Return whether the best family is better than the baseline, and than a linear model, beyond the interval."""
    by_name = {entry.family: entry for entry in found.entries}
    best, sentences = found.entries[0], []
    if BASELINE in by_name and best.family != BASELINE:
        gain = difference(best, by_name[BASELINE], share)
        theirs = by_name[BASELINE].score.mean
        by = f"by {short(gain.mean)} ({gain.mean / theirs:.0%}; {_interval(gain)})"
        if gain.low > 0:
            sentences.append(f"{best.family} is better than the baseline in {found.metric} {by}")
        else:
            sentences.append(
                f"{best.family} is not better than the baseline beyond the interval: {found.metric} {by}; the "
                "features may say little about the target, or there are too few rows"
            )
    elif len(found.entries) == 1 and found.left_out:
        sentences.append(
            "nothing but the baseline was fitted, and it looks at no feature: give the search more time or trials"
        )
    elif best.family == BASELINE:
        sentences.append("nothing is better than the baseline; the features say little about the target")
    if LINEAR in by_name and best.family not in (BASELINE, LINEAR):
        sentences.append(_against_linear(best, by_name[LINEAR], by_name.get(BASELINE), found.metric, share))
    return sentences


def _against_linear(best: Entry, linear: Entry, baseline: Entry | None, metric: str, share: float) -> str:
    """Return whether the best is better than a linear model, which is as good only if it is so in a fold, too."""
    gain = difference(best, linear, share)
    gains = [theirs - its for its, theirs in zip(best.fold_scores, linear.fold_scores)]
    n_better = sum(1 for each in gains if each > 0)
    if gain.low > 0:
        return f"{best.family} is better than a linear model in {metric} by {short(gain.mean)} ({_interval(gain)})"
    is_worse = baseline is not None and linear.score.mean >= baseline.score.mean
    if n_better < len(gains) and not is_worse:
        return (
            f"a linear model is as good: {best.family} is better by {short(gain.mean)} ({_interval(gain)}); the "
            "simpler one may be the better choice"
        )
    is_one_fold = len(gains) > 2 and max(gains) > sum(gains) / 2
    return (
        f"{best.family} is better than a linear model in {n_better} of {len(gains)} folds, in {metric} by "
        f"{short(gain.mean)} in the mean ({_interval(gain)})"
        + (
            "; most of it is one fold, in which the linear model is far off"
            if is_one_fold
            else ", which may be by chance"
        )
        + ("; a linear model is worse than the baseline" if is_worse else "")
    )


def _interval(gain: Interval) -> str:
    if not math.isfinite(gain.low):
        return "one fold gives no interval"
    return f"95 % interval {short(gain.low)} to {short(gain.high)}"


def warnings_of(
    problem: Problem, names: Sequence[str], groups: NDArray[Any] | None, found: Leaderboard | None = None
) -> list[str]:
    """Return what is wrong with the rows of a search, for labels with these names, and with its best score."""
    return [
        *_few(problem, names, groups),
        *_repeated(problem.frame, problem.rows),
        *_leaks(problem),
        *(_too_good(found) if found else []),
    ]


def _few(problem: Problem, names: Sequence[str], groups: NDArray[Any] | None) -> list[str]:
    rows, sentences = problem.rows, []
    if len(rows.training) < _FEW_ROWS:
        sentences.append(f"there are only {len(rows.training)} rows to fit on; all figures are uncertain")
    if problem.n_classes:
        counts = np.bincount(problem.y[rows.training], minlength=problem.n_classes)
        few = [f"{names[number]} ({counts[number]})" for number in np.flatnonzero(counts < _FEW_OF_CLASS).tolist()]
        if few:
            sentences.append(f"labels with fewer than {_FEW_OF_CLASS} rows to fit on: {_listed(few)}")
        lacking = {
            number
            for training, judged in rows.folds
            for number in np.setdiff1d(np.unique(problem.y[judged]), problem.y[training]).tolist()
        }
        if lacking:
            some = [names[number] for number in sorted(lacking)]
            sentences.append(f"a fold is judged by labels that it is not fitted on: {_listed(some)}")
    if groups is not None:
        n_groups = len(pd.unique(groups[rows.training]))
        if n_groups < _FEW_GROUPS:
            sentences.append(f"there are only {n_groups} groups to fit on; figures for new groups are uncertain")
    if len(rows.searched) < len(rows.training):
        sentences.append(
            f"the search saw {len(rows.searched):,} of {len(rows.training):,} rows; the model is fitted on all of them"
        )
    return sentences


def _repeated(frame: pd.DataFrame, rows: Rows) -> list[str]:
    """Return how many held-out rows have the features of a training row."""
    hashes = pd.util.hash_pandas_object(frame, index=False).to_numpy()
    n_repeated = int(np.isin(hashes[rows.validation], hashes[rows.training]).sum())
    if not n_repeated:
        return []
    return [
        f"{n_repeated:,} of {len(rows.validation):,} held-out rows have the same features as a row that the model is "
        "fitted on; the figures may be too good: remove repeated rows, or keep them together as a group"
    ]


def _leaks(problem: Problem) -> list[str]:
    """Return the features that predict the target nearly alone: by a small tree, across two folds."""
    places = problem.rows.searched[: _MAX_ROWS * 2]
    places = places[np.random.default_rng(problem.seed).permutation(len(places))[:_MAX_ROWS]]
    y, X = problem.y[places], problem.frames.matrix(problem.frame.iloc[places])
    if len(np.unique(y)) < 2:
        return []
    found = []
    for column, values in zip(problem.frames.columns, X.T):
        if column.type == CATEGORY and len(column.categories) > len(places) / 10:
            continue  # a tree would learn an identifier by heart
        explained = _explained(values.reshape(-1, 1), y, problem.n_classes)
        if explained >= _LEAK:
            found.append(f"{column.name!r} ({explained:.1%})")
    if not found:
        return []
    return [
        f"features that explain nearly all of the target alone: {_listed(found)}; are they known before the target is? "
        "if not, leave them out"
    ]


def _explained(X: NDArray[np.float64], y: NDArray[Any], n_classes: int) -> float:
    """Return the share of the baseline's squared error, or log loss, that a tree on one feature explains."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not n_classes:
            tree = DecisionTreeRegressor(max_leaf_nodes=64, min_samples_leaf=5)
            predicted = cross_val_predict(tree, X, y, cv=2)
            return 1 - float(np.mean((predicted - y) ** 2)) / float(np.var(y))
        known, y = np.unique(y, return_inverse=True)
        if np.bincount(y).min() < 2:
            return 0.0
        answers = np.zeros((len(y), 1 + len(known)))
        tree = DecisionTreeClassifier(max_leaf_nodes=64, min_samples_leaf=5)
        answers[:, 1:] = cross_val_predict(tree, X, y, cv=2, method="predict_proba")
        shares = np.bincount(y) / len(y)
        return 1 - float(log_losses(y.astype(np.float64), answers).mean()) / float(-(shares * np.log(shares)).sum())


def _too_good(found: Leaderboard) -> list[str]:
    by_name = {entry.family: entry.score.mean for entry in found.entries}
    best, baseline = found.entries[0], by_name.get(BASELINE, 0.0)
    power = 2 if found.metric == "RMSE" else 1
    if not baseline or 1 - (best.score.mean / baseline) ** power < _TOO_GOOD:
        return []
    return [
        f"{best.family} explains more than {_TOO_GOOD:.1%} of the target, which is rarely honest; does a feature "
        "contain it, or is it made of one?"
    ]


def _listed(texts: Sequence[str]) -> str:
    more = len(texts) - _MAX_NAMED
    return ", ".join(texts[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
