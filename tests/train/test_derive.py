"""Derived features: computed by the server as in training, to the last bit."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.preprocessing import OrdinalEncoder, StandardScaler

from app.config import Config
from app.factory import create_app
from model import Artifact, export
from model.engine.formulas import Derived
from model.errors import ExportError, FormulaError
from model.train import frames, proof
from model.train.derive import Formulas, derived_of
from tests.support.service import bits

DEFINITIONS = (
    Derived("per_room", "price / rooms", owner="Ada", description="price of a room"),
    Derived("log_area", "log(area)"),
    Derived("age", "days_since(sold, '2020-01-01') / 365.25"),
    Derived("month", "month(sold) + hour(sold) / 24"),
    Derived("waited", "days_between(sold, listed)"),
    Derived("north", "region == 'Nord' and not is_missing(price)"),
    Derived("odd", "where(rooms > 3, min(price, area), -sqrt(area)) ** 2"),
)
SOURCES = ["price", "rooms", "area", "sold", "listed", "region"]


@pytest.fixture(autouse=True)
def _few_random_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "RANDOM_ROWS", 2_000)


def homes(n_rows: int, seed: int = 0) -> pd.DataFrame:
    """Return homes with numbers of all sizes, zeros, dates with times, a category, and a twentieth missing."""
    random = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "price": random.lognormal(3, 2, n_rows) * random.choice([1, -1], n_rows, p=[0.9, 0.1]),
            "rooms": random.integers(0, 7, n_rows).astype(float),
            "area": random.normal(50, 40, n_rows),
            "sold": moments(random, n_rows),
            "listed": moments(random, n_rows),
            "region": pd.Categorical(random.choice(["Nord", "Ost", "West"], n_rows)),
            "other": random.normal(size=n_rows),
        }
    )
    return table.mask(random.random(table.shape) < 0.05)


def moments(random: np.random.Generator, n_rows: int) -> Any:
    return (random.integers(-(10**15), 3 * 10**15, n_rows)).astype("M8[us]")


def target(table: pd.DataFrame) -> Any:
    """Return what is predicted: a sum of derived features."""
    per_room = (table["price"] / table["rooms"]).replace([np.inf, -np.inf], np.nan).fillna(0)
    return per_room.clip(-100, 100) + table["sold"].dt.month.fillna(0) + table["other"].fillna(0)


def pipeline(estimator: BaseEstimator, after: Any = "passthrough") -> Pipeline:
    """Return a pipeline with derived features beside plain columns and categories."""
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2)
    columns = ColumnTransformer(
        [
            ("derived", make_pipeline(Formulas(DEFINITIONS), after), SOURCES),
            ("plain", after, ["other", "area"]),
            ("region", encoder, ["region"]),
        ]
    )
    return make_pipeline(columns, estimator)


def exported(model: Pipeline, table: pd.DataFrame, y: Any, store: Path) -> Artifact:
    return export(model.fit(table, y), table, y, name="homes", store=store)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as a client sends them."""
    found: list[dict[str, Any]] = json.loads(
        table.to_json(orient="records", date_format="iso", date_unit="us", double_precision=15)
    )
    for name in ("price", "area", "other"):  # whose floats JSON of pandas rounds
        for row, number in zip(found, table[name].tolist()):
            row[name] = None if number != number else number
    return found


def test_training_and_serving_agree_on_100_000_rows(tmp_path: Path) -> None:
    """A server's answers for 100,000 new rows, sent as records, have the bits of the fitted pipeline's."""
    table = homes(3_000)
    model = pipeline(HistGradientBoostingRegressor(max_iter=30))
    served = exported(model, table, target(table), tmp_path)
    new = homes(100_000, seed=1)
    new.loc[:99, "rooms"] = 0.0

    matrix = served.schema.matrix_from_records(records(new))

    assert np.array_equal(bits(served.predict(matrix)), bits(model.predict(new)))
    derived = model[0].named_transformers_["derived"][0]
    assert np.array_equal(derived.transform(new[SOURCES]), derived.transform(matrix[:, :6]), equal_nan=True)


@pytest.mark.parametrize(
    ("estimator", "after"),
    [
        (HistGradientBoostingRegressor(max_iter=10), SimpleImputer(add_indicator=True)),
        (RandomForestRegressor(5, max_depth=6, random_state=0), "passthrough"),
        (GradientBoostingRegressor(n_estimators=10), SimpleImputer()),
        (Ridge(), make_pipeline(SimpleImputer(), StandardScaler())),
    ],
    ids=lambda value: type(value).__name__,
)
def test_derived_features_in_front_of(estimator: BaseEstimator, after: Any, tmp_path: Path) -> None:
    """Trees of all kinds and linear models behind derived features are proven equal; rows without a value are taken."""
    table = homes(600)
    served = exported(pipeline(estimator, after), table, target(table), tmp_path)

    row = {**records(table[:1])[0], "rooms": 0, "price": 5.0}
    assert np.isfinite(served.predict(served.schema.matrix_from_records([row]))).all()
    assert served.manifest.derived == DEFINITIONS
    assert served.schema.names == tuple(table.columns)


