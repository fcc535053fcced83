"""Explanations of models of every library: the values of the shap package, and those of the definition."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import catboost
import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.datasets import make_classification, make_regression
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler
from sklearn.tree import DecisionTreeRegressor

from model import Artifact, Matrix, export
from model.engine.shapley import TreeContributions
from model.store import artifact
from model.store.explanation import EXPLANATION
from model.train import explain
from tests.support.service import bits

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what matplotlib deprecates
    import shap

N_FEATURES = 6
NAMES = [f"f{number}" for number in range(N_FEATURES)]
NUMBERS, TARGET = make_regression(1_000, N_FEATURES, noise=5, random_state=0)
TABLE = pd.DataFrame(NUMBERS.round(4), columns=NAMES)
OF_CLASSES, CLASSES = make_classification(1_000, N_FEATURES, n_informative=4, n_classes=3, random_state=0)
SORTS = pd.DataFrame(OF_CLASSES.round(4), columns=NAMES)
LABELS = np.array(["a", "b", "c"])[CLASSES]
IS_HIGH = TARGET > 0

Value = Callable[[frozenset[int]], NDArray[np.float64]]


@pytest.fixture
def exported(tmp_path: Path) -> Callable[..., Artifact]:
    """Export a fitted model, and load what was written."""

    def exported(fitted: Any, table: pd.DataFrame = TABLE, target: Any = TARGET) -> Artifact:
        export(fitted, table, target, name="model", store=tmp_path)
        return artifact.load(tmp_path / "model" / "1")

    return exported


def background_of(model: Artifact) -> NDArray[np.float64]:
    """Return the rows of the training table that unknown features have the values of."""
    with np.load(model.path / EXPLANATION) as arrays:
        found: NDArray[np.float64] = arrays["background"]
    return found


def by_definition(value: Value, n_players: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the values of no player, `(n_rows,)`, and the contributions of each, `(n_rows, n_players)`."""
    sets = [frozenset(known) for n in range(n_players + 1) for known in combinations(range(n_players), n)]
    values = {known: value(known) for known in sets}
    contributions = [
        sum(
            (values[known | {player}] - values[known]) / (n_players * comb(n_players - 1, len(known)))
            for known in sets
            if player not in known
        )
        for player in range(n_players)
    ]
    return values[frozenset()], np.column_stack(contributions)


def interventional(
    predict: Callable[[NDArray[np.float64]], NDArray[np.float64]], X: NDArray[np.float64], background: NDArray[Any]
) -> Value:
    """Return the mean answers of a model where unknown features have the values of background rows, in turn."""

    def value(known: frozenset[int]) -> NDArray[np.float64]:
        mixed = np.repeat(background[np.newaxis], len(X), axis=0)
        mixed[:, :, list(known)] = X[:, np.newaxis, list(known)]
        answers: NDArray[np.float64] = predict(mixed.reshape(-1, X.shape[1])).reshape(len(X), -1)
        return np.asarray(answers.mean(axis=1))

    return value


def assert_adds_up(model: Artifact, X: NDArray[np.float64], method: str, *, within: float = 1e-10) -> None:
    """Hold that base, contributions and residual are the value to the last bit, and the residual is rounding."""
    found = model.explanations.explain(X, method)
    total = found.bases
    for column in found.contributions.T:
        total = total + column
    assert np.array_equal(bits(total + found.residuals), bits(found.values))
    assert np.abs(found.residuals).max() <= within
    if model.manifest.explanations and model.manifest.explanations.explains == "prediction":
        assert np.array_equal(bits(found.values), bits(model.predict(X)))


