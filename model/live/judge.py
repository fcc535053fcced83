"""Judge a deployed version from its prediction log: drift from training and live error, by the alerts' thresholds.

This looks at days, the alerts at hours. Knows the log's arrays, but not the database.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from model.live import drift
from model.metrics import AnyScores, ClassificationScores, Interval, Scores, classification_intervals, rmse_interval
from model.store.artifact import Artifact
from model.store.reference import AnyBins, Bins

if TYPE_CHECKING:  # importing SQLAlchemy takes 0.15 s and 14 MB
    from model.live.prediction_log import LoggedRows

# The same minimums as in the alerts. Fewer rows show only gross drift, and fewer truths no reliable live error.
MINIMUM_ROWS = 100
MINIMUM_TRUTHS = 30
# 10 % more than in validation, plus three standard deviations. Errors have heavy tails: with a kurtosis of 9 the
# standard deviation of an RMSE over n rows is RMSE * sqrt(2 / n), for the live RMSE and for that of validation.
LIVE_ERROR_MARGIN = 1.1
LIVE_ERROR_DEVIATIONS = 3
# The same for a log loss, whose standard deviation over the rows is known: the larger of the live one and that of
# validation, since a log loss is mostly of rare rows, and by chance there may be none of them. And 0.01 more, about
# which nobody would act. In simulations of six models, fewer than 1 in 1,000 checks failed by chance. With half of the
# labels wrong, 28 to 98 % of checks of 30 truths failed, and 95 % or more of 100.
LIVE_LOG_LOSS_MARGIN = 0.01

_HOUR = 3600
_PERIODS = {
    _HOUR: "hour",
    6 * _HOUR: "6 hours",
    24 * _HOUR: "day",
    7 * 24 * _HOUR: "week",
    30 * 24 * _HOUR: "30 days",
    365 * 24 * _HOUR: "365 days",
}
_MAX_PERIODS = 40  # as many as a page shows distinctly
_MONDAY = 4 * 24 * _HOUR  # the first Monday after 1970-01-01, from which weeks count


class Verdict(StrEnum):
    """The verdict on a figure."""

    ATTENTION = "attention"
    FINE = "fine"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Distribution:
    """One column's live values compared with training; `counts` is by `bins.labels`."""

    name: str
    bins: AnyBins
    counts: NDArray[np.intp]
    n_reference: int

    @property
    def rows(self) -> int:
        return int(self.counts.sum())

    @property
    def known(self) -> int:
        """Return the number of rows with a value."""
        return int(self.counts[:-1].sum())

    @property
    def missing(self) -> float:
        """Return the share of the rows that have no value."""
        return float(self.counts[-1] / self.rows) if self.rows else math.nan

    @property
    def missing_threshold(self) -> float:
        return drift.missing_threshold(self.rows, self.bins.missing) if self.rows else math.nan

    @property
    def outside(self) -> float:
        """Return the share of the values outside the training range, or of unseen categories."""
        return self.bins.outside(self.counts) / self.known if self.known else math.nan

    @property
    def psi(self) -> float:
        return drift.psi(self.counts, self.bins) if self.known else math.nan

    @property
    def psi_threshold(self) -> float:
        n_bins = int((self.bins.expected > 0).sum())
        return drift.psi_threshold(self.known, self.n_reference, n_bins) if self.known else math.nan

    @property
    def ks(self) -> float:
        """Return KS; NaN for categories, which have no order."""
        return drift.ks(self.counts, self.bins) if self.known and isinstance(self.bins, Bins) else math.nan

    @property
    def ks_threshold(self) -> float:
        is_ordered = isinstance(self.bins, Bins)
        return drift.ks_threshold(self.known, self.n_reference) if self.known and is_ordered else math.nan

    @property
    def exceeded(self) -> list[str]:
        """Return the statistics that exceed their thresholds, if there are enough rows."""
        found = []
        if self.known >= MINIMUM_ROWS:
            found += ["PSI"] if self.psi > self.psi_threshold else []
            found += ["KS"] if self.ks > self.ks_threshold else []
        if self.rows >= MINIMUM_ROWS:
            found += ["missing"] if self.missing > self.missing_threshold else []
        return found

    @property
    def ratio(self) -> float:
        """Return the larger of PSI and KS as multiples of their thresholds; NaN for too few rows."""
        if self.known < MINIMUM_ROWS:
            return math.nan
        psi, ks = self.psi / self.psi_threshold, self.ks / self.ks_threshold
        return psi if math.isnan(ks) else max(psi, ks)

    @property
    def verdict(self) -> Verdict:
        if self.exceeded:
            return Verdict.ATTENTION
        return Verdict.UNKNOWN if self.known < MINIMUM_ROWS else Verdict.FINE


