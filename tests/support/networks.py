"""A table with categories and gaps, targets that follow from it, and networks for them behind encoders and imputers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler

N_ROWS = 500
TARGETS = ["price", "cheap", "class"]  # a number, two classes, and five


def rows(seed: int = 0) -> pd.DataFrame:
    """Return numbers, whole numbers, booleans and categories, some of them missing."""
    random = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "area": random.normal(50, 20, N_ROWS),
            "rooms": random.integers(1, 9, N_ROWS),
            "garden": random.random(N_ROWS) < 0.4,
            "zone": pd.Categorical(random.choice(["east", "north", "west"], N_ROWS)),
            "heating": random.choice(["gas", "oil", "wood"], N_ROWS),
        }
    )
    for name in ("area", "zone", "heating"):
        table.loc[random.random(N_ROWS) < 0.1, name] = np.nan
    return table


def target(name: str, table: pd.DataFrame) -> NDArray[Any]:
    """Return a number for each row, or a label that follows from it."""
    random = np.random.default_rng(1)
    price = table["area"].fillna(40) / 20 + table["rooms"] + 2 * table["garden"] + (table["zone"] == "west") * 3
    prices: NDArray[np.float64] = np.asarray(price + random.normal(size=len(table)))
    if name == "price":
        return prices
    if name == "cheap":
        return np.less(prices, np.median(prices))
    return np.take(["a", "b", "c", "d", "e"], np.digitize(prices, np.quantile(prices, [0.2, 0.4, 0.6, 0.8])))


def pipeline(name: str, *, device: str = "cpu") -> Any:
    """Return a network for a target, to be fitted on a device, behind steps that leave no gap, and no category."""
    from model.train.learners.mlp import NetworkClassifier, NetworkRegressor

    chosen: dict[str, Any] = {"hidden": (16,), "max_epochs": 15, "device": device}
    return make_pipeline(
        make_column_transformer(
            (make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()), ["area", "rooms"]),
            (make_pipeline(SimpleImputer(), PolynomialFeatures(include_bias=False)), ["area", "rooms"]),
            (OneHotEncoder(handle_unknown="ignore"), ["zone", "heating"]),
            remainder="passthrough",
        ),
        NetworkRegressor(**chosen) if name == "price" else NetworkClassifier(**chosen),
    )


def answers_of(model: Any, table: pd.DataFrame) -> NDArray[np.float64]:
    """Return what a fitted pipeline answers, in the form of `Artifact.predict`."""
    predicted = model.predict(table)
    if not hasattr(model, "classes_"):
        return np.asarray(predicted)
    return np.column_stack([np.searchsorted(model.classes_, predicted), model.predict_proba(table)])
