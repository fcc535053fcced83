"""Owns the evaluation on held-out rows: metrics with intervals, groups, calibration, importance, partial dependence."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.inspection import partial_dependence, permutation_importance
from sklearn.linear_model import LinearRegression

from model import metrics
from model.engine.runtime import Predict
from model.schema.feature import BOOLEAN, CATEGORY, INTEGER, Feature
from model.schema.features import Matrix, Schema
from model.task import CLASSIFICATION
from model.train import evaluation
from model.train.evaluation import Evaluation
from model.train.subject import Subject
from tests.support.subjects import subject

CITY = Feature("city", type=CATEGORY, categories=("Bern", "Köln", "Oslo"), missing=True, unseen="as other")
FEATURES = (CITY, Feature("new", type=BOOLEAN), Feature("area", missing=True), Feature("rooms", type=INTEGER))
SCHEMA = Schema(FEATURES, Feature("price", unit="EUR"))
Numbers = NDArray[np.float64]


def table(n_rows: int, seed: int = 0) -> Matrix:
    """Return random rows of the schema, some of them with missing cells."""
    random = np.random.default_rng(seed)
    X = np.empty((n_rows, 4))
    X[:, 0], X[:, 1] = random.integers(0, 3, n_rows), random.integers(0, 2, n_rows)
    X[:, 2], X[:, 3] = random.normal(size=n_rows), random.integers(1, 6, n_rows)
    X[random.random(n_rows) < 0.05, 0] = np.nan
    X[random.random(n_rows) < 0.05, 2] = np.nan
    return X


def predict(X: Matrix) -> Numbers:
    """Answer with twice the area, missing as 0, and 1 more for a new one; rooms and cities do not matter."""
    answers: Numbers = 2 * np.nan_to_num(X[:, 2]) + X[:, 1]
    return answers


def classify(X: Matrix) -> Numbers:
    """Answer as a classifier of two classes, of which the area decides."""
    second = 1 / (1 + np.exp(-predict(X)))
    return np.column_stack([second > 0.5, 1 - second, second])


def evaluate(about: Subject, asked: Predict, schema: Schema) -> Evaluation | None:
    """Return the evaluation with the metrics that an export passes to it; of less than two rows there are none."""
    X, y = about.validation or about.training
    with np.errstate(all="ignore"):
        scores = about.task.scores(y, asked(X)) if len(y) > 1 else None
    return evaluation.evaluate(about, asked, schema, scores)


def evaluated(n_rows: int = 400, noise: Callable[[Matrix], Any] = lambda X: 1.0) -> Evaluation:
    """Return the evaluation of `predict` on rows whose truths are apart from it by normal noise of that size."""
    X = table(n_rows)
    y = predict(X) + noise(X) * np.random.default_rng(1).normal(size=n_rows)
    found = evaluate(subject(X, y), predict, SCHEMA)
    assert found
    return found


def test_regression_intervals_are_near_those_of_a_bootstrap() -> None:
    """The closed forms agree with scipy's bootstrap of the rows, for each metric."""
    random = np.random.default_rng(0)
    y = random.normal(size=500)
    predicted = y + random.normal(0, 0.5, 500)
    closed = metrics.regression_intervals(y, predicted)
    for name, interval in closed.items():

        def score(rows: Any, name: str = name) -> float:
            return float(getattr(metrics.regression(y[rows], predicted[rows]), name))

        found = stats.bootstrap(
            (np.arange(500),), score, vectorized=False, n_resamples=500, method="percentile", rng=2
        ).confidence_interval
        assert interval == pytest.approx((found.low, found.high), abs=0.35 * (found.high - found.low) / 2), name


@pytest.mark.parametrize(("name", "truth"), [("mae", 0.5 * (2 / np.pi) ** 0.5), ("r2", 0.8), ("bias", 0.0)])
def test_regression_intervals_hold_the_true_value(name: str, truth: float) -> None:
    """Of 1,000 samples of 100 rows, about 95 % have an interval with the metric of all rows that there could be."""
    random = np.random.default_rng(3)
    held = 0
    for _ in range(1_000):
        predicted = random.normal(size=100)
        interval = metrics.regression_intervals(predicted + 0.5 * random.normal(size=100), predicted)[name]
        assert interval
        held += interval[0] <= truth <= interval[1]

    assert held / 1_000 == pytest.approx(0.95, abs=0.025)


