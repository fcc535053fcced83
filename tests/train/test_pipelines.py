"""Any pipeline of known parts, on any table: its version is equal, or one sentence says why there is none."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.base import is_classifier
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_selection import SelectKBest, VarianceThreshold, f_classif, f_regression
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from model import export
from model.engine.linear import LinearEngine
from model.errors import ExportError
from model.train import proof
from tests.support.service import bits

N_ROWS = 80
HOSTILE = [
    *("", " ", "NA", "null", "nan", "0", "1.5", "true", 'a "b", c', "a;b", "\n", "é", "日本", "🙂", "x" * 300, "=1+1"),
]

names = st.lists(st.text(min_size=1, max_size=8) | st.sampled_from(HOSTILE[1:]), min_size=1, max_size=5, unique=True)
numbers = st.one_of(
    st.floats(-1e3, 1e3), st.floats(-1e30, 1e30), st.sampled_from([0.0, -0.0, 5e-324, 1e-300, 2.0**53, 1e15])
)
texts = st.text(max_size=5) | st.sampled_from(HOSTILE)


@st.composite
def columns(draw: st.DrawFn) -> pd.Series:
    """Draw a column of any type, with or without missing values."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["number", "float32", "integer", "boolean", "text", "category", "nullable"]))
    missing = random.random(N_ROWS) < draw(st.sampled_from([0, 0, 0.2]))
    if kind in ("number", "float32"):
        values = draw(st.lists(numbers, min_size=1, max_size=30))
        column = pd.Series(random.choice(np.array(values), N_ROWS))
        column[missing] = np.nan
        with np.errstate(over="ignore"):
            return column if kind == "number" else column.clip(-1e30, 1e30).astype(np.float32)
    if kind == "integer":
        return pd.Series(random.integers(-5, draw(st.sampled_from([6, 2**31, 2**52])), N_ROWS))
    if kind == "nullable":
        return pd.Series(random.integers(-5, 20, N_ROWS)).astype("Int64").mask(missing)
    if kind == "boolean":
        return pd.Series(random.random(N_ROWS) < 0.3)
    labels: list[Any] = draw(st.lists(texts, min_size=1, max_size=6, unique=True))
    if kind == "category" and draw(st.booleans()):
        labels = draw(st.lists(st.integers(-9, 9) | st.floats(-9, 9), min_size=1, max_size=6, unique=True))
    column = pd.Series(random.choice(np.array(labels, dtype=object), N_ROWS), dtype=object).mask(missing, None)
    return column if kind == "text" else column.astype("category")


FOR_NUMBERS: list[Callable[[], Any]] = [
    *(StandardScaler, MinMaxScaler, MaxAbsScaler, RobustScaler, PowerTransformer),
    lambda: QuantileTransformer(n_quantiles=20),
    lambda: KBinsDiscretizer(n_bins=4, encode="ordinal", quantile_method="linear"),
    lambda: KBinsDiscretizer(n_bins=4, encode="onehot-dense", quantile_method="linear"),
    lambda: PolynomialFeatures(2),
    lambda: PolynomialFeatures(3, include_bias=False),
    lambda: Binarizer(threshold=1.0),
    lambda: FunctionTransformer(np.arctan),
    lambda: make_pipeline(
        KBinsDiscretizer(n_bins=3, encode="ordinal", quantile_method="linear"), PolynomialFeatures(2)
    ),
    lambda: OneHotEncoder(handle_unknown="ignore"),
    lambda: VarianceThreshold(1e-3),
]
IMPUTERS: list[Callable[[], Any]] = [
    *(lambda s=strategy: SimpleImputer(strategy=s, keep_empty_features=True) for strategy in ("mean", "median")),
    lambda: SimpleImputer(strategy="most_frequent", add_indicator=True, keep_empty_features=True),
    lambda: SimpleImputer(strategy="constant", fill_value=-1),
]
FOR_CATEGORIES: list[Callable[[], Any]] = [
    lambda: OneHotEncoder(handle_unknown="ignore"),
    lambda: OneHotEncoder(drop="first"),
    lambda: OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=3),
    lambda: OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
    lambda: OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan, encoded_missing_value=np.nan),
    lambda: OrdinalEncoder(),
    TargetEncoder,
]


def xgboost(learner: str = "XGBRegressor") -> Any:
    library = pytest.importorskip("xgboost", reason='needs XGBoost: make install EXTRAS="xgboost"')
    return getattr(library, learner)(n_estimators=8, n_jobs=1)


def lightgbm(learner: str = "LGBMRegressor") -> Any:
    library = pytest.importorskip("lightgbm", reason='needs LightGBM: make install EXTRAS="lightgbm"')
    return getattr(library, learner)(n_estimators=8, n_jobs=1, verbosity=-1, min_child_samples=3)


