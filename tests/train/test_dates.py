"""Dates of a data frame: exported where steps turn them into numbers, and refused in words where none does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, PolynomialFeatures, StandardScaler

from model import Artifact, Feature, Schema, Store, export
from model.cli.main import main
from model.errors import ExportError
from model.live import report
from model.live.prediction_log import PredictionLog
from model.plots import live as plots
from model.schema import dates
from model.schema.feature import DATE
from model.store.reference import Bins
from model.train import frames, proof
from tests.support import sales
from tests.support.service import bits


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Flats that were sold, with their prices."""
    found = sales.table()
    return found.assign(price=sales.prices(found))


def check(found: Artifact, fitted: Any, rows: pd.DataFrame) -> None:
    """Compare the answers to rows, as a client sends them, with the fitted model's."""
    served = found.predict(found.schema.matrix_from_records(sales.rows(rows)))
    assert np.array_equal(bits(served), bits(fitted.predict(rows)))


def months(found: pd.DataFrame) -> pd.DataFrame:
    """Return the months of dates."""
    made: pd.DataFrame = found.apply(lambda column: column.dt.month)
    return made


@pytest.mark.parametrize("unit", ["ns", "us", "ms", "s"])
def test_steps_get_the_unit_that_they_were_fitted_on(table: pd.DataFrame, tmp_path: Path, unit: str) -> None:
    """A step that looks at the numbers behind dates gets those of the table's unit, and no date beyond this unit."""

    def numbers(found: pd.DataFrame) -> pd.DataFrame:
        return found.astype("int64")

    X = table[["sold", "area"]].astype({"sold": f"datetime64[{unit}]"})
    columns = make_column_transformer((FunctionTransformer(numbers), ["sold"]), remainder="passthrough")
    fitted = make_pipeline(columns, GradientBoostingRegressor(n_estimators=5)).fit(X, table["price"])
    found = export(fitted, X, table["price"], name="sales", store=tmp_path)

    check(found, fitted, X)
    sold = found.schema.features[0]
    assert sold.type == DATE
    assert (sold.lowest > -1e10 and sold.highest < 1e10) == (unit == "ns")


def test_dates_that_are_dropped(table: pd.DataFrame, tmp_path: Path) -> None:
    """A pipeline may drop dates; a row may then leave them out."""
    X = table[["sold", "area"]]
    columns = make_column_transformer((StandardScaler(), ["area"]))
    fitted = make_pipeline(columns, Ridge()).fit(X, table["price"])
    found = export(fitted, X, table["price"], name="sales", store=tmp_path)

    assert np.allclose(found.predict(found.schema.matrix_from_records(sales.rows(X))), fitted.predict(X))
    assert [(each.type, each.missing) for each in found.schema.features] == [("date", True), ("number", False)]


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ([OneHotEncoder(handle_unknown="ignore")], "OneHotEncoder cannot be repeated"),
        (
            [FunctionTransformer(lambda found: found.apply(lambda column: column.dt.month))],
            "FunctionTransformer cannot",
        ),
        (
            [FunctionTransformer(sales.days), PolynomialFeatures()],
            "FunctionTransformer cannot be repeated to the last bit: it gets the dates 'sold', 'listed'",
        ),
    ],
    ids=["encoder", "month", "product"],
)
def test_step_that_does_not_know_dates_is_refused(
    table: pd.DataFrame, tmp_path: Path, steps: list[Any], sentence: str
) -> None:
    """A step that gets dates and cannot be folded is named, with the formulas to write instead."""
    X = table[["sold", "listed", "area"]].dropna()
    columns = make_column_transformer((make_pipeline(*steps), ["sold", "listed"]), remainder="passthrough")
    for last in (LinearRegression(), GradientBoostingRegressor(n_estimators=20)):
        fitted = make_pipeline(columns, last).fit(X, table["price"][X.index])
        with pytest.raises(ExportError, match="turn them into numbers by Formulas, such as month\\(sold\\)") as caught:
            export(fitted, X, table["price"][X.index], name="sales", store=tmp_path / "store")
        assert sentence in str(caught.value)
    assert Store(tmp_path / "store").names() == []


def test_dates_that_reach_the_model_are_refused(table: pd.DataFrame, tmp_path: Path) -> None:
    """A model that takes dates for their numbers is refused, with what to put in front of it."""
    X = table[["sold"]]
    for fitted in (HistGradientBoostingRegressor(max_iter=2), make_pipeline("passthrough", Ridge())):
        with pytest.raises(ExportError, match=r"'sold'.* Formulas.* month\(sold\)"):
            export(fitted.fit(X, table["price"]), X, table["price"], name="sales", store=tmp_path / "store")


def test_holdout_has_dates_where_the_table_has(table: pd.DataFrame, tmp_path: Path) -> None:
    """Rows that were held out have the types of the table, or the column is named."""
    X = table.drop(columns="price")
    other = X.assign(sold=X["sold"].astype("int64"))

    with pytest.raises(ExportError, match=r"does not predict the holdout|'sold' has dates in one table"):
        export(sales.fit(), X, table["price"], name="sales", holdout=(other, table["price"]), store=tmp_path)


