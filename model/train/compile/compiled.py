"""Compile a fitted model: ask it what it accepts, and fold the steps in front of its trees into their splits.

Steps that cannot be folded, and those in front of a linear model or a network, become a program of array operations.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import ThreadpoolController

from model.engine.chunks import in_chunks
from model.engine.columns import Columns
from model.engine.converted import ConvertedEngine
from model.engine.formulas import Derived
from model.engine.linear import LinearEngine
from model.engine.runtime import Predict
from model.engine.steps import Step
from model.engine.trees import Trees
from model.errors import ExportError
from model.schema import dates
from model.schema.feature import AS_MISSING, AS_OTHER, BOOLEAN, CATEGORY, DATE, ERROR, INTEGER, Category, Feature
from model.schema.features import Matrix, Schema
from model.train import proof
from model.train.compile import catboost, lightgbm, linear, members, network, onnx_file, scikit_learn, xgboost
from model.train.compile.behind import compile_behind, frames_behind, has_categories
from model.train.compile.columns import compile_columns
from model.train.compile.converted import CONVERTER, adopt, convert
from model.train.compile.fold import Ask, NotFoldable, find_limits, fold
from model.train.compile.limits import of_answers, of_columns, of_refusing, tighten, with_seen_range
from model.train.compile.onnx_file import OnnxModel
from model.train.compile.targets import steps_back
from model.train.derive import derived_of
from model.train.frames import MAX_WHOLE, Frames
from model.train.labels import labels_of, positions

FAMILIES = (scikit_learn, xgboost, lightgbm, catboost, members)
"""The libraries whose trees are known: modules with `owns`, `fitted_trees`, `columns`, `NAMES` and `PACKAGES`."""

_ROWS_AT_ONCE = 4_096  # which stay in the processor's caches while many trees read them
_EXACT_IN_FLOAT32 = 2.0**24  # whole numbers up to this
_N_ASKED = 5_000  # random rows of which derived features are computed
_FAR = 1e30  # beyond every measurement
_SAMPLE = 200  # rows that tell an unseen category from a missing one
_HYPERPARAMETERS = (bool, int, float, str)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A fitted model in the form that is served, and what it accepts.

    `predict` is the fitted model itself, for a matrix `(n_rows, n_features)`, with answers as of `Artifact.predict`.
    `steps` are done to the sums of `trees`, which are on the columns that the program `columns` makes, or on raw
    features if there is none. `cover` `(n_nodes,)` is how many training rows came to each of their nodes. A classifier
    has a `decision` on its label, a regression has None. A model without trees is `linear`, a `network`, or
    `converted`: the graph of a general converter, which is named in `converter`.
    """

    algorithm: str
    summary: str
    features: tuple[Feature, ...]
    predict: Predict
    steps: Sequence[Step]
    decision: str | None
    hyperparameters: dict[str, Any]
    packages: tuple[str, ...]
    trees: Trees | None = None
    cover: NDArray[np.float64] | None = None
    columns: Columns | None = None
    linear: LinearEngine | None = None
    network: bytes | None = None
    converted: bytes | None = None
    converter: str = ""


def compile_model(fitted: Any, frames: Frames, X: Matrix, *, by_converter: bool = False) -> Compiled:
    """Return a fitted estimator, or a pipeline that ends in one, as trees, as a linear model or as a network.

    `X` `(n_rows, n_features)` are the rows that it was fitted on, as `frames` reads them. `by_converter` lets a general
    converter do what is not trees or a linear model, or cannot be compiled as such. Raises `ExportError` for what
    cannot be done in any way.
    """
    if not isinstance(fitted, OnnxModel):
        try:
            check_is_fitted(fitted)
        except (NotFittedError, TypeError) as error:
            raise ExportError(f"the model cannot be exported: {error}") from None
    labels = labels_of(fitted)
    steps, estimator, back = _parts(fitted)
    _check_dates(frames, steps)
    X = np.vstack([_complete_row(X), X])
    family = next((family for family in (*FAMILIES, linear, network) if family.owns(estimator)), None)
    reason = ""
    if family:
        model = _Model(fitted, labels, frames, steps, estimator, back, family)
        try:
            return _BY_FAMILY.get(family, _compile_trees)(model, X)
        except ExportError as error:
            if not by_converter:
                raise
            reason = f"; it is not compiled because {error}"
    if not by_converter:
        raise ExportError(
            f"{type(estimator).__name__} cannot be compiled exactly; choose one of "
            f"{', '.join(supported(classifiers=bool(labels)))}, or let a general converter do it: "
            'export(…, engine="onnx"), or --engine onnx'
        )
    asked = onnx_file if isinstance(fitted, OnnxModel) else linear  # whose columns are those of numbers
    try:
        return _convert(_Model(fitted, labels, frames, steps, estimator, back, asked), X)
    except ExportError as error:
        raise ExportError(f"{error}{reason}") from None