def test_metrics_of_equal_truths_and_of_perfect_predictions() -> None:
    """R² has no interval where all targets are equal, and a perfect model has intervals without width."""
    y = np.array([1.0, 2.0, 4.0])

    assert metrics.regression_intervals(np.ones(3), y)["r2"] is None
    assert metrics.regression_intervals(y, y) == {
        "mse": (0, 0), "rmse": (0, 0), "mae": (0, 0), "bias": (0, 0), "r2": (1, 1),
    }  # fmt: skip


def test_worse_groups_are_marked() -> None:
    """Where the errors of one city are five times as large, its groups alone are worse; rare groups never are."""
    found = evaluated(noise=lambda X: np.where(X[:, 0] == 1, 5.0, 1.0))

    assert [(column, group.name) for column, group in found.worse] == [("city", "Köln")]
    groups = {each.column: {group.name: group for group in each.groups} for each in found.groups}
    assert set(groups) == {"city", "new", "area"}
    assert set(groups["city"]) == {"Bern", "Köln", "Oslo", "(missing)"}
    assert set(groups["new"]) == {"false", "true"}
    assert len(groups["area"]) == 6
    assert groups["city"]["(missing)"].small
    assert all(sum(group.rows for group in each.groups) == 400 for each in found.groups)


def test_rare_values_are_one_group() -> None:
    """A column of many categories has 20 groups at most, of which the last has all others."""
    many = Feature("code", type=CATEGORY, categories=tuple(f"c{number}" for number in range(300)))
    schema = Schema((many,), SCHEMA.target)
    X = np.random.default_rng(0).integers(0, 300, (2_000, 1)).astype(np.float64)
    found = evaluate(subject(X, X[:, 0]), lambda X: X[:, 0] + 1, schema)

    assert found
    (grouping,) = found.groups
    assert len(grouping.groups) == 20
    assert grouping.groups[-1].name == "(all others)"
    assert len(found.dependences[0].at) == 20


def test_importance_is_that_of_scikit_learn() -> None:
    """The rise of the squared error agrees with scikit-learn's within its interval; unused columns have exactly 0."""
    random = np.random.default_rng(0)
    X = random.normal(size=(1_000, 3))
    y = X @ [3.0, 1.0, 0.0] + random.normal(size=1_000)
    fitted = LinearRegression().fit(X[:, :2], y)
    found = evaluation.importance(lambda X: fitted.predict(X[:, :2]), X, y, ["a", "b", "c"])
    theirs = permutation_importance(
        fitted, X[:, :2], y, scoring="neg_mean_squared_error", n_repeats=20, random_state=0
    ).importances_mean

    assert found
    assert [rise.column for rise in found.columns] == ["a", "b", "c"]
    for rise, expected in zip(found.columns, theirs):
        assert rise.low < expected < rise.high
    assert found.columns[2].high == pytest.approx(0, abs=1e-12)


def test_partial_dependence_is_that_of_scikit_learn() -> None:
    """The mean prediction at each value is scikit-learn's brute-force one for the same rows and values."""
    X = np.random.default_rng(0).normal(size=(300, 2))
    fitted = GradientBoostingRegressor(n_estimators=20, random_state=0).fit(X, X[:, 0] + 3 * X[:, 1])
    schema = Schema((Feature("a"), Feature("b")), SCHEMA.target)
    found = evaluate(subject(X, 3 * X[:, 1]), fitted.predict, schema)

    assert found
    first = found.dependences[0]
    theirs = partial_dependence(fitted, X, [1], method="brute", custom_values={1: np.array(first.at)})["average"][0]
    assert first.column == "b"
    assert len(first.at) == 20
    assert first.mean == pytest.approx(theirs)
    assert all(low <= mean <= high for low, mean, high in zip(first.low, first.mean, first.high))


