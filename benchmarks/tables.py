"""The tables of the examples, read by pandas alone: a machine that only measures needs no DuckDB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from benchmarks.contenders import ROOT

# The file of each, whose last column is the target.
FILES = {"boston-housing": Path("boston_housing.csv"), "height-weight": Path("height_weight.csv.gz")}


def read(name: str) -> tuple[pd.DataFrame, pd.Series]:
    """Return the features and the target of an example's table."""
    table = pd.read_csv(ROOT / "model" / "data" / FILES[name], dtype=str).astype(np.float64)
    return table.iloc[:, :-1], table.iloc[:, -1]


def rows_of(name: str) -> NDArray[np.float64]:
    """Return the features `(n_rows, n_features)` of an example's table."""
    return read(name)[0].to_numpy()


def split(name: str) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the training rows, the rows held out, and the targets of each, parted as the example's training does."""
    X, y = read(name)
    parts = train_test_split(X.to_numpy(), y.to_numpy(), test_size=0.2, random_state=7)
    return parts[0], parts[1], parts[2], parts[3]


def pipeline_of(artifact: Path) -> Any:
    """Return the example's fitted pipeline for arrays, without the columns' names, for which it would warn."""
    pipeline = joblib.load(artifact / "pipeline.joblib")
    del pipeline["scaler"].feature_names_in_
    return pipeline
