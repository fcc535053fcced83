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

from model.errors import ExportError
from model.train.compile import catboost, lightgbm, xgboost
from model.train.compile.compiled import fitted_names
from model.train.labels import labels_of

TYPES = TEXT, CATEGORY = "text", "category"
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,14})")  # written as Python writes it, and exact in float64


def read(
    path: Path, fitted: Any, *, target: str, types: Mapping[str, str] | None = None
) -> tuple[pd.DataFrame | np.ndarray[Any, Any], pd.Series]:
    """Return the features, as the model takes them, and the target of a CSV table.

    A model that was fitted on named columns gets these; one that was fitted on an array gets all but the target. The
    columns that a booster itself takes for categories are categories, and those of `types` are what it says: text, or
    categories, which are numbers if all are whole. Other text becomes a category where the model takes no text. Rows
    without a target are left out. Raises `ExportError` for a table that is not the model's.
    """
    types, own = types or {}, _categories(fitted)
    labels = labels_of(fitted)
    # As they stand: pandas takes "1" for a number, "01" for the same one, and "NA" for a missing value.
    as_texts = {*types, *own, *([target] if labels and isinstance(labels[0], str) else [])}
    try:
        table = pd.read_csv(path)
        if as_texts := as_texts & {*table.columns}:
            read = pd.read_csv(path, usecols=list(as_texts), dtype=object, keep_default_na=False)
            table = table.assign(**{name: read[name] for name in as_texts})
    except (ValueError, OSError) as error:
        raise ExportError(f"{path.name} cannot be read as CSV: {error}") from None
    for name in (target, *types):
        if name not in table:
            columns = ", ".join(map(str, table.columns))
            raise ExportError(f"{path.name} has no column {name!r}; its columns are {columns}")
    table = table[table[target].notna() & (("" in labels) | (table[target] != ""))]
    y, X = table[target], table.drop(columns=target)
    names = fitted_names(fitted)
    if not any(name in X for name in names):  # libraries make up names for the columns of an array
        n_features = len(names) or X.shape[1]
        if n_features != X.shape[1]:
            raise ExportError(
                f"the model was fitted on an array of {n_features} columns, and {path.name} has {X.shape[1]} beside "
                f"{target!r}; leave only those in it, in their order"
            )
        return _named(fitted, X), y
    absent = [name for name in names if name not in X]
    if absent:
        raise ExportError(
            f"{path.name} lacks the columns {', '.join(map(repr, absent))}, which the model was fitted on"
        )
    has_missing = not catboost.owns(fitted)  # which takes no missing category
    X = X[names].assign(
        **{
            name: _typed(X[name], types.get(name, CATEGORY), own.get(name), has_missing=has_missing)
            for name in as_texts & {*names}
        }
    )
    failure = _failure(fitted, X)
    texts = X.select_dtypes(["object", "string"]).columns
    if failure and len(texts):
        as_categories = X.astype(dict.fromkeys(texts, "category"))
        if not _failure(fitted, as_categories):
            return as_categories, y
    if failure and not isinstance(failure, NotFittedError) and len(X.select_dtypes("number").columns):
        raise ExportError(
            f"the model does not predict {path.name} as it was read ({_first_line(failure)}); if a column that looks "
            "like numbers is text or a category to it, say so by --as COLUMN=text or --as COLUMN=category"
        )
    return X, y


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


def _typed(texts: pd.Series, type: str, known: Sequence[Any] | None, *, has_missing: bool) -> pd.Series:
    """Return a column of text as what it is, with missing values for empty cells unless these are a category."""
    present = texts.mask(texts == "", np.nan) if has_missing and "" not in (known or ()) else texts
    if type == TEXT:
        return present
    if not known:
        found = sorted(set(present.dropna()))
        known = sorted(map(int, found)) if all(map(_WHOLE.fullmatch, found)) else found
    if known and not any(isinstance(each, str) for each in known):
        present = pd.to_numeric(present, errors="coerce")
    return present.astype(pd.CategoricalDtype(list(known)))


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


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
