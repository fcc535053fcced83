"""Models that a general converter does, and files of ONNX: accepted within a stated tolerance, and marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    StackingRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, SplineTransformer, StandardScaler
from sklearn.svm import SVR

from app import create_app
from app.config import Config
from model import export
from model.cli.main import main
from model.errors import ExportError, ProofError
from model.store import artifact
from tests.support.service import bits

skl2onnx = pytest.importorskip("skl2onnx", reason='needs skl2onnx: make install EXTRAS="skl2onnx"')

N_ROWS = 400


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Rows of two numbers, one of them with gaps, a count, a category, a price and its level."""
    random = np.random.default_rng(0)
    found = pd.DataFrame(
        {
            "area": random.normal(80, 20, N_ROWS).round(1),
            "age": random.uniform(0, 90, N_ROWS),
            "town": random.choice(["Ahlen", "Bonn", "Celle"], N_ROWS),
            "rooms": random.integers(1, 9, N_ROWS),
        }
    )
    found["price"] = found["area"] * 3 - found["age"] + (found["town"] == "Bonn") * 40 + random.normal(size=N_ROWS)
    found["level"] = np.where(found["price"] > 250, "high", np.where(found["price"] < 150, "low", "middle"))
    found.loc[::7, "age"] = np.nan
    return found


def prepared(estimator: Any) -> Any:
    """Return an estimator behind steps that its numbers and categories need."""
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    return make_pipeline(
        make_column_transformer(
            (numbers, ["area", "age", "rooms"]),
            (OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["town"]),
        ),
        estimator,
    )


