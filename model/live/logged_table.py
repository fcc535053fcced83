"""The logged rows of a model that have true values, as a table with the target, to train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from model.errors import NotInStoreError, PredictionLogError
from model.live.prediction_log import PredictionLog
from model.schema.feature import CATEGORY
from model.store.artifact import Artifact
from model.store.versions import Store


@dataclass(frozen=True, slots=True)
class LoggedTable:
    """Columns of cells as clients send them, the target among them, oldest row first; None is a missing value.

    `rows` are how many are of each version, `left_out` why other logged rows are not among them, each reason with their
    number.
    """

    columns: Mapping[str, Sequence[Any]]
    rows: Mapping[int, int]
    left_out: Mapping[str, int]


def read(log: PredictionLog, store: Store, model: Artifact, *, since: datetime) -> LoggedTable:
    """Return the rows logged since a time, by every version whose features and target are those of `model`.

    A row without its features or a true value is left out, and so is one with a category that the version did not know,
    since the log does not have it. Raises `PredictionLogError` if no row is left.
    """
    schema, target = model.schema, model.schema.target
    cells: dict[str, list[Any]] = {name: [] for name in (*schema.names, target.name)}
    times, of_version, left_out = [], {}, dict.fromkeys(_REASONS, 0)
    for version, n_rows in log.rows_by_version(model.name, since=since).items():
        other = _version(store, model, version)
        if other is None:
            left_out[_OTHER] += n_rows
            continue
        classes = other.manifest.classes
        rows = log.read(
            model.name,
            version,
            features=other.schema.names,
            since=since,
            from_log=[kind.from_log for kind in other.schema.cells],
            n_classes=len(classes),
        )
        has_truth = np.isfinite(rows.truths) & ((rows.truths < len(classes)) if classes else True)
        unseen = np.zeros(len(rows.X), dtype=bool)
        for feature, column in zip(other.schema.features, rows.X.T):
            if feature.type == CATEGORY:
                unseen |= column == len(feature.categories)
        left_out[_NO_TRUTH] += int((~has_truth).sum())
        left_out[_NO_FEATURES] += int((has_truth & ~rows.with_features).sum())
        left_out[_UNSEEN] += int((has_truth & rows.with_features & unseen).sum())
        chosen = has_truth & rows.with_features & ~unseen
        for name, kind, column in zip(other.schema.names, other.schema.cells, rows.X[chosen].T):
            cells[name] += map(kind.cell, column.tolist())
        truths = rows.truths[chosen].tolist()
        cells[target.name] += [classes[int(truth)] for truth in truths] if classes else truths
        times.append(rows.times[chosen])
        if chosen.any():
            of_version[version] = int(chosen.sum())
    left_out = {reason: count for reason, count in left_out.items() if count}
    if not of_version:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in left_out.items()) or "no row of the model"
        raise PredictionLogError(
            f"the prediction log has no row of {model.name} to train on in this time: {reasons}. It needs the features "
            "(TABSERVE_PREDICTION_LOG_FEATURES=true) and true values (POST /feedback)"
        )
    order = np.argsort(np.concatenate(times), kind="stable").tolist()
    return LoggedTable(
        {name: [column[place] for place in order] for name, column in cells.items()}, of_version, left_out
    )


_OTHER = "rows are of versions that are gone or have other columns"
_NO_TRUTH = "rows have no true value"
_NO_FEATURES = "rows were logged without their features"
_UNSEEN = "rows have a category that the version did not know, which the log does not keep"
_REASONS = (_OTHER, _NO_TRUTH, _NO_FEATURES, _UNSEEN)


def _version(store: Store, model: Artifact, version: int) -> Artifact | None:
    """Return a version whose rows have the columns of `model`, and None for any other."""
    if version == model.version:
        return model
    try:
        other = store.load(f"{model.name}@{version}")
    except NotInStoreError:
        return None
    return other if _columns(other) == _columns(model) else None


def _columns(model: Artifact) -> Mapping[str, str]:
    return {each.name: each.type for each in (*model.schema.features, model.schema.target)}
