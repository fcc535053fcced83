"""Small classifiers with labels of every kind, exported from pipelines, and rows that they accept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier

from tests.support import gems

# The labels of each model, in the order of its probabilities.
LABELS: dict[str, list[Any]] = {
    "precious": [False, True],
    "mine": ['Congo, "east"', "Peru", "é"],  # names that CSV quotes, or that are not ASCII
    "stars": [1, 2, 3, 5],
    "grade": [1.0, 2.0],
    "many": [f"class {number:02}" for number in range(25)],
}
COLUMNS = ["carat", "depth", "pieces"]
ROW = {"carat": 1.98, "depth": 57.6, "pieces": 5}
VALIDATION_ROWS = 100


def table(n_rows: int = 400, *, seed: int = 0) -> pd.DataFrame:
    """Return stones drawn at random, some of unknown depth."""
    frame = gems.table(n_rows, seed=seed)[["carat", gems.DEPTH, "pieces"]]
    frame.columns = pd.Index(COLUMNS)
    return frame


def labels(name: str, stones: pd.DataFrame, *, seed: int = 0) -> NDArray[Any]:
    """Return a label for each stone, which follows from it but for chance."""
    known, random = LABELS[name], np.random.default_rng(seed)
    score = stones["carat"] * 2 + stones["pieces"] / 3 + (stones["depth"].fillna(55) - 60) / 4
    score += random.normal(size=len(stones))
    places = np.digitize(score, np.linspace(1, 8, len(known) + 1)[1:-1])
    return np.array([known[place] for place in places], dtype=object if isinstance(known[0], str) else None)


def learner(name: str) -> Any:
    """Return the learner of a model, which takes missing values."""
    if name == "stars":
        return RandomForestClassifier(n_estimators=12, max_depth=6, random_state=0)
    if name == "grade":
        return GradientBoostingClassifier(n_estimators=15, random_state=0)
    return HistGradientBoostingClassifier(max_iter=6 if name == "many" else 15, random_state=0)


def fit(name: str) -> Any:
    """Return a classifier that is fitted on the table."""
    stones = table()
    if name == "grade":  # which takes no missing values
        stones = stones.fillna(60.0)
    return learner(name).fit(stones, labels(name, stones))


def rows(stones: pd.DataFrame) -> list[dict[str, Any]]:
    """Return stones as JSON has them, with null for an unknown depth."""
    return [
        {name: None if pd.isna(cell) else cell for name, cell in zip(COLUMNS, row)}
        for row in zip(*(stones[name].astype(object).tolist() for name in COLUMNS))
    ]


def make_store(root: Path) -> None:
    """Export each classifier as version 1 of a model of its name."""
    from model import export

    for name in LABELS:
        stones, held_out = table(), table(VALIDATION_ROWS, seed=1)
        if name == "grade":
            stones, held_out = stones.fillna(60.0), held_out.fillna(60.0)
        holdout = held_out, labels(name, held_out, seed=1)
        export(fit(name), stones, labels(name, stones), name=name, holdout=holdout, store=root)
