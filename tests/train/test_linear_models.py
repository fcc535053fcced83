"""Linear models of real tables: exported, proven within the stated bound, and the same bits in any batch."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import linear_model as models
from sklearn.compose import TransformedTargetRegressor, make_column_selector, make_column_transformer
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    KBinsDiscretizer,
    OneHotEncoder,
    PolynomialFeatures,
    PowerTransformer,
    StandardScaler,
    TargetEncoder,
)
from sklearn.svm import LinearSVR

from model import Artifact, Store, export
from model.engine.linear import BOUND, ORDER, LinearEngine
from model.errors import ArtifactError, ExportError, ProofError
from model.store import artifact
from model.train import proof
from model.train.compile.compiled import compile_model
from tests.support.real_tables import TABLES
from tests.support.service import bits, rewrite

TEXTS = make_column_selector(dtype_include=["object", "string", "category"])
NUMBERS = make_column_selector(dtype_include="number")
N_RANDOM = 4_000


@pytest.fixture(autouse=True)
def _few_random_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "RANDOM_ROWS", N_RANDOM)


def behind(learner: Any, *steps: Any, encoder: Any = None) -> Any:
    """Return a learner behind the usual steps, for a table with gaps and categories."""
    texts = make_pipeline(SimpleImputer(strategy="most_frequent"), encoder or OneHotEncoder(handle_unknown="ignore"))
    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler(), *steps)
    return make_pipeline(make_column_transformer((numbers, NUMBERS), (texts, TEXTS)), learner)


def of_target(regressor: Any, **options: Any) -> Any:
    return TransformedTargetRegressor(regressor, **options)


REGRESSORS: Mapping[str, Callable[[], Any]] = {
    "least squares": lambda: behind(models.LinearRegression()),
    "ridge": lambda: behind(models.Ridge(), PolynomialFeatures(2, include_bias=False)),
    "ridge, cross-validated": lambda: behind(models.RidgeCV(), encoder=TargetEncoder(target_type="continuous")),
    "lasso": lambda: behind(models.Lasso(alpha=0.1), KBinsDiscretizer(4, quantile_method="linear")),
    "lasso, cross-validated": lambda: behind(models.LassoCV(cv=3)),
    "elastic net": lambda: behind(models.ElasticNet(alpha=0.1), PowerTransformer()),
    "lars": lambda: behind(models.LassoLars(alpha=0.1)),
    "matching pursuit": lambda: behind(models.OrthogonalMatchingPursuit()),
    "huber": lambda: behind(models.HuberRegressor(max_iter=1_000)),
    "bayesian ridge": lambda: behind(models.BayesianRidge()),
    "stochastic gradient": lambda: behind(models.SGDRegressor(random_state=0)),
    "support vectors": lambda: behind(LinearSVR(random_state=0, max_iter=200)),
    "quantile": lambda: behind(models.QuantileRegressor(alpha=0.1)),
    "consensus": lambda: behind(models.RANSACRegressor(models.Ridge(), min_samples=60, random_state=0)),
    "poisson": lambda: behind(models.PoissonRegressor(max_iter=500)),
    "gamma": lambda: behind(models.GammaRegressor(max_iter=500)),
    "tweedie": lambda: behind(models.TweedieRegressor(power=1.5, max_iter=500)),
    "normal": lambda: behind(models.TweedieRegressor(power=0)),
    "logarithm of the target": lambda: behind(of_target(models.Ridge(), func=np.log1p, inverse_func=np.expm1)),
    "square root of the target": lambda: behind(of_target(models.Ridge(), func=np.sqrt, inverse_func=np.square)),
    "scaled target": lambda: of_target(behind(models.Ridge()), transformer=StandardScaler()),
    "power of the target": lambda: behind(of_target(models.Ridge(), transformer=PowerTransformer())),
}
CLASSIFIERS: Mapping[str, Callable[[], Any]] = {
    "logistic": lambda: behind(models.LogisticRegression(max_iter=1_000)),
    "logistic, cross-validated": lambda: behind(
        models.LogisticRegressionCV(
            cv=3, Cs=3, max_iter=1_000, l1_ratios=(0,), use_legacy_attributes=False, scoring="neg_log_loss"
        )
    ),
    "stochastic gradient": lambda: behind(models.SGDClassifier(loss="log_loss", random_state=0)),
    "discriminant": lambda: behind(
        LinearDiscriminantAnalysis(), encoder=OneHotEncoder(handle_unknown="ignore", drop="first", sparse_output=False)
    ),
}


def positive(y: pd.Series) -> pd.Series:
    return y.sub(y.min()).add(1)


def typed(X: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows in the types of the table."""
    is_number = {name: pd.api.types.is_numeric_dtype(X[name]) for name in X}
    return rows.astype({name: float if is_number[name] else X[name].dtype for name in X})