FEATURES = ["area", "age", "town", "rooms"]
MODELS = {
    "network": MLPRegressor(max_iter=50, random_state=0),
    "neighbours": KNeighborsRegressor(),
    "vectors": SVR(),
    "stacked": StackingRegressor([("linear", Ridge()), ("neighbours", KNeighborsRegressor())]),
    "components": make_pipeline(PCA(3), MLPRegressor(max_iter=50, random_state=0)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_regressor_is_within_the_tolerance(table: pd.DataFrame, tmp_path: Path, name: str) -> None:
    """What a converter makes of a regressor answers within the tolerance, on rows alone and among others."""
    fitted = prepared(MODELS[name]).fit(table[FEATURES], table["price"])
    found = export(fitted, table[FEATURES], table["price"], name="prices", store=tmp_path, engine="onnx")
    expected = fitted.predict(table[FEATURES])
    X = found.golden_rows[:1]
    rows = [dict(zip(FEATURES, row)) for row in table[FEATURES].itertuples(index=False)]
    matrix = found.schema.matrix_from_records(
        [{**row, "age": None if row["age"] != row["age"] else row["age"]} for row in rows]
    )

    allowed = 1e-6 * np.ptp(expected)
    assert np.abs(found.predict(matrix) - expected).max() <= allowed
    assert (
        np.abs(np.concatenate([found.predict(row[np.newaxis]) for row in matrix[:50]]) - expected[:50]).max() <= allowed
    )
    assert found.predict(X).shape == (1,)
    assert found.manifest.engine == "converted"
    assert found.manifest.document["engine"]["converter"].startswith("skl2onnx ")
    assert found.manifest.allowed_difference == pytest.approx(allowed)
    assert "not compiled by Tabserve" in (found.path / "card.md").read_text()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "estimator", [GaussianNB(), MLPClassifier(max_iter=50, random_state=0)], ids=["bayes", "network"]
)
def test_classifier_is_within_the_tolerance(table: pd.DataFrame, tmp_path: Path, estimator: Any) -> None:
    """What a converter makes of a classifier gives its labels, and each probability within the tolerance."""
    fitted = prepared(estimator).fit(table[FEATURES], table["level"])
    found = export(fitted, table[FEATURES], table["level"], name="levels", store=tmp_path, engine="onnx")
    whole = table[table["age"].notna()]
    answers = found.predict(found.schema.matrix_from_records(whole[FEATURES].to_dict("records")))  # type: ignore[arg-type]

    assert np.abs(answers[:, 1:] - fitted.predict_proba(whole[FEATURES])).max() <= 1e-6
    assert np.array_equal(np.array(found.manifest.classes)[answers[:, 0].astype(int)], fitted.predict(whole[FEATURES]))


@pytest.mark.filterwarnings("ignore")
def test_conversion_that_is_wrong_is_refused(table: pd.DataFrame, tmp_path: Path) -> None:
    """A graph whose answers are further apart is refused: skl2onnx 1.20 is wrong where a neighbour has no distance."""
    fitted = prepared(KNeighborsRegressor(weights="distance")).fit(table[FEATURES], table["price"])
    with pytest.raises(
        ProofError,
        match=r"the converted model differs from the trained one on .* random rows.*, a share of \S+, and 1e-06 of the "
        r"range of the answers is allowed; choose another estimator, since at most 0\.01 can be allowed; nothing",
    ):
        export(fitted, table[FEATURES], table["price"], name="prices", store=tmp_path, engine="onnx")
    vectors = prepared(SVR()).fit(table[FEATURES], table["price"])
    with pytest.raises(
        ProofError, match=r"and 1e-12 of the range of the answers is allowed; pass tolerance=\S+ \(--tolerance\)"
    ) as caught:
        export(vectors, table[FEATURES], table["price"], name="prices", store=tmp_path, engine="onnx", tolerance=1e-12)
    assert not list(tmp_path.glob("*/*/manifest.json"))

    advised = float(str(caught.value).split("tolerance=")[1].split()[0])
    export(vectors, table[FEATURES], table["price"], name="prices", store=tmp_path, engine="onnx", tolerance=advised)


@pytest.mark.filterwarnings("ignore")
def test_converter_is_asked_for_by_name(table: pd.DataFrame, tmp_path: Path) -> None:
    """Nothing is converted unasked: the error for an estimator that is not compiled says how to ask."""
    fitted = prepared(SVR()).fit(table[FEATURES], table["price"])
    with pytest.raises(ExportError, match=r'SVR cannot be compiled exactly; .* engine="onnx"'):
        export(fitted, table[FEATURES], table["price"], name="prices", store=tmp_path)
    with pytest.raises(ExportError, match="the engine 'fast' does not exist; choose one of exact, onnx"):
        export(fitted, table[FEATURES], table["price"], name="prices", store=tmp_path, engine="fast")
    with pytest.raises(ExportError, match=r"the tolerance 1 is not above 0 and at most 0\.01"):
        export(fitted, table[FEATURES], table["price"], name="prices", store=tmp_path, engine="onnx", tolerance=1.0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("estimator", "engine"),
    [(Ridge(), "linear"), (HistGradientBoostingRegressor(max_iter=3, loss="poisson"), "trees")],
    ids=["linear", "trees"],
)
def test_what_can_be_compiled_is_not_converted(
    table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str], estimator: Any, engine: str
) -> None:
    """A model that can be compiled is compiled, also if a converter is allowed to do it, and the checklist says so."""
    y = table["price"].clip(lower=1)
    fitted = prepared(estimator).fit(table[FEATURES], y)
    found = export(fitted, table[FEATURES], y, name="prices", store=tmp_path, engine="onnx")
    printed = capsys.readouterr().out

    assert found.manifest.engine == engine
    assert "mind     it is compiled as without engine='onnx'" in printed
    assert "TABSERVE_ALLOW_CONVERTED" not in printed


class Own(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """An estimator that no converter knows."""

    def fit(self, X: Any, y: Any) -> Own:
        self.mean_ = np.mean(y)
        return self

    def predict(self, X: Any) -> Any:
        return np.full(len(X), self.mean_)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("estimator", "sentence"),
    [
        (
            make_pipeline(SplineTransformer(), SVR()),
            r"cannot convert Pipeline \(it does not know SplineTransf",
        ),
        (
            StackingRegressor([("own", Own())], cv=2),
            r"StackingRegressor \(it does not know Own\)\. No other",
        ),
        (
            make_pipeline(FunctionTransformer(lambda X: X * X), SVR()),
            r"\(FunctionTransformer is not supported unless .* \(= identity\)\)\. No other",
        ),
        (
            StackingRegressor([("poisson", HistGradientBoostingRegressor(max_iter=2, loss="poisson"))], cv=2),
            r"StackingRegressor \(Unable to create node 'TreeEnsembleRegressor'\)\. No other way is known",
        ),
    ],
    ids=["step", "member", "function", "graph"],
)
def test_what_the_converter_does_not_know_is_named(
    table: pd.DataFrame, tmp_path: Path, estimator: Any, sentence: str
) -> None:
    """An error of the converter is told in one sentence, with the class and without the graph that it prints."""
    y = table["price"].clip(lower=1)
    fitted = prepared(estimator).fit(table[FEATURES], y)
    with pytest.raises(ExportError, match=sentence):
        export(fitted, table[FEATURES], y, name="prices", store=tmp_path, engine="onnx")


