"""CatBoost's models, compiled: the same bits, or a refusal that says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from model.errors import ExportError
from model.train.compile import catboost as family
from tests.support.families import classes, differences, same_trees, table, target

catboost = pytest.importorskip("catboost")

CATEGORIES = ["letter", "size"]
# CatBoost refuses a missing category, and takes a boolean for a number.
X = table().drop(columns="yes")
X = X.assign(**{name: X[name].astype(object).fillna("none").astype(str) for name in CATEGORIES})
NUMBERS = X.drop(columns=CATEGORIES)
Y = target(table())
SMALL: dict[str, Any] = {
    "iterations": 12,
    "depth": 4,
    "verbose": 0,
    "allow_writing_files": False,
    "thread_count": 1,
}
WITH_CATEGORIES: dict[str, Any] = {**SMALL, "cat_features": CATEGORIES, "max_ctr_complexity": 1}
LOSSES = ("MAE", "Quantile:alpha=0.3", "Huber:delta=1", "MAPE", "Poisson", "Tweedie:variance_power=1.5")


@pytest.mark.parametrize("loss", ["RMSE", *LOSSES])
def test_a_regression_has_the_same_bits(loss: str) -> None:
    """Sums, scale, bias and link have the bits of CatBoost's `predict`, with statistics of categories."""
    fitted = catboost.CatBoostRegressor(**WITH_CATEGORIES, loss_function=loss).fit(X, Y)

    assert differences(family, fitted, X) == []


@pytest.mark.parametrize(
    "options",
    [
        {"one_hot_max_size": 100},
        {"simple_ctr": ["Borders:TargetBorderCount=3", "Buckets", "BinarizedTargetMeanValue", "Counter"]},
        {"boost_from_average": False},
    ],
    ids=lambda options: next(iter(options)),
)
def test_categories_have_the_same_bits(options: dict[str, Any]) -> None:
    """One-hot splits and every statistic of one category are compiled by asking CatBoost, unseen categories, too."""
    assert differences(family, catboost.CatBoostRegressor(**{**WITH_CATEGORIES, **options}).fit(X, Y), X) == []


@pytest.mark.parametrize(
    "options",
    [
        {"nan_mode": "Max"},
        {"grow_policy": "Depthwise"},
        {"grow_policy": "Lossguide", "max_leaves": 9},
        {"depth": 8},
    ],
    ids=lambda options: next(iter(options.values())),
)
def test_options_change_no_bit(options: dict[str, Any]) -> None:
    """Missing values go where CatBoost sends them, and trees that are not symmetric are compiled as they are."""
    assert differences(family, catboost.CatBoostRegressor(**{**SMALL, **options}).fit(NUMBERS, Y), NUMBERS) == []


def test_scale_and_bias_are_in_the_steps() -> None:
    """A scale and a bias that were set afterwards are applied to the sums."""
    fitted = catboost.CatBoostRegressor(**SMALL).fit(NUMBERS, Y)
    fitted.set_scale_and_bias(1.7, -3.3)

    assert differences(family, fitted, NUMBERS) == []


@pytest.mark.parametrize(
    ("n_classes", "options"),
    [(2, {}), (2, {"auto_class_weights": "Balanced"}), (3, {}), (3, {"loss_function": "MultiClassOneVsAll"}), (9, {})],
)
def test_a_classifier_has_the_same_probabilities_and_labels(n_classes: int, options: dict[str, Any]) -> None:
    """Probabilities have the bits of `predict_proba`, and labels are those of `predict`, whatever they are called."""
    labels = np.array([f"class {number}" for number in range(n_classes)])[classes(Y, n_classes)]

    assert differences(family, catboost.CatBoostClassifier(**WITH_CATEGORIES, **options).fit(X, labels), X) == []


def test_the_best_iterations_are_kept() -> None:
    """After early stopping CatBoost drops the trees behind the best, and they are not compiled."""
    fitted = catboost.CatBoostRegressor(**{**SMALL, "iterations": 200, "learning_rate": 0.9})
    fitted.fit(NUMBERS, Y, eval_set=(NUMBERS[:100], Y[:100] + np.arange(100) % 3), early_stopping_rounds=3)

    assert len(family.fitted_trees(fitted).roots) == fitted.best_iteration_ + 1 < 200
    assert differences(family, fitted, NUMBERS) == []


def test_steps_in_front_are_folded() -> None:
    """Trees behind a scaler and an encoder are compiled to splits of raw features."""
    encode = ColumnTransformer(
        [
            ("scaled", StandardScaler(), ["number", "whole", "single"]),
            ("encoded", OneHotEncoder(handle_unknown="ignore", sparse_output=False), CATEGORIES),
        ]
    )

    assert differences(family, make_pipeline(encode, catboost.CatBoostRegressor(**SMALL)).fit(X, Y), X) == []