def check(found: Artifact, X: pd.DataFrame, answers: Callable[[pd.DataFrame], Any]) -> None:
    """Compare the version with the fitted model on rows of the table with gaps, and with itself in every batch."""
    rows = X.sample(80, random_state=1).astype(object)
    for place, name in enumerate(X.columns):
        if next(each for each in found.schema.features if each.name == name).missing:
            rows.iloc[place :: len(X.columns) + 1, place] = None
    matrix = found.schema.matrix_from_records(
        [
            {
                name: None if pd.isna(cell) else cell.item() if isinstance(cell, np.generic) else cell
                for name, cell in zip(rows.columns, row)
            }
            for row in rows.itertuples(index=False)
        ]
    )
    expected, served = answers(typed(X, rows)), found.predict(matrix)
    engine = found.engine
    assert isinstance(engine, LinearEngine)

    assert (np.abs(served - expected) <= engine.allowed(matrix)).all()
    alone = np.concatenate([found.predict(row[np.newaxis]) for row in matrix])
    assert np.array_equal(bits(alone), bits(served))
    assert np.array_equal(bits(found.predict(np.tile(matrix, (60, 1)))[-80:]), bits(served))
    assert np.array_equal(bits(found.predict(found.golden_rows)), bits(found.golden_predictions))
    facts, figures = found.manifest.document["engine"], found.manifest.proof
    assert (facts["kind"], facts["order"], facts["allowed_difference"]) == ("linear", ORDER, BOUND)
    assert figures
    assert figures.random_rows == N_RANDOM
    assert figures.largest_share_of_allowed <= 1
    card = (found.path / "card.md").read_text(encoding="utf-8")
    assert BOUND in card
    assert ORDER in card
    assert "At least one bit differs on" in card


@pytest.mark.parametrize("learner", REGRESSORS)
def test_regression_is_within_its_bound(tmp_path: Path, learner: str) -> None:
    """Every family of linear regressions is served within the bound of each row, with gaps and categories."""
    X, y = TABLES["hitters" if len(learner) % 2 else "penguins"]()
    fitted = REGRESSORS[learner]().fit(X, positive(y))

    check(export(fitted, X, positive(y), name="m", store=tmp_path), X, fitted.predict)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("learner", CLASSIFIERS)
def test_classifier_is_within_its_bound(tmp_path: Path, learner: str, n_classes: int) -> None:
    """Labels are those of the fitted model, and probabilities within the bound of each row."""
    X, y = TABLES["penguins"]()
    labels = pd.qcut(y, n_classes, labels=["light", "middle", "heavy"][:n_classes]).astype(str)
    fitted = CLASSIFIERS[learner]().fit(X, labels)
    found = export(fitted, X, labels, name="m", store=tmp_path)

    def answers(rows: pd.DataFrame) -> Any:
        label = np.searchsorted(fitted.classes_, fitted.predict(rows))
        return np.column_stack([label, fitted.predict_proba(rows)])

    check(found, X, answers)
    assert list(found.manifest.classes) == sorted(set(labels))


