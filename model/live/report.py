"""The report on a deployed model: drift and live errors in sentences, tables and figures, as one HTML file.

The file is self-contained: no network, no script.
"""

from __future__ import annotations

import base64
import json
import math
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from model.live import drift
from model.live.judge import (
    MINIMUM_ROWS,
    MINIMUM_TRUTHS,
    Distribution,
    Errors,
    Findings,
    Judgement,
    Verdict,
    judge,
    judged_figure,
)
from model.live.prediction_log import LoggedRows, PredictionLog
from model.metrics import confusion, log_losses, mean_interval, rmse_interval
from model.plots import live as plots
from model.plots import page
from model.plots.training import confusion as confusion_matrix
from model.plots.training import predicted_against_actual, reliability, residuals
from model.schema import dates
from model.schema.feature import DATE
from model.store import artifact
from model.store.artifact import Artifact

# Judged separately, since earlier days would hide a recent change. The default window of the service's live error.
RECENT_DAYS = 7

# The metrics of each task as the report calls them, the judged one first.
_METRICS = {
    "regression": {
        "rmse": "RMSE, root mean squared error",
        "mae": "MAE, mean absolute error",
        "bias": "bias, predicted less true",
        "r2": "R²",
    },
    "classification": {
        "log_loss": "log loss",
        "brier": "Brier score",
        "accuracy": "accuracy, share of right labels",
        "auc": "AUC, area under the ROC curve",
    },
}
_TEMPLATE = Path(__file__).parent / "templates" / "report.html"
_MAX_POINTS = 5_000  # in a scatter plot: more hide each other


def write(
    model: Artifact,
    log: PredictionLog,
    output: Path,
    *,
    days: int = 30,
    now: datetime | None = None,
    counted: Mapping[str, NDArray[np.intp]] | None = None,
) -> list[tuple[Verdict, str]]:
    """Write the report on the last `days` atomically to `output` and return its verdicts with their sentences.

    `counted` is what a server counted of each feature, for a log without features. Raises `PredictionLogError`.
    """
    now = now or datetime.now(UTC)
    since = now - timedelta(days=days)
    from_log = [kind.from_log for kind in model.schema.cells]
    logged = log.read(
        model.name,
        model.version,
        features=model.schema.names,
        since=since,
        from_log=from_log,
        n_classes=len(model.manifest.classes),
    )
    versions = log.rows_by_version(model.name, since=since)
    other_versions = {version: rows for version, rows in versions.items() if version != model.version}
    recent_since = now - timedelta(days=RECENT_DAYS) if days > RECENT_DAYS else None
    findings = judge(model, logged, recent_since=recent_since, counted=counted) if len(logged.times) else None
    sentences = list(_sentences(model, findings, other_versions, days))
    rendered = _render(model, findings, sentences, other_versions, since=since, now=now, days=days)
    incoming = output.with_name(f".{output.name}.{uuid.uuid4().hex}")
    try:
        artifact.write(incoming, rendered.encode())
        os.replace(incoming, output)
    finally:
        incoming.unlink(missing_ok=True)
    return sentences


def _sentences(
    model: Artifact, findings: Findings | None, other_versions: Mapping[int, int], days: int
) -> Iterator[tuple[Verdict, str]]:
    """Yield the findings as verdicts with a sentence each."""
    if findings is None:
        instead = f" Other versions were logged: {_versions(other_versions)}." if other_versions else ""
        yield (
            Verdict.UNKNOWN,
            f"Nothing was logged for {model.name} version {model.version} in the last {_days(days)}, so there is "
            f"nothing to judge.{instead}",
        )
        return
    whole, recent = findings.whole, findings.recent
    yield _features_sentence(whole, " since the server started" if findings.are_counted else "")
    yield _prediction_sentence(whole)
    yield _errors_sentence(whole)
    if recent:
        columns = zip([*whole.features, whole.prediction], [*recent.features, recent.prediction])
        new = [now for before, now in columns if now.exceeded and not before.exceeded]
        if new:
            yield Verdict.ATTENTION, f"Drift in the last {_days(RECENT_DAYS)} alone: {_reasons(new)}."
        if recent.errors and recent.errors.verdict is Verdict.ATTENTION:
            figures = _error_figures_text(recent.errors)
            yield (
                Verdict.ATTENTION,
                f"In the last {_days(RECENT_DAYS)} alone, the live error is further beyond validation than chance "
                f"explains: {figures}.",
            )


