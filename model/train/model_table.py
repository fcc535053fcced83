"""Read the table of a model that comes from a file: its columns as the model takes them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import NotFittedError

from model.errors import ExportError, first_line
from model.schema import dates
from model.schema.feature import DATE, Feature
from model.train.compile import catboost, lightgbm, xgboost
from model.train.compile.compiled import fitted_names
from model.train.labels import labels_of

TEXT = "text"
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,14}")  # written as Python writes it, and exact in float64
_MADE_UP = ("x", "Column_", "f", "")  # what libraries name the columns of an array, with a number behind


def read(
    path: Path, fitted: Any, *, target: str, types: Mapping[str, str] | None = None, like: Any = None
) -> tuple[Any, pd.Series]:
    """Return the features, as the model takes them, and the target of a CSV table.

    A model that was fitted on named columns gets these; one that was fitted on an array gets all but the target. The
    columns that a booster itself takes for categories are categories, and those of `types` are what it says: text,
    dates, or categories, which are numbers if all are whole. `like` are the features of an earlier table, with whose
    categories this one's begin. Other text becomes a category where the model takes no text. Rows without a target are
    left out. Raises `ExportError` for a table that is not the model's.
    """
    types, own, names, labels = types or {}, _categories(fitted), fitted_names(fitted), labels_of(fitted)
    # As they stand: pandas takes "1" for a number, "01" for the same one, and "NA" for a missing value.
    as_texts = {*types, *own, *([target] if labels and isinstance(labels[0], str) else [])}
    table = _as_it_stands(path, as_texts)
    if target not in table:
        raise ExportError(f"{path.name} has no column {target!r}; its columns are {', '.join(map(str, table))}")
    table = table[table[target].notna() & (("" in labels) | (table[target] != ""))]
    if not len(table):
        raise ExportError(f"{path.name} has no row with a value of {target!r}; name the column that is predicted")
    y, X = table[target], table.drop(columns=target)
    is_array = any(names == [f"{prefix}{number}" for number in range(len(names))] for prefix in _MADE_UP)
    of_array = is_array and not any(name in X for name in names)
    for name in types:
        if name not in X or of_array or name not in names:
            reason = "an array of numbers" if of_array else f"the columns {', '.join(map(repr, names))}"
            raise ExportError(f"--as names the column {name!r}, and the model takes {reason}; leave it out")
    if of_array:
        if len(names) not in (0, X.shape[1]):
            raise ExportError(
                f"the model was fitted on an array of {len(names)} columns, and {path.name} has {X.shape[1]} beside "
                f"{target!r}; leave only those in it, in their order"
            )
        return _named(fitted, X), y
    absent = [name for name in names if name not in X]
    if absent:
        raise ExportError(
            f"{path.name} lacks the columns {', '.join(map(repr, absent))}, which the model was fitted on; its columns "
            f"are {', '.join(map(repr, X))}"
        )
    has_missing = not catboost.owns(fitted)  # which takes no missing category
    typed = {}
    for name in as_texts & {*names}:
        texts = X[name].mask(X[name] == "", np.nan) if has_missing and "" not in (own.get(name) or ()) else X[name]
        before = like[name].dtype if like is not None else None
        known = before.categories if isinstance(before, pd.CategoricalDtype) else own.get(name) or ()
        if types.get(name) == DATE:
            typed[name] = _dates(name, X[name], path)
        else:
            typed[name] = texts if types.get(name) == TEXT else _category(name, texts, list(known))
    X = X[names].assign(**typed)
    failure = _failure(fitted, X)
    texts_left = X.select_dtypes(["object", "string"]).columns
    if failure and len(texts_left):
        as_categories = X.astype(dict.fromkeys(texts_left, "category"))
        if not _failure(fitted, as_categories):
            return as_categories, y
    if failure and not isinstance(failure, NotFittedError) and len(X.select_dtypes("number").columns):
        raise ExportError(
            f"the model does not predict {path.name} as it was read ({first_line(failure)}); if a column that looks "
            "like numbers is text or a category to it, say so by --as COLUMN=text or --as COLUMN=category, and of "
            "dates by --as COLUMN=date"
        )
    return X, y


def _as_it_stands(path: Path, as_texts: set[str]) -> pd.DataFrame:
    """Return a CSV table as pandas reads it, with some columns as the texts that are in it."""
    try:
        table = pd.read_csv(path)
        if not isinstance(table.index, pd.RangeIndex):
            raise ValueError("its rows have more cells than its header; give the header a name for each column")
        if as_texts := as_texts & {*table.columns}:
            texts = pd.read_csv(path, usecols=list(as_texts), dtype=object, keep_default_na=False)
            table = table.assign(**{name: texts[name] for name in as_texts})
    except (ValueError, OSError) as error:
        raise ExportError(f"{path.name} cannot be read as CSV: {error}") from None
    return table


def _categories(fitted: Any) -> dict[str, Sequence[Any] | None]:
    """Return the columns that a model takes for categories by itself, each with those that it knows, if it says so."""
    if isinstance(fitted, (HistGradientBoostingClassifier, HistGradientBoostingRegressor)):
        masks = getattr(fitted, "is_categorical_", None)
        if masks is None or not hasattr(fitted, "feature_names_in_"):
            return {}
        encoder = fitted._preprocessor.named_transformers_["encoder"]
        found = [[category for category in known if not pd.isna(category)] for known in encoder.categories_]
        return dict(zip(fitted.feature_names_in_[masks], found))
    family: Any = next((family for family in (catboost, lightgbm, xgboost) if family.owns(fitted)), None)
    of_booster: dict[str, Sequence[Any] | None] = family.categories(fitted) if family else {}
    return of_booster


def _category(name: str, texts: pd.Series, known: list[Any]) -> pd.Series:
    """Return a column of texts as a category: first the known ones, then others, of the same type.

    Without known ones, they are numbers if all are whole. Raises `ExportError` for a text among known numbers.
    """
    found = set(texts.dropna())
    is_text = any(isinstance(each, str) for each in known) if known else not all(map(_WHOLE.fullmatch, found))
    if is_text:
        return texts.astype(pd.CategoricalDtype([*known, *sorted(found - {*known})]))
    numbers = pd.to_numeric(texts, errors="coerce")
    others = texts[numbers.isna() & texts.notna()]
    if len(others):
        raise ExportError(
            f"the column {name!r} has {others.iloc[0]!r}, and the model knows numbers as its categories, such as "
            f"{known[0]:g}; write numbers, or export the model from where its table is"
        )
    return numbers.astype(pd.CategoricalDtype([*known, *sorted({*numbers.dropna()} - {*known})]))


def _dates(name: str, texts: pd.Series, path: Path) -> pd.Series:
    """Return a column of texts as dates, which a server reads as the same. Raises `ExportError` for any other text."""
    read = Feature(name, type=DATE, missing=True).cells
    cells = list(map(read.parse, texts))
    wrong = next((row for row, cell in enumerate(cells) if read.reason(cell)), None)
    if wrong is not None:
        raise ExportError(
            f"{path.name} has {texts.iloc[wrong]!r} in the column {name!r}, which is no date in ISO 8601; write it as "
            "2026-03-01 or 2026-03-01T14:30:00Z"
        )
    seconds = np.array([read.number(cell) for cell in cells], dtype=np.float64)
    return pd.Series(dates.moments_of(seconds), index=texts.index)


def _named(fitted: Any, X: pd.DataFrame) -> Any:
    """Return the table of a model that was fitted on an array: with the table's names if the model lets them pass."""
    try:
        numbers = X.astype(np.float64)
    except (TypeError, ValueError):
        return X.to_numpy()  # which is refused, with its type
    return X.to_numpy() if _failure(fitted, numbers) else numbers


def _failure(fitted: Any, X: pd.DataFrame) -> Exception | None:
    """Return what the model raises for the table's first row."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted.predict(X[:1])
    except Exception as error:  # every library has classes of its own
        return error
    return None