REGRESSORS = {
    "gbm": GradientBoostingRegressor(n_estimators=60, random_state=0),
    "sampled gbm": GradientBoostingRegressor(n_estimators=30, max_depth=6, subsample=0.5, random_state=0),
    "random forest": RandomForestRegressor(25, max_depth=9, random_state=0),
    "extra trees": ExtraTreesRegressor(15, max_depth=9, bootstrap=True, random_state=0),
    "histograms": HistGradientBoostingRegressor(max_iter=40, random_state=0),
    "lightgbm": lightgbm.LGBMRegressor(n_estimators=40, bagging_fraction=0.5, bagging_freq=1, verbose=-1),
    "catboost": catboost.CatBoostRegressor(iterations=40, verbose=0, allow_writing_files=False),
}


@pytest.mark.parametrize("name", list(REGRESSORS))
def test_path_dependent_contributions_are_those_of_shap(exported: Callable[..., Artifact], name: str) -> None:
    fitted = REGRESSORS[name].fit(TABLE, TARGET)
    model, X = exported(fitted), TABLE.to_numpy()
    explainer = shap.TreeExplainer(fitted)
    expected = explainer.shap_values(TABLE if name == "catboost" else X)
    found = model.explanations.explain(X, "path_dependent")
    np.testing.assert_allclose(found.contributions, expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.bases, np.ravel(explainer.expected_value)[0], rtol=0, atol=1e-10)
    assert_adds_up(model, X, "path_dependent")