def _check_dates(frames: Frames, steps: Pipeline | None) -> None:
    """Raise `ExportError` for a table with dates and a model without steps, which could turn them into numbers."""
    names = [column.name for column in frames.columns if column.type == DATE]
    if names and steps is None:
        raise ExportError(
            f"the column {names[0]!r} has dates, and no step turns it into numbers; put Formulas in front of the "
            f"model, such as month({names[0]}), and fit the pipeline"
        )


@dataclass(frozen=True, slots=True)
class _Model:
    """A fitted model in its parts: the steps in front of its estimator, if there are any, and those behind it."""

    fitted: Any
    labels: Sequence[Category]
    frames: Frames
    steps: Pipeline | None
    estimator: Any
    back: tuple[Step, ...]
    family: ModuleType

    @property
    def in_front(self) -> list[Any]:
        return [step for _, step in self.steps.steps] if self.steps else []

    @property
    def derived(self) -> tuple[Derived, ...]:
        return derived_of(self.steps)

    def is_answered(self, rows: Matrix) -> NDArray[np.bool_]:
        """Return for which rows the fitted model has an answer, `(n_rows,)`."""
        try:
            found = self.predict(rows)
        except Exception:  # every library has classes of its own
            if len(rows) == 1:
                return np.array([False])
            return np.concatenate([self.is_answered(row[np.newaxis]) for row in rows])
        is_finite: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(found.reshape(len(rows), -1)), axis=1)
        return is_finite

    @property
    def facts(self) -> dict[str, Any]:
        """Return what is known of the compiled model already."""
        more = members.packages(self.estimator) if self.family is members else ()
        return {
            "algorithm": _name(self.fitted),
            "predict": self.predict,
            "hyperparameters": {} if isinstance(self.estimator, OnnxModel) else _hyperparameters(self.estimator),
            "packages": (*self.family.PACKAGES, *more),
        }

    def predict(self, rows: Matrix) -> NDArray[np.float64]:
        """Return the fitted model's answers, in the form of `Artifact.predict`."""
        return in_chunks(self._predict, rows, _ROWS_AT_ONCE)

    def _predict(self, rows: Matrix) -> NDArray[np.float64]:
        if (patterns := _patterns(self.frames, rows)) is not None:
            found = [self._predict(rows[patterns == number]) for number in range(patterns.max() + 1)]
            return np.concatenate(found)[np.argsort(np.argsort(patterns, kind="stable"), kind="stable")]
        if len(rows) == 1:  # scikit-learn adds the powers of a single row's softmax in another order
            return self._predict(np.repeat(rows, 2, axis=0))[:1]
        with in_one_job(self.fitted):
            return answers(self.fitted, self.labels, self.frames.frame(rows))

    def in_between(self, rows: Matrix) -> Any:
        """Return what the steps in front of the estimator make of rows."""
        with in_one_job(self.fitted):
            table = self.frames.frame(rows)
            return self.steps.transform(table) if self.steps else table

    def ask(self, rows: Matrix, frames: Frames | None = None) -> Matrix:
        """Return the columns that the estimator computes with."""
        with in_one_job(self.fitted):
            table = (frames or self.frames).frame(rows)
            columns: Matrix = self.family.columns(self.estimator, self.steps.transform(table) if self.steps else table)
            return columns


