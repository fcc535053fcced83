"""The tables that come with the project, read by pandas, their published split, and models of them by the recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from model import Matrix
from tests.support.service import ROOT

if TYPE_CHECKING:
    from model.train.recipe import Trained

BOSTON_HOUSING, HEIGHT_WEIGHT = "boston-housing", "height-weight"
_FILES = {BOSTON_HOUSING: ("boston_housing.csv", "MEDV"), HEIGHT_WEIGHT: ("height_weight.csv.gz", "Weight-Pounds")}


@dataclass(frozen=True)
class Rows:
    """All features `(n_rows, n_features)` and targets `(n_rows,)` of a table, and both parts of its split."""

    X: Matrix
    y: NDArray[np.float64]
    X_train: Matrix
    y_train: NDArray[np.float64]
    X_validation: Matrix
    y_validation: NDArray[np.float64]


def rows_of(name: str, *, random_state: int = 7) -> Rows:
    """Return the rows of an example, a fifth of them held out as the published example does it."""
    file, target = _FILES[name]
    table = pd.read_csv(ROOT / "model" / "data" / file).astype(float)
    X, y = table.drop(columns=target).to_numpy(), table[target].to_numpy()
    X_train, X_validation, y_train, y_validation = train_test_split(X, y, test_size=0.2, random_state=random_state)
    return Rows(X, y, X_train, y_train, X_validation, y_validation)


def fit_gbm(X: Matrix, y: NDArray[np.float64], *, n_estimators: int) -> Pipeline:
    """Return the published pipeline, fitted."""
    model = GradientBoostingRegressor(n_estimators=n_estimators, random_state=7)
    return Pipeline([("scaler", StandardScaler()), ("model", model)]).fit(X, y)


def trained(name: str = BOSTON_HOUSING, **options: Any) -> Trained:
    """Return a model of an example, trained as the command line does it with these options of its learner."""
    from model.train import recipe

    return recipe.train(recipe.load(recipe.Plan(name, options=options)), progress=False)
