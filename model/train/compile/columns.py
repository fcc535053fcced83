"""Translate fitted steps into a program of array operations that gives their bits.

Each step is translated on its own and then asked: for rows of the table, random rows and rows at the limits it must
give the program's bits. A step that does not is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import FunctionTransformer

from model.engine.columns import Columns
from model.engine.formulas import assemble
from model.errors import ExportError, FormulaError, first_line
from model.schema.feature import BOOLEAN, CATEGORY, DATE, Feature
from model.schema.features import Matrix, Schema
from model.train import proof
from model.train.compile import blocks
from model.train.compile.blocks import NoColumns, Program, Refused
from model.train.compile.encoders import ENCODERS, by_asking
from model.train.derive import Formulas
from model.train.frames import Frames

N_RANDOM = 5_000  # rows that each step is asked about, beside those of the table and at the limits
_N_TABLE = 2_000


@dataclass(frozen=True, slots=True)
class Raw:
    """Columns of the table as a step gets them, by the numbers of their features, behind steps that give no numbers."""

    features: tuple[int, ...]
    steps: tuple[Any, ...] = ()


Flow = Raw | int
"""What goes from step to step: columns of the table, or the number of a block of the program."""


def compile_columns(
    steps: Sequence[Any], frames: Frames, features: Sequence[Feature], X: Matrix, *, with_categories: bool = False
) -> Columns:
    """Return the fitted steps, one behind the other, as a program for rows of these features.

    `X` `(n_rows, n_features)` are rows of the training table that the model accepts. `with_categories` lets categories
    through to a model that takes them: their columns are positions, as those of the features. Raises `ExportError` for
    a step that no operation repeats to the last bit.
    """
    translation = _Translation(frames, features, X, with_categories=with_categories)
    flow: Flow = Raw(tuple(range(len(features))))
    try:
        for step in steps:
            flow = translation.through(step, flow)
    except NoColumns:
        raise ExportError("the steps leave the model no columns; fit them with columns that differ") from None
    return translation.finish(flow)


class _Translation:
    """Builds the program step by step, with what each block is for the rows on which the steps are asked."""

    def __init__(self, frames: Frames, features: Sequence[Feature], X: Matrix, *, with_categories: bool) -> None:
        self._frames, self._features, self._with_categories = frames, features, with_categories
        self._program = Program(_rows(features, X))
        self._taken: dict[Flow, int] = {}

    def through(self, step: Any, flow: Flow) -> Flow:
        """Return what a fitted step makes of columns."""
        if step is None or isinstance(step, str) or _is_identity(step):  # "passthrough"
            return flow
        if isinstance(step, Pipeline):
            for _, each in step.steps:
                flow = self.through(each, flow)
            return flow
        if isinstance(step, ColumnTransformer) and not (isinstance(flow, Raw) and flow.steps):
            return self._of_columns(step, flow)
        if isinstance(step, FeatureUnion):
            weights = step.transformer_weights or {}
            parts = [(each, flow, weights.get(name)) for name, each in step.transformer_list if each != "drop"]
            return self._joined(step, parts)
        try:
            if isinstance(step, Formulas):
                return self._of_formulas(step, flow)
            self._check_dates(flow)
            if isinstance(flow, Raw) and (flow.steps or not self._is_numeric(flow)):
                return self._of_categories(step, flow)
            block = self._block(flow)
            if isinstance(step, ENCODERS):
                found = by_asking(self._program, [step], block, self._asked_of_numbers(step, flow))
            else:
                found = blocks.translate(self._program, step, block)
            self._check(step, flow, found)
        except Refused as reason:
            raise _refusal(step, str(reason)) from None
        return found

    def _of_formulas(self, step: Formulas, flow: Flow) -> int:
        """Add the operations that the step itself runs."""
        names, categories = list(step.feature_names_in_), {}
        if isinstance(flow, Raw):
            if flow.steps:
                raise Refused("its columns are of another step, and no numbers")
            columns = [self._frames.columns[number] for number in flow.features]
            categories = {name: list(map(str, each.categories)) for name, each in zip(names, columns)}
        try:
            found = assemble(step.formulas, names, categories, self._program.add_on, self._block(flow))
        except FormulaError as error:
            raise Refused(str(error)) from None
        self._check(step, flow, found)
        return found

    def _check(self, step: Any, flow: Flow, found: int) -> None:
        """Raise `Refused` if a block does not have what a step makes of the flow."""
        if not blocks.same(self._answers([step], flow), self._program.values[found]):
            raise Refused("numpy does not repeat its numbers to the last bit")

    def finish(self, flow: Flow) -> Columns:
        """Return the program that ends with a flow."""
        if isinstance(flow, Raw) and self._with_categories and not flow.steps:
            flow = self._passed(flow)
        if isinstance(flow, Raw):
            try:
                self._check_dates(flow)
                block = (
                    self._block(flow) if self._is_numeric(flow) and not flow.steps else self._of_categories(None, flow)
                )
            except Refused as reason:
                raise ExportError(f"the columns in front of the model are no numbers: {reason}") from None
            if isinstance(block, Raw):
                raise ExportError("a column of text reaches the model; encode it, for example by OneHotEncoder")
        else:
            block = flow
        return self._program.columns(block)

    def _of_columns(self, step: ColumnTransformer, flow: Flow) -> Flow:
        weights, parts = step.transformer_weights or {}, []
        for name, each, _ in step.transformers_:
            numbers = step._transformer_to_input_indices[name]
            if (isinstance(each, str) and each == "drop") or not len(numbers):
                continue
            parts.append((each, self._select(flow, numbers), weights.get(name)))
        return self._joined(step, parts)

    def _select(self, flow: Flow, numbers: Sequence[int]) -> Flow:
        if isinstance(flow, Raw):
            return Raw(tuple(flow.features[number] for number in numbers))
        return self._program.add("take", flow, np.asarray(numbers, dtype=np.int64))

    def _joined(self, step: Any, parts: Sequence[tuple[Any, Flow, float | None]]) -> Flow:
        found = []
        for each, flow, weight in parts:
            try:
                made = self.through(each, flow)
            except NoColumns:
                continue
            if isinstance(made, Raw) and self._with_categories and not made.steps:
                made = self._passed(made)
            if isinstance(made, Raw):
                try:
                    self._check_dates(made)
                except Refused as reason:
                    raise _refusal(step, str(reason)) from None
                if not made.steps and self._is_numeric(made):
                    block = self._block(made)
                else:
                    try:
                        encoded = self._of_categories(None, made)
                    except Refused as reason:
                        raise _refusal(step, str(reason)) from None
                    if isinstance(encoded, Raw):
                        raise _refusal(step, "it lets a column of text through to the model")
                    block = encoded
            else:
                block = made
            if weight is not None:
                block = self._program.add("multiply", block, self._program.full(block, weight))
            found.append(block)
        if not found:
            raise NoColumns
        return self._program.join(found)

    def _passed(self, flow: Raw) -> Flow:
        """Return columns of the table as a block if there are categories among them, which are positions."""
        is_category = [self._features[number].type == CATEGORY for number in flow.features]
        if not any(is_category):
            return flow
        parts = [
            self._program.add("take", 0, np.array([number])) if category else self._of_other(number)
            for number, category in zip(flow.features, is_category)
        ]
        return self._program.join(parts)

    def _of_other(self, number: int) -> int:
        """Return the block of one column that is no category."""
        flow = Raw((number,))
        self._check_dates(flow)
        found = self._block(flow) if self._is_numeric(flow) else self._of_categories(None, flow)
        assert not isinstance(found, Raw)  # a boolean is a number
        return found

    def _is_numeric(self, flow: Raw) -> bool:
        """Return whether numpy takes the columns for numbers as they are."""
        for number in flow.features:
            column = self._frames.columns[number]
            is_number = column.type == BOOLEAN and (column.dtype == bool or column.dtype == np.float64)
            plain = column.type not in (CATEGORY, BOOLEAN, DATE) or is_number
            if not plain or getattr(column.dtype, "kind", "f") == "O":
                return False
        return True

    def _check_dates(self, flow: Flow) -> None:
        """Raise `Refused` for dates that reach a step, or the model, as they are."""
        numbers = flow.features if isinstance(flow, Raw) else ()
        names = [self._features[number].name for number in numbers if self._features[number].type == DATE]
        if names:
            raise Refused(
                f"it gets the dates {', '.join(map(repr, names))}; turn them into numbers by Formulas, such as "
                f"month({names[0]})"
            )

    def _block(self, flow: Flow) -> int:
        """Return the block of columns that are numbers; a column of float32 is rounded to it."""
        if not isinstance(flow, Raw):
            return flow
        if flow not in self._taken:
            numbers = np.array(flow.features, dtype=np.int64)
            everything = np.array_equal(numbers, np.arange(len(self._features)))
            block = 0 if everything else self._program.add("take", 0, numbers)
            is_float32 = [self._frames.columns[number].dtype == np.float32 for number in flow.features]
            if any(is_float32):
                rounded = self._program.add("float32", block)
                order = np.where(is_float32, np.arange(len(numbers)) + len(numbers), np.arange(len(numbers)))
                block = self._program.add("take", self._program.join([block, rounded]), order)
            self._taken[flow] = block
        return self._taken[flow]

    def _answers(self, steps: Sequence[Any], flow: Flow) -> Any:
        """Return what fitted steps themselves make of the rows, whose columns are those of the flow."""
        if isinstance(flow, Raw):
            return self._asked(steps, flow)(self._program.values[0][:, flow.features])
        return _run(steps, self._program.values[flow].copy())

    def _asked(self, steps: Sequence[Any], flow: Raw) -> Callable[[Matrix], Any]:
        """Return the steps as a function of places and numbers `(n_rows, n_features)` of the flow's features."""
        columns = tuple(self._frames.columns[number] for number in flow.features)
        frames = replace(self._frames, columns=columns)
        return lambda rows: _run([*flow.steps, *steps], frames.frame(rows))

    def _asked_of_numbers(self, step: Any, flow: Flow) -> Callable[[Matrix], Any]:
        if isinstance(flow, Raw):
            return self._asked([step], flow)
        return lambda rows: _run([step], rows.copy())

    def _of_categories(self, step: Any, flow: Raw) -> Flow:
        """Return the tables of a step's own answers for columns with categories; the flow, if they are no numbers."""
        steps = [] if step is None else [step]
        ask = self._asked(steps, flow)
        answers = ask(self._program.values[0][:, flow.features])
        try:
            expected = blocks.as_numbers(answers)
        except (TypeError, ValueError):
            return flow if step is None else replace(flow, steps=(*flow.steps, step))
        numbers = np.array(flow.features, dtype=np.int64)
        block = self._program.add("take", 0, numbers)
        places: Mapping[int, int] = {
            position: self._features[number].cells.n_places
            for position, number in enumerate(flow.features)
            if self._features[number].type in (CATEGORY, BOOLEAN)
        }
        found = by_asking(self._program, [*flow.steps, *steps], block, ask, places)
        if not blocks.same(expected, self._program.values[found]):
            raise Refused("its answer for a row is not that for each of its columns")
        return found