def _convert(model: _Model, X: Matrix) -> Compiled:
    features = _features(model.frames, model.predict, model.ask, X)
    features = _limits(_is_answered(model), features, X, in_float32=False)
    has_gaps = np.isnan(X.sum(axis=0)).tolist()  # what the table has no example of is not compared
    features = tuple(replace(each, missing=each.missing and gaps) for each, gaps in zip(features, has_gaps))
    features = _limited(features, *_compared(features, X))
    features = tighten(features, X, of_answers(model.predict), n_rounds=0)
    if isinstance(model.estimator, OnnxModel):
        strings = {
            number: [*map(str, (*column.categories, *column.unseen))]
            for number, column in enumerate(model.frames.columns)
            if column.categories
        }
        return Compiled(
            **model.facts,
            summary="a graph of ONNX as it was found",
            features=features,
            steps=(),
            decision=None,
            converted=adopt(model.estimator.model, len(features), model.labels, strings),
            converter="a file of ONNX",
        )
    columns, estimator = _split(model, features, X)
    return Compiled(
        **model.facts,
        summary=f"a graph of {CONVERTER} behind {columns.n_columns:,} columns",
        features=features,
        columns=columns,
        steps=model.back,
        decision=None,
        converted=_converted(model, estimator, columns, X),
        converter=f"{CONVERTER} {version(CONVERTER)}",
    )


def _split(model: _Model, features: Sequence[Feature], X: Matrix) -> tuple[Columns, Any]:
    """Return the program of as many of the steps as have one, and the other steps with the estimator behind them."""
    in_front = model.in_front
    for n_steps in range(len(in_front), -1, -1):
        try:
            columns = compile_columns(in_front[:n_steps], model.frames, features, X)
        except ExportError as error:
            reason = error
        else:
            rest = in_front[n_steps:]
            return columns, make_pipeline(*rest, model.estimator) if rest else model.estimator
    raise reason


def _converted(model: _Model, estimator: Any, columns: Columns, X: Matrix) -> bytes:
    """Return the graph that a converter makes of an estimator: in float64, or if that is further off, in float32."""
    X = X[:_SAMPLE]
    expected, found = model.predict(X), {}
    for in_float32 in (False, True):
        try:
            graph = convert(estimator, columns.n_columns, model.labels, in_float32=in_float32)
            engine = ConvertedEngine(graph, columns, len(model.labels), 0.0, model.back)
            found[graph] = float(np.abs(engine.predict(X) - expected).max())
        except (ExportError, ValueError) as error:  # it knows many operators in float32 alone
            reason = error
    if not found:
        raise ExportError(f"{reason}. No other way is known for {type(estimator).__name__}") from None
    return min(found, key=found.__getitem__)


def _compile_linear(model: _Model, X: Matrix) -> Compiled:
    found = linear.fitted_linear(model.estimator)
    steps, decision = (*found.steps, *model.back), found.decision if model.labels else None
    features = _features(model.frames, model.predict, model.ask, X)
    features = _limits(_is_answered(model), features, X, in_float32=False)
    features = tighten(features, X, of_answers(model.predict), n_rounds=0)
    columns = compile_columns(model.in_front, model.frames, features, X)
    engine = LinearEngine(columns, found.coefficients, found.intercepts, steps, decision)
    _check_derived(model, features, X)
    return Compiled(
        **model.facts,
        summary=_summary(found.coefficients),
        features=tighten(features, X, engine.sizes),
        columns=columns,
        linear=engine,
        steps=steps,
        decision=decision,
    )


def _compile_network(model: _Model, X: Matrix) -> Compiled:
    graph, answered = network.to_graph(model.estimator.weights_, max(1, len(model.labels))), _is_answered(model)

    def ask(rows: Matrix) -> Matrix:
        """Return the columns as the first layer takes them; NaN for rows that have no answer.

        Within float32, in which it was fitted, no sum of a layer overflows in float64.
        """
        scaled = graph.scaled(model.ask(rows))
        return scaled + answered(rows) if model.back else scaled

    def sizes(rows: Matrix) -> Matrix:
        with np.errstate(over="ignore"):
            largest = np.abs(ask(rows)).max(axis=1, keepdims=True).astype(np.float32)
        return np.hstack([largest, np.abs(model.predict(rows))[:, np.newaxis]]) if model.back else largest

    features = _features(model.frames, model.predict, model.ask, X)
    features = _limits(ask, features, X, in_float32=True)
    features = tighten(features, X, of_refusing(sizes))
    columns = compile_columns(model.in_front, model.frames, features, X)
    hidden = model.estimator.architecture_["hidden"]
    summary = f"hidden layers of {' and '.join(map(str, hidden))}" if hidden else "no hidden layer"
    is_alone = model.fitted is model.estimator
    return Compiled(
        **{**model.facts, "algorithm": network.ALGORITHM} if is_alone else model.facts,
        summary=summary if not columns.operations else f"{summary} behind {columns.n_columns:,} computed columns",
        features=features,
        network=graph.content,
        columns=columns if columns.operations else None,
        steps=(network.SOFTMAX,) if model.labels else model.back,
        decision=network.DECISION if model.labels else None,
    )


