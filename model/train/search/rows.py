"""Which rows a search fits and judges on: those held out, those that it sees, and its folds."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import (
    GroupKFold,
    RepeatedKFold,
    RepeatedStratifiedKFold,
    StratifiedGroupKFold,
    train_test_split,
)

from model.errors import DataError
from model.schema.feature import Category
from model.train.labels import positions

N_FOLDS = 5
HELD_OUT = 0.2
MIN_ROWS = 20
MAX_SEARCHED = 20_000
_LEAST_LATER = 0.5  # of the held-out rows, that are later than all rows to fit on, for a split of groups in time
_FEW_ROWS, _N_REPEATS = 1_000, 3  # up to which folds are drawn so many times, since their scores are noisy

Places = NDArray[np.intp]
"""Positions of rows in the frame, `(n,)`, in the order in which they are fitted on."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a search, by their places in the frame.

    `training` and `validation` are all rows, in two parts; the search sees `searched` of the training rows alone, in
    `folds` of rows to fit on and rows to judge by. `how` says in words how they were parted.
    """

    training: Places
    validation: Places
    searched: Places
    folds: tuple[tuple[Places, Places], ...]
    how: str


def parted(
    y: Any,
    labels: Sequence[Category],
    *,
    groups: NDArray[Any] | None = None,
    times: NDArray[Any] | None = None,
    seed: int = 7,
    max_rows: int = MAX_SEARCHED,
) -> tuple[NDArray[Any], tuple[Category, ...], Rows]:
    """Return targets as numbers or positions of labels, the labels that rows to fit on have, and how rows are parted.

    `y` `(n_rows,)` are numbers, or labels, of which `labels` are all in order. The other arguments are those of `part`.
    Raises `DataError` if there is nothing to learn.
    """
    targets = positions(y, labels).astype(np.int64) if labels else np.asarray(y, dtype=np.float64)
    _check_targets(targets, labels)
    rows = part(targets, classes=bool(labels), groups=groups, times=times, seed=seed, max_rows=max_rows)
    return _known_labels(targets, tuple(labels), rows)


def part(
    y: NDArray[Any],
    *,
    classes: bool,
    groups: NDArray[Any] | None = None,
    times: NDArray[Any] | None = None,
    seed: int = 7,
    max_rows: int = MAX_SEARCHED,
) -> Rows:
    """Return how rows with the targets `y` `(n_rows,)` are parted; `classes` says that these are positions of labels.

    At random, and for classes with the share of each: the fifth that is held out, and the folds. With `groups`
    `(n_rows,)`, all rows of a group are on the same side. With `times` `(n_rows,)`, the latest rows are held out, and
    each fold is judged by rows later than all those it is fitted on. With both, a group stands at the time of its
    latest row, and half of the held-out rows at least must be later than all rows to fit on. The search sees at most
    `max_rows`, chosen at random. Raises `DataError` where there are too few, or groups overlap in time.
    """
    n_rows = len(y)
    if n_rows < MIN_ROWS:
        raise DataError(f"there are {n_rows} rows with a target; a search needs {MIN_ROWS} at least")
    places = np.arange(n_rows)
    units = None if groups is None else _codes(groups)
    if times is not None:
        order = _order(times, units)
        share_later = 1.0 if units is None else _share_later(times, order)
        found, held_out = _sides(_before(order, 1 - HELD_OUT))
        how = "the latest rows are held out, and each fold is judged by later rows than it is fitted on"
        if units is not None:
            how = (
                "the groups that end last are held out, and each fold is judged by groups that end later than those "
                f"it is fitted on; {share_later:.0%} of the held-out rows are later than all that are fitted on"
            )
    elif units is not None:
        found, held_out = _sides(~_some_groups(units, seed))
        how = "all rows of a group are on the same side"
    else:
        stratify = y if classes and np.bincount(y).min() > 1 and len(np.bincount(y)) < HELD_OUT * n_rows else None
        found, held_out = train_test_split(places, test_size=HELD_OUT, random_state=seed, stratify=stratify)
        how = "at random" + (", with the share of each label" if stratify is not None else "")
    searched = found
    if len(found) > max_rows:
        searched = np.sort(np.random.default_rng(seed).choice(found, max_rows, replace=False))
    folds: Sequence[tuple[Places, Places]]
    if times is not None:
        folds = _forward(order[searched])
    elif units is not None:
        folds = _by_group(y[searched], units[searched], classes, seed)
    else:
        folds = _random(y[searched], classes, seed)
    return Rows(found, held_out, searched, tuple((searched[a], searched[b]) for a, b in folds), how)


def _sides(training: NDArray[np.bool_]) -> tuple[Places, Places]:
    return np.flatnonzero(training), np.flatnonzero(~training)


def _codes(groups: NDArray[Any]) -> Places:
    """Return the number of each row's group; a row without one is a group of its own."""
    codes, names = pd.factorize(np.asarray(groups, dtype=object), use_na_sentinel=True)
    alone = codes < 0
    codes[alone] = len(names) + np.arange(np.count_nonzero(alone))
    if codes.max() + 1 < 3:
        raise DataError(f"there are {codes.max() + 1} groups; at least 3 are needed, or leave the groups out")
    return codes.astype(np.intp)


