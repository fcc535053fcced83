"""Compile a fitted model: ask it what it accepts, and fold the steps in front of its trees into their splits."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from model.engine.runtime import Predict
from model.engine.steps import Step
from model.engine.trees import Trees
from model.errors import ExportError
from model.schema.feature import AS_MISSING, AS_OTHER, BOOLEAN, CATEGORY, ERROR, INTEGER, Category, Feature
from model.schema.features import Matrix
from model.train.compile import catboost, lightgbm, members, scikit_learn, xgboost
from model.train.compile.fold import find_limits, fold
from model.train.frames import MAX_WHOLE, Frames
from model.train.labels import labels_of, positions

FAMILIES = (scikit_learn, xgboost, lightgbm, catboost, members)
"""The libraries whose trees are known: modules with `owns`, `fitted_trees`, `columns`, `NAMES` and `PACKAGES`."""

_SAMPLE = 200  # rows that tell an unseen category from a missing one
_HYPERPARAMETERS = (bool, int, float, str)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A fitted model in the form that is served, and what it accepts.

    `predict` is the fitted model itself, for a matrix `(n_rows, n_features)`, with answers as of `Artifact.predict`.
    `steps` are done to the sums of `trees`. A classifier has a `decision` on its label, a regression has None.
    """

    algorithm: str
    summary: str
    features: tuple[Feature, ...]
    predict: Predict
    trees: Trees
    steps: Sequence[Step]
    decision: str | None
    hyperparameters: dict[str, Any]
    packages: tuple[str, ...]


def compile_model(fitted: Any, frames: Frames, X: Matrix) -> Compiled:
    """Return a fitted estimator, or a pipeline that ends in one, as trees on raw features.

    `X` `(n_rows, n_features)` are the rows that it was fitted on, as `frames` reads them. Raises `ExportError` for what
    cannot be compiled exactly.
    """
    try:
        check_is_fitted(fitted)
    except (NotFittedError, TypeError) as error:
        raise ExportError(f"the model cannot be exported: {error}") from None
    labels = labels_of(fitted)
    steps, estimator = _parts(fitted)
    family = next((family for family in FAMILIES if family.owns(estimator)), None)
    if family is None:
        raise ExportError(
            f"{type(estimator).__name__} cannot be compiled exactly; choose one of "
            f"{', '.join(supported(classifiers=bool(labels)))}"
        )

    def predict(rows: Matrix) -> NDArray[np.float64]:
        if len(rows) == 1:  # scikit-learn adds the powers of a single row's softmax in another order
            return predict(np.repeat(rows, 2, axis=0))[:1]
        with in_one_job(fitted):
            return answers(fitted, labels, frames.frame(rows))

    def ask(rows: Matrix, frames: Frames = frames) -> Matrix:
        with in_one_job(fitted):
            table = frames.frame(rows)
            columns: Matrix = family.columns(estimator, steps.transform(table) if steps else table)
            return columns

    trees = family.fitted_trees(estimator)
    if not labels and family is not members and (trees.output.max() > 0 or trees.leaves.shape[1] > 1):
        raise ExportError(
            f"{type(estimator).__name__} predicts several numbers a row; fit and export one model for each"
        )
    n_trees = len(trees.roots) - trees.n_constants
    X = np.vstack([_complete_row(X), X])
    features = _features(frames, predict, ask, X)
    lowest, highest = find_limits(ask, features, X, in_float32=trees.finite_in_float32)
    features = tuple(
        feature if feature.type in (CATEGORY, BOOLEAN) else replace(feature, lowest=float(low), highest=float(high))
        for feature, low, high in zip(features, lowest, highest)
    )
    try:
        folded = fold(trees, ask, features, X)
        folded.check([feature.cells.n_places for feature in features])
    except ExportError:
        raise
    except ValueError as error:
        raise ExportError(
            f"the trees cannot be compiled: {error}. If the steps refuse numbers between others, make that column a "
            "category; if the trees are too large, fit fewer of them, or smaller ones by max_leaf_nodes"
        ) from None
    return Compiled(
        algorithm=_name(fitted),
        summary=f"{n_trees:,} tree{'' if n_trees == 1 else 's'}",
        features=features,
        predict=predict,
        trees=folded,
        steps=trees.steps,
        decision=trees.decision if labels else None,
        hyperparameters={
            name: value
            for name, value in estimator.get_params(deep=False).items()
            if isinstance(value, _HYPERPARAMETERS)
            and value not in (math.inf, -math.inf, "deprecated")
            and value == value
        },
        packages=(*family.PACKAGES, *(members.packages(estimator) if family is members else ())),
    )


def answers(fitted: Any, labels: Sequence[Category], table: Any) -> NDArray[np.float64]:
    """Return what a fitted model answers for a table, in the form of `Artifact.predict`; `labels` are a classifier's.

    Raises `ExportError` for one that gives no probabilities, or several labels a row.
    """
    with in_one_job(fitted):
        predictions = np.asarray(fitted.predict(table))
        if not labels:
            numbers: NDArray[np.float64] = predictions.astype(np.float64).ravel()
            return numbers
        if not hasattr(fitted, "predict_proba"):
            known = ", ".join(supported(classifiers=True))
            raise ExportError(f"{type(fitted).__name__} gives no probabilities; choose one of {known}")
        if predictions.size != len(predictions):
            raise ExportError(f"{type(fitted).__name__} gives several labels a row; fit and export one model for each")
        probabilities = np.asarray(fitted.predict_proba(table), dtype=np.float64)
    return np.column_stack([positions(predictions, labels), probabilities])


