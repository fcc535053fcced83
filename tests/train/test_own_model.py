"""A fitted model of one's own: what is served has its bits, and what cannot be served is refused in one sentence."""

from __future__ import annotations

import math
import re
import sys
import types
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils import check_array

from model import Store, export
from model.cli.main import main
from model.errors import ExportError, SchemaError
from model.store import artifact
from tests.support.service import bits

NUMBERS, TEXTS = ["area", "rooms", "age"], ["town", "kind"]


@pytest.fixture(scope="module")
def homes() -> pd.DataFrame:
    """A table with numbers, whole numbers, booleans, texts and categories, some of them missing."""
    random = np.random.default_rng(5)
    n = 400
    table = pd.DataFrame(
        {
            "area": random.gamma(3, 30, n),
            "rooms": random.integers(1, 9, n),
            "age": random.normal(40, 20, n).astype(np.float32),
            "garden": random.random(n) < 0.4,
            "town": random.choice(["Ulm", "Köln", 'a "quoted", name', "NA", " "], n),
            "kind": pd.Categorical(random.choice(["flat", "house", "hut"], n)),
        }
    )
    table.loc[random.random(n) < 0.1, "area"] = np.nan
    table.loc[random.random(n) < 0.1, "town"] = None
    table["price"] = table.area.fillna(50) * 2 + table.rooms * 9 + (table.kind == "hut") * 30 + random.normal(size=n)
    return table


def encoded(scaler: Any, encoder: Any) -> Any:
    """Return the usual steps in front of trees."""
    numbers, texts = (
        make_pipeline(SimpleImputer(strategy="median"), scaler),
        make_pipeline(SimpleImputer(strategy="most_frequent"), encoder),
    )
    return make_column_transformer((numbers, NUMBERS), (texts, TEXTS), ("passthrough", ["garden"]))


