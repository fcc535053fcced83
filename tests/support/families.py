"""A table with every type of column, and the comparison of a fitted model with its compiled trees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from model.engine.runtime import TreesEngine
from model.schema.feature import AS_OTHER, BOOLEAN, CATEGORY, ERROR, INTEGER, Feature
from model.schema.features import Matrix, Schema
from model.train import frames
from model.train.compile.compiled import answers
from model.train.compile.fitted import FittedTrees
from model.train.compile.fold import Ask, find_limits, fold
from model.train.compile.trees import rows_at_splits
from model.train.frames import MAX_WHOLE, Frames

_N_ROWS, _N_RANDOM, _N_SINGLE = 500, 500, 20


def table() -> pd.DataFrame:
    """Return numbers, whole numbers, float32, booleans and categories of strings and of numbers, some missing."""
    random = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "number": random.normal(size=_N_ROWS) * 10,
            "whole": random.integers(-5, 40, _N_ROWS),
            "yes": random.random(_N_ROWS) < 0.3,
            "single": random.normal(size=_N_ROWS).astype(np.float32),
            "letter": pd.Categorical(random.choice(list("abcdefghij"), _N_ROWS)),
            "size": pd.Categorical(random.choice([5, 1, 30, 22], _N_ROWS)),
        }
    )
    rows.loc[random.random(_N_ROWS) < 0.1, "number"] = np.nan
    rows.loc[random.random(_N_ROWS) < 0.1, "letter"] = None
    return rows


def target(rows: pd.DataFrame) -> NDArray[np.float64]:
    """Return a positive target that depends on every column."""
    random = np.random.default_rng(1)
    letter, size = rows["letter"].cat.codes, rows["size"].cat.codes
    effect = rows["number"].fillna(3) * 0.05 + rows["whole"] % 7 * 0.1 + letter % 4 * 0.3 + size * 0.2 + rows["yes"]
    return np.exp((effect + rows["single"] ** 2 * 0.3 + random.normal(size=len(rows)) * 0.1).to_numpy() / 3)


def classes(y: NDArray[np.float64], n_classes: int) -> NDArray[np.intp]:
    """Return the target in classes of the same size."""
    return np.digitize(y, np.quantile(y, np.linspace(0, 1, n_classes + 1)[1:-1]))


@dataclass(frozen=True, slots=True)
class Difference:
    """How the compiled trees differ from the library on rows of one kind."""

    kind: str
    n_rows: int
    n_values: int
    n_labels: int
    largest: float


def differences(family: ModuleType, fitted: Any, rows: Any) -> list[Difference]:
    """Return every difference of predictions, or of probabilities and labels, between a model and its compiled trees.

    Compares the rows of the table, random rows in and beyond its range, both sides of every split and the limits, many
    rows at once by ONNX Runtime and by bit vectors, and single rows.
    """
    steps, estimator = (fitted[:-1], fitted[-1]) if isinstance(fitted, Pipeline) else (None, fitted)
    read = frames.read(rows)
    X = read.matrix(rows)

    def ask(values: Matrix) -> Matrix:
        with np.errstate(all="ignore"):  # numbers beyond float32
            frame = read.frame(values)
            return np.asarray(family.columns(estimator, steps.transform(frame) if steps else frame))

    assert family.owns(estimator)
    trees = family.fitted_trees(estimator)

    def predict(values: Matrix) -> Matrix:
        with np.errstate(all="ignore"):
            return answers(fitted, tuple(trees.classes), read.frame(values)).reshape(len(values), -1)

    complete = X[~np.isnan(X).any(axis=1)]
    features = _features(read, predict, ask, X, complete)
    lowest, highest = find_limits(ask, features, complete, unchecked=ask, in_float32=trees.finite_in_float32)
    features = [
        feature if feature.type in (CATEGORY, BOOLEAN) else replace(feature, lowest=low, highest=high)
        for feature, low, high in zip(features, lowest, highest)
    ]
    compiled, _ = fold(trees, ask, features, complete)
    compiled.check([feature.cells.n_places for feature in features])
    decision = trees.decision if trees.classes else None
    engine = TreesEngine(compiled, len(features), trees.steps, decision)
    found = []
    for kind, values in _kinds(features, X, complete, np.vstack([lowest, highest])):
        if kind == "splits":
            values = rows_at_splits(compiled, values, Schema(tuple(features), Feature("y")))
        if not len(values):  # no tree has a split
            continue
        expected, found_here = predict(values), engine.predict(values).reshape(len(values), -1)
        alone = np.vstack([engine.predict(row[np.newaxis]).reshape(1, -1) for row in values[:_N_SINGLE]])
        n_labels = int((expected[:, 0] != found_here[:, 0]).sum()) if trees.classes else 0
        n_values = int((expected != found_here).sum() + (alone != found_here[:_N_SINGLE]).sum()) - n_labels
        if n_values or n_labels:
            largest = float(np.max(np.abs(expected - found_here) / np.maximum(np.abs(expected), 1e-300)))
            found.append(Difference(kind, len(values), n_values, n_labels, largest))
    return found


def same_trees(first: FittedTrees, second: FittedTrees) -> bool:
    """Return whether two models have the same trees, steps and classes."""
    pairs = [(getattr(first, field.name), getattr(second, field.name)) for field in fields(FittedTrees)]
    return all(np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other for one, other in pairs)


def _features(read: Frames, predict: Ask, ask: Ask, X: Matrix, complete: Matrix) -> list[Feature]:
    """Return the features, with missing values and unseen categories where the model predicts for them."""

    def accepts(number: int, value: float) -> bool:
        row = complete[:1].copy()
        row[0, number] = value
        try:
            ask(row)
            return bool(np.isfinite(predict(row)).all())
        except Exception:  # each library has its own
            return False

    features = []
    for number, column in enumerate(read.columns):
        feature = Feature(column.name, type=column.type, missing=accepts(number, np.nan), categories=column.categories)
        if column.type == CATEGORY:
            feature = replace(feature, unseen=AS_OTHER if accepts(number, len(column.categories)) else ERROR)
        elif column.type == INTEGER:
            feature = replace(feature, lowest=-MAX_WHOLE, highest=MAX_WHOLE)
        features.append(replace(feature, minimum=np.nanmin(X[:, number]), maximum=np.nanmax(X[:, number])))
    return features


def _kinds(features: list[Feature], X: Matrix, complete: Matrix, limits: Matrix) -> Iterator[tuple[str, Matrix]]:
    """Return rows of the table, random rows, rows to send to the splits, and the lowest and highest numbers."""
    random = np.random.default_rng(2)
    values = np.empty((_N_RANDOM, len(features)))
    ends = np.repeat(complete[:1], 2, axis=0)
    for number, feature in enumerate(features):
        if feature.type in (CATEGORY, BOOLEAN):
            values[:, number] = random.integers(0, feature.cells.n_places, _N_RANDOM)
        else:
            width = feature.maximum - feature.minimum
            values[:, number] = random.uniform(feature.minimum - width, feature.maximum + width, _N_RANDOM)
            ends[:, number] = limits[:, number]
        if feature.type == INTEGER:
            values[:, number] = values[:, number].round()
        if feature.missing:
            values[random.random(_N_RANDOM) < 0.1, number] = np.nan
    refused = [number for number, feature in enumerate(features) if not feature.missing]
    known = X[~np.isnan(X[:, refused]).any(axis=1)]
    yield "table", known
    yield "random", values
    yield "splits", np.vstack([known, values])
    yield "limits", ends