LEARNERS: Mapping[str, Callable[[], Any]] = {
    "tree": lambda: DecisionTreeRegressor(max_depth=6, random_state=0),
    "forest": lambda: RandomForestRegressor(n_estimators=6, random_state=0),
    "extra trees": lambda: ExtraTreesRegressor(n_estimators=6, random_state=0),
    "gbm": lambda: GradientBoostingRegressor(n_estimators=8, random_state=0),
    "histograms": lambda: HistGradientBoostingRegressor(max_iter=8, min_samples_leaf=3),
    "poisson": lambda: HistGradientBoostingRegressor(max_iter=8, min_samples_leaf=3, loss="poisson"),
    "xgboost": xgboost,
    "lightgbm": lightgbm,
    "tree of classes": lambda: DecisionTreeClassifier(max_depth=6, random_state=0),
    "forest of classes": lambda: RandomForestClassifier(n_estimators=6, random_state=0),
    "gbm of classes": lambda: GradientBoostingClassifier(n_estimators=4, random_state=0),
    "histograms of classes": lambda: HistGradientBoostingClassifier(max_iter=4, min_samples_leaf=3),
    "xgboost of classes": lambda: xgboost("XGBClassifier"),
    "lightgbm of classes": lambda: lightgbm("LGBMClassifier"),
    "least squares": Ridge,
    "logarithmic link": lambda: PoissonRegressor(max_iter=50),
    "target turned back": lambda: TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1),
    "logistic": lambda: LogisticRegression(max_iter=50),
}


@st.composite
def targets(draw: st.DrawFn, learner: Any) -> Any:
    """Draw numbers, or labels of any type for a classifier."""
    numbers = np.arange(N_ROWS) % 7 + 0.25
    if not is_classifier(learner):
        return numbers
    classes = numbers.astype(int) % draw(st.sampled_from([2, 3, 7]))
    if type(learner).__module__.startswith("xgboost"):
        return classes
    kind = draw(st.sampled_from(["positions", "numbers", "booleans", "texts", "texts"]))
    if kind == "texts":
        labels = draw(st.lists(texts, min_size=7, max_size=7, unique=True))
        return pd.Series([labels[number] for number in classes], dtype=draw(st.sampled_from([object, "category"])))
    return {"positions": classes, "numbers": classes * -3.0, "booleans": classes > 0}[kind]


@st.composite
def pipelines(draw: st.DrawFn, make: Callable[[], Any]) -> tuple[Any, pd.DataFrame]:
    """Draw a table and an unfitted pipeline for it."""
    learner = make()
    table = pd.DataFrame({name: draw(columns()) for name in draw(names)})
    steps = []
    for name in table.columns:
        parts = []
        if table[name].dtype == object or isinstance(table[name].dtype, pd.CategoricalDtype):
            parts.append(draw(st.sampled_from(FOR_CATEGORIES))())
        else:
            if bool(table[name].isna().any()) or draw(st.booleans()):
                parts.append(draw(st.sampled_from(IMPUTERS))())
            if draw(st.booleans()):
                parts.append(draw(st.sampled_from(FOR_NUMBERS))())
        steps.append((make_pipeline(*parts) if parts else "passthrough", [name]))
    transformer = make_column_transformer(*steps, sparse_threshold=0)
    score = f_classif if is_classifier(learner) else f_regression
    others: list[Any] = [None, None, None, None, SelectKBest(score, k=1), PolynomialFeatures(2), StandardScaler()]
    return make_pipeline(transformer, draw(st.sampled_from(others)), learner), table


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the table as a client sends it."""
    return [
        {
            name: None if pd.isna(cell) else cell.item() if isinstance(cell, np.generic) else cell
            for name, cell in zip(table.columns, row)
        }
        for row in table.itertuples(index=False)
    ]


@pytest.mark.parametrize("learner", LEARNERS)
@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_pipeline_is_served_equally_or_refused_in_a_sentence(data: st.DataObject, learner: str) -> None:
    """The served version gives the pipeline's bits for its table, or an error of one sentence says what to do.

    A linear model is within the bound of each row.
    """
    pipeline, table = data.draw(pipelines(LEARNERS[learner]))
    y = data.draw(targets(pipeline[-1]))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            pipeline.fit(table, y)
            expected = pipeline.predict_proba(table) if is_classifier(pipeline) else pipeline.predict(table)
            labels = pipeline.predict(table) if is_classifier(pipeline) else []
        except Exception:  # scikit-learn refuses the combination
            return
        with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            patch.setattr(proof, "RANDOM_ROWS", 2_000)
            try:
                found = export(pipeline, table, y, name="any", store=Path(folder))
            except ExportError as error:
                sentence = str(error)
            else:
                sentence = ""
    if sentence:
        assert len(sentence) < 400
        return
    matrix = found.schema.matrix_from_records(rows_of(table))
    served = found.predict(matrix)
    if isinstance(found.engine, LinearEngine):
        positions = [list(found.manifest.classes).index(label) for label in labels]
        answers = np.column_stack([positions, expected]) if len(labels) else np.ravel(expected)
        assert (np.abs(served - answers) <= found.engine.allowed(matrix)).all()
        return
    if is_classifier(pipeline):
        assert [found.manifest.classes[int(position)] for position in served[:, 0]] == list(labels)
        served = served[:, 1:]
    assert np.array_equal(bits(served), bits(np.asarray(expected, dtype=np.float64)))
