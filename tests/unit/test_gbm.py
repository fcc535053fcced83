"""The GBM: it reproduces the published example, and its compiled graph gives scikit-learn's bits for every float64."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model import Matrix
from model.engine.runtime import Predictor, TreesEngine
from model.store import artifact
from model.train.compile import fold
from model.train.compile.compiled import Compiled
from tests.support.examples import BOSTON_HOUSING, Rows, fit_gbm, rows_of
from tests.support.service import HOUSE, bits
from tests.support.trees import compiled, split_rows, trees_of

MAX = float(np.finfo(np.float64).max)

means = st.floats(-1e6, 1e6) | st.floats(-1e300, 1e300)
scales = st.floats(1e-6, 1e6) | st.floats(1e-300, 1e300)
# scikit-learn's thresholds are float64: midpoints of two float32 values, and so between two of them or on one.
thresholds = st.floats(-10, 10) | st.floats(-3e38, 3e38) | st.floats(-10, 10, width=32)


@pytest.fixture(scope="module")
def rows() -> Rows:
    """The published split of the built-in table."""
    return rows_of(BOSTON_HOUSING)


@pytest.fixture(scope="module")
def manifest(store: Path) -> dict[str, Any]:
    """The manifest of the trained artifact."""
    facts: dict[str, Any] = json.loads((store / "boston-housing" / "1" / "manifest.json").read_text())
    return facts


@pytest.fixture(scope="module")
def engine(store: Path) -> Predictor:
    """The engine of the trained artifact."""
    return artifact.load(store / "boston-housing" / "1").engine


def seen_by_trees(x: float, mean: float, scale: float) -> float:
    """Return the value that the trees compare, in scikit-learn's steps: StandardScaler, then a cast to float32."""
    with np.errstate(over="ignore"):
        return float(np.float32((np.float64(x) - np.float64(mean)) / np.float64(scale)))


def test_split_is_the_published_one(rows: Rows) -> None:
    """The first validation rows are those that the published example prints."""
    assert rows.X_validation[:2].tolist() == [
        [1, 6.395, 666, 20.2, 391.34, 13.27],
        [0, 5.895, 224, 20.2, 394.81, 10.56],
    ]


def test_final_model_has_the_published_error(manifest: dict[str, Any], pipeline: Any, rows: Rows) -> None:
    """The mean squared error on the validation rows is the published 26.36, and the manifest says so."""
    error = float(np.mean((pipeline.predict(rows.X_validation) - rows.y_validation) ** 2))

    assert round(error, 2) == 26.36
    assert manifest["metrics"]["validation"]["mse"] == pytest.approx(error, rel=1e-12)


def test_first_house_is_worth_the_published_price(engine: Predictor) -> None:
    """The table's first row is worth 25.00214579, to all digits that were published."""
    assert round(float(engine.predict(np.array([list(HOUSE.values())]))[0]), 8) == 25.00214579


def test_scaler_fitted_on_the_request_gives_the_published_mistake(pipeline: Any) -> None:
    """A scaler that is fitted on a single row maps it to zeros, for which the model predicts 20.35373177."""
    house = np.array([list(HOUSE.values())])
    zeros = type(pipeline["scaler"])().fit_transform(house)

    assert round(float(pipeline["model"].predict(zeros)[0]), 8) == 20.35373177


def everywhere(n: int) -> tuple[Matrix, Matrix]:
    """Return the lowest and the highest float64, `n` times."""
    return np.full(n, -np.inf), np.full(n, np.inf)