@pytest.mark.parametrize("suffix", ["cbm", "json"])
@pytest.mark.parametrize("n_classes", [0, 2, 3])
def test_a_file_is_loaded_as_its_estimator(tmp_path: Path, suffix: str, n_classes: int) -> None:
    """A file gives an estimator of its kind, whose predictions compile exactly.

    CatBoost's JSON itself loses the last bits of some numbers, so only a cbm file has the same trees.
    """
    kind = catboost.CatBoostClassifier if n_classes else catboost.CatBoostRegressor
    labels = np.array(["one", "three", "two"])[classes(Y, max(n_classes, 1))]
    fitted = kind(**WITH_CATEGORIES).fit(X, labels if n_classes else Y)
    path = tmp_path / f"model.{suffix}"
    fitted.save_model(str(path), format=suffix)

    loaded = family.load(path)

    assert type(loaded) is kind
    assert suffix == "json" or same_trees(family.fitted_trees(loaded), family.fitted_trees(fitted))
    assert differences(family, loaded, X) == []


@pytest.mark.parametrize("content", [b"", b"{}", b"[1, 2]", b"a text", b"CBM1", bytes(1000)])
@pytest.mark.parametrize("suffix", ["cbm", "json", "bin"])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    """Any other file is refused with its name and what to do."""
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(content)

    with pytest.raises(ExportError, match=rf"cannot read .*model\.{suffix} .*; write it by save_model"):
        family.load(path)


@pytest.mark.parametrize("suffix", ["cbm", "json"])
def test_a_file_that_ends_early_is_refused(tmp_path: Path, suffix: str) -> None:
    """A file without its last byte is refused, though CatBoost takes half of a JSON file for a model."""
    path = tmp_path / f"model.{suffix}"
    catboost.CatBoostRegressor(**SMALL).fit(NUMBERS, Y).save_model(str(path), format=suffix)
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(ExportError, match="cannot read"):
        family.load(path)


@pytest.mark.parametrize(
    ("options", "y", "message"),
    [
        ({"loss_function": "MultiRMSE"}, np.column_stack([Y, Y]), "predicts 2 numbers a row; fit and export one"),
        ({"loss_function": "RMSEWithUncertainty"}, Y, "predicts 2 numbers a row; fit and export one"),
    ],
)
def test_several_numbers_a_row_are_refused(options: dict[str, Any], y: Any, message: str) -> None:
    """A model of several numbers is refused, and the message says what to do."""
    with pytest.raises(ExportError, match=message):
        family.fitted_trees(catboost.CatBoostRegressor(**SMALL, **options).fit(NUMBERS, y))


def test_combined_categories_are_refused() -> None:
    """A statistic of two categories depends on both, which no split of one feature can."""
    y = ((X["letter"] < "e") ^ (X["size"] == "5")) * 5.0
    fitted = catboost.CatBoostRegressor(**{**WITH_CATEGORIES, "max_ctr_complexity": 4}).fit(X, y)

    with pytest.raises(ExportError, match=r"combines the category .* fit it with max_ctr_complexity=1"):
        family.fitted_trees(fitted)


def test_categories_in_other_trees_are_refused() -> None:
    """The number of a leaf tells the side of each split only in symmetric trees."""
    fitted = catboost.CatBoostRegressor(**WITH_CATEGORIES, grow_policy="Lossguide").fit(X, Y)

    with pytest.raises(ExportError, match="fit it with grow_policy='SymmetricTree'"):
        family.fitted_trees(fitted)


def test_text_is_refused() -> None:
    """CatBoost writes no model of texts in the form that its trees are read in."""
    texts = NUMBERS.assign(text=np.random.default_rng(0).choice(["a b", "c d e", "f"], len(NUMBERS)))
    fitted = catboost.CatBoostRegressor(**SMALL, text_features=["text"]).fit(texts, Y)

    with pytest.raises(ExportError, match=r"cannot write CatBoostRegressor as JSON .* on numbers and categories alone"):
        family.fitted_trees(fitted)


def test_another_threshold_of_the_probability_is_refused() -> None:
    """Labels follow from the sign of the sum, which is right for a probability of 0.5 alone."""
    fitted = catboost.CatBoostClassifier(**SMALL).fit(NUMBERS, classes(Y, 2))
    fitted.set_probability_threshold(0.3)

    with pytest.raises(ExportError, match=r"set it by set_probability_threshold\(0\.5\)"):
        family.fitted_trees(fitted)


def test_a_missing_category_is_refused() -> None:
    """CatBoost refuses a missing category, and so do the columns."""
    fitted = catboost.CatBoostRegressor(**WITH_CATEGORIES).fit(X, Y)

    with pytest.raises(ValueError, match="NaN values should be converted to string"):
        family.columns(fitted, X.assign(letter=np.nan))