def test_frames_give_dates_back(table: pd.DataFrame) -> None:
    """A table's dates are seconds in the matrix, NaN for missing ones, and the same dates in the frame made of it."""
    X = table[["sold", "listed"]]
    found = frames.read(X)
    matrix = found.matrix(X)

    assert [column.type for column in found.columns] == [DATE, DATE]
    assert matrix[0, 0] == X["sold"][0].timestamp()
    assert np.isnan(matrix[:, 1]).sum() == X["listed"].isna().sum() > 0
    pd.testing.assert_frame_equal(found.frame(matrix), X)


def test_rows_of_the_proof_are_dates() -> None:
    """Random rows have whole seconds in and beyond the training range, and the limits are the years 1 and 9999."""
    feature = Feature(
        "f",
        type=DATE,
        minimum=1e9 + 0.5,
        maximum=1.5e9,
        lowest=dates.LOWEST,
        highest=dates.HIGHEST,
        missing=True,
    )
    schema = Schema((feature,), Feature("y"))
    found = proof.random_rows(schema, 1_000, seed=0)
    known = found[~np.isnan(found)]

    assert (known == np.round(known)).all()
    assert (known < feature.minimum).any()
    assert (known > feature.maximum).any()
    assert {feature.cells.cell(number) for number in proof.limit_rows(schema)[:2, 0]} == {
        "0001-01-01",
        "9999-12-31T23:59:59Z",
    }


def test_dates_of_a_file(table: pd.DataFrame, tmp_path: Path) -> None:
    """`import --as COLUMN=date` reads a column of CSV as a server reads dates; another text is named."""
    joblib.dump(sales.fit(), tmp_path / "sales.joblib")
    table.to_csv(tmp_path / "sales.csv", index=False)
    arguments = ["--store", f"{tmp_path / 'store'}", "import", f"{tmp_path / 'sales.joblib'}", "--name", "sales"]
    arguments += ["--data", f"{tmp_path / 'sales.csv'}", "--target", "price", "--as", "listed=date"]

    assert main([*arguments, "--as", "sold=date"]) == 0
    found = Store(tmp_path / "store").load("sales")
    check(found, sales.fit(), table.drop(columns="price"))
    assert [feature.type for feature in found.schema.features[:2]] == [DATE, DATE]


def test_text_that_is_no_date_in_a_file(
    table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A text that is no date is named with its column, and nothing is written."""
    joblib.dump(sales.fit(), tmp_path / "sales.joblib")
    table.assign(sold="3/4/2021").to_csv(tmp_path / "sales.csv", index=False)
    arguments = ["--store", f"{tmp_path / 'store'}", "import", f"{tmp_path / 'sales.joblib'}", "--name", "sales"]
    arguments += [
        "--data",
        f"{tmp_path / 'sales.csv'}",
        "--target",
        "price",
        "--as",
        "sold=date",
        "--as",
        "listed=date",
    ]

    assert main(arguments) != 0
    assert "sales.csv has '3/4/2021' in the column 'sold', which is no date in ISO 8601" in capsys.readouterr().err
    assert Store(tmp_path / "store").names() == []


def test_report_of_dates(sales_store: Path, tmp_path: Path) -> None:
    """Dates are read from the prediction log: time goes on, so new ones are no drift, but missing ones are."""
    model = Store(sales_store).load(sales.NAME)
    now = datetime(2026, 11, 26, tzinfo=UTC)
    verdicts = {}
    for name, shift, share_missing in (("same", 0, 0.0), ("later", 900, 0.0), ("gaps", 0, 0.5)):
        X = sales.table()
        X["sold"] += pd.Timedelta(days=shift)
        X.loc[np.arange(len(X)) < share_missing * len(X), "listed"] = pd.NaT
        matrix = model.schema.matrix_from_records(sales.rows(X))
        log = PredictionLog(f"sqlite:///{tmp_path / name}.db")
        rows = {"row": 0, "time": now - timedelta(hours=1), "model": sales.NAME, "version": 1}
        features = [dict(zip(sales.COLUMNS, row)) for row in model.schema.to_log(matrix)]
        predictions = model.predict(matrix).tolist()
        log.write(
            [
                {**rows, "request_id": f"{number}", "features": logged, "prediction": prediction}
                for number, (logged, prediction) in enumerate(zip(features, predictions))
            ]
        )
        verdicts[name] = report.write(model, log, tmp_path / f"{name}.html", now=now)

    assert not any("sold" in sentence or "listed" in sentence for _, sentence in verdicts["same"])
    assert not any("sold" in sentence for _, sentence in verdicts["later"])
    assert any("listed" in sentence for _, sentence in verdicts["gaps"])


def test_edges_of_dates_are_written_as_days() -> None:
    """The bins of a date are named by days, where those of a number are short."""
    seconds = np.array([0.0, 86_400.0 * 400])
    column = Bins(0.0, seconds, np.array([0.5, 0.5]))
    counts = column.count(seconds)
    figure = plots.bins({"sold": (column, counts), "area": (column, counts)}, written={"sold": dates.shown})
    of_dates, of_numbers = ([label.get_text() for label in axis.get_xticklabels()] for axis in figure.axes[:2])

    assert of_dates == ["< 1970-01-01", "≤ 1970-01-01", "≤ 1971-02-05", "> 1971-02-05"]
    assert of_numbers == ["< 0", "≤ 0", "≤ 34,560,000", "> 34,560,000"]
