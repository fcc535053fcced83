"""Real tables, every family of models: fitted, exported, served over HTTP, and compared with the fitted model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import requests
from numpy.typing import NDArray
from sklearn.compose import TransformedTargetRegressor, make_column_selector, make_column_transformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, PolynomialFeatures, StandardScaler, TargetEncoder
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from model import export
from tests.support.real_tables import LABELLED, TABLES
from tests.support.server import serve
from tests.support.service import bits

ONE_HOT = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
ORDINAL = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
TEXTS = make_column_selector(dtype_include=["object", "string", "category"])
NUMBERS = make_column_selector(dtype_include="number")


def behind(encoder: Any, learner: Any, *steps: Any) -> Any:
    """Return a learner behind the usual steps, for a table with gaps."""
    texts = make_pipeline(SimpleImputer(strategy="most_frequent"), encoder)
    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler(), *steps)
    return make_pipeline(make_column_transformer((numbers, NUMBERS), (texts, TEXTS)), learner)


def with_categories(X: pd.DataFrame) -> pd.DataFrame:
    """Return the table with its texts as categories of pandas."""
    return X.astype(dict.fromkeys(X.select_dtypes(["object", "string"]).columns, "category"))


def own_categories(package: str, learner: str, **options: Any) -> Any:
    """Return a learner of a library that has categories of its own; skip where it is not installed."""
    library = pytest.importorskip(package, reason=f'needs {package}: make install EXTRAS="{package}"')
    return getattr(library, learner)(**options)


FAMILIES: Mapping[str, Callable[[], Any]] = {
    "decision-tree": lambda: behind(ONE_HOT, DecisionTreeRegressor(max_depth=12)),
    "random-forest": lambda: behind(ONE_HOT, RandomForestRegressor(n_estimators=30, random_state=0)),
    "extra-trees": lambda: behind(ORDINAL, ExtraTreesRegressor(n_estimators=30, random_state=0)),
    "gradient-boosting": lambda: behind(
        TargetEncoder(target_type="continuous"), GradientBoostingRegressor(random_state=0)
    ),
    "histograms": lambda: HistGradientBoostingRegressor(max_iter=60, categorical_features="from_dtype"),
    "xgboost": lambda: own_categories("xgboost", "XGBRegressor", n_estimators=60, enable_categorical=True),
    "lightgbm": lambda: own_categories("lightgbm", "LGBMRegressor", n_estimators=60, verbosity=-1, n_jobs=1),
}
# Those that take categories of pandas themselves.
OWN_CATEGORIES = ("histograms", "xgboost", "lightgbm")
CLASSIFIERS: Mapping[str, Callable[[], Any]] = {
    "decision-tree": lambda: behind(ONE_HOT, DecisionTreeClassifier(max_depth=8)),
    "random-forest": lambda: behind(ONE_HOT, RandomForestClassifier(n_estimators=30, max_depth=9, random_state=0)),
    "extra-trees": lambda: behind(ORDINAL, ExtraTreesClassifier(n_estimators=30, max_depth=9, random_state=0)),
    "gradient-boosting": lambda: behind(ORDINAL, GradientBoostingClassifier(n_estimators=40, random_state=0)),
    "histograms": lambda: HistGradientBoostingClassifier(max_iter=40, categorical_features="from_dtype"),
    "xgboost": lambda: own_categories("xgboost", "XGBClassifier", n_estimators=40, enable_categorical=True),
    "lightgbm": lambda: own_categories("lightgbm", "LGBMClassifier", n_estimators=40, verbosity=-1, n_jobs=1),
    "catboost": lambda: behind(
        ONE_HOT, own_categories("catboost", "CatBoostClassifier", n_estimators=40, verbose=0, allow_writing_files=False)
    ),
}


def variants(X: pd.DataFrame) -> pd.DataFrame:
    """Return rows of the table, and the same with each column missing in turn, or its numbers far beyond the range."""
    rows = X.sample(60, random_state=1)
    changed = [rows]
    for name in X.columns:
        other = rows.head(5).astype(object)
        other[name] = None
        changed.append(other)
        if pd.api.types.is_numeric_dtype(X[name]):
            far = rows.head(5).copy()
            far[name] = far[name] * 3 + 1
            changed.append(far)
    return pd.concat([frame.astype(object) for frame in changed], ignore_index=True)


def typed(X: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows in the types of the table."""
    is_number = {name: pd.api.types.is_numeric_dtype(X[name]) for name in X}
    return rows.astype({name: float if is_number[name] else X[name].dtype for name in X})