@dataclass(frozen=True, slots=True)
class Errors:
    """The metrics of the rows with a truth, and those of validation, if there were rows for it.

    `intervals` has the 95 % confidence intervals of live metrics by their names; None where one is not defined.
    """

    live: AnyScores
    validation: AnyScores | None
    intervals: Mapping[str, Interval | None]

    @property
    def judged(self) -> float:
        """Return the live metric that is judged."""
        return judged_figure(self.live)

    @property
    def judged_name(self) -> str:
        return "RMSE" if isinstance(self.live, Scores) else "log loss"

    @property
    def limit(self) -> float:
        """Return the live metric above which the alert fires; infinite if there is nothing to compare it with."""
        if self.validation is None:
            return math.inf
        chance = math.sqrt(1 / self.live.rows + 1 / self.validation.rows)
        if isinstance(self.live, ClassificationScores) and isinstance(self.validation, ClassificationScores):
            deviation = max(self.live.log_loss_deviation, self.validation.log_loss_deviation) * chance
            usual = self.validation.log_loss * LIVE_ERROR_MARGIN + LIVE_LOG_LOSS_MARGIN
            return usual + LIVE_ERROR_DEVIATIONS * deviation
        assert isinstance(self.validation, Scores)  # of the same task
        return self.validation.rmse * (LIVE_ERROR_MARGIN + LIVE_ERROR_DEVIATIONS * math.sqrt(2) * chance)

    @property
    def verdict(self) -> Verdict:
        if self.live.rows < MINIMUM_TRUTHS or self.validation is None:
            return Verdict.UNKNOWN
        return Verdict.ATTENTION if self.judged > self.limit else Verdict.FINE


def judged_figure(scores: AnyScores) -> float:
    """Return the metric by which a version is judged: the RMSE of a regression, the log loss of a classification."""
    return scores.rmse if isinstance(scores, Scores) else scores.log_loss


@dataclass(frozen=True, slots=True)
class Judgement:
    """The judgement on a slice of the log.

    `features` is empty if no row logs them, and the server was not asked; `errors` is None for fewer than two truths.
    """

    n_truths: int
    features: Sequence[Distribution]
    prediction: Distribution
    errors: Errors | None


@dataclass(frozen=True, slots=True)
class Periods:
    """The time of the logged rows, divided into periods of equal length."""

    name: str  # of a period
    starts: NDArray[np.datetime64]
    slices: Sequence[slice]  # of the rows in each
    ratios: NDArray[np.float64]  # (n_features + 1, n_periods): drift in times its threshold


@dataclass(frozen=True, slots=True)
class Findings:
    """The judgement on a version, over the whole time and over its last days, which the rest could hide.

    `are_counted` says whether the features of the whole are those that a server counted since its start.
    """

    logged: LoggedRows
    whole: Judgement
    recent: Judgement | None
    periods: Periods
    are_counted: bool


def judge(
    model: Artifact,
    logged: LoggedRows,
    *,
    recent_since: datetime | None = None,
    counted: Mapping[str, NDArray[np.intp]] | None = None,
) -> Findings:
    """Return the judgement on a model by the log, which has at least one row; also on the rows since a time.

    Where no row has features, the whole is judged by what `counted` has for each, by `bins.labels`.
    """
    n_reference = model.manifest.metrics.training.rows
    with_features = logged.with_features

    def distributions(rows: slice) -> list[Distribution]:
        X = logged.X[rows][with_features[rows]]
        columns = zip(model.reference.features.items(), X.T) if with_features.any() else ()
        features = [Distribution(name, bins, bins.count(values), n_reference) for (name, bins), values in columns]
        prediction = model.reference.prediction
        counts = prediction.count(logged.predictions[rows])
        return [*features, Distribution("prediction", prediction, counts, n_reference)]

    def judgement(rows: slice) -> Judgement:
        *features, prediction = distributions(rows)
        y, answers = logged.with_truths(rows)
        errors = None
        if len(y) > 1:  # R² needs two
            live = model.manifest.task.scores(y, answers)
            errors = Errors(live, model.manifest.metrics.validation, intervals(y, answers))
        return Judgement(len(y), features, prediction, errors)

    recent = None
    if recent_since:
        first = int(np.searchsorted(logged.times, np.datetime64(recent_since.replace(tzinfo=None))))
        recent = judgement(slice(first, None)) if first < len(logged.times) else None
    name, starts, slices = _periods(logged.times)
    ratios = np.array([[column.ratio for column in distributions(rows)] for rows in slices], dtype=np.float64).T
    whole = judgement(slice(None))
    are_counted = counted is not None and not whole.features
    if counted is not None and are_counted:
        columns = model.reference.features.items()
        found = [Distribution(name, bins, counted[name], n_reference) for name, bins in columns]
        whole = replace(whole, features=found)
    return Findings(logged, whole, recent, Periods(name, starts, slices, ratios), are_counted)


def intervals(y: NDArray[np.float64], answers: NDArray[np.float64]) -> Mapping[str, Interval | None]:
    """Return 95 % confidence intervals of metrics by their names, for two rows or more, as `Errors` has them."""
    return {"rmse": rmse_interval(answers - y)} if answers.ndim == 1 else classification_intervals(y, answers)


def _periods(times: NDArray[np.datetime64]) -> tuple[str, NDArray[np.datetime64], list[slice]]:
    """Return the shortest periods (hours, days or weeks in UTC) that keep their number small."""
    seconds = times.astype("datetime64[s]").astype(np.int64) - _MONDAY
    span = seconds[-1] - seconds[0]
    width = next((width for width in _PERIODS if span <= width * (_MAX_PERIODS - 1)), max(_PERIODS))
    starts = np.arange(seconds[0] // width, seconds[-1] // width + 1) * width
    ends = np.searchsorted(seconds, starts + width).tolist()
    slices = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends)]
    return _PERIODS[width], (starts + _MONDAY).astype("datetime64[s]"), slices