@given(values=st.lists(st.floats(allow_nan=False), min_size=1, max_size=5), at_once=st.integers(1, 20))
@example([math.inf, -math.inf, 0.0, 5e-324, -5e-324, MAX, -MAX], 1)
@example([math.inf, -math.inf, 0.0, 5e-324, -5e-324, MAX, -MAX], 15)
def test_largest_finds_any_number(values: list[float], at_once: int) -> None:
    """The largest x with x <= t is t, infinities included, for many predicates, asked for any number of x at once."""
    t = np.array(values)

    def holds(x: Matrix) -> NDArray[np.bool_]:
        return x <= np.tile(t, len(x) // len(t))

    assert fold.largest(holds, *everywhere(len(t)), at_once=at_once).tolist() == values


@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_largest_stops_below_what_fails(values: list[float]) -> None:
    """The largest x with x < t is the float64 before t."""
    t = np.array(values)
    expected = [math.nextafter(value, -math.inf) for value in values]

    assert fold.largest(lambda x: x < t, *everywhere(len(t))).tolist() == expected


@given(threshold=thresholds, mean=means, scale=scales, seed=st.integers(0, 2**32))
def test_folded_threshold_is_right_for_every_float(threshold: float, mean: float, scale: float, seed: int) -> None:
    """`x <= folded` equals `float32((x - mean) / scale) <= threshold` at the fold, next to it and anywhere."""

    def goes_left(x: Matrix) -> NDArray[np.bool_]:
        return np.array([seen_by_trees(each, mean, scale) <= threshold for each in x.tolist()])

    folded = float(fold.largest(goes_left, *everywhere(1))[0])
    random = np.random.default_rng(seed)
    anywhere = random.integers(-(2**63), 2**63, 50).view(np.float64)
    near = [folded + deviation * scale for deviation in random.normal(size=50).tolist()]
    beside = [math.nextafter(folded, -math.inf), folded, math.nextafter(folded, math.inf), -math.inf, math.inf]

    for x in [*beside, *near, *anywhere[~np.isnan(anywhere)].tolist()]:
        assert (x <= folded) == (seen_by_trees(x, mean, scale) <= threshold)


def test_graph_equals_pipeline_on_the_table(pipeline: Any, engine: Predictor, houses: pd.DataFrame) -> None:
    """The compiled model gives the pipeline's bits on all 506 rows."""
    X = houses.to_numpy()
    assert np.array_equal(bits(engine.predict(X)), bits(pipeline.predict(X)))


@pytest.mark.parametrize("decimals", [None, 2, 0])
def test_graph_equals_pipeline_on_random_rows(
    pipeline: Any, engine: Predictor, houses: pd.DataFrame, decimals: int | None
) -> None:
    """The compiled model gives the pipeline's bits on random rows inside and outside the range, also rounded."""
    X = houses.to_numpy()
    low, high = X.min(axis=0), X.max(axis=0)
    random = np.random.default_rng(123).uniform(low - (high - low), high + (high - low), size=(50_000, X.shape[1]))
    table = random if decimals is None else random.round(decimals)

    assert np.array_equal(bits(engine.predict(table)), bits(pipeline.predict(table)))


def test_graph_equals_pipeline_on_both_sides_of_every_split(pipeline: Any, engine: Predictor, rows: Rows) -> None:
    """Every split of every tree has a row on its last float64 to the left and one on its first to the right."""
    sides = split_rows(compiled(pipeline, rows.X_train), rows.X_train)
    n_splits = sum(int((e.tree_.children_left != -1).sum()) for e in pipeline["model"].estimators_[:, 0])

    assert sides.shape == (2 * n_splits, 6)
    left, right = sides[::2], sides[1::2]
    assert ((left != right).sum(axis=1) == 1).all()
    assert np.array_equal(np.nextafter(left, np.inf)[left != right], right[left != right])
    assert np.array_equal(bits(engine.predict(sides)), bits(pipeline.predict(sides)))


def constant_target() -> tuple[Matrix, NDArray[np.float64]]:
    """A constant target: every tree is one leaf."""
    return np.arange(20.0).reshape(-1, 1), np.full(20, 7.1)


def one_row() -> tuple[Matrix, NDArray[np.float64]]:
    """A table of a single row: no tree can split it."""
    return np.array([[1.5, -2.5]]), np.array([3.7])


def soon_learnt() -> tuple[Matrix, NDArray[np.float64]]:
    """Two distinct rows that a stump fits; later trees split only on rounding errors, if at all."""
    return np.array([[0.0, 1.0], [1.0, 1.0]] * 4), np.array([0.1, 0.7] * 4)


def constant_feature() -> tuple[Matrix, NDArray[np.float64]]:
    """One column never changes, so its scale is 1; another is of a very small scale."""
    random = np.random.default_rng(3)
    X = np.column_stack([np.full(60, 396.9), random.normal(size=60) * 1e-12, random.normal(size=60) * 1e12 + 1e9])
    return X, X[:, 1] * 1e12 + X[:, 2] * 1e-12


def predict(model: Compiled, X: Matrix) -> NDArray[np.float64]:
    """Return the compiled engine's predictions."""
    return TreesEngine(trees_of(model), X.shape[1], model.steps).predict(X)


@pytest.mark.parametrize("data", [constant_target, one_row, soon_learnt, constant_feature])
def test_graph_of_an_odd_table_equals_its_pipeline(data: Any) -> None:
    """Trees of one leaf, constant columns and tiny or huge scales compile to the pipeline's bits, splits included."""
    X, y = data()
    pipeline = fit_gbm(X, y, n_estimators=400)
    spread = np.random.default_rng(5).normal(size=(500, X.shape[1])) * (1 + np.abs(X).max(axis=0))
    model = compiled(pipeline, X)
    table = np.vstack([X, spread, spread.round(), split_rows(model, X)])

    assert np.array_equal(bits(predict(model, table)), bits(pipeline.predict(table)))


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32), n_rows=st.integers(1, 40), n_features=st.integers(1, 4), n_estimators=st.integers(1, 20)
)
def test_graph_of_any_table_equals_its_pipeline(seed: int, n_rows: int, n_features: int, n_estimators: int) -> None:
    """For any small table, with ties and repeated rows, the graph gives the pipeline's bits."""
    random = np.random.default_rng(seed)
    X = random.normal(size=(n_rows, n_features)).round(int(random.integers(0, 3)))
    pipeline = fit_gbm(X, random.normal(size=n_rows).round(2), n_estimators=n_estimators)
    model = compiled(pipeline, X)
    table = np.vstack([X, random.normal(size=(200, n_features)) * 3, split_rows(model, X)])

    assert np.array_equal(bits(predict(model, table)), bits(pipeline.predict(table)))


def test_compiling_is_reproducible(pipeline: Any, store: Path, rows: Rows) -> None:
    """The same pipeline compiles to the same bytes."""
    found = trees_of(compiled(pipeline, rows.X_train))

    assert found.pack() == (store / "boston-housing" / "1" / "trees.npz").read_bytes()


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("feature", range(6))
@pytest.mark.parametrize("side", [0, 1], ids=["lowest", "highest"])
def test_limits_are_where_scikit_learn_stops(
    pipeline: Any, engine: Predictor, manifest: dict[str, Any], feature: int, side: int
) -> None:
    """scikit-learn predicts a row at the limit of a feature, as the graph does, and raises for the next float64."""
    facts = manifest["features"][feature]
    limit = (facts["lowest"], facts["highest"])[side]
    row = np.array([list(HOUSE.values())])
    row[0, feature] = limit
    assert bits(engine.predict(row)).tolist() == bits(pipeline.predict(row)).tolist()

    row[0, feature] = np.nextafter(limit, (-np.inf, np.inf)[side])
    with pytest.raises(ValueError, match="infinity or a value too large"):
        pipeline.predict(row)
