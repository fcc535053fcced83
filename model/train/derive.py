"""Derived features as a step of a pipeline: formulas over the columns of a data frame.

The step runs the operations of `model.engine.formulas`, which a server runs, too, so that both have the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils.validation import check_is_fitted

from model.engine.columns import Columns
from model.engine.formulas import Derived, Formula, parse, program
from model.errors import FormulaError
from model.schema import dates
from model.schema.feature import CATEGORY, DATE, NUMBER
from model.schema.features import Matrix


class Formulas(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Makes of a data frame a column of each definition, `(n_rows, n_definitions)` float64, NaN where it is missing.

    Use it inside a `ColumnTransformer`, beside the encoders of other columns:

        ("derived", Formulas([Derived("per_room", "price / rooms")]), ["price", "rooms"])

    Columns are numbers, booleans, dates (datetime64) and, for comparisons with a text, categories of pandas.
    """

    def __init__(self, definitions: Sequence[Derived]) -> None:
        self.definitions = definitions

    def fit(self, X: pd.DataFrame, y: Any = None) -> Formulas:
        """Check the definitions with the columns that they take.

        Raises `FormulaError` for a formula that cannot be computed of them, or for names that are not unique.
        """
        if not isinstance(X, pd.DataFrame):
            raise FormulaError("", f"formulas take columns by name; pass a data frame, not {type(X).__name__}")
        _check_definitions(self.definitions)
        types = {str(name): _type(X[name]) for name in X.columns}
        for definition in self.definitions:
            check_derived(definition, types)
        self.feature_names_in_ = np.array([str(name) for name in X.columns], dtype=object)
        self.n_features_in_ = X.shape[1]
        self.categories_ = {name: tuple(X[name].cat.categories) for name, found in types.items() if found == CATEGORY}
        self._program()  # refuses a text that is no category
        return self

    def transform(self, X: Any) -> Matrix:
        """Return the derived features `(n_rows, n_definitions)` of a data frame.

        An array `(n_rows, n_features_in_)` has the columns of the fit, with dates in seconds and places of categories.
        """
        check_is_fitted(self)
        if isinstance(X, pd.DataFrame):
            absent = [name for name in self.feature_names_in_ if name not in X]
            if absent:
                raise FormulaError("", f"the table lacks the column {absent[0]!r} of the derived features")
            rows = np.column_stack(
                [_numbers(X[name], self.categories_.get(name, ())) for name in self.feature_names_in_]
            )
        else:
            rows = np.asarray(X, dtype=np.float64)
            if rows.shape[1:] != (self.n_features_in_,):
                raise FormulaError("", f"the rows have the shape {rows.shape}, not (n_rows, {self.n_features_in_})")
        return self._program().run(rows)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Return the names of the definitions."""
        return np.array([each.name for each in self.definitions], dtype=object)

    @property
    def formulas(self) -> tuple[Formula, ...]:
        """Return the formulas of the definitions, in their order."""
        return tuple(each.parsed for each in self.definitions)

    def _program(self) -> Columns:
        texts = tuple(each.formula for each in self.definitions)
        categories = tuple((name, tuple(map(str, known))) for name, known in self.categories_.items())
        return _program(texts, tuple(self.feature_names_in_), categories)


def derived_of(fitted: Any) -> tuple[Derived, ...]:
    """Return the definitions of all derived features inside a fitted pipeline, in order, each once."""
    if isinstance(fitted, Formulas):
        return tuple(fitted.definitions)
    parts: list[Any] = []
    if isinstance(fitted, Pipeline):
        parts = [step for _, step in fitted.steps]
    elif isinstance(fitted, FeatureUnion):
        parts = [step for _, step in fitted.transformer_list]
    elif isinstance(fitted, ColumnTransformer):
        parts = [step for _, step, _ in fitted.transformers_]
    elif isinstance(fitted, TransformedTargetRegressor):
        parts = [fitted.regressor_]
    elif hasattr(fitted, "best_estimator_"):
        parts = [fitted.best_estimator_]
    return tuple(dict.fromkeys(each for part in parts for each in derived_of(part)))


def _check_definitions(definitions: Sequence[Derived]) -> None:
    """Raise `FormulaError` if there are no definitions, or their names are not unique."""
    if not definitions:
        raise FormulaError("", "there are no definitions; pass at least one Derived(name, formula)")
    for definition in definitions:
        if not isinstance(definition, Derived):
            raise FormulaError("", f"{definition!r} is no definition; pass Derived(name, formula)")
    names = [each.name for each in definitions]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise FormulaError("", f"the derived feature {repeated[0]!r} is defined more than once; rename one")


def check_derived(definition: Derived, types: Mapping[str, str]) -> None:
    """Raise `FormulaError` for a definition that gives no number for columns of these types, by name."""
    if definition.parsed.check(types) == DATE:
        raise FormulaError(definition.formula, "it is a date; take a part of it, such as month(…), or days_since(…)")


@lru_cache(maxsize=100)
def _program(
    formulas: tuple[str, ...], names: tuple[str, ...], categories: tuple[tuple[str, tuple[str, ...]], ...]
) -> Columns:
    return program([parse(text) for text in formulas], names, dict(categories))


def _type(values: pd.Series) -> str:
    """Return what a column is to a formula: one of the types of features, "text" for another."""
    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return CATEGORY
    if pd.api.types.is_datetime64_any_dtype(dtype):
        return DATE
    return NUMBER if pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_bool_dtype(dtype) else "text"


def _numbers(values: pd.Series, categories: Sequence[Any]) -> NDArray[np.float64]:
    """Return a column as numbers `(n_rows,)`: dates as seconds, categories as positions, NaN for missing."""
    if categories:
        cells = values.to_numpy(dtype=object)
        places = pd.Index(categories, dtype=object).get_indexer(pd.Index(cells)).astype(np.float64)
        places[places < 0] = len(categories)
        places[pd.isna(cells)] = np.nan
        return np.asarray(places)
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        if values.dt.tz is not None:
            values = values.dt.tz_convert("UTC").dt.tz_localize(None)
        return dates.seconds_of(values.to_numpy(dtype="M8[us]"))
    return np.asarray(values.astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan))
