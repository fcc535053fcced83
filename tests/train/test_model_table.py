"""The table of a model from a file: its columns are read as the model takes them, or the error says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from model import Artifact, Store
from model.cli.main import main
from tests.support.service import bits

CODES = ["01067", "04109", "01099", "09111"]


@pytest.fixture(scope="module")
def homes() -> pd.DataFrame:
    """A table with a code and a zone that look like numbers, and a country whose name looks like a missing value."""
    random = np.random.default_rng(3)
    n = 300
    table = pd.DataFrame(
        {
            "area": random.gamma(3, 30, n).round(1),
            "zip": random.choice(CODES, n),
            "zone": random.choice([2, 3, 5, 9], n),
            "country": random.choice(["NA", "DE", "null"], n),
        }
    )
    table["rent"] = table.area + table.zip.map({code: 90.0 * place for place, code in enumerate(CODES)}) + table.zone
    return table


def typed(homes: pd.DataFrame) -> pd.DataFrame:
    """Return the features with categories of texts and of numbers."""
    return homes.drop(columns="rent").astype({"zip": "category", "zone": "category", "country": "category"})


def imported(folder: Path, file: str, table: pd.DataFrame, *options: str) -> Artifact:
    """Import a model's file with the table as CSV, and return the version."""
    table.to_csv(folder / "homes.csv", index=False)
    arguments = ["import", str(folder / file), "--data", str(folder / "homes.csv"), "--target", "rent", *options]
    assert main(["--store", str(folder / "store"), *arguments, "--name", "homes"]) == 0
    return Store(folder / "store").load("homes")


def check(found: Artifact, rows: pd.DataFrame, expected: Any) -> None:
    """Compare the answers to rows, as a client sends them, with the fitted model's."""
    records = [dict(zip(rows.columns, row)) for row in rows.astype(object).to_numpy().tolist()]
    served = found.predict(found.schema.matrix_from_records(records))
    assert np.array_equal(bits(served), bits(np.asarray(expected, dtype=np.float64)))


def test_categories_of_catboost(homes: pd.DataFrame, tmp_path: Path) -> None:
    """CatBoost's categories keep their leading zeros, and an empty cell is a category of its own."""
    catboost = pytest.importorskip("catboost", reason='needs CatBoost: make install EXTRAS="catboost"')
    X = homes.drop(columns="rent")
    X.loc[:20, "country"] = ""
    model = catboost.CatBoostRegressor(
        iterations=20,
        cat_features=["zip", "zone", "country"],
        max_ctr_complexity=1,
        verbose=False,
        allow_writing_files=False,
    ).fit(X, homes.rent)
    model.save_model(tmp_path / "homes.cbm")
    found = imported(tmp_path, "homes.cbm", X.assign(rent=homes.rent))

    assert [feature.categories for feature in found.schema.features[1:]] == [
        tuple(sorted(CODES)),
        (2, 3, 5, 9),
        ("", "DE", "NA", "null"),
    ]
    check(found, X, model.predict(X))


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_categories_of_a_booster(homes: pd.DataFrame, tmp_path: Path, library: str) -> None:
    """The categories of XGBoost's and LightGBM's files are what they were: texts, or whole numbers."""
    module = pytest.importorskip(library, reason=f'needs {library}: make install EXTRAS="{library}"')
    X = typed(homes)
    if library == "xgboost":
        model = module.XGBRegressor(n_estimators=10, enable_categorical=True, n_jobs=1).fit(X, homes.rent)
        file = "homes.json"
        model.save_model(tmp_path / file)
    else:
        model = module.LGBMRegressor(n_estimators=10, n_jobs=1, verbosity=-1).fit(X, homes.rent)
        file = "homes.txt"
        model.booster_.save_model(tmp_path / file)
    found = imported(tmp_path, file, homes)

    assert [set(feature.categories) for feature in found.schema.features[1:]] == [
        set(CODES),
        {2, 3, 5, 9},
        {"DE", "NA", "null"},
    ]
    check(found, X, model.predict(X))