def fitted_names(fitted: Any) -> list[str]:
    """Return the names of the columns that a model was fitted on, as its library calls them, or made them up."""
    for attribute in ("feature_names_in_", "feature_names_", "feature_name_"):
        names = getattr(fitted, attribute, None)
        if names is not None:
            return [str(name) for name in names]
    return [f"x{number}" for number in range(getattr(fitted, "n_features_in_", 0))]


def is_named(fitted: Any) -> bool:
    """Return whether scikit-learn fitted the model on named columns, which it may then predict without their names."""
    return getattr(fitted, "feature_names_in_", None) is not None


def supported(*, classifiers: bool) -> list[str]:
    """Return the names of the classifiers, or of all other estimators, that can be compiled, of all libraries."""
    names = (name for family in FAMILIES for name in family.NAMES)
    return [name for name in names if name.endswith("Classifier") is classifiers]


def _parts(fitted: Any) -> tuple[Pipeline | None, Any]:
    """Return the steps in front of the last estimator, if there are any, and that estimator."""
    steps = []
    while isinstance(fitted, Pipeline):
        steps += fitted.steps[:-1]
        fitted = fitted.steps[-1][1]
    if fitted is None or isinstance(fitted, str):
        raise ExportError("the pipeline ends without an estimator; export one that predicts")
    steps = [(f"{number}", step) for number, (_, step) in enumerate(steps)]
    return (Pipeline(steps) if steps else None), fitted


def _features(frames: Frames, predict: Predict, ask: Callable[[Matrix], Matrix], X: Matrix) -> tuple[Feature, ...]:
    """Return the features as the model itself takes them: whether it accepts missing values and unseen categories."""
    features = []
    for number, column in enumerate(frames.columns):
        missing = _accepts(predict, X, number, np.nan)
        feature = Feature(column.name, type=column.type, missing=missing, categories=column.categories)
        if column.type == CATEGORY:
            feature = replace(feature, unseen=_unseen(predict, ask, X, number, feature, frames))
        if column.type == INTEGER:
            feature = replace(feature, lowest=-MAX_WHOLE, highest=MAX_WHOLE)
        features.append(feature)
    return tuple(features)


def _unseen(
    predict: Predict, ask: Callable[..., Matrix], X: Matrix, number: int, feature: Feature, frames: Frames
) -> str:
    """Return what the model does with an unseen category; an error, too, if that depends on which it is."""
    code = float(len(feature.categories))
    if not _accepts(predict, X, number, code):
        return ERROR
    unseen = X[:_SAMPLE].copy()
    unseen[:, number] = code
    answers: list[Matrix] = []
    for other in frames.columns[number].other_categories:
        column = replace(frames.columns[number], unseen=other)
        columns = (*frames.columns[:number], column, *frames.columns[number + 1 :])
        try:
            answers.append(ask(unseen[:1] if answers else unseen, replace(frames, columns=columns)))
        except Exception:  # every library has classes of its own
            return ERROR
        if not np.array_equal(answers[-1], answers[0][: len(answers[-1])], equal_nan=True):
            return ERROR
    if feature.missing:
        missing = unseen.copy()
        missing[:, number] = np.nan
        if np.array_equal(answers[0], ask(missing), equal_nan=True):
            return AS_MISSING
    return AS_OTHER


def _accepts(predict: Predict, X: Matrix, number: int, value: float) -> bool:
    """Return whether the model gives an answer for a row with this value of a feature."""
    row = X[:1].copy()
    row[0, number] = value
    try:
        return bool(np.isfinite(predict(row)).all())
    except Exception:  # each library has errors of its own
        return False


def _complete_row(X: Matrix) -> Matrix:
    """Return the row of `X` with the fewest missing values, `(1, n_features)`, these filled in from other rows."""
    row: Matrix = X[np.isnan(X).sum(axis=1).argmin()].copy()
    for number in np.flatnonzero(np.isnan(row)):
        known = X[~np.isnan(X[:, number]), number]
        row[number] = known[0] if len(known) else 0.0
    return row.reshape(1, -1)


def _name(fitted: Any) -> str:
    """Return the names of a model's steps, such as StandardScaler + GradientBoostingRegressor."""
    if isinstance(fitted, Pipeline):
        parts = [_name(step) for _, step in fitted.steps if step is not None and step != "passthrough"]
        return " + ".join(parts)
    if hasattr(fitted, "transformers_"):
        parts = [_name(step) for _, step, _ in fitted.transformers_ if not isinstance(step, str)]
        return f"{type(fitted).__name__}({', '.join(parts)})"
    parts = list(dict.fromkeys(map(_name, members.inside(fitted))))
    return f"{type(fitted).__name__}({', '.join(parts)})" if parts else type(fitted).__name__


@contextmanager
def in_one_job(fitted: Any) -> Iterator[None]:
    """Let every part of a model work in one job, without warnings.

    With several jobs, forests add their trees in any order. Libraries warn of rows that are far from the training rows.
    """
    several = [(each, _jobs(each)) for each in (fitted, *members.inside(fitted))]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for each, jobs in several:
            if jobs:
                each.set_params(**dict.fromkeys(jobs, 1))
        try:
            yield
        finally:
            for each, jobs in several:
                if jobs:
                    each.set_params(**jobs)


def _jobs(fitted: Any) -> dict[str, Any]:
    """Return the parameters by which parts of a model work in several jobs."""
    parameters = fitted.get_params() if hasattr(fitted, "get_params") else {}
    return {
        name: value for name, value in parameters.items() if name.split("__")[-1] == "n_jobs" and value not in (None, 1)
    }