def _features_sentence(judged: Judgement, when: str) -> tuple[Verdict, str]:
    features = judged.features
    if not features:
        return (
            Verdict.UNKNOWN,
            "Drift of the features is unknown, because their values are not logged. A server with "
            "TABSERVE_PREDICTION_LOG_FEATURES=0.01 logs those of one request in 100, and with true those of all; it "
            "counts their drift either way, for which --url asks it.",
        )
    drifting = [column for column in features if column.exceeded]
    if drifting:
        count = f"{len(drifting)} of {len(features)} features"
        return Verdict.ATTENTION, f"{count} drifted away from training{when}: {_reasons(drifting)}."
    judged_features = [column for column in features if column.known >= MINIMUM_ROWS]
    if not judged_features:
        rows = max(column.known for column in features)
        return Verdict.UNKNOWN, f"Too few rows to judge the features by: {rows:,}, and {MINIMUM_ROWS} are needed."
    others = [column.name for column in features if column.known < MINIMUM_ROWS]
    unknown = f" Too few values to judge {', '.join(others)} by." if others else ""
    return (
        Verdict.FINE,
        f"None of the {len(judged_features)} features has drifted beyond what chance explains{when}.{unknown}",
    )


def _prediction_sentence(judged: Judgement) -> tuple[Verdict, str]:
    prediction = judged.prediction
    if prediction.exceeded:
        return Verdict.ATTENTION, f"Predictions are distributed differently than in training: {_reasons([prediction])}."
    if prediction.known < MINIMUM_ROWS:
        needed = f"{prediction.known:,}, and {MINIMUM_ROWS} are needed"
        return Verdict.UNKNOWN, f"Too few rows to judge the predictions by: {needed}."
    return Verdict.FINE, "The distribution of the predictions has not drifted beyond what chance explains."


def _errors_sentence(judged: Judgement) -> tuple[Verdict, str]:
    errors = judged.errors
    if not judged.n_truths:
        return (
            Verdict.UNKNOWN,
            "The live error is not known: no true value has been sent. Post them to /feedback with the request's id.",
        )
    if errors is None or errors.live.rows < MINIMUM_TRUTHS:
        truths = "1 true value" if judged.n_truths == 1 else f"{judged.n_truths} true values"
        return Verdict.UNKNOWN, f"Too few rows to judge the live error by: {truths}, and {MINIMUM_TRUTHS} are needed."
    if errors.validation is None:
        return (
            Verdict.UNKNOWN,
            f"The live error has nothing to be compared with, since no rows were held out: "
            f"{errors.judged_name} {_figure(errors.judged)} over {errors.live.rows:,} rows.",
        )
    figures = _error_figures_text(errors)
    if errors.verdict is Verdict.ATTENTION:
        return Verdict.ATTENTION, f"The live error is further beyond validation than chance explains: {figures}."
    return Verdict.FINE, f"The live error is within what validation and chance explain: {figures}."


def _error_figures_text(errors: Errors) -> str:
    live, validation = errors.live, errors.validation
    assert validation  # there is a verdict
    return (
        f"{errors.judged_name} {_figure(errors.judged)} over {live.rows:,} rows, "
        f"{_figure(judged_figure(validation))} over {validation.rows:,} in validation, limit {_figure(errors.limit)}"
    )


def _reasons(found: Sequence[Distribution]) -> str:
    reasons = []
    for column in found:
        figures = {
            "PSI": f"PSI {column.psi:.3f}, threshold {column.psi_threshold:.3f}",
            "KS": f"KS {column.ks:.3f}, threshold {column.ks_threshold:.3f}",
            "missing": f"missing in {column.missing:.1%}"
            + (f", in training {column.bins.missing:.1%}" if column.bins.missing else ""),
        }
        reasons.append(f"{column.name} ({'; '.join(figures[name] for name in column.exceeded)})")
    return ", ".join(reasons)


def _render(
    model: Artifact,
    findings: Findings | None,
    sentences: Sequence[tuple[Verdict, str]],
    other_versions: Mapping[int, int],
    *,
    since: datetime,
    now: datetime,
    days: int,
) -> str:
    filters = {"figure": _figure, "share": _share, "distance": _distance, "date": _date}
    return page.template(_TEMPLATE, filters).render(
        manifest=model.manifest,
        model=model,
        found=findings,
        sentences=sentences,
        other_versions=_versions(other_versions),
        since=since.replace(tzinfo=None),
        now=now.replace(tzinfo=None),
        days=_days(days),
        recent_days=_days(RECENT_DAYS),
        pictures=_pictures(model, findings) if findings else {},
        minimum_rows=MINIMUM_ROWS,
        false_alarm_odds=round(1 / drift.ALPHA),
        max_points=_MAX_POINTS,
        example_truth=json.dumps(model.manifest.classes[0], ensure_ascii=False) if model.manifest.classes else "24.0",
        metrics=_METRICS[model.manifest.task.name],
    )


