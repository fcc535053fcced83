"""XGBoost's models, compiled: the same bits, or a refusal that says what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from model.engine.steps import Step, run
from model.errors import ExportError
from model.train.compile import xgboost as family
from tests.support.families import classes, differences, same_trees, table, target

xgboost = pytest.importorskip("xgboost")

X = table()
Y = target(X)
SMALL: dict[str, Any] = {"n_estimators": 12, "max_depth": 4, "enable_categorical": True, "n_jobs": 1}
IDENTITY = ("reg:squarederror", "reg:squaredlogerror", "reg:pseudohubererror", "reg:absoluteerror", "binary:logitraw")
LINKED = ("count:poisson", "reg:gamma", "reg:tweedie", "survival:cox", "reg:logistic", "binary:hinge")


@pytest.mark.parametrize("objective", [*IDENTITY, *LINKED])
def test_a_regression_has_the_same_bits(objective: str) -> None:
    """Sums in float32 and their link have the bits of XGBoost's `predict`, for every objective."""
    y = classes(Y, 2) if objective in ("reg:logistic", "binary:logitraw", "binary:hinge") else Y

    assert differences(family, xgboost.XGBRegressor(**SMALL, objective=objective).fit(X, y), X) == []


@pytest.mark.parametrize(
    "options",
    [
        {"booster": "dart", "rate_drop": 0.5, "one_drop": 1},
        {"base_score": 3.3},
        {"max_cat_to_onehot": 50},
        {"grow_policy": "lossguide", "max_leaves": 9, "max_depth": 0},
        {"num_parallel_tree": 3, "subsample": 0.5},
        {"objective": "reg:quantileerror", "quantile_alpha": 0.3},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_change_no_bit(options: dict[str, Any]) -> None:
    """Weights of DART, a base score, one-hot splits and parallel trees are in the sums."""
    assert differences(family, xgboost.XGBRegressor(**{**SMALL, **options}).fit(X, Y), X) == []


@pytest.mark.parametrize(
    ("n_classes", "options"),
    [
        (2, {}),
        (2, {"objective": "binary:hinge"}),
        (3, {}),
        (3, {"booster": "dart", "rate_drop": 0.5}),
        (9, {}),
        (3, {"objective": "multi:softmax"}),
        (12, {"objective": "multi:softmax"}),
    ],
)
def test_a_classifier_has_the_same_probabilities_and_labels(n_classes: int, options: dict[str, Any]) -> None:
    """Probabilities have the bits of `predict_proba`, and labels are those of `predict`."""
    fitted = xgboost.XGBClassifier(**{**SMALL, **options}).fit(X, classes(Y, n_classes))

    assert differences(family, fitted, X) == []


def test_early_stopping_keeps_the_trees_up_to_the_best() -> None:
    """After early stopping `predict` uses the best iteration, and so do the compiled trees."""
    fitted = xgboost.XGBRegressor(**{**SMALL, "n_estimators": 200, "early_stopping_rounds": 3, "learning_rate": 0.9})
    fitted.fit(X, Y, eval_set=[(X[:100], Y[:100][::-1])], verbose=False)

    n_trees = len(family.fitted_trees(fitted).roots) - 1  # the first is the base score
    assert n_trees == fitted.best_iteration + 1 < fitted.get_booster().num_boosted_rounds()
    assert differences(family, fitted, X) == []


@pytest.mark.parametrize(
    ("objective", "n_sums", "steps"),
    [
        ("binary:logistic", 1, [("logistic32", ())]),
        ("count:poisson", 1, [("exp32", ())]),
        ("multi:softprob", 5, [("softmax32", ())]),
    ],
)
def test_links_have_the_same_bits_for_every_sum(objective: str, n_sums: int, steps: list[Step]) -> None:
    """The float32 links have the bits of XGBoost's for usual and extreme sums, which it is given as base margins."""
    random = np.random.default_rng(0)
    sums = np.vstack([random.normal(size=(50_000, n_sums)) * 4, random.uniform(-120, 120, (50_000, n_sums))])
    sums[:6] = np.array([[0.0], [88.7], [-88.7], [104.0], [-104.0], [3e38]])
    nothing = np.zeros((len(sums), 1))
    labels = np.arange(10) % max(n_sums, 2)
    booster = xgboost.train(
        {"objective": objective, **({"num_class": n_sums} if n_sums > 1 else {})},
        xgboost.DMatrix(nothing[:10], labels),
        num_boost_round=1,
    )
    predicted, found = (
        booster.inplace_predict(nothing, base_margin=sums.astype(np.float32), predict_type=kind)
        .astype(np.float64)
        .reshape(-1, n_sums)
        for kind in ("value", "margin")
    )

    assert np.array_equal(run(steps, found), predicted)


def test_steps_in_front_are_folded() -> None:
    """Trees behind a scaler and an encoder are compiled to splits of raw features."""
    encode = ColumnTransformer(
        [
            ("scaled", StandardScaler(), ["number", "whole", "single"]),
            ("encoded", OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["letter", "size"]),
        ]
    )

    assert differences(family, make_pipeline(encode, xgboost.XGBRegressor(**SMALL)).fit(X, Y), X) == []


def test_what_a_sparse_matrix_leaves_out_is_missing() -> None:
    """XGBoost takes the zeros that a sparse matrix leaves out for missing values."""
    encode = ColumnTransformer([("", OneHotEncoder(handle_unknown="ignore"), ["letter", "size"])], sparse_threshold=1)

    assert differences(family, make_pipeline(encode, xgboost.XGBRegressor(**SMALL)).fit(X, Y), X) == []


@pytest.mark.parametrize("suffix", ["json", "ubj"])
@pytest.mark.parametrize("n_classes", [0, 2, 3])
@pytest.mark.parametrize("of_booster", [False, True])
def test_a_file_is_loaded_as_its_estimator(tmp_path: Path, suffix: str, n_classes: int, of_booster: bool) -> None:
    """A file of a wrapper or of a booster gives an estimator with the same predictions and the same trees."""
    kind = xgboost.XGBClassifier if n_classes else xgboost.XGBRegressor
    fitted = kind(**SMALL).fit(X, classes(Y, n_classes) if n_classes else Y)
    path = tmp_path / f"model.{suffix}"
    (fitted.get_booster() if of_booster else fitted).save_model(path)

    loaded = family.load(path)

    assert type(loaded) is kind
    assert np.array_equal(loaded.predict(X), fitted.predict(X))
    assert np.array_equal(family.columns(loaded, X), family.columns(fitted, X), equal_nan=True)
    assert same_trees(family.fitted_trees(loaded), family.fitted_trees(fitted))


def test_a_booster_keeps_all_trees_after_early_stopping(tmp_path: Path) -> None:
    """What XGBoost's `train` returns predicts with all of its trees, from memory and from its file."""
    noise = np.random.default_rng(1).normal(size=len(Y))
    rows, later, all_rows = (
        xgboost.DMatrix(X[some], noise[some], enable_categorical=True)
        for some in (slice(200), slice(200, None), slice(None))
    )
    booster = xgboost.train({"nthread": 1}, rows, 50, evals=[(later, "v")], early_stopping_rounds=5, verbose_eval=False)
    booster.save_model(tmp_path / "model.json")
    expected = booster.predict(all_rows)

    assert booster.best_iteration + 1 < booster.num_boosted_rounds()
    for estimator in (family.of_booster(booster), family.load(tmp_path / "model.json")):
        assert np.array_equal(estimator.predict(X), expected)
        assert differences(family, estimator, X) == []


def test_a_file_of_xgboost_2_compiles(tmp_path: Path) -> None:
    """A file without categories and with a single base score, as XGBoost 2 writes it, is read."""
    numbers = X[["number", "whole", "single"]].to_numpy(dtype=np.float64)
    fitted = xgboost.XGBRegressor(**SMALL, base_score=0.5, objective="count:poisson").fit(numbers, Y)
    document = json.loads(fitted.get_booster().save_raw("json"))
    document["learner"]["gradient_booster"]["model"].pop("cats", None)
    document["learner"]["learner_model_param"]["base_score"] = "5E-1"
    document["version"] = [2, 1, 4]
    path = tmp_path / "model.json"
    path.write_text(json.dumps(document))

    assert differences(family, family.load(path), numbers) == []


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1, 2]", b"a text", b"binf" + bytes(100), b'{"learner": {}}', bytes(1000)]
)
@pytest.mark.parametrize("suffix", ["json", "ubj"])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    """Any other file is refused with its name and what to do."""
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(content)

    with pytest.raises(ExportError, match=r"cannot read .*; write it by save_model"):
        family.load(path)