@pytest.mark.filterwarnings("ignore")
def test_numbers_far_from_the_training_rows_are_refused(table: pd.DataFrame, tmp_path: Path) -> None:
    """A converted model answers where it was compared: up to the training range's width beyond it."""
    fitted = prepared(GaussianNB()).fit(table[FEATURES], table["level"])
    found = export(fitted, table[FEATURES], table["level"], name="levels", store=tmp_path, engine="onnx")
    rooms = found.schema.features[FEATURES.index("rooms")]

    assert (rooms.lowest, rooms.highest) == (-6.0, 15.0)  # of 1 to 8 rooms


@pytest.mark.filterwarnings("ignore")
def test_service_says_that_a_model_is_converted(table: pd.DataFrame, tmp_path: Path) -> None:
    """The page and the metrics of a converted model say so; its answers are as near over HTTP as they were proven."""
    fitted = prepared(MODELS["network"]).fit(table[FEATURES], table["price"])
    found = export(fitted, table[FEATURES], table["price"], name="prices", store=tmp_path, engine="onnx")
    config = Config(store=tmp_path, allow_converted=True)
    client = create_app(config, write_log=lambda pieces: None).test_client()
    whole = table[table["age"].notna()][FEATURES]
    rows = whole.to_dict("records")

    predicted = client.post("/predict", json=rows).get_json()["prediction"]
    assert np.abs(predicted - fitted.predict(whole)).max() <= found.manifest.allowed_difference
    exactness = client.get("/models/prices/page").get_json()["exactness"]
    assert "This model is not compiled by Tabserve, but a graph of skl2onnx" in exactness
    assert f"by at most {found.manifest.allowed_difference:.1e}; this was tried on 100," in exactness
    assert 'engine="converted"' in client.get("/metrics").text


