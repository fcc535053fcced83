"""Prediction intervals hold fresh true values as often as their level says, for real tables and different learners."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from model import export
from model.store.manifest import Intervals
from model.train import conformal
from tests.support import gems
from tests.support.real_tables import TABLES

LEARNERS: dict[str, Callable[[], Any]] = {
    "boosting": lambda: HistGradientBoostingRegressor(max_iter=60, random_state=0),
    "forest": lambda: RandomForestRegressor(n_estimators=30, random_state=0),
    "linear": Ridge,
}
LEVELS = (0.5, 0.8, 0.9)


def pipeline(learner: str) -> Any:
    """Return an unfitted pipeline for any table."""
    texts = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    columns = make_column_transformer(
        (SimpleImputer(), make_column_selector(dtype_include="number")),
        (texts, make_column_selector(dtype_exclude="number")),
    )
    return make_pipeline(columns, LEARNERS[learner]())


def largest_gap(level: float, n_held_out: int, n_fresh: int) -> float:
    """Return four standard deviations of a coverage on fresh rows around its level.

    The coverage of the half width from n rows is of the beta distribution with a variance of about
    level (1 - level) / (n + 2); that of the fresh rows given it is binomial. Ties only add to it.
    """
    variance = level * (1 - level)
    return 4 * math.sqrt(variance / (n_held_out + 2) + variance / n_fresh)


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("name", TABLES)
def test_coverage_of_fresh_rows(name: str, learner: str) -> None:
    """A third of a table is fitted on; of the rest, one half gives the half widths, and the other is covered by them.

    This is so for each of 20 random halves within four standard deviations, and nearer for their mean.
    """
    X, y = TABLES[name]()
    X = X.astype({column: str for column in X.columns if not pd.api.types.is_numeric_dtype(X[column])})
    random = np.random.default_rng(0)
    order = random.permutation(len(X))
    training, others = np.sort(order[: len(X) // 3]), order[len(X) // 3 :]
    fitted = pipeline(learner).fit(X.iloc[training], y.iloc[training])
    predictions, truths = fitted.predict(X.iloc[others]), y.iloc[others].to_numpy()
    n_held_out = len(others) // 2

    shares = []
    for _ in range(20):
        held_out, fresh = np.split(random.permutation(len(others)), [n_held_out])
        facts = conformal.facts(np.abs(truths[held_out] - predictions[held_out]))
        assert facts
        intervals = Intervals(facts["rows"], dict(zip(facts["levels"], facts["half_widths"])))
        ends = [intervals.around(predictions[fresh], level) for level in LEVELS]
        shares.append([((lower <= truths[fresh]) & (truths[fresh] <= upper)).mean() for lower, upper in ends])
    found = np.array(shares)  # (n_halves, n_levels)
    print(f"{name}, {learner}: {found.mean(axis=0).round(3).tolist()} of {len(fresh)} rows")
    for level, of_level in zip(LEVELS, found.T):
        assert of_level == pytest.approx(level, abs=largest_gap(level, n_held_out, len(fresh)))
        assert of_level.mean() == pytest.approx(level, abs=largest_gap(level, n_held_out, len(fresh)) / 2)


def test_coverage_of_an_exported_model(tmp_path: Path) -> None:
    """What an export keeps covers 3,000 fresh rows of the same kind, and the card shows the same levels."""
    held_out, fresh = gems.table(1_000, seed=1), gems.table(3_000, seed=2)
    holdout = held_out, gems.prices(held_out)
    model = export(gems.fit(), gems.table(), gems.prices(gems.table()), name="gems", holdout=holdout, store=tmp_path)
    X = model.schema.matrix_from_records(gems.rows(fresh))
    truths = gems.prices(fresh).to_numpy()

    intervals = model.manifest.intervals
    assert intervals
    assert intervals.rows == 1_000
    for level in (*LEVELS, 0.99):
        lower, upper = intervals.around(model.predict(X), level)
        share = ((lower <= truths) & (truths <= upper)).mean()
        assert share == pytest.approx(level, abs=largest_gap(level, 1_000, 3_000))
        assert f"| {level:.0%} | ± {intervals.half_widths[level]:.4g} | " in (model.path / "card.md").read_text()
