"""A small model with features that are dates, exported from a pipeline, and rows that it accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

NAME = "sales"
SALE: dict[str, Any] = {"sold": "2021-03-04", "listed": "2020-12-31T22:30:00Z", "area": 81.5, "district": "Nord"}
COLUMNS = list(SALE)
DISTRICTS = ["Hafen", "Nord"]


def days(dates: pd.DataFrame) -> pd.DataFrame:
    """Return dates as days since 2015, NaN for missing ones."""
    found: pd.DataFrame = dates.apply(lambda column: (column - pd.Timestamp("2015-01-01")) / pd.Timedelta("1D"))
    return found


def table(n_rows: int = 300, *, seed: int = 0) -> pd.DataFrame:
    """Return sales drawn at random: days on which flats were sold, and times at which they were listed, if known."""
    random = np.random.default_rng(seed)
    start = np.datetime64("2019-01-01", "us")
    sold = start + random.integers(0, 2_000, n_rows).astype("timedelta64[D]")
    listed = sold - random.integers(1, 10**13, n_rows).astype("timedelta64[us]")
    frame = pd.DataFrame(
        {
            "sold": sold,
            "listed": listed,
            "area": random.uniform(20, 200, n_rows).round(1),
            "district": random.choice(DISTRICTS, n_rows),
        }
    )
    frame.loc[random.random(n_rows) < 0.2, "listed"] = pd.NaT
    return frame


def prices(sales: pd.DataFrame) -> pd.Series:
    """Return the price of each sale, in which every feature counts."""
    passed = days(sales[["sold", "listed"]])
    price = sales["area"] * (3 + passed["sold"] / 1_000) + 100 * (sales["district"] == "Nord")
    return (price - (passed["sold"] - passed["listed"]).fillna(200)).rename("price")


def fit() -> Any:
    """Return a pipeline that is fitted on the table."""
    sales = table()
    columns = make_column_transformer(
        (FunctionTransformer(days), ["sold", "listed"]),
        (OneHotEncoder(sparse_output=False), ["district"]),
        remainder="passthrough",
    )
    trees = HistGradientBoostingRegressor(max_iter=12, max_depth=4, random_state=0)
    return make_pipeline(columns, trees).fit(sales, prices(sales))


def rows(sales: pd.DataFrame) -> list[dict[str, Any]]:
    """Return sales as JSON has them, with null for a missing value."""
    return [
        {f"{name}": cell.isoformat() if isinstance(cell, pd.Timestamp) else cell for name, cell in row.items()}
        for row in sales.astype(object).where(sales.notna(), None).to_dict("records")
    ]


def predictions(pipeline: Any, records: list[dict[str, Any]]) -> NDArray[np.float64]:
    """Return what the fitted pipeline itself predicts for rows of JSON, `(n_rows,)`."""
    frame = pd.DataFrame({name: [record.get(name) for record in records] for name in COLUMNS})
    for name in ("sold", "listed"):
        moments = pd.to_datetime(frame[name].str.upper(), format="ISO8601", utc=True)
        frame[name] = moments.dt.tz_convert(None).astype("datetime64[us]")
    found: NDArray[np.float64] = pipeline.predict(frame)
    return found


def make_store(root: Path) -> None:
    """Export the pipeline as version 1 of the only model in a store, without rows that were held out."""
    from model import export

    sales = table()
    export(fit(), sales, prices(sales), name=NAME, store=root)