def _compile_trees(model: _Model, X: Matrix) -> Compiled:
    trees, name = model.family.fitted_trees(model.estimator), type(model.estimator).__name__
    if model.back and trees.leaves.dtype == np.float32:
        raise ExportError(
            f"{name} gives float32, and TransformedTargetRegressor turns its predictions back in float32; fit it on "
            "the transformed target itself, and turn its answers back where you use them"
        )
    if not model.labels and model.family is not members and (trees.output.max() > 0 or trees.leaves.shape[1] > 1):
        raise ExportError(f"{name} predicts several numbers a row; fit and export one model for each")
    n_trees = len(trees.roots) - trees.n_constants
    summary = f"{n_trees:,} tree{'' if n_trees == 1 else 's'}"
    features = _features(model.frames, model.predict, model.ask, X)
    in_float32 = trees.finite_in_float32
    columns, foldable = None, features
    if model.derived:
        features = _limits(model.ask, features, X, in_float32=in_float32, is_answered=model.is_answered)
        foldable = _limited_far_away(model.ask, foldable, X, features, in_float32=in_float32)
    else:
        features = foldable = _limits(model.ask, features, X, in_float32=in_float32)
    try:
        try:
            (compared, cover), features = fold(trees, model.ask, foldable, X), foldable
        except NotFoldable as reason:
            features = tighten(features, X, of_columns(model.ask), n_rounds=0)
            columns = _columns_instead(reason, model, features, X)
            features = tighten(features, X, of_columns(columns.run))
            behind = frames_behind(model.in_between(X[:1]), columns, model.frames)
            compared, cover = compile_behind(
                trees,
                lambda block: model.family.columns(model.estimator, behind.frame(block) if behind else block),
                model.ask,
                columns,
                features,
                X,
            )
            summary += f" behind {columns.n_columns:,} computed columns"
    except ExportError:
        raise
    except ValueError as error:
        raise ExportError(
            f"the steps cannot be folded into the trees: {error}. If they refuse numbers between others, make that "
            "column a category"
        ) from None
    _check_derived(model, features, X)
    try:
        schema = Schema(features, Feature("target"))
        compared.check(columns.as_taken(schema.category_places) if columns else schema.n_places)
    except ValueError as error:
        raise ExportError(
            f"the trees cannot be served: {error}. {_largest_lists(compared, features)}Fit fewer of them, or smaller "
            "ones by max_leaf_nodes"
        ) from None
    return Compiled(
        **model.facts,
        summary=summary,
        features=features,
        trees=compared,
        cover=cover,
        columns=columns,
        steps=(*trees.steps, *model.back),
        decision=trees.decision if model.labels else None,
    )


_BY_FAMILY: Mapping[ModuleType, Callable[[_Model, Matrix], Compiled]] = {
    linear: _compile_linear,
    network: _compile_network,
}
"""How models of a family are compiled that has no trees."""


def _largest_lists(trees: Trees, features: Sequence[Feature]) -> str:
    """Return what to do about the feature whose categories the splits list most often, if they list many."""
    if trees.n_codes.sum() <= len(trees.n_codes):
        return ""
    number = int(np.bincount(trees.feature[trees.n_codes > 0], trees.n_codes[trees.n_codes > 0]).argmax())
    feature = features[number]
    return (
        f"Each split of {feature.name!r} lists which of its {len(feature.categories):,} categories go one way: group "
        "rare ones, or turn them into numbers before the model. "
    )


def _columns_instead(reason: NotFoldable, model: _Model, features: Sequence[Feature], X: Matrix) -> Columns:
    """Return the program of steps that could not be folded for a reason, which is told if there is no program."""
    try:
        return compile_columns(
            model.in_front, model.frames, features, X, with_categories=has_categories(model.in_between(X[:1]))
        )
    except ExportError as error:
        raise ExportError(f"{reason}, and {error}") from None


