"""Which settings a search tries next: of which family, and of these which.

What is tried next depends on the seed, the trial's number and the finished trials alone, so that a search that was
interrupted goes on as it would have. No measured time decides; what a trial costs is known of its family.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import TqdmWarning

from model.task import Task
from model.train.learners.family import Family, Size
from model.train.search.trials import BASELINE, COMPLETE, FAILED, Trial, best_of

with warnings.catch_warnings():
    # Optuna imports tqdm's bars for notebooks, which warn where ipywidgets is not installed; none is shown.
    warnings.simplefilter("ignore", TqdmWarning)
    import optuna
    from optuna.samplers import TPESampler
    from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

CHEAP = 1.5  # the cost up to which a family's defaults come before anything is tried twice
_N_RANDOM = 6  # trials of a family before its estimator chooses
_LEAST_DONE = 0.5  # what a trial counts that is stopped sooner; else many of a cheap family come before others
_TUNED = 0.02  # of the error, by which settings may improve a family


def next_trial(
    finished: Sequence[Trial], families: Mapping[str, Family], task: Task, seed: int, size: Size, n_judged: int
) -> tuple[str, Mapping[str, Any], Mapping[str, Any]] | None:
    """Return the family, the parameters and what Optuna calls them for the trial after those that have finished.

    `size` is that of the problem, on which it depends what a family costs, and `n_judged` how many rows all folds judge
    by, on which it depends how far a family may be behind by chance. None if there is nothing more to choose.
    """
    name = _next_family(finished, families, size, n_judged)
    if name is None:
        return None
    own = [trial for trial in finished if trial.family == name]
    suggest = families[name].suggest
    if not own or suggest is None:
        return name, families[name].defaults(task), {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    own_seed = int(np.random.SeedSequence([seed, len(finished)]).generate_state(1)[0])
    study = optuna.create_study(sampler=TPESampler(seed=own_seed, n_startup_trials=_N_RANDOM))
    best = best_of(finished)
    study.add_trials([_frozen(trial, families[name], task, best) for trial in own if trial.asked])
    if len(own) == 1 and families[name].second:
        study.enqueue_trial(dict(families[name].second))
    asked = study.ask()
    parameters = suggest(asked, task)
    return name, parameters, asked.params


def _next_family(finished: Sequence[Trial], families: Mapping[str, Family], size: Size, n_judged: int) -> str | None:
    """Return the family that has got the least of its share of the work.

    The cheap ones are tried once in their order. Then a family's share falls with its distance to the best, as it is
    with its best settings so far; one that was not tried counts as the best.
    """
    tried, cost = {trial.family for trial in finished}, {name: each.cost(size) for name, each in families.items()}
    for name in families:
        if name not in tried and cost[name] <= CHEAP:
            return name
    best, found = best_of(finished), dict.fromkeys(families, math.inf)
    spent = dict.fromkeys(families, 0.0)
    for trial in finished:
        found[trial.family] = min(found[trial.family], estimate(trial, best))
        spent[trial.family] += cost[trial.family] * max(trial.done, _LEAST_DONE)
    lowest = best.score if best else 0.0
    # Between the error and the baseline's, since a small error, such as a log loss of 0.01, is doubled by little.
    of_baseline = found.get(BASELINE, math.inf)
    error = math.sqrt(lowest * of_baseline) if math.isfinite(of_baseline) else lowest
    scale = (_TUNED + 0.5 / math.sqrt(n_judged)) * (error or 1.0)
    keys = {}
    for name, family in families.items():
        if family.suggest is None and name in tried:
            continue
        behind = found[name] - lowest if name in tried else 0.0
        keys[name] = math.log(spent[name] + cost[name]) + min(behind / scale, 1e300)
    return min(keys, key=lambda name: keys[name], default=None)


def estimate(trial: Trial, best: Trial | None) -> float:
    """Return the score of a trial; of one that was stopped what it would be if it went on as compared with the best."""
    if trial.state == COMPLETE or best is None or not trial.scores:
        return trial.score
    same = sum(best.scores[: len(trial.scores)])
    return best.score * sum(trial.scores) / same if same else math.inf


def _frozen(trial: Trial, family: Family, task: Task, best: Trial | None) -> FrozenTrial:
    """Return a finished trial as Optuna's own."""
    fixed = FixedTrial(dict(trial.asked))
    assert family.suggest is not None  # as for all that are asked
    family.suggest(fixed, task)
    known: dict[str, Any] = {"params": dict(trial.asked), "distributions": fixed.distributions}
    value = estimate(trial, best)
    if trial.state == FAILED or not math.isfinite(value):
        return create_trial(**known, state=TrialState.PRUNED)
    return create_trial(**known, value=value)