ONE_HOT = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
ORDINAL = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
MODELS: dict[str, Callable[[], Any]] = {
    "forest": lambda: make_pipeline(
        encoded(RobustScaler(), OneHotEncoder(handle_unknown="ignore", max_categories=3)),
        RandomForestRegressor(n_estimators=20, n_jobs=2, random_state=0),
    ),
    "extra trees": lambda: make_pipeline(
        encoded(MinMaxScaler(), ORDINAL), ExtraTreesRegressor(n_estimators=20, random_state=0)
    ),
    "gbm": lambda: make_pipeline(
        encoded(StandardScaler(), TargetEncoder(target_type="continuous")),
        GradientBoostingRegressor(n_estimators=30, random_state=0),
    ),
    "tree": lambda: make_pipeline(encoded(PowerTransformer(), ONE_HOT), DecisionTreeRegressor(max_depth=7)),
    "histograms": lambda: make_pipeline(
        make_column_transformer((ONE_HOT, TEXTS), remainder="passthrough"), HistGradientBoostingRegressor(max_iter=20)
    ),
    "poisson": lambda: make_pipeline(
        encoded(QuantileTransformer(n_quantiles=30), ORDINAL),
        HistGradientBoostingRegressor(max_iter=20, loss="poisson"),
    ),
    "falling": lambda: make_pipeline(
        make_column_transformer((FunctionTransformer(np.negative), ["area", "rooms"])),
        HistGradientBoostingRegressor(max_iter=20),
    ),
    "search": lambda: GridSearchCV(
        make_pipeline(encoded(StandardScaler(), ONE_HOT), RandomForestRegressor(n_estimators=9, n_jobs=2)),
        {"randomforestregressor__max_depth": [2, 4]},
        cv=3,
    ),
    "vote": lambda: make_pipeline(
        encoded(StandardScaler(), ONE_HOT),
        VotingRegressor(
            [
                ("forest", RandomForestRegressor(n_estimators=6, random_state=0)),
                ("gbm", GradientBoostingRegressor(n_estimators=9)),
            ],
            weights=[1, 0.3],
        ),
    ),
    "logarithm": lambda: make_pipeline(
        make_column_transformer((FunctionTransformer(np.log1p), ["area", "rooms"])),
        HistGradientBoostingRegressor(max_iter=20),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_served_has_the_models_bits(homes: pd.DataFrame, tmp_path: Path, name: str) -> None:
    """Any pipeline of known trees becomes a version whose predictions for the whole table have the pipeline's bits."""
    X, y = homes.drop(columns="price"), homes["price"]
    fitted = MODELS[name]().fit(X[:300], y[:300])

    found = export(fitted, X[:300], y[:300], name="homes", holdout=(X[300:], y[300:]), store=tmp_path)

    cells = X.astype({"kind": object}).to_dict("records")
    rows = [{str(key): None if cell != cell else cell for key, cell in row.items()} for row in cells]
    fitted = getattr(fitted, "best_estimator_", fitted)
    if name in ("forest", "search"):
        assert fitted["randomforestregressor"].n_jobs == 2
        fitted.set_params(randomforestregressor__n_jobs=1)  # with more, it adds its trees in any order
    assert np.array_equal(bits(found.predict(found.schema.matrix_from_records(rows))), bits(fitted.predict(X)))
    assert found.manifest.proof is not None
    assert found.manifest.proof.different_rows == 0
    assert found.tolerance == (4 * 2**-52 if name == "poisson" else 0)  # numpy's exponential differs between machines
    assert found.manifest.metrics.validation is not None
    assert found.manifest.metrics.validation.rows == 100


def test_checklist(homes: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The export says what each column is, what was compiled and proven, where it lies, and how to ask it."""
    X, y = homes.drop(columns="price"), homes["price"]
    export(MODELS["gbm"]().fit(X, y), X, y, name="homes", store=tmp_path)
    lines = capsys.readouterr().out.splitlines()

    assert lines[0].startswith("schema   area    number    ")
    assert lines[0].endswith("; may be missing")
    assert lines[4] == (
        "         town    category  ' ', Köln, NA, Ulm, 'a \"quoted\", name'; any other counts as one more; "
        "may be missing"
    )
    assert [line.split()[0] for line in lines[6:]] == [
        *("steps", "compare", "proof", "golden", "training", "holdout", "written", "champion", "serve", "ask"),
    ]
    assert lines[8].endswith(": 0 differ in any bit")
    assert lines[13] == "champion version 1, which a server loads"
    assert lines[14] == f"serve    in a clone of Tabserve: make run MODEL=homes STORE={tmp_path}"
    assert lines[-1].startswith("ask      curl -s localhost:8000/models/homes/predict -H")


def test_schema_is_what_the_model_does(homes: pd.DataFrame, tmp_path: Path) -> None:
    """Whether a value may be missing, and what an unseen category does, is found by asking the model."""
    strict = make_pipeline(
        make_column_transformer((OneHotEncoder(), ["kind"]), (StandardScaler(), ["rooms"])),
        GradientBoostingRegressor(n_estimators=5),
    )
    own = HistGradientBoostingRegressor(max_iter=5, categorical_features="from_dtype")
    X, y = homes[["rooms", "kind"]], homes["price"]

    refusing = {f.name: f for f in export(strict.fit(X, y), X, y, name="strict", store=tmp_path).schema.features}
    accepting = {f.name: f for f in export(own.fit(X, y), X, y, name="own", store=tmp_path).schema.features}
    assert (refusing["kind"].type, refusing["kind"].missing, refusing["kind"].unseen) == ("category", False, "error")
    assert (refusing["rooms"].type, refusing["rooms"].missing) == ("integer", False)
    assert (refusing["rooms"].minimum, refusing["rooms"].maximum) == (1, 8)
    assert (accepting["kind"].missing, accepting["kind"].unseen) == (True, "as missing")
    assert accepting["kind"].categories == ("flat", "house", "hut")


def lowered(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({name: table[name].str.strip().str.lower() for name in table})


def lengths(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({name: table[name].str.len() for name in table})


@pytest.mark.parametrize(
    ("fit", "column", "others"),
    [
        (
            lambda X, y: make_pipeline(
                FunctionTransformer(lowered), OneHotEncoder(handle_unknown="ignore"), DecisionTreeRegressor()
            ).fit(X, y),
            pd.Series(["nord", "sued", "west"] * 30),
            ["Nord", " nord "],
        ),
        (
            lambda X, y: make_pipeline(FunctionTransformer(lengths), DecisionTreeRegressor()).fit(X, y),
            pd.Series(["a", "bbb", "ccccc"] * 30),
            ["dd", "eeeeeeeeee"],
        ),
        (
            lambda X, y: DecisionTreeRegressor().fit(X, y),
            pd.Series(pd.Categorical([2, 4, 6] * 30)),
            [0, 3, 100],
        ),
    ],
    ids=["lowered", "lengths", "numbers"],
)
def test_unseen_categories_that_differ_are_refused(
    tmp_path: Path, fit: Callable[[Any, Any], Any], column: pd.Series, others: list[Any]
) -> None:
    """Where the model's answer for an unseen category depends on which it is, each of them is refused."""
    X, y = pd.DataFrame({"c": column}), np.arange(90.0) % 3
    found = export(fit(X, y), X, y, name="m", store=tmp_path)

    assert found.schema.features[0].unseen == "error"
    for other in others:
        with pytest.raises(SchemaError, match="unknown category"):
            found.schema.matrix_from_records([{"c": other}])


def test_float32_array_is_asked_in_float32(tmp_path: Path) -> None:
    """A model that was fitted on an array of float32 is asked with one, as the steps in front compute in float32."""
    X = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    fitted = make_pipeline(StandardScaler(), HistGradientBoostingRegressor(max_iter=20)).fit(X, X[:, 0] * X[:, 1])
    found = export(fitted, X, X[:, 0] * X[:, 1], name="array", store=tmp_path)

    assert np.array_equal(bits(found.predict(X.astype(np.float64))), bits(fitted.predict(X).astype(np.float64)))


def test_columns_in_another_order_are_refused(tmp_path: Path) -> None:
    """LightGBM itself predicts columns in another order without a word; the export does not."""
    lightgbm = pytest.importorskip("lightgbm", reason='needs LightGBM: make install EXTRAS="lightgbm"')
    X = pd.DataFrame({"a": np.arange(200.0), "b": np.arange(200.0) % 7})
    fitted = lightgbm.LGBMRegressor(n_estimators=3, verbosity=-1).fit(X, X["b"])

    with pytest.raises(ExportError, match="was fitted on the columns 'a', 'b', and the table has 'b', 'a'"):
        export(fitted, X[["b", "a"]], X["b"], name="m", store=tmp_path / "store")


def test_array_of_a_model_with_names_has_these(tmp_path: Path) -> None:
    """A model that was fitted on a data frame keeps its names when it is exported with an array."""
    X = pd.DataFrame({"a": np.arange(50.0), "b": np.arange(50.0) % 7})
    fitted = DecisionTreeRegressor(max_depth=3).fit(X, X["b"])

    assert export(fitted, X.to_numpy(), X["b"], name="m", store=tmp_path).schema.names == ("a", "b")


@pytest.mark.parametrize(
    ("X", "holdout", "sentence"),
    [
        (pd.DataFrame({"a": ["x"] * 30}), None, "the model does not predict the table: "),
        (pd.DataFrame({"b": np.arange(30.0)}), None, "the model does not predict the table: "),
        (pd.DataFrame({"a": 2**60 + np.arange(30)}), None, r"the table has whole numbers beyond 2\*\*53 in 'a'"),
        (pd.DataFrame({"a": []}), None, "the table has no rows"),
        (np.zeros((0, 1)), None, "the table has no rows"),
        (pd.DataFrame({"a": [np.inf, *range(29)]}), None, "infinite numbers in 'a'"),
        (
            None,
            (pd.DataFrame({"z": [1.0]}), [1.0]),
            "the holdout lacks the columns 'a'; pass those of the table in each",
        ),
        (None, (np.zeros((1, 1)), [1.0]), "the holdout is no data frame"),
        (None, (pd.DataFrame({"a": [1.0, 2.0]}), [1.0]), "there are 1 targets for 2 rows"),
    ],
)
def test_rows_that_the_model_does_not_predict_are_refused(tmp_path: Path, X: Any, holdout: Any, sentence: str) -> None:
    """A table or a holdout that the model itself refuses is an `ExportError` before any work."""
    good = pd.DataFrame({"a": np.arange(30.0)})
    fitted = HistGradientBoostingRegressor(max_iter=2).fit(good, good["a"])
    X = good if X is None else X

    with pytest.raises(ExportError, match=sentence):
        export(fitted, X, np.arange(float(len(X))), name="m", holdout=holdout, store=tmp_path / "store")
    assert Store(tmp_path / "store").names() == []


@pytest.mark.parametrize(
    ("fitted", "sentence"),
    [
        ("rents.joblib", "'rents.joblib' is the name of a file; pass the model in it"),
        (StandardScaler(), "StandardScaler does not predict; pass a fitted estimator"),
        (
            make_pipeline(StandardScaler()),
            "Pipeline does not predict; pass a fitted estimator, or a pipeline that ends",
        ),
        (DecisionTreeRegressor, "DecisionTreeRegressor is a class; pass a fitted model of it"),
    ],
    ids=["file", "scaler", "pipeline", "class"],
)
def test_what_is_no_model_is_refused(tmp_path: Path, fitted: Any, sentence: str) -> None:
    """What does not predict is named, with what to pass."""
    with pytest.raises(ExportError, match=sentence):
        export(fitted, np.zeros((3, 1)), np.zeros(3), name="m", store=tmp_path)


def test_hard_vote_is_told_to_be_soft(tmp_path: Path) -> None:
    """A vote without probabilities is told how to have them."""
    X = pd.DataFrame({"a": np.arange(30.0)})
    vote = VotingClassifier([("tree", DecisionTreeClassifier())]).fit(X, X["a"] > 9)

    for fitted in (vote, make_pipeline(vote)):
        with pytest.raises(
            ExportError, match=r"VotingClassifier with voting='hard' gives no .*; fit it with voting='soft'"
        ):
            export(fitted, X, X["a"] > 9, name="m", store=tmp_path)


def test_holdout_is_taken_by_its_names(tmp_path: Path) -> None:
    """A holdout may have its columns in another order, and others beside them."""
    X = pd.DataFrame({"a": np.arange(90.0), "b": np.arange(90.0) % 7})
    fitted = HistGradientBoostingRegressor(max_iter=9).fit(X, X["b"])
    found = [
        export(fitted, X, X["b"], name="m", holdout=(holdout, X["b"]), store=tmp_path).manifest.metrics.validation
        for holdout in (X, X.assign(c=1)[["c", "b", "a"]])
    ]

    assert found[0] == found[1]


@pytest.mark.parametrize("X", [None, 1.0, {"a": [1.0]}])
def test_what_is_no_table_is_refused(tmp_path: Path, X: Any) -> None:
    """A single object in place of a table is an `ExportError` that says what to pass."""
    fitted = DecisionTreeRegressor().fit([[0.0], [1.0]], [0.0, 1.0])

    with pytest.raises(ExportError, match="pass a data frame, or an array of numbers"):
        export(fitted, X, [1.0], name="m", store=tmp_path)


def test_trees_beyond_what_is_served_are_refused(
    homes: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trees that a server would refuse are refused before anything is written."""
    fitted = RandomForestRegressor(n_estimators=5).fit(homes[["rooms"]], homes["price"])
    monkeypatch.setattr("model.engine.trees.MAX_NODES", 20)

    with pytest.raises(ExportError, match=r"it has 5 trees with .* smaller ones by max_leaf_nodes"):
        export(fitted, homes[["rooms"]], homes["price"], name="homes", store=tmp_path / "store")
    assert Store(tmp_path / "store").names() == []


def test_whole_numbers_that_the_steps_take_for_categories(tmp_path: Path) -> None:
    """Steps that refuse numbers between those of the table are refused, with the advice to make them a category."""
    X = pd.DataFrame({"k": [1, 2, 5, 7] * 20})
    fitted = make_pipeline(OrdinalEncoder(), DecisionTreeRegressor()).fit(X, X["k"])

    with pytest.raises(ExportError, match="a category"):
        export(fitted, X, X["k"], name="m", store=tmp_path / "store")
    X = pd.DataFrame({"k": [1, 2, 3, 4] * 20})  # there are no numbers between these
    one_hot = make_column_transformer((OneHotEncoder(drop="first"), ["k"]))
    with pytest.raises(ExportError, match="make 'k' a category before the fit, or set handle_unknown"):
        export(make_pipeline(one_hot, LinearRegression()).fit(X, X["k"]), X, X["k"], name="m", store=tmp_path / "store")


def test_categories_beyond_what_is_served_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the splits list too many categories, the column is named."""
    X = pd.DataFrame({"n": np.arange(200.0), "time": [f"{number:03d}" for number in range(200)]})
    y = np.random.default_rng(0).normal(size=200)
    steps = make_column_transformer((OrdinalEncoder(), ["time"]), remainder="passthrough")
    fitted = make_pipeline(steps, RandomForestRegressor(n_estimators=3)).fit(X, y)
    monkeypatch.setattr("model.engine.trees.MAX_NODES", 2_000)

    with pytest.raises(ExportError, match=r"Each split of 'time' lists which of its 200 categories .* group rare ones"):
        export(fitted, X, y, name="m", store=tmp_path / "store")


def test_skops_file_with_a_function_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A .skops file that has a function of scikit-learn called is refused: it could be one that runs a command."""
    io = pytest.importorskip("skops.io", reason='needs skops: make install EXTRAS="skops"')
    X = pd.DataFrame({"a": [1.0, 2.0], "price": [1.0, 2.0]})
    steps = FunctionTransformer(check_array), DecisionTreeRegressor()
    io.dump(make_pipeline(*steps).fit(X[["a"]], X["price"]), tmp_path / "model.skops")
    X.to_csv(tmp_path / "x.csv", index=False)
    arguments = ["import", str(tmp_path / "model.skops"), "--name", "m", "--target", "price"]

    assert main(["--store", str(tmp_path), *arguments, "--data", str(tmp_path / "x.csv")]) == 1
    assert "has types that skops does not trust: sklearn.utils.validation.check_array" in capsys.readouterr().err


def test_array_has_numbered_columns(tmp_path: Path) -> None:
    """A model that was fitted on an array is asked for x0, x1 and so on."""
    X = np.random.default_rng(0).normal(size=(100, 3))
    fitted = GradientBoostingRegressor(n_estimators=5).fit(X, X[:, 0])

    assert export(fitted, X, X[:, 0], name="array", store=tmp_path).schema.names == ("x0", "x1", "x2")


def fitted_on(columns: list[str], learner: Any, step: Any = "passthrough") -> Callable[[pd.DataFrame], Any]:
    def fit(table: pd.DataFrame) -> Any:
        return make_pipeline(make_column_transformer((step, columns)), learner).fit(table, table["price"])

    return fit


class Twice(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A model that nobody knows."""

    def fit(self, X: Any, y: Any) -> Twice:
        self.mean_ = np.mean(y)
        return self

    def predict(self, X: Any) -> Any:
        return np.full(len(X), self.mean_ * 2)


@pytest.mark.parametrize(
    ("fit", "sentence"),
    [
        (lambda t: GradientBoostingRegressor(), "is not fitted yet"),
        (fitted_on(["rooms"], KNeighborsRegressor()), "KNeighborsRegressor cannot be compiled exactly; choose one of"),
        (fitted_on(["rooms"], Twice()), "Twice cannot be compiled exactly; choose one of"),
        (
            fitted_on(["rooms", "garden"], DecisionTreeRegressor(), PCA(1)),
            "a step makes one column of 'rooms' and 'garden', and PCA cannot be repeated to the last bit",
        ),
        (
            fitted_on(["rooms"], DecisionTreeRegressor(), FunctionTransformer(lambda X: (X - 4) ** 2)),
            "a step turns the number 'rooms' into a column that neither rises nor falls",
        ),
        (
            lambda t: GradientBoostingRegressor(n_estimators=2, init=Twice()).fit(t[["rooms"]], t["price"]),
            "GradientBoostingRegressor starts from another model (Twice); fit it with init=None",
        ),
    ],
    ids=["unfitted", "neighbours", "unknown", "components", "parabola", "init"],
)
def test_model_that_cannot_be_exact_is_refused(
    homes: pd.DataFrame, tmp_path: Path, fit: Callable[[pd.DataFrame], Any], sentence: str
) -> None:
    """A model that cannot be compiled exactly is refused in one sentence with the step, and nothing is written."""
    X = homes[["rooms", "garden"]]
    fitted = fit(homes[["rooms", "garden", "price"]])
    if hasattr(fitted, "feature_names_in_") and list(fitted.feature_names_in_) == ["rooms"]:
        X = homes[["rooms"]]
    elif hasattr(fitted, "feature_names_in_"):
        X = homes[["rooms", "garden", "price"]]

    with pytest.raises(ExportError, match=r".") as caught:
        export(fitted, X, homes["price"], name="homes", store=tmp_path / "store")
    assert sentence in str(caught.value)
    assert Store(tmp_path / "store").names() == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.assign(rooms=pd.Timestamp("2026-01-01")), "turn the dates in 'rooms' into numbers by Formulas"),
        (
            lambda t: t.assign(rooms=pd.Timestamp("2026-01-01", tz="Europe/Berlin")),
            ".dt.tz_convert(None)",
        ),
        (lambda t: t.assign(rooms=pd.Timedelta("1h")), "'rooms' has lengths of time; turn it into numbers"),
        (
            lambda t: t.assign(rooms=[date(2026, 1, 1)] * 400),
            "convert it by pandas.to_datetime",
        ),
        (lambda t: t.assign(rooms=np.datetime64("12026-01-01", "s")), "'rooms' has dates beyond the years 1 to 9999"),
        (lambda t: t.assign(rooms=[1, "1"] * 200), "the column 'rooms' has values of the types int, str"),
        (lambda t: t.assign(rooms=None), "the column 'rooms' has values of the types nothing"),
        (lambda t: t.set_axis(["rooms", "rooms"], axis=1), "the column 'rooms' is there more than once"),
        (lambda t: t.set_axis(["rooms", ""], axis=1), "a column's name is empty"),
        (lambda t: t.set_axis([0, 1], axis=1), "the columns' names are not all strings"),
        (lambda t: np.array([["a", "b"]] * 400), "the table is an array of <U1 with the shape (400, 2)"),
        (lambda t: np.zeros(400), "the table is an array of float64 with the shape (400,)"),
        (lambda t: t.assign(rooms=pd.Categorical([(1, 2)] * 400)), "the categories of the column 'rooms' are neither"),
    ],
)
def test_table_that_cannot_be_served_is_refused(
    homes: pd.DataFrame, tmp_path: Path, change: Callable[[pd.DataFrame], Any], sentence: str
) -> None:
    """A column that cannot be served is named, with what to do."""
    X = homes[["rooms", "garden"]]
    fitted = GradientBoostingRegressor(n_estimators=2).fit(X.to_numpy(), homes["price"])

    with pytest.raises(ExportError, match=r".") as caught:
        export(fitted, change(X), homes["price"], name="homes", store=tmp_path / "store")
    assert sentence in str(caught.value)
    assert Store(tmp_path / "store").names() == []


@pytest.mark.parametrize(
    ("y", "sentence"),
    [
        ([1.0], "there are 1 targets for 400 rows"),
        ([math.nan] * 400, "400 targets are missing"),
        (["x"] * 400, "the targets are not numbers"),
        (pd.date_range("2026-01-01", periods=400), "the targets are not numbers"),
    ],
)
def test_targets_are_checked(homes: pd.DataFrame, tmp_path: Path, y: Any, sentence: str) -> None:
    """Targets that are missing, of another number or no numbers are refused."""
    X = homes[["rooms"]]
    fitted = DecisionTreeRegressor().fit(X, homes["price"])

    with pytest.raises(ExportError, match=sentence):
        export(fitted, X, y, name="homes", store=tmp_path / "store")


@pytest.mark.parametrize("scale", [1e140, 1e150, 1e300])
def test_targets_whose_squares_overflow_are_refused(homes: pd.DataFrame, tmp_path: Path, scale: float) -> None:
    """Targets are refused in a sentence if no metric of them is finite; below that they are exported."""
    X, y = homes[["rooms"]], homes.price * scale
    model = DecisionTreeRegressor(max_depth=3).fit(X, y)
    if y.max() < 1e145:
        found = export(model, X, y, name="homes", store=tmp_path)
        assert np.array_equal(bits(found.predict(X.to_numpy(float))), bits(model.predict(X)))
        return
    with pytest.raises(ExportError, match="and the sum of their squares overflows; fit the model on a larger unit"):
        export(model, X, y, name="homes", store=tmp_path)


@pytest.mark.parametrize(
    "argument", ["name", "title", "target", "unit", "source", "owner", "license", "purpose", "limits"]
)
@pytest.mark.parametrize("value", [None, 5, "\ud800"])
def test_texts_are_checked(homes: pd.DataFrame, tmp_path: Path, argument: str, value: Any) -> None:
    """A text that is none is refused by its name, and nothing is written."""
    X = homes[["rooms"]]
    model = DecisionTreeRegressor(max_depth=3).fit(X, homes.price)
    arguments: dict[str, Any] = {"name": "homes", argument: value}
    with pytest.raises(ExportError, match=re.escape(f"{argument} is {value!r}; pass a string")):
        export(model, X, homes.price, store=tmp_path, **arguments)

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("learner", [DecisionTreeRegressor, RandomForestRegressor, ExtraTreesRegressor])
def test_missing_values_of_pandas(homes: pd.DataFrame, tmp_path: Path, learner: Any) -> None:
    """A table of pandas' own types, with pandas' own missing values, is served with the model's bits."""
    X = homes[["area", "rooms", "age", "garden"]].convert_dtypes()
    model = learner(max_depth=5, random_state=0).fit(X.to_numpy(float, na_value=np.nan), homes.price)
    table = X if learner is DecisionTreeRegressor else X.dropna()
    found = export(model, table, homes.price[table.index], name="homes", store=tmp_path)
    numbers = table.to_numpy(float, na_value=np.nan)

    assert np.array_equal(bits(found.predict(numbers)), bits(model.predict(numbers)))


def test_holdout_is_a_pair(homes: pd.DataFrame, tmp_path: Path) -> None:
    """A holdout without its targets is refused."""
    X = homes[["rooms"]]
    fitted = DecisionTreeRegressor().fit(X, homes["price"])

    with pytest.raises(ExportError, match=r"the holdout is not a pair of features and targets; pass holdout=\(X, y\)"):
        export(fitted, X, homes["price"], holdout=X, name="homes", store=tmp_path / "store")  # type: ignore[arg-type]


def test_search_at_the_end_of_a_pipeline(homes: pd.DataFrame, tmp_path: Path) -> None:
    """A search behind steps stands for its best model, too."""
    X, y = homes[["rooms"]], homes["price"]
    search = GridSearchCV(DecisionTreeRegressor(random_state=0), {"max_depth": [2, 3]}, cv=2)
    fitted = make_pipeline(StandardScaler(), search).fit(X, y)
    found = export(fitted, X, y, name="homes", store=tmp_path)

    rows = [{"rooms": value} for value in X["rooms"]]
    assert np.array_equal(bits(found.predict(found.schema.matrix_from_records(rows))), bits(fitted.predict(X)))


def test_table_is_read_as_the_model_reads_it(homes: pd.DataFrame, tmp_path: Path) -> None:
    """A model that tells cells apart that a schema does not, such as None from NaN, is refused."""
    X = pd.DataFrame({"town": [None, np.nan, "Ulm", "Köln"] * 50}, dtype=object)
    y = np.arange(200.0) % 4
    fitted = make_pipeline(
        FunctionTransformer(lambda t: np.array([[3.0 if c is None else 0.0 if c != c else 1.0] for c in t["town"]])),
        DecisionTreeRegressor(),
    ).fit(X, y)

    with pytest.raises(ExportError, match="predicts 50 of 200 rows differently once the table was read"):
        export(fitted, X, y, name="homes", store=tmp_path / "store")


def test_name_is_checked_before_the_work(homes: pd.DataFrame, tmp_path: Path) -> None:
    """A name that no model can have is refused at once."""
    with pytest.raises(Exception, match="'My Homes' is not a model's name"):
        export(None, homes, homes["price"], name="My Homes", store=tmp_path)


def test_import_of_a_file(homes: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`import` takes a pipeline from a file and its table from CSV, and gives its bits; text becomes a category."""
    homes = homes.drop(columns="age")  # CSV has no float32
    train, test = homes[:300], homes[300:]
    train.to_csv(tmp_path / "train.csv", index=False)
    test.to_csv(tmp_path / "test.csv", index=False)
    own = HistGradientBoostingRegressor(max_iter=10, categorical_features="from_dtype")
    typed = train.astype({"town": "category", "kind": "category"})
    joblib.dump(own.fit(typed.drop(columns="price"), typed["price"]), tmp_path / "model.joblib")
    command = ["--store", str(tmp_path / "store"), "import", str(tmp_path / "model.joblib")]
    files = ["--data", str(tmp_path / "train.csv"), "--holdout", str(tmp_path / "test.csv")]

    assert main([*command, "--name", "homes", "--target", "price", *files]) == 0
    assert "0 differ in any bit" in capsys.readouterr().out
    found = artifact.load(tmp_path / "store" / "homes" / "1")
    assert found.schema.target.name == "price"
    assert found.manifest.metrics.validation is not None
    assert found.manifest.document["data"]["source"] == "train.csv"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("model.joblib", b"", "model.joblib cannot be read"),
        ("model.pkl", b"garbage", "model.pkl cannot be read"),
        ("model.h5", b"", "model.h5 is of no known kind; name a file that ends in .joblib, .pkl"),
        ("no.joblib", None, "error: there is no file "),
    ],
)
def test_file_that_is_no_model_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes | None, sentence: str
) -> None:
    """A file that has no fitted model is refused by name."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    arguments = ["import", str(tmp_path / name), "--name", "m", "--target", "y", "--data", str(tmp_path / "x.csv")]

    assert main(["--store", str(tmp_path / "store"), *arguments]) == 1
    assert sentence in capsys.readouterr().err


def test_pickle_with_a_function_of_a_script_is_explained(
    homes: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pickle that needs what a script defined says where that must be defined."""
    clip = types.FunctionType(lowered.__code__, globals(), "clip")
    clip.__module__, clip.__qualname__ = "__main__", "clip"
    monkeypatch.setattr(sys.modules["__main__"], "clip", clip, raising=False)
    fitted = make_pipeline(FunctionTransformer(clip), DecisionTreeRegressor())
    joblib.dump(fitted, tmp_path / "model.joblib")
    monkeypatch.undo()
    arguments = ["import", str(tmp_path / "model.joblib"), "--name", "m", "--target", "price", "--data", "x.csv"]

    assert main(["--store", str(tmp_path), *arguments]) == 1
    error = capsys.readouterr().err
    assert (
        "needs 'clip' of the script or notebook that wrote it; define clip in a module that is on PYTHONPATH" in error
    )


def test_model_of_another_scikit_learn_is_refused(
    homes: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pickle of another version of scikit-learn may predict otherwise: it is refused, with what to do."""
    fitted = DecisionTreeRegressor().fit(homes[["rooms"]], homes["price"])
    monkeypatch.setattr("sklearn.base.__version__", "1.5.2")
    joblib.dump(fitted, tmp_path / "model.joblib")
    monkeypatch.undo()
    homes[["rooms", "price"]].to_csv(tmp_path / "x.csv")
    arguments = ["import", str(tmp_path / "model.joblib"), "--name", "m", "--target", "price"]

    assert main(["--store", str(tmp_path), *arguments, "--data", str(tmp_path / "x.csv")]) == 1
    assert "of scikit-learn 1.5.2, and here is" in capsys.readouterr().err


def write_xgboost(X: pd.DataFrame, y: pd.Series, path: Path) -> Any:
    xgboost = pytest.importorskip("xgboost", reason='needs XGBoost: make install EXTRAS="xgboost"')
    fitted = xgboost.XGBRegressor(n_estimators=20, max_depth=4, enable_categorical=True).fit(X, y)
    fitted.save_model(path)
    return fitted


def write_lightgbm(X: pd.DataFrame, y: pd.Series, path: Path) -> Any:
    lightgbm = pytest.importorskip("lightgbm", reason='needs LightGBM: make install EXTRAS="lightgbm"')
    fitted = lightgbm.LGBMRegressor(n_estimators=20, verbosity=-1).fit(X, y)
    fitted.booster_.save_model(path)
    return fitted


def write_catboost(X: pd.DataFrame, y: pd.Series, path: Path) -> Any:
    catboost = pytest.importorskip("catboost", reason='needs CatBoost: make install EXTRAS="catboost"')
    fitted = catboost.CatBoostRegressor(
        iterations=20, depth=4, verbose=0, allow_writing_files=False, max_ctr_complexity=1, cat_features=["kind"]
    ).fit(X, y)
    fitted.save_model(str(path), format={".json": "json", ".cbm": "cbm"}[path.suffix])
    return fitted


def write_skops(X: pd.DataFrame, y: pd.Series, path: Path) -> Any:
    io = pytest.importorskip("skops.io", reason='needs skops: make install EXTRAS="skops"')
    fitted = make_pipeline(
        make_column_transformer((OneHotEncoder(), ["kind"]), remainder="passthrough"),
        GradientBoostingRegressor(n_estimators=20),
    ).fit(X, y)
    io.dump(fitted, path)
    return fitted


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("model.json", write_xgboost),
        ("model.ubj", write_xgboost),
        ("model.txt", write_lightgbm),
        ("model.cbm", write_catboost),
        ("model.skops", write_skops),
    ],
)
def test_import_of_a_librarys_own_file(
    homes: pd.DataFrame, tmp_path: Path, name: str, write: Callable[[pd.DataFrame, pd.Series, Path], Any]
) -> None:
    """`import` takes a file that the library itself wrote, with its categories, and gives the library's bits."""
    table = homes[["rooms", "kind", "price"]].astype({"kind": str})
    table.to_csv(tmp_path / "table.csv", index=False)
    read = pd.read_csv(tmp_path / "table.csv")
    X = read.drop(columns="price")
    if write in (write_xgboost, write_lightgbm):
        X = X.astype({"kind": "category"})
    fitted = write(X, read["price"], tmp_path / name)
    arguments = ["import", str(tmp_path / name), "--name", "homes", "--target", "price"]

    assert main(["--store", str(tmp_path), *arguments, "--data", str(tmp_path / "table.csv")]) == 0
    found = artifact.load(tmp_path / "homes" / "1")
    rows = [{"rooms": row.rooms, "kind": row.kind} for row in read.itertuples()]
    expected = np.asarray(fitted.predict(X), dtype=np.float64)
    assert np.array_equal(bits(found.predict(found.schema.matrix_from_records(rows))), bits(expected))
    assert {feature.name: feature.type for feature in found.schema.features} == {"rooms": "integer", "kind": "category"}


def train_xgboost(X: pd.DataFrame, y: pd.Series) -> tuple[Any, Any]:
    xgboost = pytest.importorskip("xgboost", reason='needs XGBoost: make install EXTRAS="xgboost"')
    booster = xgboost.train({"max_depth": 4}, xgboost.DMatrix(X, y, enable_categorical=True), 9)
    return booster, booster.predict(xgboost.DMatrix(X, enable_categorical=True))


def train_lightgbm(X: pd.DataFrame, y: pd.Series) -> tuple[Any, Any]:
    lightgbm = pytest.importorskip("lightgbm", reason='needs LightGBM: make install EXTRAS="lightgbm"')
    booster = lightgbm.train({"verbosity": -1}, lightgbm.Dataset(X, y), 9)
    return booster, booster.predict(X)


@pytest.mark.parametrize(
    ("train", "name"), [(train_xgboost, "XGBRegressor"), (train_lightgbm, "LightGBMModel")], ids=["xgboost", "lightgbm"]
)
def test_booster(
    homes: pd.DataFrame,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    train: Callable[[pd.DataFrame, pd.Series], tuple[Any, Any]],
    name: str,
) -> None:
    """What `train` of XGBoost or LightGBM returns is served with its bits, from memory and from a pickle."""
    table = homes[["rooms", "kind", "price"]].astype({"kind": str})
    table.to_csv(tmp_path / "table.csv", index=False)
    X, y = table[["rooms", "kind"]].astype({"kind": "category"}), table["price"]
    booster, expected = train(X, y)
    joblib.dump(booster, tmp_path / "model.joblib")
    arguments = ["import", str(tmp_path / "model.joblib"), "--name", "homes", "--target", "price"]

    export(booster, X, y, name="homes", store=tmp_path)
    assert f"steps    {name}: 9 trees" in capsys.readouterr().out
    assert main(["--store", str(tmp_path), *arguments, "--data", str(tmp_path / "table.csv")]) == 0
    rows = [{"rooms": row.rooms, "kind": row.kind} for row in table.itertuples()]
    for version in ("1", "2"):
        found = artifact.load(tmp_path / "homes" / version)
        served = found.predict(found.schema.matrix_from_records(rows))
        assert np.array_equal(bits(served), bits(np.asarray(expected, dtype=np.float64)))


def test_product_of_a_constant_column_is_no_category(tmp_path: Path) -> None:
    """A product depends on both its columns, also if one is the same in all rows and the other is often 0."""
    random = np.random.default_rng(19)
    X = pd.DataFrame({"x": np.full(80, -509.4), "town": random.choice(["a", "b", "c", "d"], 80)})
    y = np.arange(80) % 7 + 0.25
    products = make_column_transformer(
        ("passthrough", ["x"]), (OneHotEncoder(sparse_output=False), ["town"]), verbose_feature_names_out=False
    )
    fitted = make_pipeline(products, PolynomialFeatures(), HistGradientBoostingRegressor(min_samples_leaf=3)).fit(X, y)
    found = export(fitted, X, y, name="homes", store=tmp_path)

    others = pd.DataFrame({"x": [-1e6, -1.0, 0.0, 1e6] * 4, "town": ["a"] * 4 + ["b"] * 4 + ["c"] * 4 + ["d"] * 4})
    rows = [{"x": x, "town": town} for x, town in zip(others["x"], others["town"])]
    served = found.predict(found.schema.matrix_from_records(rows))
    assert np.array_equal(bits(served), bits(fitted.predict(others)))


def product_of(names: list[str], store: Path) -> artifact.Artifact:
    """Return a model of a table whose target is the product of the first two columns."""
    random = np.random.default_rng(2)
    table = pd.DataFrame({name: random.normal(size=300) for name in names})
    target = 3 * table[names[0]] * table[names[1]]
    fitted = make_pipeline(PolynomialFeatures(interaction_only=True, include_bias=False), LinearRegression())
    return export(fitted.fit(table, target), table, target, name="products", store=store)


def test_what_features_contribute_together_counts_evenly(tmp_path: Path) -> None:
    """As important as a product is, each of its factors is half of it; the card and the manifest have it by name."""
    model = product_of(["a", "b", "c"], tmp_path)
    offer = model.manifest.explanations
    assert offer is not None

    assert offer.names == ("a", "b", "c", "a & b", "a & c", "b & c")
    assert model.explanations.importance == pytest.approx({"a": 0.5, "b": 0.5, "c": 0}, abs=1e-6)
    first = re.search(r"### What moves its answers.*?\n\| a & b \| \S+ \| 100\.0% \|", model.card or "", re.DOTALL)
    assert first, model.card


def test_two_contributions_of_one_name_are_not_offered(tmp_path: Path) -> None:
    model = product_of(["a", "b", "a & b"], tmp_path)
    assert model.manifest.explanations is None
    assert model.manifest.not_explained == "a column of several features would have the name of another feature"
