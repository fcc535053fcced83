"""Why a model gave an answer: what each feature contributed to it, as exact Shapley values.

Explained is the number before the first step that is not linear: the prediction itself, a probability, or a score such
as log odds. The contributions of a row and the base add up to it. They are added in float64 from left to right, the
base first; what rounding leaves is the residual. A column that is made of several features has a contribution of its
own beside theirs.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model.engine import steps
from model.engine.answers import Answers
from model.engine.columns import Columns, ColumnsEngine
from model.engine.linear import LinearEngine
from model.engine.runtime import Predictor, TreesEngine
from model.engine.shapley import MAX_TABLE_BYTES, TreeContributions
from model.engine.steps import Step
from model.engine.trees import Trees, unpack_arrays
from model.schema.features import Matrix

PATH_DEPENDENT, INTERVENTIONAL = METHODS = "path_dependent", "interventional"
PREDICTION, PROBABILITY, SCORE = KINDS = "prediction", "probability", "score"
MAX_EXPLANATION_BYTES = 2**26  # of the file
MAX_BACKGROUND_ROWS = 1_000
_LINEAR = ("add", "multiply", "divide")
_FACTS = ("cover", "means", "background")

Numbers = NDArray[np.float64]


class Parts(Protocol):
    """What makes up each of a model's sums."""

    def __call__(self, number: int, method: str, block: Matrix) -> tuple[float, Numbers]:
        """Return the base of a sum, and the contributions `(n_rows, n_names)` to it for columns of a model."""


@dataclass(frozen=True, slots=True)
class Explained:
    """The values that were explained, `(n_rows,)`, and what they are: a base and `contributions` `(n_rows, n_names)`.

    `positions` `(n_rows,)` are of the classes whose numbers these are, None for a regression.
    """

    names: tuple[str, ...]
    values: Numbers
    bases: Numbers
    contributions: Numbers
    positions: NDArray[np.intp] | None

    def columns(self) -> dict[str, Numbers]:
        """Return base, contributions, residual and value as columns by name, `(n_rows,)` each."""
        columns = (self.bases, *np.ascontiguousarray(self.contributions.T), self.residuals, self.values)
        return dict(zip(columns_of(self.names), columns))

    @property
    def residuals(self) -> Numbers:
        """Return what is left of the values, `(n_rows,)`: of each less base and contributions from left to right."""
        total = self.bases
        for column in self.contributions.T:
            total = total + column
        residuals: Numbers = self.values - total
        return residuals


def columns_of(names: Sequence[str]) -> list[str]:
    """Return the names of the columns that explanations by `names` are: added from left to right, all but the last."""
    return ["base", *(f"contribution_{name}" for name in names), "residual", "explained"]


def members_of(n_features: int, columns: Columns | None) -> list[tuple[int, ...]]:
    """Return for each name that has contributions the features behind it: for what is made of several, all of these.

    First are all features, then what is made of several, such as `width & length`.
    """
    joint = {tuple(sorted(each)) for each in columns.sources() if len(each) > 1} if columns else set()
    return [*((feature,) for feature in range(n_features)), *sorted(joint)]


def players_of(names: Sequence[str], columns: Columns | None) -> tuple[tuple[str, ...], list[int]]:
    """Return the names that have contributions, in the order of `members_of`, and for each column its name's number."""
    if columns is None:
        return tuple(names), list(range(len(names)))
    members = members_of(len(names), columns)
    number = {each: place for place, each in enumerate(members)}
    # A column of no feature is the same in every row, and contributes nothing to any.
    of_columns = [number[tuple(sorted(each))] if each else 0 for each in columns.sources()]
    return tuple(" & ".join(names[feature] for feature in each) for each in members), of_columns


def by_feature(members: Sequence[Sequence[int]], n_features: int, amounts: Numbers) -> Numbers:
    """Return the amounts of names `(n_names,)` as amounts of features `(n_features,)`.

    What several features make together is divided evenly among them, as Shapley values do with what no part of a group
    does alone.
    """
    found = np.zeros(n_features)
    for each, amount in zip(members, amounts.tolist()):
        for feature in each:
            found[feature] += amount / len(each)
    return found


@dataclass(frozen=True, slots=True)
class Facts:
    """What is needed to explain a model beside the model itself.

    For trees: `cover` `(n_nodes,)`, how many training rows came to each node, and `background`
    `(n_background, n_features)`, rows of the training table. For a linear model: `means` `(n_columns,)` of its columns
    over the training table.
    """

    cover: Numbers | None = None
    background: Matrix | None = None
    means: Numbers | None = None

    def pack(self, golden: Mapping[str, Numbers]) -> bytes:
        """Return the facts, and the contributions of golden rows by method, in numpy's .npz format."""
        file = io.BytesIO()
        known = {name: each for name in _FACTS if (each := getattr(self, name)) is not None}
        np.savez(file, allow_pickle=False, **known, **golden)
        return file.getvalue()