def test_categories_of_scikit_learn(homes: pd.DataFrame, tmp_path: Path) -> None:
    """So are the categories that scikit-learn's histograms found by themselves."""
    X = typed(homes)
    model = HistGradientBoostingRegressor(max_iter=10).fit(X, homes.rent)
    joblib.dump(model, tmp_path / "homes.joblib")
    found = imported(tmp_path, "homes.joblib", homes)

    check(found, X, model.predict(X))


def test_types_are_given(homes: pd.DataFrame, tmp_path: Path) -> None:
    """What a pipeline takes for text or for a category is said by --as."""
    X = homes.drop(columns="rent")
    steps = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["zip", "country"]), remainder="passthrough"
    )
    model = make_pipeline(steps, RandomForestRegressor(n_estimators=5, random_state=0)).fit(X, homes.rent)
    joblib.dump(model, tmp_path / "homes.joblib")
    found = imported(tmp_path, "homes.joblib", homes, "--as", "zip=text", "--as", "country=text")

    check(found, X, model.predict(X))


def test_labels_are_kept_as_they_stand(homes: pd.DataFrame, tmp_path: Path) -> None:
    """A label that looks like a number or like a missing value is a label; a row without one is left out."""
    y = homes.country.where(homes.area > 40, "007")
    model = RandomForestClassifier(n_estimators=5, random_state=0).fit(homes[["area", "zone"]], y)
    joblib.dump(model, tmp_path / "homes.joblib")
    found = imported(tmp_path, "homes.joblib", homes.assign(rent=y.mask(homes.index < 9, None)))

    assert found.manifest.classes == ("007", "DE", "NA", "null")
    assert found.manifest.data
    assert found.manifest.data.rows == len(homes) - 9