@pytest.mark.parametrize("name", list(REGRESSORS))
def test_interventional_contributions_are_those_of_the_fitted_model(
    exported: Callable[..., Artifact], name: str
) -> None:
    """Every set of features is asked of the fitted model itself; shap's own weights are float32."""
    fitted = REGRESSORS[name].fit(TABLE, TARGET)
    model, X = exported(fitted), TABLE.to_numpy()[:20]
    background = background_of(model)
    assert {tuple(row) for row in background} <= {tuple(row) for row in TABLE.to_numpy()}

    def predict(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(fitted.predict(pd.DataFrame(rows, columns=NAMES)))

    bases, expected = by_definition(interventional(predict, X, background), N_FEATURES)
    found = model.explanations.explain(X, "interventional")
    np.testing.assert_allclose(found.contributions, expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.bases, bases, rtol=0, atol=1e-9)
    assert_adds_up(model, TABLE.to_numpy(), "interventional")


@pytest.mark.parametrize("depth", [3, 9])
def test_xgboost_is_explained_in_float64(exported: Callable[..., Artifact], depth: int) -> None:
    """Its own contributions and its sums are float32: so is the residual; the deep trees' leaves are mostly walked."""
    fitted = xgboost.XGBRegressor(n_estimators=50, max_depth=depth).fit(TABLE, TARGET)
    model, X = exported(fitted), TABLE.to_numpy()
    own = fitted.get_booster().predict(xgboost.DMatrix(TABLE), pred_contribs=True)
    found = model.explanations.explain(X, "path_dependent")
    np.testing.assert_allclose(np.column_stack([found.contributions, found.bases]), own, rtol=0, atol=2e-3)
    assert_adds_up(model, X, "path_dependent", within=2e-3)


CLASSIFIERS = {
    "gbm of two": (GradientBoostingClassifier(n_estimators=20, random_state=0), TABLE, IS_HIGH),
    "lightgbm of three": (lightgbm.LGBMClassifier(n_estimators=10, verbose=-1), SORTS, LABELS),
    "forest of three": (RandomForestClassifier(15, max_depth=7, random_state=0), SORTS, LABELS),
    "catboost of two": (
        catboost.CatBoostClassifier(iterations=20, verbose=0, allow_writing_files=False),
        TABLE,
        IS_HIGH,
    ),
}


@pytest.mark.parametrize("name", list(CLASSIFIERS))
def test_classes_are_explained_as_by_shap(exported: Callable[..., Artifact], name: str) -> None:
    fitted, table, target = CLASSIFIERS[name]
    fitted.fit(table, target)
    model, X = exported(fitted, table, target), table.to_numpy()
    found = model.explanations.explain(X, "path_dependent")
    expected = np.asarray(shap.TreeExplainer(fitted).shap_values(table if "catboost" in name else X))
    assert found.positions is not None
    if expected.ndim == 3:  # one for each class
        assert np.array_equal(found.positions, model.predict(X)[:, 0])
        expected = expected[np.arange(len(X)), :, found.positions]
    else:
        assert set(found.positions.tolist()) == {1}
    np.testing.assert_allclose(found.contributions, expected, rtol=0, atol=1e-10)
    for method in ("path_dependent", "interventional"):
        assert_adds_up(model, X, method)


@pytest.mark.parametrize("name", ["ridge", "products", "logistic regression"])
def test_linear_models_are_explained_by_their_coefficients(exported: Callable[..., Artifact], name: str) -> None:
    """A column of two features has a contribution of its own; all add up to what the coefficients say."""
    steps = [StandardScaler(), PolynomialFeatures(2, interaction_only=True, include_bias=False)]
    if name == "logistic regression":
        fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(TABLE, IS_HIGH)
        model = exported(fitted, TABLE, IS_HIGH)
    else:
        fitted = make_pipeline(*steps[: 2 if name == "products" else 1], Ridge()).fit(TABLE, TARGET)
        model = exported(fitted)
    X = TABLE.to_numpy()
    found, columns = model.explanations.explain(X), fitted[:-1].transform(TABLE)
    parts = (columns - columns.mean(axis=0)) * np.ravel(fitted[-1].coef_)
    np.testing.assert_allclose(found.contributions[:, :N_FEATURES], parts[:, :N_FEATURES], rtol=0, atol=1e-9)
    assert_adds_up(model, X, "interventional")
    assert model.manifest.explanations is not None
    assert model.manifest.explanations.methods == ("interventional",)
    pairs = [f"{a} & {b}" for a, b in combinations(NAMES, 2)] if name == "products" else []
    assert list(found.names) == [*NAMES, *pairs]
    np.testing.assert_allclose(found.contributions[:, N_FEATURES:], parts[:, N_FEATURES:], rtol=0, atol=1e-9)


def test_columns_of_one_feature_count_together(exported: Callable[..., Artifact]) -> None:
    """A category is one feature, whatever an encoder makes of it: as the definition says, asked of the pipeline."""
    random = np.random.default_rng(0)
    table = TABLE[NAMES[:2]].assign(town=random.choice(["Ulm", "Köln", "Bonn", "Trier"], len(TABLE)))
    target = TARGET + (table.town == "Ulm") * 80
    encode = make_column_transformer((OneHotEncoder(), ["town"]), remainder="passthrough")
    fitted = make_pipeline(encode, GradientBoostingRegressor(n_estimators=30, random_state=0)).fit(table, target)
    model = exported(fitted, table, target)
    places = {town: place for place, town in enumerate(model.schema.by_name["town"].categories)}
    X = np.column_stack([table[NAMES[:2]], table.town.map(places)]).astype(np.float64)
    background = background_of(model)
    bases, expected = by_definition(interventional(model.predict, X[:30], background), 3)
    found = model.explanations.explain(X[:30], "interventional")
    assert found.names == (*NAMES[:2], "town")
    np.testing.assert_allclose(found.contributions, expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.bases, bases, rtol=0, atol=1e-9)


def test_a_logarithm_of_the_target_is_explained_before_it_is_turned_back(exported: Callable[..., Artifact]) -> None:
    positive = np.exp(TARGET / 200)
    fitted = TransformedTargetRegressor(
        GradientBoostingRegressor(n_estimators=20, random_state=0), func=np.log, inverse_func=np.exp
    ).fit(TABLE, positive)
    model, X = exported(fitted, TABLE, positive), TABLE.to_numpy()
    found = model.explanations.explain(X)
    assert model.manifest.explanations is not None
    assert model.manifest.explanations.explains == "score"
    assert np.array_equal(bits(np.exp(found.values)), bits(model.predict(X)))
    expected = shap.TreeExplainer(fitted.regressor_).shap_values(X)
    np.testing.assert_allclose(found.contributions, expected, rtol=0, atol=1e-10)


NOT_EXPLAINED = {
    "a vote": (
        VotingRegressor([("a", GradientBoostingRegressor(n_estimators=3)), ("b", RandomForestRegressor(3))]),
        TARGET,
        "averages",
    ),
    "calibrated": (CalibratedClassifierCV(GradientBoostingClassifier(n_estimators=3), cv=2), IS_HIGH, "averages"),
}


@pytest.mark.parametrize("name", list(NOT_EXPLAINED))
def test_what_is_not_explained_says_why(exported: Callable[..., Artifact], name: str) -> None:
    fitted, target, reason = NOT_EXPLAINED[name]
    model = exported(fitted.fit(TABLE, target), TABLE, target)
    assert model.manifest.explanations is None
    assert reason in model.manifest.not_explained
    assert EXPLANATION not in model.manifest.files


def test_trees_that_are_too_large_are_walked_and_then_refused(
    exported: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deep trees of many features say how many rows are explained at once; beyond a limit none are."""
    table, target = make_regression(600, 30, n_informative=30, random_state=0)
    frame = pd.DataFrame(table.round(4), columns=[f"x{number}" for number in range(30)])
    fitted = RandomForestRegressor(3, random_state=0).fit(frame, target)
    model = exported(fitted, frame, target)
    offer = model.manifest.explanations
    assert offer is not None
    assert offer.methods == ("path_dependent", "interventional")
    assert offer.max_rows["interventional"] < offer.max_rows["path_dependent"]
    X = frame.to_numpy()[:50]
    expected = shap.TreeExplainer(fitted).shap_values(X)
    np.testing.assert_allclose(model.explanations.explain(X).contributions, expected, rtol=0, atol=1e-10)
    assert_adds_up(model, X[:5], "interventional")
    monkeypatch.setattr(explain, "_MOST_WALKED", 100)
    export(fitted, frame, target, name="model", store=model.path.parents[1])
    refused = artifact.load(model.path.parent / "2")
    assert refused.manifest.explanations is None
    assert "too many leaves" in refused.manifest.not_explained


@pytest.mark.parametrize("n_features", [1, 4])
def test_a_tree_of_very_many_leaves_is_exported(exported: Callable[..., Artifact], n_features: int) -> None:
    """Its leaves are computed for each row, since the tables would be too large."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.normal(size=(20_000, n_features)), columns=[f"x{n}" for n in range(n_features)])
    target = random.normal(size=len(frame))
    model = exported(DecisionTreeRegressor(random_state=0).fit(frame, target), frame, target)
    assert model.manifest.explanations is not None
    assert_adds_up(model, frame.to_numpy()[:20], "path_dependent")


def test_nothing_is_offered_that_does_not_add_up(
    exported: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model itself is exported nevertheless."""
    correct = TreeContributions.__call__
    monkeypatch.setattr(TreeContributions, "__call__", lambda self, X: correct(self, X) * (1 + 1e-6))
    fitted = GradientBoostingRegressor(n_estimators=5, random_state=0).fit(TABLE, TARGET)
    model = exported(fitted)
    assert model.manifest.explanations is None
    assert "do not add up" in model.manifest.not_explained
    assert np.array_equal(model.predict(TABLE.to_numpy()), fitted.predict(TABLE))


def test_nothing_is_offered_that_differs_leaf_by_leaf(
    exported: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contributions that add up, but are those of other features, are found by computing them in another way."""
    correct = TreeContributions.__call__

    def turned(self: TreeContributions, X: Matrix) -> Matrix:
        return correct(self, X) if self.n_walked else correct(self, X)[:, ::-1]

    monkeypatch.setattr(TreeContributions, "__call__", turned)
    model = exported(GradientBoostingRegressor(n_estimators=5, random_state=0).fit(TABLE, TARGET))
    assert model.manifest.explanations is None
    assert "two ways of computing them differ" in model.manifest.not_explained
