"""Steps that cannot be folded run as arrays in front of trees, with the bits of the fitted pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_selection import SelectKBest, VarianceThreshold, f_regression
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    SplineTransformer,
    StandardScaler,
    TargetEncoder,
)
from sklearn.tree import DecisionTreeRegressor

from model import ArtifactError, Matrix, Store, export
from model.engine.columns import ColumnsEngine
from model.errors import ExportError
from model.schema.feature import Feature
from model.store import artifact
from model.train import proof
from model.train.compile.fold import find_limits
from tests.support.service import bits, rewrite

N_ROWS = 300
NUMBERS = ["area", "rooms", "height"]
TEXTS = ["district", "heating"]


@pytest.fixture(autouse=True)
def _few_random_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "RANDOM_ROWS", 4_000)


@pytest.fixture(scope="module")
def homes() -> pd.DataFrame:
    """Homes with numbers and categories, a few of them missing, and a price that depends on products of columns."""
    random = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "area": random.lognormal(4, 0.5, N_ROWS).round(1),
            "rooms": random.integers(1, 7, N_ROWS),
            "height": random.normal(2.6, 0.3, N_ROWS),
            "district": random.choice(["Nord", "West", "Hafen", "Altstadt"], N_ROWS),
            "heating": random.choice(["gas", "wood", "none"], N_ROWS),
        }
    )
    table["price"] = table["area"] * table["height"] + table["rooms"] ** 2 * (table["district"] == "Nord")
    table.loc[random.random(N_ROWS) < 0.1, "area"] = np.nan
    table.loc[random.random(N_ROWS) < 0.1, "heating"] = None
    return table


def of_numbers(*steps: Any) -> Any:
    """Return steps for the numbers, behind an imputer, and a plain encoder for the rest."""
    return make_column_transformer(
        (make_pipeline(SimpleImputer(), *steps), NUMBERS),
        (make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore")), TEXTS),
        sparse_threshold=0,
    )


def polynomials(degree: Any = 2, **options: Any) -> Any:
    return PolynomialFeatures(degree, **options)


# Behind products of columns, so that no step can be folded.
STEPS: Mapping[str, Callable[[], Any]] = {
    "products": lambda: of_numbers(polynomials()),
    "products of three": lambda: of_numbers(polynomials(3, include_bias=False)),
    "products of two and three different columns": lambda: of_numbers(polynomials((2, 3), interaction_only=True)),
    "products of four": lambda: of_numbers(MinMaxScaler(), polynomials(4)),
    "standardised products": lambda: of_numbers(polynomials(), StandardScaler()),
    "products of standardised columns": lambda: of_numbers(StandardScaler(), polynomials()),
    "ranges": lambda: of_numbers(polynomials(), MinMaxScaler(clip=True), MaxAbsScaler()),
    "quartiles": lambda: of_numbers(polynomials(), RobustScaler()),
    "powers": lambda: of_numbers(PowerTransformer(), polynomials()),
    "quantiles": lambda: of_numbers(polynomials(), QuantileTransformer(n_quantiles=30)),
    "bins": lambda: of_numbers(
        polynomials(include_bias=False), KBinsDiscretizer(4, encode="ordinal", quantile_method="linear")
    ),
    "bins as columns": lambda: of_numbers(KBinsDiscretizer(5, quantile_method="linear")),
    "logarithms": lambda: of_numbers(MinMaxScaler(clip=True), FunctionTransformer(np.log1p), polynomials()),
    "waves": lambda: of_numbers(FunctionTransformer(np.sin)),
    "thresholds": lambda: of_numbers(polynomials(), Binarizer(threshold=20)),
    "selection": lambda: make_pipeline(of_numbers(polynomials()), VarianceThreshold(), SelectKBest(f_regression, k=7)),
    "union": lambda: of_numbers(
        make_union(StandardScaler(), make_pipeline(MaxAbsScaler(), polynomials()), "passthrough")
    ),
    "numbers as categories": lambda: make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["rooms"]),
        remainder=SimpleImputer(),
        sparse_threshold=0,
    ),
    "numbers as ordinals": lambda: make_pipeline(
        SimpleImputer(), polynomials(), OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    ),
    "categories in products": lambda: make_pipeline(
        make_column_transformer(
            (TargetEncoder(target_type="continuous"), TEXTS),
            (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ["district"]),
            (make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()), NUMBERS),
        ),
        polynomials(),
    ),
    "rare categories": lambda: make_pipeline(
        make_column_transformer(
            (OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=3, sparse_output=False), TEXTS),
            (make_pipeline(SimpleImputer(strategy="constant", fill_value=-1), polynomials()), NUMBERS),
        )
    ),
    "a category that is dropped": lambda: make_pipeline(
        make_column_transformer(
            (
                OneHotEncoder(categories=[["gas"]], handle_unknown="ignore", drop="first", sparse_output=False),
                ["heating"],
            ),
            (make_pipeline(SimpleImputer(), polynomials()), NUMBERS),
        )
    ),
    "gaps": lambda: make_column_transformer((make_union(MissingIndicator(features="all"), SimpleImputer()), NUMBERS)),
    "columns of columns": lambda: make_pipeline(
        of_numbers(),
        make_column_transformer((polynomials(), [0, 1, 2]), ("drop", [3]), remainder="passthrough"),
    ),
    "pandas between": lambda: make_pipeline(SimpleImputer(), StandardScaler(), polynomials()).set_output(
        transform="pandas"
    ),
}
ONLY_NUMBERS = ("numbers as categories", "numbers as ordinals", "pandas between")
FOLDED = ("gaps",)


def rows_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return rows of the table, others far from it, and others with gaps and a category that nobody knows."""
    far = table.assign(**{name: table[name] * -3 + 1 for name in NUMBERS})
    odd = table.assign(area=np.nan)
    if "district" in table:
        odd = odd.assign(heating=None)
    types = {name: float if name in NUMBERS else table[name].dtype for name in table}
    return pd.concat([each.astype(types) for each in (table, far.head(50), odd.head(50))], ignore_index=True)