def test_calibration_of_a_regression() -> None:
    """A model without error on average is calibrated: about 95 % of the bins' intervals hold the mean prediction."""
    found = evaluated(5_000).calibration

    assert [each.rows for each in found] == [500] * 10
    assert sum(each.low <= each.predicted <= each.high for each in found) >= 8
    assert [each.predicted for each in found] == sorted(each.predicted for each in found)


def test_classification() -> None:
    """A classifier has the log loss of groups, bins of its probabilities, and the dependence of the second class."""
    X = table(2_000)
    target = Feature("sold", type=BOOLEAN)
    y = (np.random.default_rng(5).random(2_000) < classify(X)[:, 2]).astype(np.float64)
    schema = Schema(FEATURES, target)
    found = evaluate(subject(X, y, target, CLASSIFICATION), classify, schema)

    assert found
    assert (found.loss, found.about) == ("log_loss", "probability of true")
    assert set(found.metrics) == {"log_loss", "brier", "accuracy", "auc"}
    assert sum(each.low <= each.predicted <= each.high for each in found.calibration) >= len(found.calibration) - 2
    assert found.importance
    assert found.importance.columns[0].column == "area"
    assert 0 < min(found.dependences[0].mean) < max(found.dependences[0].mean) < 1


def test_same_rows_give_the_same_facts_and_pictures() -> None:
    """Nothing depends on the clock or on another random state."""
    X = table(300)
    about = subject(X, predict(X) + X[:, 3])
    once, again = (evaluate(about, predict, SCHEMA) for _ in range(2))

    assert once
    assert again
    assert json.dumps(once.facts()) == json.dumps(again.facts())
    assert set(evaluation.figures(about, predict, once)) == {
        *("predicted_against_actual", "residuals", "calibration", "importance", "partial_dependence", "groups"),
    }
    assert set(evaluation.figures(about, predict, None)) == {"predicted_against_actual", "residuals"}


@pytest.mark.parametrize(("n_rows", "n_columns"), [(200_000, 4), (3_000, 300), (500, 1_200)])
def test_work_is_bounded(n_rows: int, n_columns: int) -> None:
    """For any table the engine is asked for all rows once (and once for the metrics), and for few more."""
    asked: list[int] = []

    def counted(X: Matrix) -> Numbers:
        asked.append(len(X))
        return X[:, 0]

    schema = Schema(tuple(Feature(f"c{number}") for number in range(n_columns)), SCHEMA.target)
    X = np.random.default_rng(0).normal(size=(n_rows, n_columns))
    found = evaluate(subject(X, X[:, 0] + X[:, 1]), counted, schema)

    assert found
    assert sum(asked) <= 2 * n_rows + 300_000
    assert (found.importance is None) is (n_columns > 1_000)
    assert len(json.dumps(found.facts())) < 50_000


@pytest.mark.parametrize("n_rows", [0, 1, 2, 3, 7])
def test_few_rows(n_rows: int) -> None:
    """Less than two rows have no evaluation; a few have one without a warning, whose figures are all JSON."""
    X = table(n_rows)
    about = subject(X, predict(X))
    found = evaluate(about, predict, SCHEMA)

    assert (found is None) is (n_rows < 2)
    if found:
        json.dumps(found.facts(), allow_nan=False)
        evaluation.figures(about, predict, found)


def test_columns_without_values() -> None:
    """A column of missing cells or of one value has no importance and no partial dependence."""
    X = np.column_stack([np.full(50, np.nan), np.ones(50), np.full(50, np.nan), np.arange(50.0)])
    found = evaluate(subject(X, X[:, 3]), predict, SCHEMA)

    assert found
    assert found.importance
    assert {rise.value for rise in found.importance.columns} == {0}
    assert [each.column for each in found.dependences] == ["rooms"]
    json.dumps(found.facts(), allow_nan=False)


def test_answers_that_overflow_leave_the_figure_out() -> None:
    """Where a square overflows, the figure is null and nothing is warned of."""
    X = table(50)
    found = evaluate(subject(X, X[:, 3]), lambda X: X[:, 3] * 1e200, SCHEMA)

    assert found
    assert found.facts()["overall"]["value"] is None
    json.dumps(found.facts(), allow_nan=False)