@pytest.mark.parametrize("suffix", ["json", "ubj"])
def test_a_file_that_ends_early_is_refused(tmp_path: Path, suffix: str) -> None:
    """Half of a file is refused."""
    path = tmp_path / f"model.{suffix}"
    xgboost.XGBRegressor(**SMALL).fit(X, Y).save_model(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    with pytest.raises(ExportError, match="cannot read"):
        family.load(path)


@pytest.mark.parametrize(
    ("options", "y", "message"),
    [
        (
            {"booster": "gblinear", "enable_categorical": False, "max_depth": None},
            Y,
            "'gblinear' has no trees; fit it with booster='gbtree'",
        ),
        ({}, np.column_stack([Y, Y]), "predicts 2 numbers a row; fit and export one model for each"),
        ({"missing": -5}, Y, "takes -5 for a missing value; put NaN into the table"),
        ({"objective": "multi:softprob", "num_class": 3}, classes(Y, 3), "'multi:softprob' cannot be compiled exactly"),
    ],
)
def test_other_regressors_are_refused(options: dict[str, Any], y: Any, message: str) -> None:
    """What has no trees to add up to one number is refused, and the message says what to do."""
    numbers = X[["number", "whole", "single"]].fillna(0).to_numpy()

    with pytest.raises(ExportError, match=message):
        family.fitted_trees(xgboost.XGBRegressor(**{**SMALL, **options}).fit(numbers, y))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multi_strategy": "multi_output_tree"}, "fit it with multi_strategy='one_output_per_tree'"),
        ({"objective": "binary:logitraw"}, "'binary:logitraw' has no probabilities; fit it with 'binary:logistic'"),
    ],
)
def test_other_classifiers_are_refused(options: dict[str, Any], message: str) -> None:
    """What has no probabilities, or several numbers a leaf, is refused, and the message says what to do."""
    numbers, n_classes = X[["number", "whole", "single"]].to_numpy(), 2 if "objective" in options else 3

    with pytest.raises(ExportError, match=message):
        family.fitted_trees(xgboost.XGBClassifier(n_estimators=3, **options).fit(numbers, classes(Y, n_classes)))


