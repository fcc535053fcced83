"""Between a person's table and the matrix: its columns' types, and frames of the same types to ask a model with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model.errors import ExportError
from model.schema import dates
from model.schema.feature import BOOLEAN, CATEGORY, DATE, INTEGER, MAX_CATEGORIES, NUMBER, Category
from model.schema.features import Matrix
from model.train.labels import is_utf8

MAX_WHOLE = 2.0**53 - 1  # up to which each whole number is a float64 of its own
_NEAR = 20  # known categories that others are made of


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table that a model was fitted on.

    `dtype` is that of pandas; for a date it is datetime64, in UTC, and `format` is that of its texts beside ISO 8601.
    `categories` are those of a category, in their order. `missing` is what the table has for a missing value, since
    encoders tell None from NaN. `unseen` are categories that are none of them, for the codes from the next one on; the
    last stands for all codes beyond. `has_gaps` says whether values may be missing, where that is known.
    """

    name: str
    type: str
    dtype: Any
    categories: tuple[Category, ...] = ()
    missing: Any = np.nan
    unseen: tuple[Category, ...] = ("",)
    format: str = ""
    has_gaps: bool = True

    @property
    def other_categories(self) -> tuple[Category, ...]:
        """Return categories that are none of the column's, and near to them in as many ways as possible."""
        known = self.categories[:_NEAR]
        if isinstance(known[0], str):
            texts = [str(category) for category in known]
            near = [f(text) for text in texts for f in (str.upper, str.lower, str.title, str.strip)]
            near += [other for text in texts for other in (f" {text}", f"{text} ", text[:-1], text[:1], f"{text}s")]
            found: list[Category] = ["unseen", *near, "", "0", "1.5", "x", "long " * 20]
        else:
            numbers = sorted(map(float, self.categories))
            between = [(low + high) / 2 for low, high in pairwise(numbers)][:_NEAR]
            found = [numbers[-1] + 1, numbers[0] - 1, *between, 0, -1, 1, 0.5, numbers[-1] * 10 + 7]
        return tuple(dict.fromkeys(other for other in found if other not in self.categories))


@dataclass(frozen=True, slots=True)
class Frames:
    """Makes of a matrix `(n_rows, n_features)` what the model takes: a frame of the same dtypes, or an array."""

    columns: tuple[Column, ...]
    is_array: bool

    def frame(self, X: Matrix) -> Any:
        """Return the rows as the model takes them, with a category that it does not know for those beyond its own."""
        if self.is_array:
            dtype = self.columns[0].dtype
            return X.astype(dtype) if dtype.kind == "f" else X
        return pd.DataFrame({column.name: _series(column, values) for column, values in zip(self.columns, X.T)})

    def select(self, table: Any, what: str) -> Any:
        """Return the model's columns of a table in their order. Raises `ExportError` if it lacks one."""
        if self.is_array:
            return table
        if not isinstance(table, pd.DataFrame):
            raise ExportError(f"the {what} is no data frame, and the table is one; pass the same columns in each")
        absent = [column.name for column in self.columns if column.name not in table]
        if absent:
            raise ExportError(
                f"the {what} lacks the columns {', '.join(map(repr, absent))}; pass those of the table in each"
            )
        return table[[column.name for column in self.columns]]

    def matrix(self, table: Any) -> Matrix:
        """Return a table with the model's columns as `(n_rows, n_features)` float64."""
        if self.is_array:
            matrix = np.asarray(table, dtype=np.float64)
            if matrix.shape[1:] != (len(self.columns),):
                raise ExportError(f"a table has the shape {matrix.shape}; pass {len(self.columns)} columns in each")
            return matrix
        return np.column_stack([_values(column, table[column.name]) for column in self.columns])


def read(table: Any, names: Sequence[str] | None = None) -> Frames:
    """Return the columns of a data frame, or of an array `(n_rows, n_features)` with the names or x0, x1 and so on.

    Raises `ExportError` for a column that cannot be served, and says what to do.
    """
    if isinstance(table, pd.DataFrame):
        if not len(table):
            raise ExportError("the table has no rows; pass the rows that the model was fitted on")
        return Frames(tuple(_column(name, table[name]) for name in _unique(table.columns)), is_array=False)
    array = np.asarray(table)
    if array.ndim and not len(array):
        raise ExportError("the table has no rows; pass the rows that the model was fitted on")
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise ExportError(
            f"the table is an array of {array.dtype} with the shape {array.shape}; pass a data frame, or an array "
            "of numbers (n_rows, n_features)"
        )
    names = list(names or (f"x{number}" for number in range(array.shape[1])))
    if len(_unique(names)) != array.shape[1]:
        raise ExportError(f"there are {len(names)} names for {array.shape[1]} columns; pass one name for each")
    return Frames(tuple(Column(name, NUMBER, array.dtype) for name in names), is_array=True)


def _unique(found: Any) -> list[str]:
    names: list[str] = list(found)
    if not all(isinstance(name, str) for name in names):
        raise ExportError("the columns' names are not all strings; rename them, for example by columns.astype(str)")
    if not all(map(is_utf8, names)):
        raise ExportError("a column's name cannot be written in UTF-8; rename it")
    if "" in names:  # as a CSV file names an index
        raise ExportError("a column's name is empty; rename it, or leave it out")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ExportError(f"the column {repeated[0]!r} is there more than once; rename it or leave it out")
    return names