def _patterns(frames: Frames, rows: Matrix) -> NDArray[np.intp] | None:
    """Return a number for each row, the same for rows that may be asked together; None if all may.

    pandas turns a column of whole numbers with a gap into float64, for the other rows, too. A library may round whole
    numbers to float32, and the answer for a row with one beyond 2**24 then depends on the gaps of the rows beside it.
    """
    whole = [number for number, column in enumerate(frames.columns) if column.type == INTEGER]
    gaps, is_large = np.isnan(rows[:, whole]), (np.abs(rows[:, whole]) > _EXACT_IN_FLOAT32).any(axis=1, keepdims=True)
    if not is_large.any() or (gaps == gaps[0]).all():
        return None
    _, patterns = np.unique(np.hstack([is_large, is_large & gaps]), axis=0, return_inverse=True)
    found: NDArray[np.intp] = patterns.reshape(-1)
    return found if found.max() else None


def _check_derived(model: _Model, features: Sequence[Feature], X: Matrix) -> None:
    """Raise `ExportError` for a model that refuses rows within these limits because a derived feature is missing."""
    if not model.derived:
        return
    schema = Schema(
        tuple(with_seen_range(feature, values) for feature, values in zip(features, X.T)), Feature("target")
    )
    at_zero = np.repeat(X[:1], len(features), axis=0)
    np.fill_diagonal(at_zero, [np.clip(0.0, feature.lowest, feature.highest) for feature in features])
    rows = np.vstack([at_zero, proof.random_rows(schema, _N_ASKED, seed=1), proof.limit_rows(schema)])
    columns = dict(zip(schema.names, rows.T))
    categories = {feature.name: feature.texts for feature in features if feature.categories}
    for definition in model.derived:
        formula = definition.parsed
        if not columns.keys() >= set(formula.names):
            continue  # of columns that a step before it makes
        is_undefined = np.isnan(formula.evaluate(columns, categories))
        is_undefined &= ~np.isnan([columns[name] for name in formula.names]).any(axis=0)
        if is_undefined.any() and not model.is_answered(rows[is_undefined][:1]).all():
            raise ExportError(
                f"the model refuses missing values, and {definition.name!r} is missing where {definition.formula} is "
                "not defined, such as for a division by 0; put a SimpleImputer behind Formulas, or choose an estimator "
                "that takes missing values"
            )


def _limits(
    ask: Ask,
    features: Sequence[Feature],
    X: Matrix,
    *,
    in_float32: bool,
    is_answered: Callable[[Matrix], NDArray[np.bool_]] | None = None,
) -> tuple[Feature, ...]:
    """Return the features with the limits that are found by asking, without scikit-learn's checks where it helps."""

    def unchecked(rows: Matrix) -> Matrix:
        with config_context(assume_finite=True):
            return ask(rows)

    found = find_limits(ask, features, X, unchecked=unchecked, in_float32=in_float32, is_answered=is_answered)
    return _limited(features, *found)


def _limited_far_away(
    ask: Ask, features: Sequence[Feature], X: Matrix, limited: tuple[Feature, ...], *, in_float32: bool
) -> tuple[Feature, ...]:
    """Return the features with limits beyond which a derived feature is missing, if no measurement is beyond them.

    Steps within them can be folded more often. Else `limited`, where the derived feature may be missing.
    """
    try:
        found = _limits(ask, features, X, in_float32=in_float32)
    except ExportError:
        return limited
    both = tuple(
        replace(each, lowest=max(each.lowest, other.lowest), highest=min(each.highest, other.highest))
        for each, other in zip(found, limited)
    )
    is_far = all(
        far == near or abs(far) >= _FAR
        for each, other in zip(both, limited)
        for far, near in ((each.lowest, other.lowest), (each.highest, other.highest))
    )
    return both if is_far else limited


def _limited(features: Sequence[Feature], lowest: Matrix, highest: Matrix) -> tuple[Feature, ...]:
    """Return the features with the lowest and highest numbers that are accepted."""
    return tuple(
        feature if feature.type in (CATEGORY, BOOLEAN) else replace(feature, lowest=float(low), highest=float(high))
        for feature, low, high in zip(features, lowest, highest)
    )