@pytest.mark.parametrize("table", TABLES)
def test_every_real_table(tmp_path: Path, table: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each table is served, and the checklist says the order of addition, the bound and what differs."""
    X, y = TABLES[table]()
    fitted = behind(models.Ridge()).fit(X, y)
    found = export(fitted, X, y, name="m", store=tmp_path)

    check(found, X, fitted.predict)
    shown = capsys.readouterr().out
    assert found.manifest.proof
    assert f"mind     The served model adds {ORDER}." in shown
    assert f"differ in a bit, by {found.manifest.proof.largest_relative_difference:.1e} at most" in shown
    assert BOUND in shown


def test_array_without_steps(tmp_path: Path) -> None:
    """A model of an array, without a step, is served; its limits let no sum overflow."""
    random = np.random.default_rng(0)
    X = random.normal(size=(200, 3)) * [1, 1e6, 1e-6]
    fitted = models.LinearRegression().fit(X, X @ [1.0, 2e-6, 3e6])
    found = export(fitted, X, X[:, 0], name="m", store=tmp_path)
    ends = np.array([[feature.lowest, feature.highest] for feature in found.schema.features])

    assert np.isfinite(found.predict(np.array([ends[:, 0], ends[:, 1], [*ends[:2, 0], ends[2, 1]]]))).all()
    assert (ends[:, 1] > 1e290).all()


def test_limits_let_no_exponential_overflow(tmp_path: Path) -> None:
    """Columns that are each accepted far out are held nearer where they may be far out together."""
    random = np.random.default_rng(0)
    X = pd.DataFrame(random.normal(size=(300, 4)), columns=list("abcd"))
    fitted = models.PoissonRegressor(alpha=0).fit(X, random.poisson(np.exp(X.sum(axis=1) / 2)))
    found = export(fitted, X, fitted.predict(X), name="m", store=tmp_path)
    ends = np.array([[feature.lowest, feature.highest] for feature in found.schema.features])
    corners = np.array(np.meshgrid(*ends)).reshape(4, -1).T

    assert np.isfinite(found.predict(corners)).all()
    assert (ends[:, 1] > 100).all()


@pytest.mark.parametrize(
    ("fitted", "sentence"),
    [
        (models.RidgeClassifier(), "gives no probabilities"),
        (models.SGDClassifier(), "gives no probabilities"),
        (models.SGDClassifier(loss="modified_huber"), "'modified_huber' has no probabilities that can be served"),
        (make_pipeline(StandardScaler(with_std=False), PowerTransformer("box-cox"), models.Ridge()), None),
    ],
)
def test_model_without_answers_is_refused(tmp_path: Path, fitted: Any, sentence: str | None) -> None:
    """A classifier that has no probabilities to serve is refused in a sentence."""
    X = pd.DataFrame({"a": np.arange(1.0, 41.0), "b": np.arange(40.0) % 7 + 1})
    y = np.arange(40) % 2
    if sentence is None:
        fitted, sentence = make_pipeline(PowerTransformer("box-cox"), models.Ridge()), "its method is 'box-cox'"
    fitted.fit(X, y)

    with pytest.raises(ExportError, match=sentence):
        export(fitted, X, y, name="m", store=tmp_path / "store")
    assert Store(tmp_path / "store").names() == []


def test_model_that_computes_in_float32_is_refused(tmp_path: Path) -> None:
    """A model that was fitted on float32 alone computes in it, and is refused with what to do."""
    X = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    fitted = models.Ridge().fit(X, X[:, 0])

    with pytest.raises(ExportError, match="was fitted on float32 and computes in it; turn the table's columns into"):
        export(fitted, X, X[:, 0], name="m", store=tmp_path)


def test_two_numbers_a_row_are_refused(tmp_path: Path) -> None:
    """A model of two targets is refused with what to do."""
    X = np.random.default_rng(0).normal(size=(50, 2))

    with pytest.raises(
        ExportError, match="LinearRegression does not predict one number a row; export a model for each"
    ):
        export(models.LinearRegression().fit(X, X), X, X[:, 0], name="m", store=tmp_path)


def test_proof_finds_a_wrong_coefficient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coefficient that is off by 1e-12 of itself is beyond the bound, and nothing is written."""
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(100, 3)), columns=list("abc"))
    fitted = models.LinearRegression().fit(X, X["a"] * 3 + X["b"])

    def broken(*arguments: Any, **options: Any) -> Any:
        compiled = compile_model(*arguments, **options)
        assert compiled.linear
        coefficients = fitted.coef_.reshape(1, -1) * [1, 1 + 1e-12, 1]
        engine = LinearEngine(compiled.linear.columns, coefficients, np.array([fitted.intercept_]))
        return replace(compiled, linear=engine)

    monkeypatch.setattr("model.train.learners.fitted.compile_model", broken)
    with pytest.raises(ProofError, match="differs from the trained one"):
        export(fitted, X, X["a"], name="m", store=tmp_path / "store")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: b"", "cannot be served: not a file of these arrays"),
        (lambda content: content[:200], "cannot be served: not a file of these arrays"),
        (lambda content: content.replace(b'"divide"', b'"system"'), "cannot be served: not a file of these arrays"),
        (None, "does not list linear.npz"),
    ],
)
def test_broken_file_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes] | None, reason: str) -> None:
    """A file of coefficients that a server cannot read is an `ArtifactError` that names it or the manifest."""
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(100, 3)), columns=list("abc"))
    fitted = make_pipeline(StandardScaler(), models.Ridge()).fit(X, X["a"])
    folder = shutil.copytree(export(fitted, X, X["a"], name="m", store=tmp_path / "store").path, tmp_path / "1")
    content = (folder / artifact.LINEAR).read_bytes()
    if damage:
        rewrite(folder, lambda manifest: None, {artifact.LINEAR: damage(content)})
    else:
        rewrite(folder, lambda manifest: manifest["files"].pop(artifact.LINEAR))

    with pytest.raises(ArtifactError) as caught:
        artifact.load(folder)
    assert reason in caught.value.reason
