"""The losses of two versions on the same requests, from a table with the target or from the prediction log.

The unit is the request, since the rows of one are not independent: its loss is the mean over its rows. A request counts
when all of its rows have a true value. What it counts for then never changes, and rows whose truths come soon do not
stand for those whose truths come late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import ModelError, PredictionLogError
from model.live.prediction_log import Answers, PredictionLog
from model.live.verdict import Losses
from model.metrics import brier_losses, log_losses
from model.schema import dates
from model.schema.feature import Category, to_text
from model.schema.features import Matrix
from model.store.artifact import Artifact
from model.store.differences import translated

Floats = NDArray[np.float64]

# Versions that have had no request in common for so long are no longer compared on dashboards and by alerts.
RECENT = timedelta(days=1)
# A server reads so many every 10 s: that takes 50 ms, so that fewer than 1 % of the requests wait for it. A log of a
# million rows is read in an hour.
LIVE_ROWS = 3_000
MAX_SLICES = 20  # that a person can read; of more categories the rarest are one slice
_QUARTILES = 4
_LOGS_FEATURES = "TABSERVE_PREDICTION_LOG_FEATURES=true"
_MISSING, _UNSEEN, _OTHERS = "missing", "unseen", "others"
# The squares of differences of squared errors are within double, and so are their sums. No target has such errors.
_LARGEST_ERROR = 1e70


@dataclass(frozen=True, slots=True)
class Loss:
    """How wrong an answer is: `of` takes truths and answers as `Artifact.predict` has them, and returns `(n_rows,)`.

    `worst` is the loss of a truth that is not among a classifier's labels.
    """

    name: str
    of: Callable[[Floats, Floats], Floats]
    worst: Callable[[int], float] | None = None


LOSSES: Mapping[str, Loss] = {
    "squared": Loss("squared error", lambda y, answers: (answers - y) ** 2),
    "absolute": Loss("absolute error", lambda y, answers: np.abs(answers - y)),
    "log-loss": Loss("log loss", log_losses, lambda n_classes: float(-np.log(np.finfo(np.float64).eps))),
    "brier": Loss("Brier score", brier_losses, lambda n_classes: 2.0 if n_classes > 2 else 1.0),
}
FOR_REGRESSION, FOR_CLASSIFICATION = ("squared", "absolute"), ("log-loss", "brier")  # the usual one first


@dataclass(frozen=True, slots=True)
class Judged:
    """Rows with the losses of two versions, NaN where a truth or an answer is missing; all arrays are `(n_rows,)`.

    `requests` are numbers of the rows' requests, from 0. `cells` are those of the column by which there are slices.
    """

    requests: NDArray[np.intp]
    times: NDArray[np.datetime64]
    first: Floats
    second: Floats
    by_first: NDArray[np.bool_]  # whether the version answered
    by_second: NDArray[np.bool_]
    has_truth: NDArray[np.bool_]
    cells: NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class Evidence:
    """The losses of two versions, and how many requests there are that they may be known of.

    Of `n_requests`, `n_with_truths` have truths for all rows and count; `n_partly` have them for some rows only.
    """

    losses: Losses
    n_requests: int
    n_with_truths: int
    n_partly: int


@dataclass(frozen=True, slots=True)
class LiveComparison:
    """The losses of two versions of a model on the requests in the log that both answered, the older version first."""

    model: str
    first: int
    second: int
    losses: Losses


def of_table(first: Floats, second: Floats, cells: Sequence[Any] = ()) -> Judged:
    """Return rows of a table, each of which is a request, by the losses `(n_rows,)` of two versions."""
    n_rows = len(first)
    yes = np.ones(n_rows, dtype=bool)
    times = np.zeros(n_rows, "datetime64[us]")
    return Judged(np.arange(n_rows), times, first, second, yes, yes, yes, _objects(cells, n_rows))


def of_versions(first: Artifact, second: Artifact, X: Matrix, y: Floats) -> tuple[Judged, Loss]:
    """Return the rows `X` `(n_rows, n_features)` of the second version as both answer them, and the usual loss.

    `y` `(n_rows,)` are targets, of a classifier positions among the second version's labels. Raises `SchemaError` for
    rows that the first version refuses, and `ModelError` if one is a classifier and the other is not.
    """
    if first.manifest.task is not second.manifest.task:
        raise ModelError(f"one of {first.name}@{first.version} and @{second.version} is a classifier, the other is not")
    classes = second.manifest.classes
    loss = LOSSES[(FOR_CLASSIFICATION if classes else FOR_REGRESSION)[0]]
    of_first = first.predict(translated(X, second.schema, first.schema))
    losses = row_losses(loss, of_labels(y, classes, first.manifest.classes), of_first)
    return of_table(losses, row_losses(loss, y, second.predict(X))), loss


def of_labels(y: NDArray[np.float64], classes: Sequence[Category], others: Sequence[Category]) -> NDArray[np.float64]:
    """Return positions among labels as positions among other ones, -1 for none; targets of a regression as they are."""
    if not classes:
        return y
    places = {label: place for place, label in enumerate(others)}
    found = np.array([places.get(label, -1) for label in classes], dtype=np.float64)
    return found[y.astype(np.intp)]


def row_losses(loss: Loss, y: Floats, answers: Floats) -> Floats:
    """Return the loss of each row `(n_rows,)`, NaN where the truth or the answer is missing.

    `y` is -1 where the truth is a label that a classifier does not know.
    """
    is_class = answers.ndim > 1
    found = np.full(len(y), np.nan)
    values = answers[:, 0] if is_class else answers
    known = np.isfinite(y) & np.isfinite(values)
    known &= (y >= 0) & (y < answers.shape[1] - 1) if is_class else np.abs(values - y) < _LARGEST_ERROR
    found[known] = loss.of(y[known], answers[known])
    if is_class and loss.worst:
        found[(y == -1) & np.isfinite(values)] = loss.worst(answers.shape[1] - 1)
    return found


def of_log(
    log: PredictionLog,
    model: str,
    first: int,
    second: int,
    *,
    since: datetime,
    loss: Loss | None = None,
    feature: str | None = None,
) -> tuple[Judged, Loss]:
    """Return the logged rows that one of two versions answered, and the loss: the usual one of their task by default.

    Raises `PredictionLogError` if a version did not answer, if one is a classifier and the other is not, or if no row
    has the feature.
    """
    parts: list[Judged] = []
    n_requests, chosen = 0, loss
    for part in log.answers(model, since=since, feature=feature):
        chosen = chosen or _usual(part, first, second)
        if chosen and (judged := _judged(part, first, second, chosen, n_requests)):
            parts.append(judged)
        n_requests += int(part.requests[-1]) + 1
    answered = [any(getattr(part, which).any() for part in parts) for which in ("by_first", "by_second")]
    if not chosen or not all(answered):
        absent = [number for number, found in zip((first, second), answered) if not found]
        present = " and ".join(map(str, log.versions(model, since=since)))
        raise PredictionLogError(
            f"the prediction log has no answer of {model} version {' or '.join(map(str, absent))} in this time, "
            f"{f'but of version {present}' if present else 'nor of any other version'}; serve it beside the other "
            "one, or name a table with the target by --data"
        )
    columns = {field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Judged)}
    if feature and all(cell is None for cell in columns["cells"]):
        names = ", ".join(log.feature_names(model, since=since))
        raise PredictionLogError(
            f"the prediction log has no value of {feature!r} for these requests, but of "
            f"{f'{names}; name one of those' if names else f'no feature: let the server log them: {_LOGS_FEATURES}'}"
        )
    return Judged(**columns), chosen


def live(
    log: PredictionLog, models: Iterable[str], *, since: datetime, now: datetime | None = None
) -> Iterator[Sequence[LiveComparison] | None]:
    """Yield None after each part of the log, and at last each two versions that answered the same requests.

    A part is about `LIVE_ROWS`. Versions without a request in common in the last day are left out.
    """
    recent = np.datetime64((now or datetime.now(UTC)).astimezone(UTC).replace(tzinfo=None) - RECENT)
    found: dict[tuple[str, int, int], Losses] = {}
    are_recent = set()
    for model in models:
        for part in log.answers(model, since=since, rows_at_once=LIVE_ROWS):
            for first, second in combinations(sorted(part.answers), 2):
                loss = _usual(part, first, second)
                judged = _judged(part, first, second, loss, 0) if loss else None
                if judged and is_paired(judged):
                    key, losses = (model, first, second), evidence(judged, is_paired=True).losses
                    found[key] = found[key] + losses if key in found else losses
                    if judged.times[judged.by_first & judged.by_second].max() >= recent:
                        are_recent.add(key)
            yield None
    yield [LiveComparison(*key, found[key]) for key in sorted(are_recent)]


def is_paired(judged: Judged) -> bool:
    """Return whether any row has the answers of both versions."""
    return bool((judged.by_first & judged.by_second).any())


def evidence(judged: Judged, *, is_paired: bool, rows: NDArray[np.bool_] | None = None) -> Evidence:
    """Return the losses of requests that both versions answered, or of those that one of them did.

    In the second case, only the time counts in which both did, since a version that came later had other requests.
    With `rows`, a request counts by those of its rows alone.
    """
    chosen = np.ones(len(judged.requests), dtype=bool) if rows is None else rows
    n = _count(judged, chosen | True)
    is_chosen = _count(judged, chosen) > 0
    some = _count(judged, judged.has_truth) > 0
    if is_paired:
        answered = (_count(judged, judged.by_first & judged.by_second) == n) & is_chosen & (n > 0)
        complete = answered & (_count(judged, np.isfinite(judged.first) & np.isfinite(judged.second)) == n)
        losses = Losses.paired(*(_means(judged, values, chosen)[complete] for values in (judged.first, judged.second)))
        return _evidence(losses, answered, complete, some)
    in_time = _count(judged, _together(judged)) == n
    found = []
    for values, own, other in (
        (judged.first, judged.by_first, judged.by_second),
        (judged.second, judged.by_second, judged.by_first),
    ):
        answered = (_count(judged, own & ~other) == n) & is_chosen & in_time & (n > 0)
        complete = answered & (_count(judged, np.isfinite(values)) == n)
        found.append((_means(judged, values, chosen)[complete], answered, complete))
    (first, *of_first), (second, *of_second) = found
    answered, complete = (one | two for one, two in zip(of_first, of_second))
    return _evidence(Losses.unpaired(first, second), answered, complete, some)


def slices(judged: Judged) -> dict[str, NDArray[np.bool_]]:
    """Return the rows of each slice of the cells: categories, or quartiles of many different numbers or dates."""
    cells = judged.cells
    labels = np.array([_label(cell) for cell in cells], dtype=object)
    has_value = ~np.isin(labels.astype(str), [_MISSING, _UNSEEN])
    order = _by_frequency(labels)
    ordered = _as_numbers(cells[has_value].tolist())
    if ordered and len(np.unique(ordered[0])) > MAX_SLICES:
        numbers, shown = ordered
        edges = np.unique(np.quantile(numbers, np.arange(1, _QUARTILES) / _QUARTILES, method="higher"))
        texts = [shown(edge) for edge in edges.tolist()]
        names = [f"below {texts[0]}", *(f"{low} to {high}" for low, high in pairwise(texts)), f"{texts[-1]} and more"]
        labels[has_value] = np.array(names, dtype=object)[np.searchsorted(edges, numbers, side="right")]
        order = [*dict.fromkeys(names), *(name for name in (_MISSING, _UNSEEN) if name in order)]
    elif len(order) > MAX_SLICES:
        kept = order[: MAX_SLICES - 1]
        labels[~np.isin(labels.astype(str), kept)] = _OTHERS
        order = [*kept, _OTHERS]
    return {name: labels == name for name in order}


def _by_frequency(labels: NDArray[np.object_]) -> list[str]:
    """Return the different labels, the most frequent first."""
    found, counts = np.unique(labels.astype(str), return_counts=True)
    order: list[str] = found[np.argsort(-counts, kind="stable")].tolist()
    return order


def _as_numbers(cells: Sequence[Any]) -> tuple[Floats, Callable[[float], str]] | None:
    """Return cells that are all numbers or all dates as numbers, and how one of these is written; else None."""
    if all(type(cell) in (int, float) for cell in cells):
        return np.array(cells, dtype=np.float64), "{:.4g}".format
    seconds = [dates.parse(cell) if type(cell) is str else None for cell in cells]
    if None in seconds:
        return None
    return np.array(seconds, dtype=np.float64), lambda second: dates.text_of(second)[:10]


def _usual(part: Answers, first: int, second: int) -> Loss | None:
    """Return the usual loss of two versions, or None if neither of them answered."""
    if first not in part.answers and second not in part.answers:
        return None
    kind = part.answers[first if first in part.answers else second].ndim
    return LOSSES[(FOR_CLASSIFICATION if kind == 2 else FOR_REGRESSION)[0]]


def _judged(part: Answers, first: int, second: int, loss: Loss, offset: int) -> Judged | None:
    """Return the rows of requests that one of two versions answered, with numbers of requests from `offset` on."""
    answers = {version: part.answers.get(version) for version in (first, second)}
    if all(found is None for found in answers.values()):
        return None
    for version, found in answers.items():
        if found is not None and (found.ndim > 1) is not (loss.worst is not None):
            kind = "a classifier" if found.ndim > 1 else "a regression"
            raise PredictionLogError(f"version {version} is {kind}, which has no {loss.name}; choose another --loss")
    nowhere = np.zeros(len(part.requests), dtype=bool)
    answered = {
        version: nowhere if found is None else np.isfinite(found[:, 0] if found.ndim > 1 else found)
        for version, found in answers.items()
    }
    losses = {
        version: np.full(len(part.requests), np.nan)
        if found is None
        else row_losses(loss, _truths(part, version), found)
        for version, found in answers.items()
    }
    kept = np.isin(part.requests, part.requests[answered[first] | answered[second]])
    return Judged(
        part.requests[kept] + offset,
        part.times[kept],
        losses[first][kept],
        losses[second][kept],
        answered[first][kept],
        answered[second][kept],
        np.isfinite(part.truths)[kept],
        _objects(part.cells, len(part.requests))[kept],
    )


def _truths(part: Answers, version: int) -> Floats:
    """Return the truths as a version has them: the places of labels among its own, -1 for one that it does not know."""
    own = part.labels.get(version)
    if own is None:
        return part.truths
    places = {label: place for place, label in enumerate(own)}
    found = np.full(len(part.truths), np.nan)
    for replied in np.unique(part.replied).tolist():
        labels: Sequence[Category] = part.labels.get(replied, ())
        there = np.array([places.get(label, -1) for label in labels], dtype=np.float64)
        rows = (part.replied == replied) & (part.truths < len(labels))
        found[rows] = there[part.truths[rows].astype(np.intp)]
    return found


def _count(judged: Judged, rows: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return how many of these rows each request has."""
    return np.bincount(judged.requests[rows], minlength=int(judged.requests.max(initial=-1)) + 1)