def _compared(features: Sequence[Feature], X: Matrix) -> tuple[Matrix, Matrix]:
    """Return the limits of where a converted model is compared: the training range, and its width beyond it."""
    low, high = np.nanmin(X, axis=0), np.nanmax(X, axis=0)
    lowest = np.maximum(2 * low - high, [feature.lowest for feature in features])
    highest = np.minimum(2 * high - low, [feature.highest for feature in features])
    is_date = np.array([feature.type == DATE for feature in features])
    return np.where(is_date, np.floor(lowest), lowest), np.where(is_date, np.ceil(highest), highest)


def _is_answered(model: _Model) -> Callable[[Matrix], Matrix]:
    """Return a function of rows that gives 0, or NaN where the columns or the answer are not finite, `(n_rows, 1)`."""

    def ask(rows: Matrix) -> Matrix:
        is_finite: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(model.ask(rows)), axis=1)
        if is_finite.any():  # scikit-learn refuses all rows for one that is not
            found = model.predict(rows[is_finite])
            is_finite[is_finite] = np.isfinite(found.reshape(len(found), -1)).all(axis=1)
        return np.where(is_finite, 0.0, np.nan)[:, np.newaxis]

    return ask


def _summary(coefficients: Matrix) -> str:
    n_outputs, n_columns = coefficients.shape
    of_classes = f" for each of {n_outputs} classes" if n_outputs > 1 else ""
    return f"{n_columns:,} coefficient{'' if n_columns == 1 else 's'}{of_classes}"


def _hyperparameters(estimator: Any) -> dict[str, Any]:
    return {
        name: value
        for name, value in estimator.get_params(deep=False).items()
        if isinstance(value, _HYPERPARAMETERS) and value not in (math.inf, -math.inf, "deprecated") and value == value
    }


def answers(fitted: Any, labels: Sequence[Category], table: Any) -> NDArray[np.float64]:
    """Return what a fitted model answers for a table, in the form of `Artifact.predict`; `labels` are a classifier's.

    Raises `ExportError` for one that gives no probabilities, or several numbers or labels a row.
    """
    with in_one_job(fitted):
        predictions = np.asarray(fitted.predict(table))
        if not labels:
            if predictions.size != len(table):
                raise ExportError(f"{type(fitted).__name__} does not predict one number a row; export a model for each")
            numbers: NDArray[np.float64] = predictions.astype(np.float64).ravel()
            return numbers
        if not hasattr(fitted, "predict_proba"):
            raise ExportError(_without_probabilities(fitted))
        if predictions.size != len(predictions):
            raise ExportError(f"{type(fitted).__name__} gives several labels a row; fit and export one model for each")
        probabilities = np.asarray(fitted.predict_proba(table), dtype=np.float64)
    return np.column_stack([positions(predictions, labels), probabilities])


def _without_probabilities(fitted: Any) -> str:
    last = fitted.steps[-1][1] if isinstance(fitted, Pipeline) else fitted
    name = type(last).__name__
    if getattr(last, "voting", None) == "hard":
        return f"{name} with voting='hard' gives no probabilities; fit it with voting='soft'"
    return f"{name} gives no probabilities; choose one of {', '.join(supported(classifiers=True))}"


def estimator_of(fitted: Any) -> Any:
    """Return the best estimator of a search, an estimator around a booster of XGBoost or LightGBM, or the model itself.

    One around a booster predicts what the booster itself does.
    """
    for library in (xgboost, lightgbm):
        if library.is_booster(fitted):
            return library.of_booster(fitted)
    return getattr(fitted, "best_estimator_", fitted)


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
    names = [name for family in (*FAMILIES, linear) for name in family.NAMES]
    return [name for name in names if ("Classifier" in name or name in linear.CLASSIFIERS) is classifiers]


def _parts(fitted: Any) -> tuple[Pipeline | None, Any, tuple[Step, ...]]:
    """Return the steps in front of the last estimator, if there are any, that estimator, and the steps behind it."""
    steps: list[Any] = []
    back: tuple[Step, ...] = ()
    while isinstance(fitted, (Pipeline, TransformedTargetRegressor)):
        if isinstance(fitted, Pipeline):
            steps += fitted.steps[:-1]
            fitted = getattr(fitted.steps[-1][1], "best_estimator_", fitted.steps[-1][1])  # of a search
        else:
            back = (*steps_back(fitted.transformer_), *back)
            fitted = getattr(fitted.regressor_, "best_estimator_", fitted.regressor_)
    if fitted is None or isinstance(fitted, str):
        raise ExportError("the pipeline ends without an estimator; export one that predicts")
    steps = [(f"{number}", step) for number, (_, step) in enumerate(steps)]
    return (Pipeline(steps) if steps else None), fitted, back