@pytest.mark.filterwarnings("ignore:Found unknown categories:UserWarning")
@pytest.mark.parametrize("step", STEPS)
def test_step_gives_its_bits(homes: pd.DataFrame, tmp_path: Path, step: str) -> None:
    """Trees behind each step have the fitted pipeline's bits, for one row and for many."""
    X = homes[NUMBERS if step in ONLY_NUMBERS else NUMBERS + TEXTS]
    fitted = make_pipeline(STEPS[step](), DecisionTreeRegressor(max_depth=8, random_state=0)).fit(X, homes["price"])
    found = export(fitted, X, homes["price"], name="m", store=tmp_path)
    matrix = as_matrix(found, rows_of(X), X)
    expected = fitted.predict(rows_of(X))

    assert isinstance(found.engine, ColumnsEngine) is (step not in FOLDED)
    assert np.array_equal(bits(found.predict(matrix)), bits(expected))
    assert np.array_equal(bits(np.concatenate([found.predict(row[np.newaxis]) for row in matrix])), bits(expected))


def as_matrix(found: Any, rows: pd.DataFrame, X: pd.DataFrame) -> Matrix:
    records = [
        {name: None if pd.isna(cell) else cell for name, cell in zip(X.columns, row)}
        for row in rows.astype(object).itertuples(index=False)
    ]
    matrix: Matrix = found.schema.matrix_from_records(records)
    return matrix


LEARNERS: Mapping[str, Callable[[], Any]] = {
    "forest": lambda: RandomForestRegressor(n_estimators=10, random_state=0),
    "extra trees": lambda: ExtraTreesRegressor(n_estimators=10, random_state=0),
    "gbm": lambda: GradientBoostingRegressor(n_estimators=20, random_state=0),
    "histograms": lambda: HistGradientBoostingRegressor(max_iter=20),
    "logarithm of the target": lambda: TransformedTargetRegressor(
        HistGradientBoostingRegressor(max_iter=20), func=np.log1p, inverse_func=np.expm1
    ),
    "power of the target": lambda: TransformedTargetRegressor(
        RandomForestRegressor(n_estimators=10, random_state=0), transformer=PowerTransformer()
    ),
    "scaled target": lambda: TransformedTargetRegressor(
        GradientBoostingRegressor(n_estimators=20, random_state=0), transformer=MinMaxScaler()
    ),
    "two scales of the target": lambda: TransformedTargetRegressor(
        DecisionTreeRegressor(max_depth=5), transformer=make_pipeline(RobustScaler(), StandardScaler())
    ),
    "xgboost": lambda: of_library("xgboost", "XGBRegressor", n_estimators=20, n_jobs=1),
    "lightgbm": lambda: of_library("lightgbm", "LGBMRegressor", n_estimators=20, n_jobs=1, verbosity=-1),
    "catboost": lambda: of_library(
        "catboost", "CatBoostRegressor", iterations=20, verbose=0, allow_writing_files=False
    ),
}