def records_of(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as JSON has them."""
    return [{name: _exact(cell) for name, cell in zip(rows.columns, row)} for row in rows.itertuples(index=False)]


def served(store: Path, tmp_path: Path, rows: pd.DataFrame) -> NDArray[np.float64]:
    """Return the answers over HTTP for rows together; those for three of them alone have the same bits."""
    records = records_of(rows)
    with serve(store, tmp_path, WEB_CONCURRENCY="1") as server:
        url = f"{server.url}/predict"
        reply = requests.post(url, json=records, timeout=30)
        alone = [requests.post(url, json=records[number], timeout=30).json() for number in (0, 30, -1)]
    assert reply.status_code == 200, reply.text
    together = np.array(reply.json()["prediction"])
    assert np.array_equal(bits(np.array([one["prediction"][0] for one in alone])), bits(together[[0, 30, -1]]))
    return together


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("table", TABLES)
def test_service_gives_the_fitted_models_bits(tmp_path: Path, table: str, family: str) -> None:
    """The answers over HTTP, for one row and for many together, have the bits of the fitted model's."""
    X, y = TABLES[table]()
    X = with_categories(X) if family in OWN_CATEGORIES else X
    model = FAMILIES[family]().fit(X, y)
    export(model, X, y, name="own", store=tmp_path / "store")
    rows = variants(X)

    assert np.array_equal(bits(served(tmp_path / "store", tmp_path, rows)), bits(model.predict(typed(X, rows))))


def test_service_gives_the_bits_of_computed_columns(tmp_path: Path) -> None:
    """Trees behind products of columns, whose targets are logarithms, are served with the fitted model's bits."""
    X, y = TABLES["diamonds"]()
    trees = TransformedTargetRegressor(GradientBoostingRegressor(random_state=0), func=np.log, inverse_func=np.exp)
    model = behind(ONE_HOT, trees, PolynomialFeatures(2, include_bias=False)).fit(X, y)
    export(model, X, y, name="own", store=tmp_path / "store")
    rows = variants(X)

    assert np.array_equal(bits(served(tmp_path / "store", tmp_path, rows)), bits(model.predict(typed(X, rows))))


def test_service_gives_the_bits_of_the_linear_model_that_was_proven(tmp_path: Path) -> None:
    """A linear model is served with the bits of its version, which are within the bound of the fitted model's."""
    X, y = TABLES["flights"]()
    model = behind(ONE_HOT, Ridge()).fit(X, y)
    found = export(model, X, y, name="own", store=tmp_path / "store")
    rows = variants(X)
    answers = served(tmp_path / "store", tmp_path, rows)
    columns = model[:-1].transform(typed(X, rows))
    size = np.abs(columns) @ np.abs(model[-1].coef_) + abs(model[-1].intercept_)

    assert (np.abs(answers - model.predict(typed(X, rows))) <= (columns.shape[1] + 2) * 2.0**-52 * size).all()
    assert np.array_equal(bits(answers), bits(found.predict(found.schema.matrix_from_records(records_of(rows)))))


# For each family a table of two classes and one of more.
PAIRS = [(table, family) for number, family in enumerate(CLASSIFIERS) for table in list(LABELLED)[number % 2 :: 2]]


@pytest.mark.parametrize(("table", "family"), PAIRS)
def test_service_gives_the_fitted_classifiers_bits(tmp_path: Path, table: str, family: str) -> None:
    """Labels over HTTP are the fitted model's, and every probability has its bits, for one row and for many."""
    X, y = LABELLED[table]()
    X = with_categories(X) if family in OWN_CATEGORIES else X
    if family == "xgboost":  # which takes no labels but 0, 1 and so on
        y = pd.Series(pd.factorize(y, sort=True)[0])
    model = CLASSIFIERS[family]().fit(X, y)
    export(model, X, y, name="own", store=tmp_path / "store")
    rows = variants(X)
    asked, records = typed(X, rows), records_of(rows)
    labels, probabilities = np.ravel(model.predict(asked)).tolist(), model.predict_proba(asked)
    with serve(tmp_path / "store", tmp_path, WEB_CONCURRENCY="1") as server:
        reply = requests.post(f"{server.url}/predict", json=records, timeout=30).json()
        alone = [
            requests.post(f"{server.url}/predict", json=records[number], timeout=30).json() for number in (0, 30, -1)
        ]
        v2 = requests.get(f"{server.url}/v2/models/own", timeout=30).json()["outputs"]

    assert reply["prediction"] == labels
    found = np.array([list(row.values()) for row in reply["probability"]])
    assert np.array_equal(bits(found), bits(probabilities.astype(np.float64)))
    for number, one in zip((0, 30, -1), alone):
        assert one["prediction"] == [labels[number]]
        assert one["probability"] == [reply["probability"][number]]
    assert v2[1]["shape"] == [-1, probabilities.shape[1]]


def _exact(cell: Any) -> Any:
    """Return a cell for JSON."""
    if cell is None or cell != cell:
        return None
    return cell.item() if isinstance(cell, np.generic) else cell