@pytest.mark.filterwarnings("ignore")
def test_service_serves_a_converted_model_only_if_it_is_allowed(
    table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By default a server that finds a converted model is not ready and says what to set; so does the checklist."""
    fitted = prepared(GaussianNB()).fit(table[FEATURES], table["level"])
    export(fitted, table[FEATURES], table["level"], name="levels", store=tmp_path, engine="onnx")
    client = create_app(Config(store=tmp_path), write_log=lambda pieces: None).test_client()

    line = "serve    in a clone of Tabserve: TABSERVE_ALLOW_CONVERTED=true make run MODEL=levels"
    assert line in capsys.readouterr().out
    assert client.post("/predict", json={}).status_code == 503
    assert "set TABSERVE_ALLOW_CONVERTED=true if you trust its source" in client.get("/readyz").text


def write(fitted: Any, table: pd.DataFrame, path: Path, *, dictionaries: bool = True) -> None:
    """Write a pipeline as a file of ONNX, with an input for each column, as a converter's users do."""
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType

    kinds = {"f": FloatTensorType, "i": Int64TensorType}
    types = [(name, kinds.get(table[name].dtype.kind, StringTensorType)([None, 1])) for name in FEATURES]
    options = {} if dictionaries else {id(fitted): {"zipmap": False}}
    model = skl2onnx.convert_sklearn(fitted, initial_types=types, options=options, target_opset=17)
    path.write_bytes(model.SerializeToString())


def answers_of(path: Path, table: pd.DataFrame) -> list[Any]:
    """Return what ONNX Runtime answers for rows, with the file as it is."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # with several it adds trees in another order
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    dtypes = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(string)": object}
    feeds = {
        each.name: table[[each.name]].to_numpy(dtype=object).astype(dtypes[each.type]) for each in session.get_inputs()
    }
    found: list[Any] = session.run(None, feeds)
    return found


@pytest.mark.filterwarnings("ignore")
def test_file_of_onnx_with_trees(table: pd.DataFrame, tmp_path: Path) -> None:
    """A file of ONNX with strings and trees answers with its own bits; its columns keep their names."""
    table = table[table["age"].notna()]
    table.drop(columns="level").to_csv(tmp_path / "table.csv", index=False)
    write(
        prepared(GradientBoostingRegressor(n_estimators=20)).fit(table[FEATURES], table["price"]),
        table,
        tmp_path / "m.onnx",
    )
    arguments = ["import", str(tmp_path / "m.onnx"), "--name", "prices", "--target", "price"]

    assert main(["--store", str(tmp_path / "store"), *arguments, "--data", str(tmp_path / "table.csv")]) == 0
    found = artifact.load(tmp_path / "store" / "prices" / "1")
    rows = table[FEATURES].to_dict("records")
    expected = answers_of(tmp_path / "m.onnx", table)[0].reshape(-1).astype(np.float64)
    assert np.array_equal(bits(found.predict(found.schema.matrix_from_records(rows))), bits(expected))  # type: ignore[arg-type]
    assert found.schema.names == tuple(FEATURES)
    assert found.manifest.document["algorithm"] == "ONNX file"
    assert found.manifest.document["engine"]["converter"] == "a file of ONNX"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dictionaries", [True, False])
def test_file_of_onnx_with_labels(table: pd.DataFrame, tmp_path: Path, dictionaries: bool) -> None:
    """A classifier's file gives its labels and probabilities, also where they come as dictionaries."""
    table = table[table["age"].notna()]
    fitted = prepared(RandomForestClassifier(10, random_state=0)).fit(table[FEATURES], table["level"])
    write(fitted, table, tmp_path / "m.onnx", dictionaries=dictionaries)
    table.drop(columns="price").to_csv(tmp_path / "table.csv", index=False)
    arguments = ["import", str(tmp_path / "m.onnx"), "--name", "levels", "--target", "level"]

    assert main(["--store", str(tmp_path / "store"), *arguments, "--data", str(tmp_path / "table.csv")]) == 0
    found = artifact.load(tmp_path / "store" / "levels" / "1")
    labels, probabilities = answers_of(tmp_path / "m.onnx", table)
    if dictionaries:
        probabilities = [[row[label] for label in found.manifest.classes] for row in probabilities]
    answers = found.predict(found.schema.matrix_from_records(table[FEATURES].to_dict("records")))  # type: ignore[arg-type]
    assert np.array_equal(answers[:, 1:], np.asarray(probabilities, dtype=np.float64))
    assert np.array_equal(np.array(found.manifest.classes)[answers[:, 0].astype(int)], labels)


@pytest.mark.parametrize(
    ("columns", "estimator", "target", "sentence"),
    [
        (["area", "rooms"], Ridge(), ["price", "rooms"], "Ridge does not predict one number a row"),
        (
            ["area", "town"],
            StackingRegressor([("own", HistGradientBoostingRegressor(max_iter=2, categorical_features="from_dtype"))]),
            ["price"],
            "a column of text reaches the model",
        ),
    ],
    ids=["several numbers", "text"],
)
def test_what_no_converter_can_do_is_refused(
    table: pd.DataFrame, tmp_path: Path, columns: list[str], estimator: Any, target: list[str], sentence: str
) -> None:
    """Several numbers a row, and text that the estimator itself takes, are refused in one sentence."""
    X = table[columns].astype({"town": "category"} if "town" in columns else {})
    fitted = estimator.fit(X, table[target].squeeze())

    with pytest.raises(ExportError, match=sentence):
        export(fitted, X, table["price"], name="prices", store=tmp_path, engine="onnx")


def test_file_that_is_no_onnx_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is none is refused by its name."""
    (tmp_path / "m.onnx").write_bytes(b"garbage")
    arguments = ["import", str(tmp_path / "m.onnx"), "--name", "m", "--target", "y", "--data", "x.csv"]

    assert main(["--store", str(tmp_path), *arguments]) == 1
    assert "m.onnx cannot be read" in capsys.readouterr().err
