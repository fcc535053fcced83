"""Fitted models that MLflow keeps: a real tracking store and registry in SQLite."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from model.cli.main import main
from model.store import artifact
from tests.support.service import bits

mlflow = pytest.importorskip("mlflow", reason='needs MLflow: make install EXTRAS="mlflow-skinny alembic"')
pytest.importorskip("alembic", reason='needs a database of MLflow: make install EXTRAS="mlflow-skinny alembic"')

pytestmark = pytest.mark.filterwarnings("ignore")  # its own, and those of the libraries that it calls


@pytest.fixture
def tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A tracking store and registry of MLflow's own, in a database of this test."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)  # where it puts its artifacts
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    yield mlflow
    mlflow.set_tracking_uri(None)


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    """Homes whose price depends on their rooms and their town, as a file `table.csv` has them."""
    random = np.random.default_rng(0)
    homes = pd.DataFrame({"rooms": random.uniform(1, 7, 300), "town": random.choice(["Ahlen", "Bonn", "Celle"], 300)})
    homes["price"] = homes["rooms"] * 50 + (homes["town"] == "Bonn") * 40 + random.normal(size=300)
    homes.to_csv(tmp_path / "table.csv", index=False)
    return pd.read_csv(tmp_path / "table.csv")


def log_pickle(X: pd.DataFrame, y: pd.Series) -> Any:
    """Log a pipeline of scikit-learn as a pickle."""
    encoder = make_column_transformer((OrdinalEncoder(), ["town"]), remainder="passthrough")
    fitted = make_pipeline(encoder, HistGradientBoostingRegressor(max_iter=10)).fit(X, y)
    mlflow.sklearn.log_model(fitted, name="model", registered_model_name="prices", serialization_format="pickle")
    return fitted


def log_skops(X: pd.DataFrame, y: pd.Series) -> Any:
    """Log a model of scikit-learn as a file of skops."""
    pytest.importorskip("skops", reason='needs skops: make install EXTRAS="skops"')
    fitted = HistGradientBoostingRegressor(max_iter=10).fit(X[["rooms"]], y)
    trusted = ["sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"]
    mlflow.sklearn.log_model(
        fitted,
        name="model",
        registered_model_name="prices",
        serialization_format="skops",
        skops_trusted_types=trusted,
    )
    return fitted


def log_xgboost(X: pd.DataFrame, y: pd.Series) -> Any:
    """Log a model of XGBoost."""
    xgboost = pytest.importorskip("xgboost", reason='needs XGBoost: make install EXTRAS="xgboost"')
    fitted = xgboost.XGBRegressor(n_estimators=10, enable_categorical=True).fit(X.astype({"town": "category"}), y)
    mlflow.xgboost.log_model(fitted, name="model", registered_model_name="prices")
    return fitted


def log_booster(X: pd.DataFrame, y: pd.Series) -> Any:
    """Log what XGBoost's `train` returns, and return an estimator with the same trees."""
    xgboost = pytest.importorskip("xgboost", reason='needs XGBoost: make install EXTRAS="xgboost"')
    X = X.astype({"town": "category"})
    booster = xgboost.train({}, xgboost.DMatrix(X, y, enable_categorical=True), 10)
    mlflow.xgboost.log_model(booster, name="model", registered_model_name="prices")
    return xgboost.XGBRegressor(n_estimators=10, enable_categorical=True).fit(X, y)


def log_lightgbm(X: pd.DataFrame, y: pd.Series) -> Any:
    """Log a model of LightGBM."""
    lightgbm = pytest.importorskip("lightgbm", reason='needs LightGBM: make install EXTRAS="lightgbm"')
    fitted = lightgbm.LGBMRegressor(n_estimators=10, verbosity=-1).fit(X.astype({"town": "category"}), y)
    mlflow.lightgbm.log_model(fitted, name="model", registered_model_name="prices")
    return fitted


def log_catboost(X: pd.DataFrame, y: pd.Series) -> Any:
    """Log a model of CatBoost."""
    catboost = pytest.importorskip("catboost", reason='needs CatBoost: make install EXTRAS="catboost"')
    options = {"max_ctr_complexity": 1, "cat_features": ["town"], "verbose": 0, "allow_writing_files": False}
    fitted = catboost.CatBoostRegressor(iterations=10, depth=4, **options).fit(X, y)
    mlflow.catboost.log_model(fitted, name="model", registered_model_name="prices")
    return fitted


def run_import(uri: str, folder: Path) -> int:
    """Import a model behind a URI into the store `store` of the folder."""
    data = ["--data", str(folder / "table.csv"), "--target", "price"]
    return main(["--store", str(folder / "store"), "import", uri, "--name", "prices", *data])


@pytest.mark.parametrize("log", [log_pickle, log_skops, log_xgboost, log_booster, log_lightgbm, log_catboost])
def test_registered_model_is_served_with_its_bits(
    tracking: Any, table: pd.DataFrame, tmp_path: Path, log: Callable[[pd.DataFrame, pd.Series], Any]
) -> None:
    """A model of each known flavor is found by its alias in MLflow's registry, and exported with its bits."""
    if log is log_skops:
        table = table.drop(columns="town")
        table.to_csv(tmp_path / "table.csv", index=False)
    X = table.drop(columns="price")
    fitted = log(X, table["price"])
    tracking.MlflowClient().set_registered_model_alias("prices", "champion", 1)

    assert run_import("mlflow:models:/prices@champion", tmp_path) == 0
    found = artifact.load(tmp_path / "store" / "prices" / "1")
    asked = X.astype({"town": "category"}) if log in (log_xgboost, log_booster, log_lightgbm) else X
    expected = np.asarray(fitted.predict(asked), dtype=np.float64)
    actual = found.predict(
        found.schema.matrix_from_records([dict(zip(map(str, X), row)) for row in X.itertuples(index=False)])
    )
    assert np.array_equal(bits(actual), bits(expected))


def test_model_of_a_run(tracking: Any, table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model is found by its run, too; that its code runs is said before it is opened."""
    with tracking.start_run() as run:
        log_pickle(table.drop(columns="price"), table["price"])

    assert run_import(f"mlflow:runs:/{run.info.run_id}/model", tmp_path) == 0
    assert "which runs the code in it; no server opens it" in capsys.readouterr().err


def answer(model_input: list[float]) -> list[float]:
    """Return the input: a model of code alone."""
    return model_input


def test_what_cannot_be_imported_is_named(
    tracking: Any, table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that is not there, and one of no library that is known here, are refused in one line each."""
    assert run_import("mlflow:models:/absent@champion", tmp_path) == 1
    error = capsys.readouterr().err
    assert "mlflow:models:/absent@champion cannot be read" in error
    assert f"is it at the server or database that MLFLOW_TRACKING_URI names: sqlite:///{tmp_path}/mlflow.db?" in error
    mlflow.pyfunc.log_model(
        name="model", python_model=answer, pip_requirements=["numpy"], registered_model_name="answer"
    )
    capsys.readouterr()

    assert run_import("mlflow:models:/answer/1", tmp_path) == 1
    opening, error = capsys.readouterr().err.splitlines()  # and no bar of MLflow's
    assert opening.startswith("opening  mlflow:models:/answer/1, ")
    assert "of the flavors python_function; log one of scikit-learn, XGBoost, LightGBM or CatBoost" in error