def _means(judged: Judged, losses: Floats, rows: NDArray[np.bool_]) -> Floats:
    """Return the mean loss of these rows of each request; NaN for none."""
    requests = judged.requests[rows]
    with np.errstate(invalid="ignore"):
        sums = np.bincount(requests, weights=losses[rows], minlength=int(judged.requests.max(initial=-1)) + 1)
        means: Floats = sums / _count(judged, rows)
    return means


def _together(judged: Judged) -> NDArray[np.bool_]:
    """Return which rows are of the time in which both versions answered."""
    spans = [judged.times[own] for own in (judged.by_first, judged.by_second)]
    if not all(map(len, spans)):
        return np.zeros(len(judged.times), dtype=bool)
    inside: NDArray[np.bool_] = (judged.times >= max(times.min() for times in spans)) & (
        judged.times <= min(times.max() for times in spans)
    )
    return inside


def _evidence(
    losses: Losses, answered: NDArray[np.bool_], complete: NDArray[np.bool_], some: NDArray[np.bool_]
) -> Evidence:
    n_partly = int((answered & some & ~complete).sum())
    return Evidence(losses, int(answered.sum()), int(complete.sum()), n_partly)


def _objects(cells: Sequence[Any], n_rows: int) -> NDArray[np.object_]:
    """Return cells as an array of objects `(n_rows,)`, of None if there are none."""
    found = np.full(n_rows, None, dtype=object)
    if len(cells):
        found[:] = cells
    return found


def _label(cell: Any) -> str:
    if cell is None or cell != cell:
        return _MISSING
    if isinstance(cell, dict):
        return _UNSEEN
    return to_text(int(cell) if type(cell) is float and cell.is_integer() else cell)  # JSON has 4 and 4.0