def _order(times: NDArray[Any], units: Places | None) -> Places:
    """Return the rank of each row in time; rows of the same time, or of groups that end together, have the same."""
    found = pd.Series(times)
    if found.isna().any():
        raise DataError(f"{found.isna().sum()} rows have no time; leave those rows out, or the split by time")
    if units is None:
        return found.rank(method="dense").to_numpy().astype(np.intp) - 1
    latest = found.rank(method="dense").groupby(units).transform("max")
    return latest.rank(method="dense").to_numpy().astype(np.intp) - 1


def _share_later(times: NDArray[Any], order: Places) -> float:
    """Return the share of held-out rows that are later than all rows to fit on, where groups have this order."""
    share = 0.0
    if order.max() > 0:  # not all groups end at the same time
        found, held_out = _sides(_before(order, 1 - HELD_OUT))
        ranks = pd.Series(times).rank(method="dense").to_numpy()
        share = float(np.mean(ranks[held_out] > ranks[found].max()))
    if share < _LEAST_LATER:
        raise DataError(
            f"the groups overlap in time: of the rows of those that end last, only {share:.0%} are later than all "
            "others, so that no split by group is one by time; say --time alone, with which the column of groups may "
            "be a feature, or --group alone"
        )
    return share


def _before(order: Places, share: float) -> NDArray[np.bool_]:
    """Return which rows are among the first `share` of them, without the time that the end of it falls into."""
    ends = np.cumsum(np.bincount(order))
    n_before = max(int(np.searchsorted(ends, share * len(order), side="right")), 1)
    if len(ends) < 3:
        raise DataError(f"there are {len(ends)} different times; at least 3 are needed, or leave the time out")
    return order < min(n_before, len(ends) - 1)


def _forward(order: Places) -> list[tuple[Places, Places]]:
    """Return folds in time, each judged by the rows that follow those that it is fitted on."""
    _, order = np.unique(order, return_inverse=True)
    ends = np.cumsum(np.bincount(order))
    blocks = np.minimum((ends - 1) * (N_FOLDS + 1) // len(order), N_FOLDS)[order]
    used = np.unique(blocks)
    if len(used) < 2:
        raise DataError("nearly all rows have the same time; leave the time out")
    return [(np.flatnonzero(blocks < block), np.flatnonzero(blocks == block)) for block in used[1:]]


def _some_groups(units: Places, seed: int) -> NDArray[np.bool_]:
    """Return the rows of groups, chosen at random, that have a fifth of all rows as nearly as possible."""
    sizes = np.bincount(units)
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    sums = np.cumsum(sizes[shuffled])
    n_chosen = int(np.abs(sums[:-2] - HELD_OUT * len(units)).argmin()) + 1
    return np.isin(units, shuffled[:n_chosen])


def _by_group(y: NDArray[Any], units: Places, classes: bool, seed: int) -> Sequence[tuple[Places, Places]]:
    n_folds = min(N_FOLDS, len(np.unique(units)))
    if n_folds < 2:
        raise DataError("nearly all rows are of one group, so that no fold can be judged; leave the groups out")
    if classes and np.bincount(y).max() >= n_folds:
        splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    else:
        splitter = GroupKFold(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings(action="ignore"):  # a label with fewer rows than folds is named by the search
        return [(a, b) for a, b in splitter.split(y, y, units) if len(b)]


def _random(y: NDArray[Any], classes: bool, seed: int) -> Sequence[tuple[Places, Places]]:
    of_classes = classes and np.bincount(y).max() >= N_FOLDS
    repeated = RepeatedStratifiedKFold if of_classes else RepeatedKFold
    splitter = repeated(n_splits=N_FOLDS, n_repeats=_N_REPEATS if len(y) <= _FEW_ROWS else 1, random_state=seed)
    with warnings.catch_warnings(action="ignore"):  # of rare labels the verdicts tell by name
        return list(splitter.split(y, y))


def _check_targets(y: NDArray[Any], labels: Sequence[Category]) -> None:
    if not labels and not np.isfinite(y).all():
        raise DataError(f"{np.count_nonzero(~np.isfinite(y))} targets are no finite numbers; leave those rows out")
    if len(y) and len(np.unique(y)) < 2:
        raise DataError("the target has only one value, so there is nothing to learn")


def _known_labels(
    y: NDArray[Any], labels: tuple[Category, ...], rows: Rows
) -> tuple[NDArray[Any], tuple[Category, ...], Rows]:
    """Return positions among the labels that training rows have, and the rows without others, which are held out."""
    if not labels:
        return y, labels, rows
    known = np.unique(y[rows.training])
    if len(known) < 2:
        raise DataError("the rows to fit on have one label alone; part them in another way, or bring more rows")
    places = np.full(len(labels), -1)
    places[known] = np.arange(len(known))
    y = places[y]
    validation = rows.validation[y[rows.validation] >= 0]
    if not len(validation):
        raise DataError("no held-out row has a label of the rows to fit on; part them in another way")
    n_without = len(rows.validation) - len(validation)
    how = rows.how + (f"; {n_without} held-out rows have a label that no other row has" if n_without else "")
    return y, tuple(labels[place] for place in known), Rows(rows.training, validation, rows.searched, rows.folds, how)
