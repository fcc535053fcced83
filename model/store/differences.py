"""How two versions of a model differ: in what their manifests say, in their answers to the same rows, and in error."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import ModelError
from model.metrics import Interval, log_losses, normal_interval
from model.schema import dates
from model.schema.feature import DATE
from model.schema.features import Matrix, Schema
from model.store.artifact import Artifact
from model.task import CLASSIFICATION

_MAX_SHOWN = 60  # characters of a value
_SEEN = ("minimum", "maximum")  # what the table had of a column; the schema accepts more
_ENDS = (*_SEEN, "lowest", "highest")
_MAX_MEASURED = 2.0**53 - 1  # a limit so far from 0, up to which all whole numbers are float64, keeps nothing out


@dataclass(frozen=True, slots=True)
class Answers:
    """How many of `rows` two versions answer differently in any bit, and by how much.

    `largest` is the largest difference of two predictions, or of two probabilities of one label, and `median` the
    median over the rows that differ: golden rows at the limits of a schema may be far apart. `labels` is how many
    rows get another label, None for a regression.
    """

    rows: int
    differing: int
    largest: float
    median: float
    labels: int | None

    def __str__(self) -> str:
        if not self.differing:
            return f"none of {self.rows:,} answers changes"
        many = f"{self.differing:,} of {self.rows:,} answers change"
        if self.labels is None:
            return f"{many}, by {self.median:.6g} in the median and {self.largest:.6g} at most"
        return (
            f"{many}, {self.labels:,} of them to another label; probabilities by {self.median:.6g} in the median and "
            f"{self.largest:.6g} at most"
        )


@dataclass(frozen=True, slots=True)
class RowDifferences:
    """How two versions answer each row, `(n_rows,)`: differently in any bit, by how much, and with another label.

    A size is the difference of two predictions, or the largest difference of two probabilities of one label; it is 0
    for answers that differ in the sign of a zero only, and may be NaN or infinite. A regression has no labels.
    """

    differ: NDArray[np.bool_]
    sizes: NDArray[np.float64]
    relabelled: NDArray[np.bool_] | None


@dataclass(frozen=True, slots=True)
class Gain:
    """By how much the mean loss of an old version is above a new one's, over the same rows, with its 95 % interval.

    The loss is the squared error, or the log loss.
    """

    rows: int
    loss: str
    mean: float
    interval: Interval

    def __str__(self) -> str:
        sign = 1 if self.mean >= 0 else -1
        low, high = sorted(sign * end for end in self.interval)
        by = f"{abs(self.mean):.4g} (95 % interval {low:.4g} to {high:.4g})"
        return f"{self.loss} {'lower' if sign > 0 else 'higher'} by {by} on {self.rows:,} held-out rows"


def translated(X: Matrix, old: Schema, new: Schema) -> Matrix:
    """Return rows `(n_rows, n_features)` of one schema as the matrix of another one.

    Columns that the other does not have are left out. A category that the old one did not know counts as missing where
    the two know others. Raises `SchemaError` where a column is lacking or a cell is refused.
    """
    if old.features == new.features:
        return X
    same = [feature for feature in new.features if old.by_name.get(feature.name) == feature]
    others = tuple(feature for feature in new.features if feature not in same)
    columns = {
        name: [kind.cell(number) for number in column.tolist()] for name, kind, column in zip(old.names, old.cells, X.T)
    }
    matrix = np.empty((len(X), len(new.features)))
    for feature in same:
        matrix[:, new.names.index(feature.name)] = X[:, old.names.index(feature.name)]
    if others:
        schema = replace(new, features=others, ignore_unknown=False)
        found = schema.matrix_from_columns({name: columns[name] for name in schema.names if name in columns})
        matrix[:, [new.names.index(name) for name in schema.names]] = found
    return matrix


def answers(old: Artifact, of_old: Matrix, new: Artifact, of_new: Matrix) -> Answers:
    """Compare the answers of two versions to the same rows, for each as its matrix `(n_rows, n_features)`.

    Raises `ModelError` if their answers are of other kinds.
    """
    found = row_differences(old, old.predict(of_old), new, new.predict(of_new))
    labels = None if found.relabelled is None else int(found.relabelled.sum())
    sizes = found.sizes[found.differ]
    median = float(np.median(sizes)) if len(sizes) else 0.0
    return Answers(len(found.differ), len(sizes), float(sizes.max(initial=0.0)), median, labels)


def row_differences(
    old: Artifact, before: NDArray[np.float64], new: Artifact, after: NDArray[np.float64]
) -> RowDifferences:
    """Compare two versions' answers to the same rows, in the form of `Artifact.predict`.

    Raises `ModelError` if their answers are of other kinds.
    """
    before = _in_labels_of(old, before, new)
    differ = before.view(np.int64) != after.view(np.int64)
    with np.errstate(invalid="ignore", over="ignore"):
        sizes = np.abs(before - after)
    if before.ndim == 1:
        return RowDifferences(differ, sizes, None)
    relabelled = before[:, 0] != after[:, 0]
    return RowDifferences(differ.any(axis=1), sizes[:, 1:].max(axis=1, initial=0.0), relabelled)


def check_comparable(old: Artifact, new: Artifact) -> None:
    """Raise `ModelError` if the answers of two versions are of other kinds, or have other labels."""
    if old.manifest.task is not new.manifest.task or set(old.manifest.classes) != set(new.manifest.classes):
        raise ModelError(
            f"{old.name}@{old.version} and {new.name}@{new.version} give other kinds of answers, or other labels, so "
            "they cannot be compared"
        )


def gain(old: Artifact, new: Artifact, X: Matrix, y: NDArray[np.float64]) -> Gain:
    """Return how much better the new version is on rows `X` `(n_rows, n_features)` of its schema, `n_rows` at least 2.

    `y` `(n_rows,)` are the targets, positions of labels for a classifier. The old version answers the same rows, so
    that a difficult row is so for both. Raises `SchemaError` if it refuses one, and `ModelError` if their answers are
    of other kinds.
    """
    of_old = _in_labels_of(old, old.predict(translated(X, new.schema, old.schema)), new)
    of_new = new.predict(X)
    if new.manifest.task is CLASSIFICATION:
        loss, gains = "log loss", log_losses(y, of_old) - log_losses(y, of_new)
    else:
        loss, gains = "mean squared error", (of_old - y) ** 2 - (of_new - y) ** 2
    return Gain(len(X), loss, float(gains.mean()), normal_interval(gains))


def facts(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what two documents of manifests say differently, as (part, line): schema, data, model and metrics."""
    columns = [{each["name"]: _readable(each) for each in document.get("features", [])} for document in (old, new)]
    for name in dict.fromkeys([*columns[0], *columns[1]]):
        before, after = (each.get(name) for each in columns)
        if before is None or after is None:
            yield "schema", f"{'-' if after is None else '+'} {name}"
        else:
            yield from (("schema", f"{name}: {line}") for line in _changed(before, after, but=_SEEN))
            seen = [{key: each.get(key) for key in _SEEN} for each in (before, after)]
            yield from (("data", f"{name}: {line}") for line in _changed(seen[0], seen[1]))
    before, after = (_readable(document.get("target", {})) for document in (old, new))
    yield from (("schema", f"target: {line}") for line in _changed(before, after, but=_SEEN))
    for part in ("algorithm", "summary", "task"):
        yield from (("model", line) for line in _changed({part: old.get(part)}, {part: new.get(part)}))
    yield from (("model", line) for line in _changed(old.get("hyperparameters", {}), new.get("hyperparameters", {})))
    for key in ("source", "sha256", "rows"):
        before, after = (document.get("data", {}).get(key) for document in (old, new))
        yield from (("data", line) for line in _changed({key: before}, {key: after}))
    for part in ("training", "validation"):
        before, after = (document.get("metrics", {}).get(part) or {} for document in (old, new))
        yield from (("metrics", f"{part} {line}") for line in _changed(before, after))