def test_numbers_taken_for_categories_are_refused() -> None:
    """A category must be one in the table, since a number has no list of values."""
    numbers = X[["whole", "single"]].abs().to_numpy(dtype=np.float64)
    fitted = xgboost.XGBRegressor(**SMALL, feature_types=["c", "q"]).fit(numbers, Y)

    with pytest.raises(ExportError, match="take the numbers 'x0' for categories"):
        differences(family, fitted, numbers)


def test_categories_in_other_letters_have_the_same_bits() -> None:
    """XGBoost counts letters where it means bytes when it keeps categories, which changes nothing for known ones."""
    names = dict(zip("abcdefghij", ["é", "è", "日本", "日木", "ß", "x y", "", "NaN", "Ω", "z"]))
    rows = X.assign(letter=X["letter"].cat.rename_categories(names))

    assert differences(family, xgboost.XGBRegressor(**SMALL).fit(rows, Y), rows) == []


def test_an_unseen_category_is_refused_by_name() -> None:
    """XGBoost refuses a category that it was not fitted with, and so do the columns."""
    fitted = xgboost.XGBRegressor(**SMALL).fit(X, Y)
    unseen = X.assign(letter=X["letter"].cat.rename_categories({"a": "new"}))

    with pytest.raises(ValueError, match="'new' is not among the categories of column 4"):
        family.columns(fitted, unseen)