def test_version_says_what_is_derived(tmp_path: Path) -> None:
    """Manifest, card, page and OpenAPI document have the formulas; a client sends the plain features alone."""
    table = homes(400)
    y = np.where(target(table) > 8, "dear", "cheap")
    served = exported(pipeline(HistGradientBoostingClassifier(max_iter=5)), table, y, tmp_path)
    client = create_app(Config(store=tmp_path, models=("homes",))).test_client()

    assert served.manifest.document["derived"][0] == {
        "name": "per_room",
        "formula": "price / rooms",
        "owner": "Ada",
        "description": "price of a room",
    }
    assert "| per_room | price / rooms | price of a room | Ada |" in (served.path / "card.md").read_text()
    assert client.get("/models/homes/page").get_json()["derived"][0] == served.manifest.document["derived"][0]
    row = json.loads(client.get("/openapi.json").data)["components"]["schemas"]["homes.row"]
    assert "The model computes per_room = price / rooms; log_area = log(area)" in row["description"]
    assert "per_room" not in row["properties"]
    rows = records(table[:3])
    labels = ["cheap", "dear"]
    expected = [labels[int(place)] for place in served.predict(served.schema.matrix_from_records(rows))[:, 0]]
    assert json.loads(client.post("/predict", json=rows).data)["prediction"] == expected


@pytest.mark.parametrize("library", ["sklearn", "lightgbm", "xgboost"])
def test_categories_of_the_library_behind_derived_features(library: str, tmp_path: Path) -> None:
    """Trees that split categories themselves may stand behind derived features; unseen ones are treated alike."""
    if library == "sklearn":
        estimator = HistGradientBoostingRegressor(max_iter=10, categorical_features="from_dtype")
    elif library == "lightgbm":
        estimator = pytest.importorskip("lightgbm").LGBMRegressor(n_estimators=10, verbose=-1, min_child_samples=5)
    else:
        estimator = pytest.importorskip("xgboost").XGBRegressor(n_estimators=10, enable_categorical=True)
    table = homes(800)[["price", "rooms", "region", "other"]].assign(code=np.arange(800) % 5)
    table["code"] = table["code"].map("abcde".__getitem__).astype("category")
    columns = ColumnTransformer(
        [("derived", Formulas(DEFINITIONS[:1]), ["price", "rooms"])],
        remainder="passthrough",
        verbose_feature_names_out=False,
    ).set_output(transform="pandas")
    y = target(table.assign(sold=moments(np.random.default_rng(0), 800))) / 10 + table["code"].isin(["a", "d"]) * 5
    model = make_pipeline(columns, estimator)
    served = exported(model, table, y, tmp_path)
    new = homes(2_000, seed=3)[["price", "rooms", "region", "other"]]
    new["code"] = pd.Categorical(np.random.default_rng(0).choice([*"abcde"], 2_000), categories=[*"abcde"])
    rows: Any = new.astype(object).where(new.notna(), None).to_dict("records")

    assert served.manifest.document["engine"]["columns"] == "columns.npz"
    assert np.array_equal(
        bits(served.predict(served.schema.matrix_from_records(rows))), bits(np.float64(model.predict(new)))
    )
    (code,) = [feature for feature in served.schema.features if feature.name == "code"]
    assert code.categories == tuple("abcde")


def test_rising_formula_is_folded_into_the_splits(tmp_path: Path) -> None:
    """A formula that rises with its only column costs a server nothing: the trees compare the column itself."""
    table = homes(400)[["other", "sold"]].dropna()
    formulas = Formulas([Derived("a", "2 * other + 1"), Derived("b", "days_since(sold, '2020-01-01')")])
    served = exported(
        make_pipeline(formulas, HistGradientBoostingRegressor(max_iter=5)), table, table["other"], tmp_path
    )

    assert "columns" not in served.manifest.document["engine"]


