"""How a version does in use, as small lights with words: requests, drift and live error since the server started."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from app.protocols.describe import JSON
from app.telemetry.gauges import LiveErrors
from app.telemetry.metrics import Metrics, Usage
from model import Artifact

if TYPE_CHECKING:
    from model.live.judge import Distribution, Errors
    from model.live.prediction_log import LiveError

_MAX_NAMED = 3  # columns that a sentence names

# A light's verdict, as of `model.live.judge.Verdict`.
_ATTENTION, _FINE, _UNKNOWN = "attention", "fine", "unknown"


def state_of(model: Artifact, metrics: Metrics, live_errors: LiveErrors) -> list[JSON]:
    """Return a name, a verdict and a sentence for each light of a version, from the counts of all workers."""
    usage = metrics.usage(model)
    return [
        {"name": name, "verdict": verdict, "text": text}
        for name, (verdict, text) in (
            ("Requests", _requests(usage)),
            ("Drift", _drift(model, usage)),
            ("Live error", _live_error(model, live_errors)),
        )
    ]


def _requests(usage: Usage) -> tuple[str, str]:
    counted = usage.statistics
    if not counted.successes + counted.failures:
        return _UNKNOWN, "none since the server started"
    text = f"{counted.successes:,.0f} answered with {counted.rows:,.0f} row{'' if counted.rows == 1 else 's'}"
    return _FINE, text + (f", {counted.failures:,.0f} refused" if counted.failures else "")


def _drift(model: Artifact, usage: Usage) -> tuple[str, str]:
    from model.live.judge import MINIMUM_ROWS, Distribution  # here, since only pages and reports judge

    if usage.statistics.rows < MINIMUM_ROWS:
        return _UNKNOWN, f"not known before {MINIMUM_ROWS} rows"
    n_reference = model.manifest.metrics.training.rows
    columns = [
        *((name, model.reference.features[name], counts) for name, counts in usage.features.items()),
        ("the predictions", model.reference.prediction, usage.prediction),
    ]
    found = [Distribution(name, bins, counts, n_reference) for name, bins, counts in columns]
    drifting = sorted((each for each in found if each.exceeded), key=_strength, reverse=True)
    if not drifting:
        return _FINE, "none in any feature, or in the predictions"
    return _ATTENTION, f"in {_listed([each.name for each in drifting])}"


def _strength(column: Distribution) -> float:
    """Return how far a column drifted; columns that have no value any more are first."""
    return math.inf if math.isnan(column.ratio) else column.ratio


def _live_error(model: Artifact, live_errors: LiveErrors) -> tuple[str, str]:
    from model.live.judge import MINIMUM_TRUTHS

    version = model.name, model.version
    found = next((each for each in live_errors.latest if (each.model, each.version) == version), None)
    if found is None:
        return _UNKNOWN, "not known, no true values came"
    if found.rows < MINIMUM_TRUTHS:
        return _UNKNOWN, f"not known before {MINIMUM_TRUTHS} true values, {found.rows} came"
    if model.manifest.metrics.validation is None:
        return _UNKNOWN, "nothing to compare it with, no rows were held out"
    errors = _errors(model, found)
    place = "above" if errors.verdict == _ATTENTION else "within"
    figures = f"{errors.judged_name} {errors.judged:.3g} of {found.rows:,} true values"
    return str(errors.verdict), f"{figures}, {place} its limit of {errors.limit:.3g}"


def _errors(model: Artifact, found: LiveError) -> Errors:
    """Return the live error beside that of validation; metrics that the log does not have are NaN."""
    from model.live.judge import Errors

    score_class = model.manifest.task.score_class
    figures: dict[str, Any] = {each.name: found.figures.get(each.name, math.nan) for each in fields(score_class)}
    return Errors(score_class(**{**figures, "rows": found.rows}), model.manifest.metrics.validation, {})


def _listed(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