def _column(name: str, values: pd.Series) -> Column:
    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return _category(name, dtype, list(dtype.categories))
    if pd.api.types.is_bool_dtype(dtype):
        return Column(name, BOOLEAN, dtype)
    if pd.api.types.is_integer_dtype(dtype):
        return Column(name, INTEGER, dtype)
    if pd.api.types.is_float_dtype(dtype):
        return Column(name, NUMBER, dtype)
    if pd.api.types.is_timedelta64_dtype(dtype):
        raise ExportError(f"the column {name!r} has lengths of time; turn it into numbers, such as its hours")
    if pd.api.types.is_datetime64_any_dtype(dtype):
        return _date(name, values)
    present, absent = values.dropna(), values[values.isna()]
    kinds = set(map(type, present))
    missing = absent.iloc[0] if len(absent) else np.nan
    if kinds and kinds <= {bool, np.bool_}:
        return Column(name, BOOLEAN, dtype, missing=missing)
    if kinds and kinds <= {int, float, np.float64, np.int64}:
        return Column(name, NUMBER, dtype, missing=missing)
    if kinds and kinds <= {str, np.str_}:
        return _category(name, dtype, sorted(map(str, set(present))), missing)
    if kinds and all(issubclass(kind, date) for kind in kinds):  # a datetime is a date, too
        raise ExportError(f"the column {name!r} has dates as Python has them; convert it by pandas.to_datetime")
    found = ", ".join(sorted(kind.__name__ for kind in kinds)) or "nothing"
    raise ExportError(f"the column {name!r} has values of the types {found}; make it numbers or strings alone")


def _date(name: str, values: pd.Series) -> Column:
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        raise ExportError(
            f"the column {name!r} has dates with a time zone; convert it by .dt.tz_convert(None), which gives UTC, and "
            "fit again"
        )
    if not isinstance(values.dtype, np.dtype):
        raise ExportError(f"the column {name!r} has dates as {values.dtype}; convert it by .astype('datetime64[us]')")
    seconds = dates.seconds_of(values.to_numpy())
    if ((seconds < dates.LOWEST) | (seconds > dates.HIGHEST)).any():
        raise ExportError(f"the column {name!r} has dates beyond the years 1 to 9999; leave those rows out")
    return Column(name, DATE, values.dtype)


def _category(name: str, dtype: Any, found: list[Any], missing: Any = np.nan) -> Column:
    categories = tuple(each.item() if isinstance(each, np.generic) else each for each in found)
    kinds = {
        str if isinstance(each, str) else float if type(each) in (int, float) else type(each) for each in categories
    }
    if kinds not in ({str}, {float}):
        raise ExportError(
            f"the categories of the column {name!r} are neither all strings nor all numbers; make them so"
        )
    if len(categories) > MAX_CATEGORIES:
        raise ExportError(
            f"the column {name!r} has {len(categories)} categories, more than {MAX_CATEGORIES}; is it an identifier or "
            "free text? leave it out, or group rare values"
        )
    if any(isinstance(each, str) and not is_utf8(each) for each in categories):
        raise ExportError(f"a category of the column {name!r} cannot be written in UTF-8; rename it")
    column = Column(name, CATEGORY, dtype, categories, missing)
    return replace(column, unseen=column.other_categories[:1])


def _series(column: Column, values: NDArray[np.float64]) -> Any:
    missing = np.isnan(values)
    if column.type == CATEGORY:
        n_categories = len(column.categories)
        known = np.array([*column.categories, *column.unseen, column.missing], dtype=object)
        codes = np.where(missing, len(known) - 1, np.minimum(values, len(known) - 2)).astype(np.intp)
        if isinstance(column.dtype, pd.CategoricalDtype):
            has_unseen = ((codes >= n_categories) & ~missing).any()
            listed = known[:-1] if has_unseen else known[:n_categories]
            return pd.Series(pd.Categorical(known[codes], categories=listed, ordered=column.dtype.ordered))
        return pd.Series(known[codes], dtype=column.dtype)
    if column.type == BOOLEAN:
        if not missing.any():
            return pd.Series(values == 1, dtype=column.dtype)
        known = np.array([False, True, column.missing], dtype=object)
        cells = known[np.where(missing, 2, values).astype(np.intp)]
        return pd.Series(cells, dtype=object if column.dtype == bool else column.dtype)
    if column.type == DATE:
        return pd.Series(dates.moments_of(values)).astype(column.dtype)
    if column.type == INTEGER:
        if pd.api.types.is_extension_array_dtype(column.dtype):
            return pd.Series(pd.array(values).astype("Float64").astype("Int64"))
        return pd.Series(values if missing.any() else values.astype(np.int64))
    return pd.Series(values).astype(column.dtype if pd.api.types.is_float_dtype(column.dtype) else np.float64)


def _values(column: Column, series: pd.Series) -> NDArray[np.float64]:
    if column.type == DATE:
        if not isinstance(series.dtype, np.dtype) or series.dtype.kind != "M":
            raise ExportError(f"the column {column.name!r} has dates in one table, and {series.dtype} in another")
        return dates.seconds_of(series.to_numpy())
    if column.type != CATEGORY:
        numbers = series.astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
        return np.asarray(numbers, dtype=np.float64)
    cells = series.to_numpy(dtype=object)
    codes = pd.Index(column.categories, dtype=object).get_indexer(pd.Index(cells)).astype(np.float64)
    codes[codes < 0] = len(column.categories)
    codes[pd.isna(cells)] = np.nan
    return codes