def test_model_that_refuses_missing_values(tmp_path: Path) -> None:
    """Such a model has the limits at which its formulas end; where they have a hole instead, it is refused."""
    table = homes(400)[["other", "area"]].dropna().abs() + 1
    roots = Formulas([Derived("log", "log(other - 1)"), Derived("ratio", "1 / area")])
    served = exported(make_pipeline(roots, GradientBoostingRegressor(n_estimators=5)), table, table["other"], tmp_path)

    assert [feature.lowest >= 0 for feature in served.schema.features] == [True, True]
    assert served.schema.features[0].lowest == np.nextafter(1, 2)
    whole = pd.DataFrame({"n": np.tile([1.0, 2.0, 4.0, 5.0], 50)}).astype({"n": int})
    holed = make_pipeline(Formulas([Derived("near", "1 / (n - 3)")]), GradientBoostingRegressor(n_estimators=5))
    with pytest.raises(ExportError, match=r"'near' is missing where .* put a SimpleImputer behind Formulas"):
        exported(holed, whole, whole["n"], tmp_path)


def test_columns_of_all_kinds_are_numbers() -> None:
    """Booleans, whole numbers, pandas' own types and dates with a time zone are read as the numbers that they are."""
    table = pd.DataFrame(
        {
            "flag": pd.array([True, None, False], dtype="boolean"),
            "n": pd.array([1, 2, None], dtype="Int64"),
            "x": np.array([1, 2, 3], dtype=np.float32),
            "d": pd.to_datetime(["2020-01-01T01:00+01:00", "NaT", "2020-01-02T00:00+01:00"], utc=True),
        }
    )
    formulas = [Derived("a", "flag + n * x"), Derived("b", "hours_since(d, '2020-01-01')")]
    found = Formulas(formulas).fit_transform(table)

    assert np.array_equal(found, np.array([[2, 0], [np.nan, np.nan], [np.nan, 23]]), equal_nan=True)


def test_step_is_one_of_scikit_learn() -> None:
    """The step is cloned and pickled, names its columns, and takes a frame with more columns in any order."""
    table = homes(50)
    step = clone(Formulas(DEFINITIONS)).fit(table[SOURCES])
    expected = step.transform(table[SOURCES])

    assert step.get_feature_names_out().tolist() == [each.name for each in DEFINITIONS]
    assert np.array_equal(
        pickle.loads(pickle.dumps(step)).transform(table[table.columns[::-1]]), expected, equal_nan=True
    )
    assert expected.shape == (50, len(DEFINITIONS))
    assert Formulas(DEFINITIONS).set_output(transform="pandas").fit_transform(table)["per_room"].isna().any()
    assert derived_of(make_union(step, make_pipeline(step, Formulas(DEFINITIONS[:1])))) == DEFINITIONS


@pytest.mark.parametrize(
    ("definitions", "reason"),
    [
        ([], "no definitions"),
        (["a / b"], "is no definition"),
        ([Derived("a", "price"), Derived("a", "area")], "'a' is defined more than once"),
        ([Derived("a", "prize / rooms")], "no column 'prize'; the nearest is 'price'"),
        ([Derived("a", "price +")], "the end stands where"),
        ([Derived("a", "log(region)")], "takes a category"),
        ([Derived("a", "region == 'Süd'")], "'region' has no category 'Süd'"),
        ([Derived("a", "sold")], "it is a date; take a part of it"),
        ([Derived("a", "sold - listed")], "write days_between"),
        ([Derived("a", "log(text)")], "'text' is of the type text"),
    ],
)
def test_definition_that_does_not_fit_the_table(definitions: Any, reason: str) -> None:
    """The fit refuses what cannot be computed of the table, and names it."""
    with pytest.raises(FormulaError, match=reason):
        Formulas(definitions).fit(homes(20).assign(text="x"))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (lambda table: table.drop(columns="rooms"), "lacks the column 'rooms'"),
        (lambda table: np.zeros((3, 2)), r"the shape \(3, 2\)"),
    ],
)
def test_table_that_lacks_a_column(given: Callable[[pd.DataFrame], Any], reason: str) -> None:
    """Rows without a source column are refused."""
    step = Formulas(DEFINITIONS).fit(homes(20)[SOURCES])

    with pytest.raises(FormulaError, match=reason):
        step.transform(given(homes(3)))


def test_array_has_no_names() -> None:
    """A table without names cannot be derived from."""
    table: Any = np.zeros((3, 2))
    with pytest.raises(FormulaError, match="take columns by name"):
        Formulas(DEFINITIONS).fit(table)


def test_frames_read_the_same_dates() -> None:
    """The step reads dates as the server's matrix has them."""
    table = homes(200)[["sold", "listed"]]
    step = Formulas([Derived("waited", "days_between(sold, listed)")]).fit(table)
    read = frames.read(table)

    assert np.array_equal(step.transform(table), step.transform(read.matrix(table)), equal_nan=True)
    assert np.array_equal(step.transform(read.frame(read.matrix(table))), step.transform(table), equal_nan=True)