def last_estimator(fitted: Any) -> Any:
    """Return the estimator that a model ends in, with nothing in front of it or behind it."""
    return _parts(fitted)[1]


def _features(frames: Frames, predict: Predict, ask: Callable[[Matrix], Matrix], X: Matrix) -> tuple[Feature, ...]:
    """Return the features as the model itself takes them: whether it accepts missing values and unseen categories."""
    features = []
    for number, column in enumerate(frames.columns):
        missing = _accepts(predict, X, number, np.nan)
        feature = Feature(
            column.name, type=column.type, missing=missing, categories=column.categories, format=column.format
        )
        if column.type == CATEGORY:
            feature = replace(feature, unseen=_unseen(predict, ask, X, number, feature, frames))
        if column.type == INTEGER:
            feature = replace(feature, lowest=-MAX_WHOLE, highest=MAX_WHOLE)
        if column.type == DATE:
            feature = replace(feature, lowest=dates.LOWEST, highest=dates.HIGHEST)
        features.append(feature)
    return tuple(features)


def _unseen(
    predict: Predict, ask: Callable[..., Matrix], X: Matrix, number: int, feature: Feature, frames: Frames
) -> str:
    """Return what the model does with an unseen category; an error, too, if that depends on which it is."""
    code = float(len(feature.categories))
    if not _accepts(predict, X, number, code):
        return ERROR
    column = frames.columns[number]
    others = column.other_categories
    columns = (*frames.columns[:number], replace(column, unseen=others), *frames.columns[number + 1 :])
    each = np.repeat(X[:1], len(others), axis=0)
    each[:, number] = code + np.arange(len(others))
    try:
        answers = ask(each, replace(frames, columns=columns))
    except Exception:  # every library has classes of its own
        return ERROR
    if not np.array_equal(answers, np.repeat(answers[:1], len(others), axis=0), equal_nan=True):
        return ERROR
    if feature.missing:
        unseen, missing = X[:_SAMPLE].copy(), X[:_SAMPLE].copy()
        unseen[:, number], missing[:, number] = code, np.nan
        if np.array_equal(ask(unseen), ask(missing), equal_nan=True):
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
    if isinstance(fitted, TransformedTargetRegressor):
        return f"{type(fitted).__name__}({_name(fitted.regressor_)})"
    if isinstance(fitted, Pipeline):
        parts = [_name(step) for _, step in fitted.steps if step is not None and step != "passthrough"]
        return " + ".join(parts)
    if isinstance(fitted, OnnxModel):
        return "ONNX file"
    if hasattr(fitted, "transformers_"):
        parts = [_name(step) for _, step, _ in fitted.transformers_ if not isinstance(step, str)]
        return f"{type(fitted).__name__}({', '.join(parts)})"
    parts = list(dict.fromkeys(map(_name, members.inside(fitted))))
    return f"{type(fitted).__name__}({', '.join(parts)})" if parts else type(fitted).__name__


@contextmanager
def in_one_job(fitted: Any) -> Iterator[None]:
    """Let every part of a model work in one job, without warnings.

    With several jobs, forests add their trees in any order. Threads of OpenMP change no bit, but wait for each other in
    every small call. Libraries warn of rows that are far from the training rows.
    """
    several = [(each, _jobs(each)) for each in (fitted, *members.inside(fitted))]
    with warnings.catch_warnings(), np.errstate(all="ignore"), _thread_pools().limit(limits=1):
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


@cache
def _thread_pools() -> ThreadpoolController:
    """Return the pools of the libraries that are loaded, which takes some milliseconds to find."""
    return ThreadpoolController()


def _jobs(fitted: Any) -> dict[str, Any]:
    """Return the parameters by which parts of a model work in several jobs."""
    parameters = fitted.get_params() if hasattr(fitted, "get_params") else {}
    return {
        name: value for name, value in parameters.items() if name.split("__")[-1] == "n_jobs" and value not in (None, 1)
    }
