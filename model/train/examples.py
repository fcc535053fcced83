"""The tables that come with the project, and the notebooks that train on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from model.train.dataset import Column, Dataset

_ROOT = Path(__file__).parents[2]

BOSTON_HOUSING = Dataset(
    name="boston-housing",
    title="Median house prices in the suburbs of Boston, 1970",
    content=(_ROOT / "model" / "data" / "boston_housing.csv").read_bytes,
    source="scikit-learn 1.1.3, sklearn/datasets/data/boston_house_prices.csv; Harrison and Rubinfeld (1978)",
    features=(
        Column("CHAS", "", "1 if the tract bounds the Charles River, else 0", allowed=frozenset({0.0, 1.0})),
        Column("RM", "rooms", "average number of rooms per dwelling", (1, 20)),
        Column("TAX", "USD per 10,000 USD", "full-value property tax rate", (0, 2000)),
        Column("PTRATIO", "pupils per teacher", "pupil-teacher ratio by town", (1, 50)),
        # B = 1000 (share - 0.63)^2 for a share from 0 to 1: its largest value is at share 0.
        Column("B", "", "a transformed share of Black residents by town; see the data card", (0, 396.9)),
        Column("LSTAT", "%", "share of the population of lower status", (0, 100)),
    ),
    target=Column("MEDV", "1,000 USD", "median value of owner-occupied homes, capped at 50", (0, 50)),
    limits=(
        "Prices of 1970, capped at 50. Column B is a transformed share of Black residents, which is why scikit-learn "
        "dropped the data set. The model is here to reproduce a published example, not to price a house."
    ),
)


def draw_heights_and_weights() -> bytes:
    """Return a CSV of 25,000 rows of two correlated normal variables with the published sample moments."""
    n_rows, correlation = 25_000, 0.5028585
    means, deviations = np.array([67.993114, 127.079421]), np.array([1.901679, 11.660898])
    covariance = np.outer(deviations, deviations) * [[1, correlation], [correlation, 1]]
    Z = np.random.default_rng(7).standard_normal((n_rows, 2))
    Z -= Z.mean(axis=0)
    Z = np.linalg.solve(np.linalg.cholesky(np.cov(Z.T)), Z.T).T  # variance 1 and correlation 0 except for rounding
    rows = Z @ np.linalg.cholesky(covariance).T + means
    # Seven digits, as in the original: few enough that processors cannot round them differently.
    lines = [f"{height:.7g},{weight:.7g}\n" for height, weight in rows.tolist()]
    return "".join(["Height-Inches,Weight-Pounds\n", *lines]).encode()


HEIGHT_WEIGHT = Dataset(
    name="height-weight",
    title="Weights of 18-year-olds by their height, simulated",
    content=draw_heights_and_weights,
    source=(
        "simulated: normal variables drawn with seed 7 and given the sample moments of a published table of 25,000 "
        "heights and weights, itself simulated from a growth survey"
    ),
    # Includes every person of that age, but no table in centimetres.
    features=(Column("Height-Inches", "inches", "height of a person of 18 years", (40, 100)),),
    target=Column("Weight-Pounds", "pounds", "weight of the same person", (50, 500)),
    limits=(
        "The rows are drawn, not measured: nobody has these heights and weights, and the straight line between them "
        "holds because they were made so. The model is here to reproduce a published example, not to judge a body."
    ),
    algorithm="mlp",
)

DATASETS: Mapping[str, Dataset] = {dataset.name: dataset for dataset in (BOSTON_HOUSING, HEIGHT_WEIGHT)}

NOTEBOOKS: Mapping[str, Path] = {
    "boston-housing": _ROOT / "notebooks" / "01_boston_housing_gbm.ipynb",
    "height-weight": _ROOT / "notebooks" / "02_height_weight_torch.ipynb",
}
