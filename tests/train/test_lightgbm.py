"""LightGBM's models, compiled: the same bits, or a refusal that says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.validation import check_is_fitted

from model import export
from model.errors import ExportError
from model.train.compile import lightgbm as family
from tests.support.families import classes, differences, same_trees, table, target
from tests.support.service import bits

lightgbm = pytest.importorskip("lightgbm")

X = table()
Y = target(X)
SMALL: dict[str, Any] = {
    "n_estimators": 12,
    "num_leaves": 9,
    "min_child_samples": 5,
    "min_data_per_group": 5,
    "cat_smooth": 1,
    "n_jobs": 1,
    "verbose": -1,
}
IDENTITY = ("regression", "regression_l1", "huber", "fair", "quantile", "mape")
LINKED = ("poisson", "gamma", "tweedie", "cross_entropy", "binary")


def model_file(folder: Path) -> Path:
    """Return a text file of a small regression."""
    path = folder / "model.txt"
    lightgbm.LGBMRegressor(**SMALL).fit(X, Y).booster_.save_model(path)
    return path


@pytest.mark.parametrize("objective", [*IDENTITY, *LINKED])
def test_a_regression_has_the_same_bits(objective: str) -> None:
    """Sums and their link have the bits of LightGBM's `predict`, for every objective."""
    y = classes(Y, 2) if objective in ("cross_entropy", "binary") else Y

    assert differences(family, lightgbm.LGBMRegressor(**SMALL, objective=objective).fit(X, y), X) == []


