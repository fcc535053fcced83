"""How good a model is on the rows that were held out, by its compiled form: what is in the manifest and on the card.

The work is bounded by numbers of rows and columns, never by the clock, so that the same rows give the same figures.
All intervals are 95 % confidence intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from model import metrics
from model.engine.runtime import Predict
from model.metrics import AnyScores, Bin, Interval
from model.plots import style
from model.plots import training as plots
from model.schema.feature import BOOLEAN, CATEGORY, INTEGER, NUMBER, Feature, to_text
from model.schema.features import Matrix, Schema
from model.task import CLASSIFICATION
from model.train import baselines
from model.train.subject import Subject

SMALL_GROUP = 30  # rows below which a group says little

_MIN_ROWS = 2
_SEED = 0
_REPEATS = 5  # of shuffling a column
# Together about as many rows as the proof asks, so that an export takes little longer whatever a row costs.
_IMPORTANCE_ROWS = 200_000
_MAX_ROWS, _LEAST_ROWS = 5_000, 100  # of one column's shuffle
_MAX_COLUMNS = 1_000  # beyond which no importance is measured
_MAX_RANKED = 50  # columns in the manifest
_N_DEPENDENCES = 6
_DEPENDENCE_ROWS = 500
_N_POINTS = 20  # of a partial dependence
_MAX_GROUPED = 10  # columns
_MAX_GROUPS = 20  # of a column; the rarest are together
_N_QUANTILES = 5  # groups of a column of numbers, of 30 rows or more
_DIGITS = 6
_MAX_BARS = 30  # of a picture
_MISSING, _UNSEEN, _OTHERS = "(missing)", "(not in training)", "(all others)"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric and its interval; None for what is not defined for these rows."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Group:
    """The error on a group of rows; `worse` if its interval is above that of all rows, which a small one never is."""

    name: str
    rows: int
    value: float | None
    low: float | None
    high: float | None
    small: bool
    worse: bool


@dataclass(frozen=True, slots=True)
class Grouping:
    """The groups of one column."""

    column: str
    groups: Sequence[Group]


@dataclass(frozen=True, slots=True)
class Rise:
    """By how much the mean loss rises when a column is shuffled: its permutation importance, with its interval."""

    column: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Importance:
    """The columns by their permutation importance, the most important first, from so many rows and shuffles."""

    rows: int
    repeats: int
    columns: Sequence[Rise]


@dataclass(frozen=True, slots=True)
class Dependence:
    """The mean prediction over rows as a column is set to each value of `at`: its partial dependence."""

    column: str
    at: Sequence[float | str]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The error of a simpler model on the same rows, and by how much it is larger than the model's, with its interval.

    Both answer the same rows, so the interval of the difference is that of pairs.
    """

    name: str
    error: Estimate
    gain: Estimate


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What the held-out rows say of a model.

    `loss` names the metric of groups and baselines: the RMSE of a regression, the log loss of a classification. `about`
    is what a partial dependence is of: the prediction, or the probability of a class.
    """

    rows: int
    metrics: Mapping[str, Estimate]
    loss: str
    overall: Estimate
    groups: Sequence[Grouping]
    calibration: Sequence[Bin]
    importance: Importance | None
    about: str
    dependences: Sequence[Dependence]
    baselines: Sequence[Comparison]

    def facts(self) -> dict[str, Any]:
        """Return the evaluation for the manifest, rounded to six digits."""
        found: dict[str, Any] = _rounded(asdict(self))
        return found

    @property
    def worse(self) -> Iterator[tuple[str, Group]]:
        """Yield each group that is worse than all rows together, with the name of its column."""
        for grouping in self.groups:
            yield from ((grouping.column, group) for group in grouping.groups if group.worse)


def evaluate(subject: Subject, predict: Predict, schema: Schema, scores: AnyScores | None) -> Evaluation | None:
    """Return the evaluation on the held-out rows, whose metrics are `scores`; None for less than two of them."""
    if not subject.validation or not scores or scores.rows < _MIN_ROWS:
        return None
    X, y = subject.validation
    with np.errstate(all="ignore"):  # a shuffled row may be answered by a number whose square overflows
        answers = predict(X)
        losses = _losses(y, answers)
        ranked = importance(predict, X, y, schema.names)
        order = [schema.names.index(rise.column) for rise in ranked.columns] if ranked else range(len(schema.names))
        place, about = _about(subject, y)
        overall = _error(losses, answers)
        return Evaluation(
            rows=len(y),
            metrics=_metrics(scores, y, answers),
            loss="log_loss" if answers.ndim > 1 else "rmse",
            overall=overall,
            groups=list(_groupings(schema, X, answers, losses, order, overall)),
            calibration=metrics.calibration(y, answers),
            importance=ranked,
            about=about,
            dependences=list(_dependences(predict, X, schema, order, place)) if ranked else [],
            baselines=list(_comparisons(subject, schema, losses, overall)),
        )


def importance(predict: Predict, X: Matrix, y: NDArray[np.float64], names: Sequence[str]) -> Importance | None:
    """Return the permutation importance of each column: the rise of the mean squared error, or of the log loss.

    `predict` answers in the form of `Artifact.predict`. The interval is the mean and 1.96 standard errors over the
    rows, each of which counts with its mean over the shuffles. None for more than 1,000 columns.
    """
    n_columns = len(names)
    if n_columns > _MAX_COLUMNS:
        return None
    random = np.random.default_rng(_SEED)
    n_rows = min(len(y), max(_LEAST_ROWS, min(_MAX_ROWS, _IMPORTANCE_ROWS // (_REPEATS * n_columns))))
    drawn = _drawn(random, len(y), n_rows)
    X, y = X[drawn], y[drawn]
    before, truths = _losses(y, predict(X)), np.tile(y, _REPEATS)
    rises = []
    for column, name in enumerate(names):
        shuffled = np.tile(X, (_REPEATS, 1))
        shuffled[:, column] = np.concatenate([random.permutation(X[:, column]) for _ in range(_REPEATS)])
        after = _losses(truths, predict(shuffled)).reshape(_REPEATS, n_rows).mean(axis=0)
        rises.append(Rise(name, float((after - before).mean()), *metrics.normal_interval(after - before)))
    rises.sort(key=lambda rise: -rise.value)
    return Importance(n_rows, _REPEATS, rises[:_MAX_RANKED])


def figures(subject: Subject, predict: Predict, evaluation: Evaluation | None) -> dict[str, Figure]:
    """Return the pictures of how good a model is on the rows that were held out, or else on its own, by their names."""
    X, y = subject.validation or subject.training
    answers, target = predict(X), subject.target
    label = style.plain(f"{target.name} ({target.unit})" if target.unit else target.name)
    if subject.task is CLASSIFICATION:
        names, loss, error = list(map(style.plain, target.texts)), "log loss", "log loss"
        found = {
            "confusion": plots.confusion(*metrics.confusion(y, answers, names), label=label),
            "reliability": plots.reliability(y, answers, label=f"{label} = {names[-1]}"),
        }
    else:
        loss, error = "mean squared error", f"RMSE ({style.plain(target.unit)})" if target.unit else "RMSE"
        found = {
            "predicted_against_actual": plots.predicted_against_actual(y, answers, label=label),
            "residuals": plots.residuals(y, answers, label=label),
        }
        if evaluation and evaluation.calibration:
            found["calibration"] = plots.calibration(evaluation.calibration, label=label)
    if evaluation and evaluation.importance:
        found["importance"] = draw_importance(evaluation.importance, loss=loss)
    if evaluation and evaluation.dependences:
        curves = {each.column: (each.at, each.mean, each.low, each.high) for each in evaluation.dependences}
        found["partial_dependence"] = plots.partial_dependence(curves, label=style.plain(evaluation.about))
    if evaluation and (shown_groups := _shown(evaluation)):
        found["groups"] = plots.groups(
            [f"{column}: {group.name}, {group.rows:,} rows" for column, group in shown_groups],
            *_points([group for _, group in shown_groups]),
            marked=[group.worse for _, group in shown_groups],
            faint=[group.small for _, group in shown_groups],
            overall=_number(evaluation.overall.value),
            label=error,
        )
    return found


def draw_importance(importance: Importance, *, loss: str) -> Figure:
    """Draw the importance of the most important columns, for the words for their loss."""
    shown = importance.columns[:_MAX_BARS]
    names = [rise.column for rise in shown]
    return plots.importance(names, *_points(shown), label=f"rise of the {loss} when the column is shuffled")


def _shown(evaluation: Evaluation) -> list[tuple[str, Group]]:
    """Return groups for a picture, with the names of their columns: if there are many, those of the largest error."""
    found = [(grouping.column, group) for grouping in evaluation.groups for group in grouping.groups]
    if len(found) <= _MAX_BARS:
        return found
    large = [each for each in found if not each[1].small]
    return sorted(large, key=lambda each: -_number(each[1].value))[:_MAX_BARS]


def _points(estimates: Sequence[Group | Rise]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the values `(n,)`, and the ends of their intervals `(2, n)`; NaN for none."""
    ends = [[_number(each.low) for each in estimates], [_number(each.high) for each in estimates]]
    return np.array([_number(each.value) for each in estimates]), np.array(ends)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _losses(y: NDArray[np.float64], answers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what each row adds to the mean squared error, or to the log loss, `(n_rows,)`."""
    return metrics.log_losses(y, answers) if answers.ndim > 1 else (answers - y) ** 2


def _error(losses: NDArray[np.float64], answers: NDArray[np.float64]) -> Estimate:
    """Return the RMSE, or the log loss, of rows with these losses."""
    value = float(losses.mean())
    interval: Interval | tuple[None, None] = metrics.mean_interval(losses) if len(losses) > 1 else (None, None)
    ends = [value, *interval]
    return Estimate(*ends) if answers.ndim > 1 else Estimate(*(None if end is None else math.sqrt(end) for end in ends))


def _comparisons(
    subject: Subject, schema: Schema, losses: NDArray[np.float64], overall: Estimate
) -> Iterator[Comparison]:
    """Yield how each baseline compares with a model of these losses. Differences of RMSEs are by the delta method."""
    assert subject.validation
    for name, answers in baselines.answers(subject, schema).items():
        theirs = _losses(subject.validation[1], answers)
        error = _error(theirs, answers)
        gain = _number(error.value) - _number(overall.value)
        influences = theirs - losses
        if answers.ndim == 1:  # how much a row moves each RMSE, which is 0 where all errors are
            influences = theirs / (2 * (error.value or math.inf)) - losses / (2 * (overall.value or math.inf))
        low, high = metrics.normal_interval(influences)
        shift = gain - float(influences.mean())
        yield Comparison(name, error, Estimate(gain, low + shift, high + shift))


def _metrics(scores: AnyScores, y: NDArray[np.float64], answers: NDArray[np.float64]) -> dict[str, Estimate]:
    of = metrics.classification_intervals if answers.ndim > 1 else metrics.regression_intervals
    return {
        name: Estimate(getattr(scores, name), *(interval or (None, None))) for name, interval in of(y, answers).items()
    }


def _drawn(random: np.random.Generator, n_rows: int, most: int) -> NDArray[np.intp]:
    """Return the numbers of at most so many rows, drawn at random, in their order."""
    return np.sort(random.permutation(n_rows)[:most])


def _groupings(
    schema: Schema,
    X: Matrix,
    answers: NDArray[np.float64],
    losses: NDArray[np.float64],
    order: Sequence[int],
    overall: Estimate,
) -> Iterator[Grouping]:
    """Yield the groups of each category and boolean, and of the most important column of numbers."""
    kinds = [feature.type in (CATEGORY, BOOLEAN) for feature in schema.features]
    chosen = [column for column in order if kinds[column]][:_MAX_GROUPED]
    chosen += [column for column in order if not kinds[column]][:1]
    for column in chosen:
        feature = schema.features[column]
        places, names = (_by_value if kinds[column] else _by_quantile)(feature, X[:, column])
        groups = []
        for place, name in enumerate(names):
            own = losses[places == place]
            error, small = _error(own, answers), len(own) < SMALL_GROUP
            worse = not small and error.low is not None and overall.high is not None and error.low > overall.high
            groups.append(Group(name, len(own), error.value, error.low, error.high, small, worse))
        if len(groups) > 1:
            yield Grouping(feature.name, groups)


def _by_value(feature: Feature, values: NDArray[np.float64]) -> tuple[NDArray[np.intp], list[str]]:
    """Return the group of each row `(n_rows,)` and the names of the groups: the most frequent values, then the rest."""
    distinct, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    kept = order if len(order) <= _MAX_GROUPS else order[: _MAX_GROUPS - 1]
    of_value = np.full(len(distinct), len(kept))
    of_value[kept] = np.arange(len(kept))
    names = [_text(feature, number) for number in distinct[kept].tolist()]
    return of_value[places], names if len(kept) == len(order) else [*names, _OTHERS]


def _by_quantile(feature: Feature, values: NDArray[np.float64]) -> tuple[NDArray[np.intp], list[str]]:
    """Return the group of each row `(n_rows,)` and the names of the groups, of about equally many rows each."""
    missing = np.isnan(values)
    known = values[~missing]
    if not len(known):
        return np.zeros(len(values), dtype=np.intp), [_MISSING]
    n_groups = min(_N_QUANTILES, max(len(known) // SMALL_GROUP, 1))
    shares = np.arange(1, n_groups) / n_groups
    edges = np.unique(np.quantile(known, shares, method="inverted_cdf"))
    edges = edges[edges < known.max()]
    places = np.where(missing, len(edges) + 1, np.searchsorted(edges, values))
    ends = [_text(feature, edge) for edge in edges.tolist()]
    between = [f"above {low}, up to {high}" for low, high in pairwise(ends)]
    names = [f"up to {ends[0]}", *between, f"above {ends[-1]}"] if ends else ["(known)"]
    return places, [*names, _MISSING] if missing.any() else names


def _about(subject: Subject, y: NDArray[np.float64]) -> tuple[int | None, str]:
    """Return what a partial dependence is of: the prediction, or the second class of two, the most frequent of more."""
    if subject.task is not CLASSIFICATION:
        target = subject.target
        return None, f"{target.name} ({target.unit})" if target.unit else target.name
    names = subject.target.texts
    place = 1 if len(names) == 2 else int(np.bincount(y.astype(np.intp)).argmax())
    return 1 + place, f"probability of {names[place]}"


def _dependences(
    predict: Predict, X: Matrix, schema: Schema, order: Sequence[int], place: int | None
) -> Iterator[Dependence]:
    """Yield the partial dependence of the most important columns that have more than one value.

    The values are quantiles of the held-out rows, or the most frequent categories. The intervals are the mean and 1.96
    standard errors over the rows.
    """
    drawn = X[_drawn(np.random.default_rng(_SEED), len(X), _DEPENDENCE_ROWS)]
    left = _N_DEPENDENCES
    for column in order:
        feature = schema.features[column]
        is_number = feature.type in (NUMBER, INTEGER)
        grid = _grid(X[:, column], is_category=feature.type in (CATEGORY, BOOLEAN))
        if len(grid) < 2 or not left:
            continue
        left -= 1
        rows = np.tile(drawn, (len(grid), 1))
        rows[:, column] = np.repeat(grid, len(drawn))
        answers = predict(rows)
        found = (answers if place is None else answers[:, place]).reshape(len(grid), len(drawn))
        intervals = [metrics.normal_interval(values) for values in found]
        yield Dependence(
            column=feature.name,
            at=grid.tolist() if is_number else [_text(feature, number) for number in grid.tolist()],
            mean=found.mean(axis=1).tolist(),
            low=[low for low, _ in intervals],
            high=[high for _, high in intervals],
        )


def _grid(values: NDArray[np.float64], *, is_category: bool) -> NDArray[np.float64]:
    """Return the values of a partial dependence, all of them values of the rows, and none of them missing."""
    known = values[~np.isnan(values)]
    if not len(known):
        return known
    if is_category:
        distinct, counts = np.unique(known, return_counts=True)
        return np.sort(distinct[np.argsort(-counts, kind="stable")[:_N_POINTS]])
    return np.unique(np.quantile(known, np.linspace(0.025, 0.975, _N_POINTS), method="inverted_cdf"))


def _text(feature: Feature, number: float) -> str:
    """Return a value of a column for people."""
    if math.isnan(number):
        return _MISSING
    cell = feature.cells.cell(number)
    if cell is None:
        return _UNSEEN
    return f"{cell:.{_DIGITS}g}" if isinstance(cell, float) and feature.type == NUMBER else to_text(cell)


def _rounded(value: Any) -> Any:
    """Return facts with all floats rounded; None for one that is not finite, which JSON does not have."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, (list, tuple)) else value