def of_library(package: str, learner: str, **options: Any) -> Any:
    library = pytest.importorskip(package, reason=f'needs {package}: make install EXTRAS="{package}"')
    return getattr(library, learner)(**options)


@pytest.mark.parametrize("learner", LEARNERS)
def test_learner_behind_products_gives_its_bits(homes: pd.DataFrame, tmp_path: Path, learner: str) -> None:
    """Trees of every library, with targets turned back, have the fitted pipeline's bits on computed columns."""
    X = homes[NUMBERS + TEXTS]
    fitted = make_pipeline(of_numbers(StandardScaler(), polynomials()), LEARNERS[learner]()).fit(X, homes["price"])
    found = export(fitted, X, homes["price"], name="m", store=tmp_path)
    rows = rows_of(X)

    assert isinstance(found.engine, ColumnsEngine)
    assert np.array_equal(bits(found.predict(as_matrix(found, rows, X))), bits(fitted.predict(rows).astype(np.float64)))
    assert found.manifest.proof
    assert found.manifest.proof.different_rows == 0
    assert found.manifest.proof.split_rows > 100


@pytest.mark.parametrize(
    "learner", [RandomForestClassifier(10, random_state=0), HistGradientBoostingClassifier(max_iter=5)]
)
def test_classifier_behind_products_gives_its_bits(homes: pd.DataFrame, tmp_path: Path, learner: Any) -> None:
    """Labels and probabilities behind computed columns have the fitted pipeline's bits."""
    X, y = homes[NUMBERS + TEXTS], pd.qcut(homes["price"], 3, labels=["low", "middle", "high"]).astype(str)
    fitted = make_pipeline(of_numbers(polynomials()), learner).fit(X, y)
    found = export(fitted, X, y, name="m", store=tmp_path)
    rows = rows_of(X)
    served = found.predict(as_matrix(found, rows, X))

    assert np.array_equal(bits(served[:, 1:]), bits(fitted.predict_proba(rows)))
    assert np.array_equal(served[:, 0], np.searchsorted(fitted.classes_, fitted.predict(rows)))


def test_column_of_float32_is_rounded_first(homes: pd.DataFrame, tmp_path: Path) -> None:
    """A column of float32 among others is rounded to float32 before anything is computed of it."""
    X = homes[NUMBERS].astype({"area": np.float32})
    steps = SimpleImputer(), polynomials(), DecisionTreeRegressor(max_depth=8)
    fitted = make_pipeline(*steps).fit(X, homes["price"])
    found = export(fitted, X, homes["price"], name="m", store=tmp_path)
    rows = X.assign(area=X["area"].astype(float) * 1.1)

    expected = fitted.predict(rows.astype({"area": np.float32}))
    assert np.array_equal(bits(found.predict(as_matrix(found, rows, X))), bits(expected))


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        (
            [PCA(2)],
            "a step makes one column of 'area' and 'rooms', and PCA cannot be repeated to the last bit: it is not",
        ),
        ([polynomials(), SplineTransformer()], "SplineTransformer cannot be repeated to the last bit"),
        (
            [FunctionTransformer(lambda X: (X - 4) ** 2)],
            "'area' into a column that neither rises nor falls with it, and",
        ),
        (
            [polynomials(include_bias=False), PowerTransformer("box-cox", standardize=False)],
            "its method is 'box-cox'; 'yeo-johnson' can",
        ),
        (
            [polynomials(), QuantileTransformer(n_quantiles=9, output_distribution="normal")],
            "its output is 'normal'; 'uniform' can",
        ),
        ([polynomials(), FunctionTransformer(np.log1p, kw_args={"where": True})], "it calls the function 'log1p'"),
        (
            [polynomials(include_bias=False), SimpleImputer(missing_values=1)],
            "it takes 1 for missing; make these cells NaN in the table",
        ),
    ],
)
def test_step_that_numpy_does_not_repeat_is_refused(
    homes: pd.DataFrame, tmp_path: Path, steps: list[Any], sentence: str
) -> None:
    """A step without operations of its own is refused in one sentence that names it and what to do."""
    X = homes[NUMBERS].fillna(1.0) + 0.5
    fitted = make_pipeline(*steps, DecisionTreeRegressor(max_depth=5)).fit(X, homes["price"])

    with pytest.raises(ExportError) as caught:
        export(fitted, X, homes["price"], name="m", store=tmp_path / "store")
    assert sentence in str(caught.value)
    assert "Leave that step out, or do its work on the table before the pipeline" in str(caught.value)
    assert Store(tmp_path / "store").names() == []


