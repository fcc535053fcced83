"""A small model with features of every type, exported from a pipeline, and rows that it accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.compose import make_column_transformer
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

NAME = "gems"
DEPTH = 'depth, "mm"'  # a name that CSV quotes
# Of `color`, texts that look like a number and like missing values.
CATEGORIES: dict[str, list[Any]] = {
    "cut": ["Fair", "Good", "Ideal", "Very Good"],
    "color": ["1", "D", "E", "NA", "None", "é"],
    "origin": ["Congo", "Peru"],
    "grade": [0.5, 1.0, 2.0, 10.0],
}
# What may be missing; of these, an unseen color is as no other, and an unseen origin or grade is as a missing one.
MAY_BE_MISSING = [DEPTH, "boxed", "color", "origin", "grade"]
GEM: dict[str, Any] = {
    "carat": 1.98,
    DEPTH: 57.6,
    "pieces": 5,
    "certified": True,
    "boxed": False,
    "cut": "Ideal",
    "color": "NA",
    "origin": "Peru",
    "grade": 0.5,
}
COLUMNS = list(GEM)


def table(n_rows: int = 300, *, seed: int = 0) -> pd.DataFrame:
    """Return gems drawn at random, with missing values where the model accepts them."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "carat": random.uniform(0.2, 3, n_rows).round(2),
            DEPTH: random.normal(60, 2, n_rows).round(1),
            "pieces": random.integers(1, 9, n_rows),
            "certified": random.random(n_rows) < 0.5,
            "boxed": random.choice(np.array([True, False], dtype=object), n_rows),
            **{
                name: random.choice(np.array(CATEGORIES[name], dtype=object), n_rows)
                for name in ("cut", "color", "origin")
            },
            "grade": pd.Categorical(random.choice(CATEGORIES["grade"], n_rows), categories=CATEGORIES["grade"]),
        }
    )
    for name in (DEPTH, "boxed", "color", "grade"):
        frame.loc[random.random(n_rows) < 0.1, name] = None
    return frame


def prices(gems: pd.DataFrame) -> pd.Series:
    """Return the price of each gem, in which every feature counts."""
    price = 3 * gems["carat"] + gems["pieces"] + 2.0 * gems["certified"] + 5 * (gems["boxed"] == True)  # noqa: E712
    price += (gems[DEPTH].fillna(50) - 60).abs() + gems["grade"].astype(float).fillna(7)
    price += 3 * gems["cut"].map(CATEGORIES["cut"].index) + 4 * gems["color"].isin(["NA", "1"])
    return (price + 6 * (gems["origin"] == "Peru")).rename("price")


def fit() -> Any:
    """Return a pipeline that is fitted on the table."""
    gems = table()
    columns = make_column_transformer(
        (SimpleImputer(), [DEPTH]),
        (OneHotEncoder(sparse_output=False), ["cut"]),
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["color"]),
        (
            OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1),
            ["origin", "grade"],
        ),
        (OrdinalEncoder(), ["boxed"]),
        remainder="passthrough",
    )
    trees = GradientBoostingRegressor(n_estimators=12, max_depth=4, random_state=0)
    return make_pipeline(columns, trees).fit(gems, prices(gems))


def rows(gems: pd.DataFrame) -> list[dict[str, Any]]:
    """Return gems as JSON has them, with null for a missing value."""
    return [
        dict(zip(COLUMNS, (None if pd.isna(cell) else cell for cell in row)))
        for row in zip(*(gems[name].astype(object).tolist() for name in COLUMNS))
    ]


def predictions(pipeline: Any, records: list[dict[str, Any]]) -> NDArray[np.float64]:
    """Return what the fitted pipeline itself predicts for rows of JSON, `(n_rows,)`."""
    like = table(0)
    frame = pd.DataFrame({name: [record.get(name) for record in records] for name in COLUMNS})
    for name in COLUMNS:
        if name != "grade":  # an unseen one is none of the categories of its type
            frame[name] = frame[name].astype(like[name].dtype)
    found: NDArray[np.float64] = pipeline.predict(frame)
    return found


def make_store(root: Path) -> None:
    """Export the pipeline as version 1 of the only model in a store, without rows that were held out."""
    from model import export

    gems = table()
    export(fit(), gems, prices(gems), name=NAME, store=root)