@pytest.mark.parametrize(
    "options",
    [
        {"boosting_type": "rf", "subsample": 0.6, "subsample_freq": 1},
        {"boosting_type": "dart", "drop_rate": 0.5},
        {"reg_sqrt": True},
        {"boost_from_average": False},
        {"max_cat_to_onehot": 50},
        {"use_missing": False},
        {"min_child_samples": 400},
        {"num_leaves": 100, "min_child_samples": 1},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_change_no_bit(options: dict[str, Any]) -> None:
    """Averages, weights, one-hot splits, trees of one leaf and trees beyond bit vectors are compiled as they are."""
    assert differences(family, lightgbm.LGBMRegressor(**{**SMALL, **options}).fit(X, Y), X) == []


@pytest.mark.parametrize(
    ("n_classes", "options"),
    [
        (2, {}),
        (2, {"sigmoid": 2.0}),
        (2, {"boosting_type": "rf", "subsample": 0.6, "subsample_freq": 1}),
        (3, {}),
        (3, {"objective": "multiclassova"}),
        (9, {}),
    ],
)
def test_a_classifier_has_the_same_probabilities_and_labels(n_classes: int, options: dict[str, Any]) -> None:
    """Probabilities have the bits of `predict_proba`, and labels are those of `predict`, whatever they are called."""
    labels = np.array([f"class {number}" for number in range(n_classes)])[classes(Y, n_classes)]

    assert differences(family, lightgbm.LGBMClassifier(**{**SMALL, **options}).fit(X, labels), X) == []


def test_early_stopping_keeps_the_trees_up_to_the_best() -> None:
    """After early stopping `predict` uses the best iteration, and so do the compiled trees."""
    fitted = lightgbm.LGBMRegressor(**{**SMALL, "n_estimators": 200, "learning_rate": 0.9})
    stop = lightgbm.early_stopping(3, verbose=False)
    fitted.fit(X, Y, eval_X=X[:100], eval_y=Y[:100] + np.arange(100) % 3, callbacks=[stop])

    assert len(family.fitted_trees(fitted).roots) == fitted.best_iteration_ < 200
    assert differences(family, fitted, X) == []


def test_steps_in_front_are_folded() -> None:
    """Trees behind a scaler and an encoder are compiled to splits of raw features, and a sparse zero is a zero."""
    encode = ColumnTransformer(
        [
            ("scaled", StandardScaler(), ["number", "whole", "single"]),
            ("encoded", OneHotEncoder(handle_unknown="ignore"), ["letter", "size"]),
        ],
        sparse_threshold=1,
    )

    assert differences(family, make_pipeline(encode, lightgbm.LGBMRegressor(**SMALL)).fit(X, Y), X) == []


def test_tiny_numbers_are_zero() -> None:
    """A number within 1e-35 of zero is zero to LightGBM, and its splits near zero have the same bits."""
    tiny = X[["number", "whole"]].assign(tiny=np.random.default_rng(0).normal(size=len(X)) * 2e-35)
    fitted = lightgbm.LGBMRegressor(**SMALL).fit(tiny, Y + (tiny["tiny"] > 0) * 5)

    assert differences(family, fitted, tiny) == []


def test_an_ordered_category_is_compared_by_its_place() -> None:
    """Trees that compare the places of an ordered category become sets of categories."""
    rows = X.assign(letter=X["letter"].cat.as_ordered())

    assert differences(family, lightgbm.LGBMRegressor(**SMALL).fit(rows, Y), rows) == []


@pytest.mark.parametrize("n_classes", [0, 2, 3])
def test_a_file_is_loaded(tmp_path: Path, n_classes: int) -> None:
    """The model in a file has the same predictions and the same trees; its classes are numbers."""
    kind = lightgbm.LGBMClassifier if n_classes else lightgbm.LGBMRegressor
    fitted = kind(**SMALL).fit(X, classes(Y, n_classes) if n_classes else Y)
    path = tmp_path / "model.txt"
    fitted.booster_.save_model(path)

    loaded = family.load(path)

    check_is_fitted(loaded)
    assert np.array_equal(loaded.predict(X), fitted.predict(X))
    assert same_trees(family.fitted_trees(loaded), family.fitted_trees(fitted))
    assert differences(family, loaded, X) == []


def test_a_file_of_an_earlier_version_is_loaded(tmp_path: Path) -> None:
    """Version 3 of the text format, which LightGBM wrote from 2.3 to 3, has the same trees."""
    path = model_file(tmp_path)
    trees = family.fitted_trees(family.load(path))
    path.write_text(path.read_text().replace("version=v4", "version=v3"))

    assert same_trees(family.fitted_trees(family.load(path)), trees)


@pytest.mark.parametrize(
    ("found", "put", "message"),
    [
        ("version=v4", "version=v9", "its version is v9, not v3 or v4"),
        ("version=v4\n", "", "its version is not given"),
        ("end of trees", "", "it ends early"),
        ("end of parameters", "", "it ends early"),
        ("\nTree=1\n", "\nTree=1 \n", "its trees are not of the sizes that it gives"),
        ("\nnum_leaves=9\n", "\nnum_leaves=8\n", "the tree 0 is broken: .* has 8 values, not 7"),
        ("\nsplit_feature=", "\nsplit_feaxure=", "the tree 0 is broken"),
        ("\nis_linear=0", "\nis_linear=x", "the tree 0 is broken: invalid literal"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, found: str, put: str, message: str) -> None:
    """LightGBM ends the process at some broken files, so they are refused before it reads them."""
    path = model_file(tmp_path)
    path.write_text(path.read_text().replace(found, put, 1))

    with pytest.raises(ExportError, match=message):
        family.load(path)


@pytest.mark.parametrize("content", [b"", b"a text", bytes(range(256)), b"tree\nversion=v4\n", b'{"learner": {}}'])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    """Any other file is refused with its name and what to do."""
    path = tmp_path / "model.txt"
    path.write_bytes(content)

    with pytest.raises(
        ExportError, match=r"model\.txt is not a model that LightGBM can read .*; write it by save_model"
    ):
        family.load(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"linear_tree": True}, "has a linear model in each leaf; fit it with linear_tree=False"),
        ({"zero_as_missing": True}, "takes zeros for missing values; put NaN into the table"),
        ({"objective": "cross_entropy_lambda"}, "'cross_entropy_lambda' cannot be compiled exactly; choose another"),
    ],
)
def test_other_models_are_refused(options: dict[str, Any], message: str) -> None:
    """What has no trees to add up is refused, and the message says what to do."""
    numbers = X[["number", "whole", "single"]].to_numpy()
    fitted = lightgbm.LGBMRegressor(**SMALL, **options).fit(numbers, Y / Y.max())

    with pytest.raises(ExportError, match=message):
        family.fitted_trees(fitted)


def test_numbers_taken_for_categories_are_refused() -> None:
    """A category must be one in the table, since a number has no list of values."""
    numbers = X[["whole", "single"]].abs().to_numpy(dtype=np.float64)
    fitted = lightgbm.LGBMRegressor(**SMALL).fit(numbers, Y, categorical_feature=[0])

    with pytest.raises(ExportError, match="take the numbers 'x0' for categories"):
        differences(family, fitted, numbers)


def test_whole_numbers_beyond_float32(tmp_path: Path) -> None:
    """LightGBM rounds a column of whole numbers to float32, but not one with gaps: each row is answered as alone."""
    X = pd.DataFrame({"id": np.random.default_rng(0).integers(0, 2**31, 80)})
    y = np.arange(80) % 7 + 0.25
    fitted = make_pipeline(
        make_column_transformer(("passthrough", ["id"])),
        lightgbm.LGBMRegressor(min_child_samples=3, n_estimators=8, n_jobs=1, verbosity=-1),
    ).fit(X, y)
    found = export(fitted, X, y, name="ids", store=tmp_path)

    served = found.predict(found.schema.matrix_from_records([{"id": int(value)} for value in X["id"]]))
    assert np.array_equal(bits(served), bits(fitted.predict(X)))