def _pictures(model: Artifact, findings: Findings) -> dict[str, str]:
    """Return each figure as a data URI."""
    with matplotlib.rc_context({"text.parse_math": False}):  # a dollar sign in a name or unit is no TeX
        figures = dict(_figures(model, findings))
        return {
            name: f"data:image/svg+xml;base64,{base64.b64encode(plots.to_svg(figure)).decode()}"
            for name, figure in figures.items()
        }


def _figures(model: Artifact, findings: Findings) -> Iterator[tuple[str, Figure]]:
    logged, periods, whole = findings.logged, findings.periods, findings.whole
    columns = [*whole.features, whole.prediction]
    unit = model.schema.target.unit
    label = f"{model.schema.target.name} ({unit})" if unit else model.schema.target.name
    names = [column.name for column in columns]
    enough = [column for column in columns if column.known >= MINIMUM_ROWS]
    if enough:
        yield (
            "distances",
            plots.distances(
                [column.name for column in enough],
                psi=[column.psi for column in enough],
                psi_thresholds=[column.psi_threshold for column in enough],
                ks=[column.ks for column in enough],
                ks_thresholds=[column.ks_threshold for column in enough],
            ),
        )
    if (periods.ratios >= 0).any() and len(periods.starts) > 1:
        yield "drift_over_time", plots.drift_over_time(names, periods.starts, periods.ratios)
    if whole.features:
        marked = [column.name for column in whole.features if column.exceeded]
        yield (
            "features",
            plots.bins(
                {column.name: (column.bins, column.counts) for column in whole.features},
                marked=marked,
                written={feature.name: dates.shown for feature in model.schema.features if feature.type == DATE},
            ),
        )
    bins, counts = model.reference.prediction, whole.prediction.counts
    yield "prediction", plots.prediction_distribution(bins, counts, logged.predictions, label=label)
    if whole.errors:
        validation = whole.errors.validation
        truths = np.array([np.isfinite(logged.truths[rows]).sum() for rows in periods.slices])
        error, low, high = np.array([_live_error(model, logged, rows) for rows in periods.slices]).T
        yield (
            "errors",
            plots.error_over_time(
                periods.starts,
                np.array([rows.stop - rows.start for rows in periods.slices]),
                truths,
                error,
                np.array([low, high]),
                validation=judged_figure(validation) if validation else None,
                label=f"{whole.errors.judged_name} ({unit})" if unit else whole.errors.judged_name,
            ),
        )
        y, answers = logged.with_truths()
        if answers.ndim > 1:
            yield from _class_figures(model, y, answers, label=label)
        else:
            yield from _error_figures(y, answers, label=label)


def _error_figures(
    y: NDArray[np.float64], predicted: NDArray[np.float64], *, label: str
) -> Iterator[tuple[str, Figure]]:
    if len(y) > _MAX_POINTS:  # reproducibly for the same log
        shown = np.sort(np.random.default_rng(0).choice(len(y), _MAX_POINTS, replace=False))
        y, predicted = y[shown], predicted[shown]
    yield "predicted", predicted_against_actual(y, predicted, label=label)
    yield "residuals", residuals(y, predicted, label=label)


def _class_figures(
    model: Artifact, y: NDArray[np.float64], answers: NDArray[np.float64], *, label: str
) -> Iterator[tuple[str, Figure]]:
    names = model.manifest.class_names
    yield "confusion", confusion_matrix(*confusion(y, answers, names), label=label)
    yield "reliability", reliability(y, answers, label=f"{label} = {names[-1]}")


def _live_error(model: Artifact, logged: LoggedRows, rows: slice) -> tuple[float, float, float]:
    """Return the judged metric of the rows with a truth and its interval; NaN for fewer than two."""
    y, answers = logged.with_truths(rows)
    if len(y) < 2:
        return math.nan, math.nan, math.nan
    if answers.ndim > 1:
        losses = log_losses(y, answers)
        return float(losses.mean()), *mean_interval(losses)
    return float(np.sqrt(np.mean((answers - y) ** 2))), *rmse_interval(answers - y)


def _days(days: int) -> str:
    return "day" if days == 1 else f"{days} days"


def _versions(other_versions: Mapping[int, int]) -> str:
    return ", ".join(f"version {version} with {rows:,} rows" for version, rows in other_versions.items())


def _figure(value: float | None) -> str:
    """Return a number with four significant digits for a person; a dash for a metric that is not defined."""
    if value is None:
        return "–"
    if value == 0 or not 1e-3 <= abs(value) < 1e7:
        return f"{value:.4g}"
    return f"{value:,.{max(3 - math.floor(math.log10(abs(value))), 0)}f}"


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1%}"


def _distance(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _date(time: Any) -> str:
    """Return the date and the minute of a time in UTC."""
    return str(np.datetime64(time, "m")).replace("T", " ")