def _is_identity(step: Any) -> bool:
    """Return whether a step is what scikit-learn makes of "passthrough"."""
    return isinstance(step, FunctionTransformer) and step.func is None and not step.validate


def _run(steps: Sequence[Any], table: Any) -> Any:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            for step in steps:
                table = step.transform(table)
        except Exception as error:  # each library has classes of its own
            raise Refused(f"it does not take its rows ({first_line(error)})") from None
    return table


def _rows(features: Sequence[Feature], X: Matrix) -> Matrix:
    """Return the rows on which steps are asked: of the table, random ones in and beyond its range, and the limits."""
    ranged = []
    for feature, values in zip(features, X.T):
        known = values[~np.isnan(values)]
        if feature.type not in (CATEGORY, BOOLEAN):
            low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
            feature = replace(feature, minimum=low, maximum=high)
        ranged.append(feature)
    schema = Schema(tuple(ranged), Feature("target"))
    of_table = X[np.random.default_rng(1).permutation(len(X))[:_N_TABLE]]
    return np.vstack([X[:1], of_table, proof.random_rows(schema, N_RANDOM, seed=1), proof.limit_rows(schema)])


def _refusal(step: Any, reason: str) -> ExportError:
    return ExportError(
        f"{type(step).__name__} cannot be repeated to the last bit: {reason}. Leave that step out, or do its work on "
        "the table before the pipeline"
    )