def unpack(content: bytes, methods: Sequence[str], *, is_linear: bool) -> tuple[Facts, dict[str, Numbers]]:
    """Return what `Facts.pack` wrote: the facts, and the golden contributions by method. Raises `ValueError`."""
    names = ["means"] if is_linear else ["cover", "background"]
    arrays = unpack_arrays(content, [*names, *methods])
    if any(array.dtype != np.float64 for array in arrays.values()):
        raise ValueError("its arrays are not of float64")
    golden = {method: arrays.pop(method) for method in methods}
    return Facts(**arrays), golden


class TreeParts:
    """What makes up the sums of trees. The tables for one are made when they are first needed."""

    def __init__(
        self,
        trees: Trees,
        facts: Facts,
        columns: Columns | None,
        players: Sequence[int],
        max_table_bytes: int = MAX_TABLE_BYTES,
    ) -> None:
        """Take trees on the columns of a program, if there is one. Raises `ValueError` for facts of other trees."""
        cover, background, n_features = facts.cover, facts.background, columns.n_features if columns else len(players)
        if cover is None or cover.shape != trees.feature.shape or not (np.isfinite(cover) & (cover >= 0)).all():
            raise ValueError("its cover is not a number of rows for each node")
        if background is None or background.ndim != 2 or background.shape[1] != n_features:
            raise ValueError("its background is not rows of the features")
        if not 0 < len(background) <= MAX_BACKGROUND_ROWS:
            raise ValueError(f"it has {len(background)} background rows; 1 to {MAX_BACKGROUND_ROWS:,} are allowed")
        self._trees, self._cover, self._players = trees, cover, players
        self._max_table_bytes = max_table_bytes // trees.n_outputs
        self._background = columns.run(background) if columns else background
        self._made: dict[tuple[int, str], TreeContributions] = {}

    def __call__(self, number: int, method: str, block: Matrix) -> tuple[float, Numbers]:
        """Return the base of a sum, and the contributions `(n_rows, n_names)` to it for columns of a model."""
        made = self.made(number, method)
        return made.base, made(block)

    def walked(self, method: str) -> int:
        """Return what is computed for each row, as `n_walked` of those sums whose contributions were made."""
        return max((made.n_walked for (_, its_method), made in self._made.items() if its_method == method), default=0)

    def made(self, number: int, method: str) -> TreeContributions:
        """Return the contributions to a sum. Raises `ValueError` for a method that the trees are too large for."""
        found = self._made.get((number, method))
        if found is None:  # two threads may make the same at once
            background = self._background if method == INTERVENTIONAL else None
            found = TreeContributions(
                self._trees, number, self._cover, self._players, background, self._max_table_bytes
            )
            self._made[number, method] = found
        return found


class LinearParts:
    """What makes up the sums of a linear model: of each column its distance from the mean, times its coefficient.

    Where columns are changed one by one, this is the interventional value for all rows of the training table at once.
    """

    def __init__(self, engine: LinearEngine, facts: Facts, players: Sequence[int]) -> None:
        """Take the means of the engine's columns. Raises `ValueError` for those of another model."""
        if facts.means is None or facts.means.shape != (len(players),) or not np.isfinite(facts.means).all():
            raise ValueError("its means are not a number for each column")
        self._coefficients, self._intercepts, self._means = engine.coefficients, engine.intercepts, facts.means
        self._order = np.argsort(players, kind="stable")
        in_order = np.asarray(players)[self._order]
        self._starts = np.flatnonzero(np.diff(in_order, prepend=-1))
        self._names = in_order[self._starts]

    def __call__(self, number: int, method: str, block: Matrix) -> tuple[float, Numbers]:
        """Return the base of a sum, and the contributions `(n_rows, n_names)` to it for columns of a model."""
        coefficients = self._coefficients[number]
        parts = ((block - self._means) * coefficients)[:, self._order]
        found = np.zeros((len(block), int(self._names.max()) + 1))
        found[:, self._names] = np.add.reduceat(parts, self._starts, axis=1)
        return float(self._intercepts[number] + (self._means * coefficients).sum()), found