def _readable(feature: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a manifest says of a feature, without limits that no value reaches, and with dates as dates."""
    found = {key: value for key, value in feature.items() if key not in _ENDS}
    is_date = feature.get("type") == DATE
    nearest, farthest = (dates.LOWEST, dates.HIGHEST) if is_date else (-_MAX_MEASURED, _MAX_MEASURED)
    for key in _ENDS:
        if nearest < (end := feature.get(key, math.inf)) < farthest:
            found[key] = dates.text_of(end) if is_date else end
    return found


def _changed(old: Mapping[str, Any], new: Mapping[str, Any], but: Sequence[str] = ()) -> Iterator[str]:
    for key in dict.fromkeys([*old, *new]):
        if key not in but and old.get(key) != new.get(key):
            yield f"{key} {_shown(old.get(key))} -> {_shown(new.get(key))}"


def _shown(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else "none" if value in (None, "") else str(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _in_labels_of(old: Artifact, found: NDArray[np.float64], new: Artifact) -> NDArray[np.float64]:
    """Return the old version's answers with the labels in the order of the new one's. Raises `ModelError`."""
    check_comparable(old, new)
    theirs, ours = old.manifest.classes, new.manifest.classes
    if not ours:
        return found
    places = np.array([ours.index(label) for label in theirs])
    return np.column_stack([places[found[:, 0].astype(np.intp)], found[:, 1:][:, np.argsort(places)]])