@pytest.mark.parametrize("steps", [[StandardScaler(), PCA(3)], [FunctionTransformer(np.exp), PCA(3)]])
def test_limits_of_many_columns_take_few_questions(steps: list[Any]) -> None:
    """Each limit is accepted and the next number is refused, though one refused row refuses all that are asked."""
    X = np.random.default_rng(0).normal(size=(50, 20))
    fitted, n_questions = make_pipeline(*steps).fit(X), 0

    def ask(rows: Matrix) -> Matrix:
        nonlocal n_questions
        n_questions += 1
        with np.errstate(all="ignore"):
            found: Matrix = fitted.transform(rows)
        return found

    def unchecked(rows: Matrix) -> Matrix:
        with config_context(assume_finite=True):
            return ask(rows)

    features = [Feature(f"x{n}") for n in range(20)]
    lowest, highest = find_limits(ask, features, X, unchecked=unchecked, in_float32=False)
    assert n_questions < 200
    for number in range(20):
        for limit, side in ((lowest[number], -np.inf), (highest[number], np.inf)):
            row = X[:1].copy()
            row[0, number] = limit
            assert not np.isnan(ask(row)).any()
            if abs(limit) < np.finfo(float).max:
                row[0, number] = np.nextafter(limit, side)
                with pytest.raises(ValueError, match="contains infinity"):
                    ask(row)


def test_limits_of_float32_take_few_questions() -> None:
    """A column that trees compare as it is ends at the last number that is finite as a float32, which is soon found."""
    n_questions = 0

    def ask(rows: Matrix) -> Matrix:
        nonlocal n_questions
        n_questions += 1
        return rows

    def is_answered(rows: Matrix) -> NDArray[np.bool_]:
        return np.zeros(len(rows), dtype=bool)

    features = [Feature(f"x{n}") for n in range(3)]
    ends = find_limits(ask, features, np.ones((1, 3)), unchecked=ask, in_float32=True, is_answered=is_answered)
    assert n_questions < 20
    for limits, side in zip(ends, (-np.inf, np.inf)):
        with np.errstate(over="ignore"):
            assert np.isfinite(limits.astype(np.float32)).all()
            assert np.isinf(np.nextafter(limits, side).astype(np.float32)).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"func": np.log1p, "inverse_func": lambda y: np.exp(y) - 1}, "by the function '<lambda>', which cannot be"),
        ({"transformer": QuantileTransformer(n_quantiles=20)}, "by QuantileTransformer, which cannot be compiled"),
    ],
)
def test_target_that_is_turned_back_otherwise_is_refused(
    homes: pd.DataFrame, tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    """A transformed target needs a function of numpy, or a scaler, to be turned back; the error lists them."""
    fitted = TransformedTargetRegressor(DecisionTreeRegressor(max_depth=3), **options, check_inverse=False)
    fitted.fit(homes[["rooms"]], homes["price"])

    with pytest.raises(ExportError, match=sentence):
        export(fitted, homes[["rooms"]], homes["price"], name="m", store=tmp_path / "store")


def test_target_of_float32_is_refused(homes: pd.DataFrame, tmp_path: Path) -> None:
    """XGBoost predicts float32, and scikit-learn turns it back in float32: no steps for that are known."""
    fitted = TransformedTargetRegressor(LEARNERS["xgboost"](), func=np.log1p, inverse_func=np.expm1)
    fitted.fit(homes[["rooms"]], homes["price"])

    with pytest.raises(ExportError, match="XGBRegressor gives float32, and TransformedTargetRegressor turns"):
        export(fitted, homes[["rooms"]], homes["price"], name="m", store=tmp_path / "store")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be served: not a file of these arrays"),
        (None, "cannot be served: its nodes name a feature that does not exist"),
    ],
)
def test_broken_file_is_refused(homes: pd.DataFrame, tmp_path: Path, content: bytes | None, reason: str) -> None:
    """A version whose columns cannot be computed is not served."""
    X = homes[["rooms", "height"]]
    fitted = make_pipeline(polynomials(), DecisionTreeRegressor(max_depth=6)).fit(X, homes["price"])
    folder = export(fitted, X, homes["price"], name="m", store=tmp_path / "store").path
    if content is None:
        rewrite(folder, lambda manifest: manifest["files"].pop(artifact.COLUMNS))
    else:
        rewrite(folder, lambda manifest: None, {artifact.COLUMNS: content})

    with pytest.raises(ArtifactError) as caught:
        artifact.load(folder)
    assert reason in caught.value.reason