class Explainer:
    """Explains answers by what makes up one of a model's sums: of a classifier, that of the label."""

    def __init__(
        self,
        parts: Parts,
        sums: Callable[[Matrix], Numbers],
        columns: Columns | None,
        names: tuple[str, ...],
        n_sums: int,
        of_sums: Sequence[Step],
        decision: str | None,
    ) -> None:
        """Take the sums `(n_rows, n_sums)` of columns, and the steps and the decision behind them, as the engine has.

        Raises `ValueError` for steps that take several sums together.
        """
        if reason := not_offered(of_sums):
            raise ValueError(reason)
        n_linear = _n_linear(of_sums)
        self.parts, self.names = parts, names
        self._sums, self._columns, self._n_sums = sums, columns, n_sums
        self._linear, self._is_classifier = tuple(of_sums[:n_linear]), decision is not None
        self._answers = Answers(n_sums, of_sums, decision)

    def explain(self, X: Matrix, method: str) -> Explained:
        """Return what contributed to the answers for `X` `(n_rows, n_features)`, float64, 1 row or more.

        Raises `ValueError` for a method that the model is too large for.
        """
        block = self._columns.run(X) if self._columns else X
        sums = self._sums(block)
        values = steps.run(self._linear, sums)
        n_rows = len(X)
        if self._n_sums == 1:
            of_classes = np.ones(n_rows, dtype=np.intp) if self._is_classifier else None
            base, contributions = self._of_sum(0, method, block)
            return Explained(self.names, values[:, 0], np.full(n_rows, base), contributions, of_classes)
        labels = self._answers(sums)[:, 0].astype(np.intp)
        bases, contributions = np.empty(n_rows), np.empty((n_rows, len(self.names)))
        for label in np.unique(labels).tolist():
            rows = np.flatnonzero(labels == label)
            bases[rows], contributions[rows] = self._of_sum(label, method, block[rows])
        return Explained(self.names, values[np.arange(n_rows), labels], bases, contributions, labels)

    def _of_sum(self, number: int, method: str, block: Matrix) -> tuple[float, Numbers]:
        base, found = self.parts(number, method, block)
        contributions = np.zeros((len(block), len(self.names)))
        contributions[:, : found.shape[1]] = found
        for name, (factor,) in self._linear:
            if name == "add":
                base += factor
            elif name == "multiply":
                base, contributions = base * factor, contributions * factor
            else:
                base, contributions = base / factor, contributions / factor
        return base, contributions


def explains(of_sums: Sequence[Step], *, is_classifier: bool) -> str:
    """Return what is explained of a model with these steps: its prediction, a probability, or a score."""
    if _n_linear(of_sums) < len(of_sums):
        return SCORE
    return PROBABILITY if is_classifier else PREDICTION


def explainer(
    engine: Predictor,
    facts: Facts,
    features: Sequence[str],
    of_sums: Sequence[Step],
    decision: str | None,
    *,
    max_table_bytes: int = MAX_TABLE_BYTES,
) -> Explainer:
    """Return what explains an engine's answers.

    `features` are the names of those that it takes, `of_sums` and `decision` are as in the engine. Raises `ValueError`
    for another engine than one of trees or of a linear model, for facts of another model, and for steps that take
    several sums together.
    """
    columns, inner = parts_of(engine)
    names, players = players_of(features, columns)
    if isinstance(inner, LinearEngine):
        parts: Parts = LinearParts(inner, facts, players)
        return Explainer(parts, inner.sums, columns, names, len(inner.intercepts), of_sums, decision)
    if isinstance(inner, TreesEngine):
        parts = TreeParts(inner.trees, facts, columns, players, max_table_bytes)
        return Explainer(parts, inner.sums, columns, names, inner.trees.n_outputs, of_sums, decision)
    raise ValueError("only trees and linear models are explained")


def parts_of(engine: Predictor) -> tuple[Columns | None, Predictor]:
    """Return the program that makes an engine's columns, if there is one, and the engine behind it."""
    if isinstance(engine, LinearEngine):
        return engine.columns, engine
    return (engine.columns, engine.engine) if isinstance(engine, ColumnsEngine) else (None, engine)


def not_offered(of_sums: Sequence[Step]) -> str:
    """Return why a model with these steps cannot be explained; nothing if it can."""
    if any(name in ("take", "total") for name, _ in of_sums):
        return "its answers are averages of those of several models"
    return ""


def _n_linear(of_sums: Sequence[Step]) -> int:
    """Return how many of the first steps only add a number, or multiply by one."""
    return next((n for n, (name, _) in enumerate(of_sums) if name not in _LINEAR), len(of_sums))