def test_error_says_how_types_are_given(
    homes: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table that the model does not predict as it was read is refused with the option that changes that."""
    X = homes[["zip", "area"]]
    model = make_pipeline(make_column_transformer((OneHotEncoder(), ["zip"])), Ridge()).fit(X, homes.rent)
    joblib.dump(model, tmp_path / "homes.joblib")
    homes.to_csv(tmp_path / "homes.csv", index=False)
    arguments = ["import", str(tmp_path / "homes.joblib"), "--data", str(tmp_path / "homes.csv"), "--target", "rent"]

    assert main(["--store", str(tmp_path), *arguments, "--name", "homes"]) == 1
    assert "is text or a category to it, say so by --as COLUMN=text or --as COLUMN=category" in capsys.readouterr().err
    assert main(["--store", str(tmp_path), *arguments, "--name", "homes", "--as", "town=text"]) == 1
    assert "--as names the column 'town', and the model takes the columns 'zip', 'area'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--store", str(tmp_path), *arguments, "--name", "homes", "--as", "zip:text"])
    assert "'zip:text' is not a column with a type, such as zip=text" in capsys.readouterr().err


def test_columns_keep_their_names(tmp_path: Path) -> None:
    """A model that was fitted on an array is served with the names of the table's columns."""
    random = np.random.default_rng(0)
    X, y = random.normal(size=(200, 3)), random.normal(size=200)
    model = RandomForestRegressor(n_estimators=5, random_state=0).fit(X, y)
    joblib.dump(model, tmp_path / "homes.joblib")
    found = imported(tmp_path, "homes.joblib", pd.DataFrame(X, columns=["carat", "depth", "table"]).assign(rent=y))

    assert found.schema.names == ("carat", "depth", "table")
    assert np.array_equal(bits(found.predict(X)), bits(model.predict(X)))


def fails(folder: Path, fitted: Any, table: str, *options: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the error of an import of a model with a CSV table, whose target is `rent`."""
    joblib.dump(fitted, folder / "homes.joblib")
    (folder / "homes.csv").write_text(table)
    files = [str(folder / "homes.joblib"), "--data", str(folder / "homes.csv")]
    assert main(["--store", str(folder), "import", *files, "--target", "rent", "--name", "homes", *options]) == 1
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("table", "options", "sentence"),
    [
        ("Zone,Area,rent\n1,2,3\n", [], "homes.csv lacks the columns 'area', 'zone', which the model was fitted on"),
        ("area,zone,rent\nr1,1,2,3\nr2,1,2,3\n", [], "its rows have more cells than its header"),
        ("area,zone,rent\n1,2,\n", [], "homes.csv has no row with a value of 'rent'"),
        ("area,zone,town,rent\n1,2,3,4\n", ["--as", "town=text"], "--as names the column 'town', and the model takes"),
        ("area,zone,rent\n1,2,3\n", ["--as", "rent=text"], "--as names the column 'rent', and the model takes"),
    ],
    ids=["names", "index", "targets", "unused", "target"],
)
def test_table_that_is_not_the_models_is_refused(
    homes: pd.DataFrame,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    table: str,
    options: list[str],
    sentence: str,
) -> None:
    """A table whose columns are not the model's is never read by their positions."""
    model = RandomForestRegressor(n_estimators=5, random_state=0).fit(homes[["area", "zone"]], homes.rent)

    assert sentence in fails(tmp_path, model, table, *options, capsys=capsys)


def test_type_for_a_model_of_an_array_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that was fitted on an array takes numbers alone."""
    model = Ridge().fit([[1.0], [2.0]], [1.0, 2.0])

    sentence = "--as names the column 'zip', and the model takes an array of numbers; leave it out"
    assert sentence in fails(tmp_path, model, "zip,rent\n01,1\n", "--as", "zip=text", capsys=capsys)


def test_text_among_known_numbers_is_refused(
    homes: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cell that is no number does not become a missing value where the model knows numbers as categories."""
    model = HistGradientBoostingRegressor(max_iter=5).fit(homes[["zone"]].astype("category"), homes.rent)

    assert "the column 'zone' has '3A', and the model knows numbers as its categories, such as 2" in fails(
        tmp_path, model, "zone,rent\n2,1\n3A,2\n", capsys=capsys
    )


def test_holdout_has_the_categories_of_the_table(homes: pd.DataFrame, tmp_path: Path) -> None:
    """Categories that are whole numbers in the holdout alone are texts there, too."""
    X = homes[["area"]].assign(zone=homes.zone.map({2: "1", 3: "2", 5: "3A", 9: "3A"}).astype("category"))
    steps = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["zone"]), remainder="passthrough")
    model = make_pipeline(steps, RandomForestRegressor(n_estimators=5, random_state=0)).fit(X, homes.rent)
    joblib.dump(model, tmp_path / "homes.joblib")
    some = X.assign(rent=homes.rent)[X.zone != "3A"]
    some.to_csv(tmp_path / "holdout.csv", index=False)
    options = ["--as", "zone=category", "--holdout", str(tmp_path / "holdout.csv")]
    found = imported(tmp_path, "homes.joblib", X.assign(rent=homes.rent), *options)

    assert found.manifest.metrics.validation
    assert found.manifest.metrics.validation.rows == len(some)
    check(found, X, model.predict(X))


def test_categories_of_lightgbm_beside_a_constant_one(homes: pd.DataFrame, tmp_path: Path) -> None:
    """A category that is the same in all rows does not change what the others are."""
    lightgbm = pytest.importorskip("lightgbm", reason='needs LightGBM: make install EXTRAS="lightgbm"')
    X = pd.DataFrame({"zone": homes.zone.astype(str), "k": "x"}).astype("category")
    model = lightgbm.LGBMRegressor(n_estimators=5, n_jobs=1, verbosity=-1).fit(X, homes.rent)
    model.booster_.save_model(tmp_path / "homes.txt")
    found = imported(tmp_path, "homes.txt", X.assign(rent=homes.rent))

    assert found.schema.features[0].categories == ("2", "3", "5", "9")
    check(found, X, model.predict(X))
