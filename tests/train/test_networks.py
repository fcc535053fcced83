"""Networks for any table: behind encoders and imputers, for numbers and classes, they are served as fitted."""

from __future__ import annotations

import pickle
import pickletools
import shutil
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from model import Artifact, ArtifactError, Matrix, Store, export
from model.engine.compare import differing
from model.errors import CheckpointError, ExportError
from model.store import artifact
from model.train import frames, proof
from model.train.frames import Frames
from tests.support.networks import TARGETS, answers_of, pipeline, rows, target
from tests.support.service import bits, rewrite

pytest.importorskip("torch", reason="needs PyTorch: pip install -r requirements-torch.txt")

from model.train.learners import fitted
from model.train.learners.mlp import NetworkClassifier, NetworkRegressor


@pytest.fixture(scope="module", autouse=True)
def few_random_rows() -> Any:
    """Prove with fewer random rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof, "RANDOM_ROWS", 2_000)
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a network for each target. Tests must not change it."""
    root: Path = tmp_path_factory.mktemp("networks")
    table = rows()
    for name in TARGETS:
        y = target(name, table)
        export(pipeline(name).fit(table, y), table, y, name=name, store=root)
    return root


@pytest.fixture(scope="module", params=TARGETS)
def served(request: pytest.FixtureRequest, store: Path) -> tuple[Artifact, Any, Frames]:
    """A network as it is served, the pipeline in its artifact, and the columns that this takes."""
    found = Store(store).load(request.param)
    return found, joblib.load(found.path / fitted.PIPELINE), frames.read(rows())


def test_is_served_as_it_was_fitted(served: tuple[Artifact, Any, Frames]) -> None:
    """On new rows the served network answers within the tolerance as the pipeline, alone and in batches."""
    found, model, columns = served
    table = rows(seed=5)
    X, expected = columns.matrix(table), answers_of(model, table)

    assert found.tolerance == 1e-6
    assert not differing(expected, found.predict(X), found.tolerance).any()
    alone = np.concatenate([found.predict(X[i : i + 1]) for i in range(50)])
    assert not differing(expected[:50], alone, found.tolerance).any()
    score = model.score(table, target(found.name, table))
    assert score > {"price": 0.8, "cheap": 0.8, "class": 0.45}[found.name]


@settings(max_examples=30, deadline=None)
@given(
    cells=st.lists(
        st.tuples(
            st.none() | st.floats(-1e6, 1e6),
            st.none() | st.integers(-100, 100),
            st.booleans(),
            st.none() | st.sampled_from(["east", "north", "west", "moon", "", "EAST"]),
            st.none() | st.sampled_from(["gas", "oil", "wood", "coal"]),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_rows_with_gaps_and_unseen_categories(served: tuple[Artifact, Any, Frames], cells: list[tuple[Any]]) -> None:
    """Whatever is missing or was not seen, the served network answers what the pipeline answers."""
    found, model, columns = served
    table = pd.DataFrame(cells, columns=["area", "rooms", "garden", "zone", "heating"])
    table = table.astype({"area": float, "rooms": float})
    for name in ("zone", "heating"):
        table[name] = table[name].astype(object).where(table[name].notna(), np.nan)

    assert not differing(answers_of(model, table), found.predict(columns.matrix(table)), found.tolerance).any()


def test_artifact_has_columns_and_weights(served: tuple[Artifact, Any, Frames]) -> None:
    """The manifest has the program in front, the network behind it, and for classes how a label follows."""
    found, model, _ = served
    document = found.manifest.document
    engine, estimator = document["engine"], model[-1]

    assert {artifact.GRAPH, artifact.COLUMNS, fitted.WEIGHTS, fitted.PIPELINE} <= found.manifest.files.keys()
    assert (engine["kind"], engine["columns"]) == ("onnx", artifact.COLUMNS)
    assert document["network"] == {
        "file": fitted.WEIGHTS,
        "n_features": estimator.n_features_in_,
        "hidden": [16],
        "activation": "relu",
    }
    assert engine.get("decision") == (None if found.name == "price" else "largest sum")
    assert (found.path / fitted.WEIGHTS).read_bytes() == estimator.weights_
    assert document["hyperparameters"] == estimator.facts()["hyperparameters"]
    card = (found.path / "card.md").read_text()
    in_probabilities = "within 1e-06 in each probability" in card and "unless two probabilities are equal" in card
    assert in_probabilities is (found.name != "price")


@pytest.mark.parametrize("name", TARGETS)
def test_same_seed_gives_the_same_bytes(name: str) -> None:
    """Two fits of a pipeline give the same files, another seed gives others."""
    table = rows()
    X, y, columns = frames.read(table).matrix(table), target(name, table), frames.read(table)
    last = pipeline(name).steps[-1][0]
    files = [
        fitted.candidate(pipeline(name).set_params(**{f"{last}__random_state": seed}).fit(table, y), columns, X).files
        for seed in (7, 7, 8)
    ]

    assert files[0] == files[1]
    assert files[0][artifact.COLUMNS] == files[2][artifact.COLUMNS]
    assert files[0][artifact.GRAPH] != files[2][artifact.GRAPH]


def test_alone_it_has_neither_columns_nor_a_pickle() -> None:
    """A network for a plain matrix is its graph and its weights, within limits that float32 sets."""
    random = np.random.default_rng(0)
    X: Matrix = random.normal(100, 3, (200, 2))
    network = NetworkRegressor(hidden=(4,), max_epochs=2, device="cpu").fit(X, X[:, 0])
    made = fitted.candidate(network, frames.read(X), X)

    assert made.files.keys() == {artifact.GRAPH, fitted.WEIGHTS}
    assert made.engine_facts == {"kind": "onnx", "file": artifact.GRAPH}
    assert made.algorithm == "standardised multilayer perceptron (PyTorch)"
    reach = X.std(axis=0) * float(np.finfo(np.float32).max)
    assert [feature.highest for feature in made.features] == pytest.approx(reach.tolist(), rel=0.01)
    assert not any(feature.missing for feature in made.features)


def test_target_may_be_transformed(tmp_path: Path) -> None:
    """The steps behind a transformed target are done to the network's output."""
    table = rows()
    y = np.exp(target("price", table) / 4)
    model = TransformedTargetRegressor(pipeline("price"), func=np.log, inverse_func=np.exp).fit(table, y)
    found = export(model, table, y, name="rents", store=tmp_path)

    assert found.manifest.document["engine"]["steps"] == [["exp"]]
    matrix = frames.read(table).matrix(table)
    assert not differing(model.predict(table), found.predict(matrix), found.tolerance).any()


def test_gap_in_front_of_a_network_is_refused() -> None:
    """Without an imputer a missing value is an error of the fit, and no accepted value of the schema."""
    table = rows()[["area", "rooms"]]
    with pytest.raises(ValueError, match="contains NaN"):
        NetworkRegressor().fit(table, table["rooms"])


def test_text_in_front_of_a_network_is_refused() -> None:
    """Without an encoder a column of text is an error of the fit."""
    table = rows()[["heating"]].fillna("gas")
    with pytest.raises(ValueError, match="could not convert string to float"):
        NetworkClassifier().fit(table, target("cheap", rows()))


def test_step_that_cannot_be_repeated_is_refused(tmp_path: Path) -> None:
    """A step of one's own in front of a network is refused by name, and no version is written."""
    table = rows()[["area", "rooms"]].fillna(0)
    model = make_pipeline(PCA(), NetworkRegressor(max_epochs=1, device="cpu")).fit(table, table["rooms"])
    with pytest.raises(ExportError, match="PCA"):
        export(model, table, table["rooms"], name="rents", store=tmp_path)
    assert Store(tmp_path).versions("rents") == []


@pytest.mark.parametrize("labels", [["a", "b", "a", "b"], [1, 2, 1, 2], [2.0, 1.0, 2.0, 1.0], [True, False] * 2])
def test_labels_are_answered_as_they_were_fitted(labels: list[Any]) -> None:
    """Strings, numbers and booleans are labels, sorted in `classes_`; probabilities add up to 1."""
    X = np.random.default_rng(0).normal(size=(100, 2))
    y = np.array(labels * 25)
    model = NetworkClassifier(hidden=(), max_epochs=1, device="cpu").fit(X, y)

    assert model.classes_.tolist() == sorted(set(labels))
    assert model.predict(X).dtype == y.dtype
    assert np.abs(model.predict_proba(X).sum(axis=1) - 1).max() < 1e-12
    assert (model.classes_[model.predict_proba(X).argmax(axis=1)] == model.predict(X)).all()


def test_one_class_is_refused() -> None:
    """Labels that are all equal are named."""
    with pytest.raises(ValueError, match="all labels are a; a classifier needs at least 2 classes"):
        NetworkClassifier().fit(np.zeros((50, 1)), np.array(["a"] * 50))


def test_pickle_has_nothing_of_pytorch() -> None:
    """A fitted estimator is pickled without objects of PyTorch, and predicts the same bits afterwards."""
    X = np.random.default_rng(0).normal(size=(100, 2))
    model = NetworkClassifier(hidden=(4,), max_epochs=2, device="cpu").fit(X, X[:, 0] > 0)
    content = pickle.dumps(model)
    modules = {str(argument).split(".")[0] for _, argument, _ in pickletools.genops(content) if argument}

    assert "torch" not in modules
    assert (bits(pickle.loads(content).predict_proba(X)) == bits(model.predict_proba(X))).all()


def test_it_is_an_estimator_of_scikit_learn() -> None:
    """Parameters are read, set and cloned; a sparse matrix is fitted as the array that it stands for."""
    X = np.random.default_rng(0).normal(size=(100, 2)).clip(0)
    model = NetworkRegressor(hidden=(4,), max_epochs=2, device="cpu").fit(X, X[:, 0])
    other = clone(model).set_params(random_state=8)

    assert other.get_params() == {**model.get_params(), "random_state": 8}
    assert not hasattr(other, "weights_")
    assert clone(model).fit(csr_matrix(X), X[:, 0]).weights_ == model.weights_


def test_checkpoint_of_a_regression_is_refused_for_classes(tmp_path: Path) -> None:
    """A run for classes does not resume one for numbers, even if the numbers are the classes' positions."""
    X = np.random.default_rng(0).normal(size=(100, 2))
    y = (X[:, 0] > 0).astype(np.int64)
    run: dict[str, Any] = {"hidden": (4,), "max_epochs": 2, "checkpoint": tmp_path / "run.pt", "checkpoint_seconds": 0}
    NetworkRegressor(**run).fit(X, y)

    with pytest.raises(CheckpointError, match="of a training with other data, classes; remove it"):
        NetworkClassifier(**run).fit(X, y)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m["engine"].pop("decision"), "it decides by None, which does not exist"),
        (lambda m: m["engine"].pop("steps"), "golden rows are answered differently"),
        (lambda m: m["engine"].update(decision="sum > 0"), "it decides on 5 classes by 'sum > 0' of 5 sums"),
        (lambda m: m["engine"].update(steps=[["two classes"]]), "it decides on 10 classes by 'largest sum' of 5 sums"),
    ],
)
def test_damaged_classifier_is_refused(store: Path, tmp_path: Path, change: Any, reason: str) -> None:
    """A manifest whose classes, steps or decision do not fit the graph is refused with the reason."""
    folder = shutil.copytree(store / "class" / "1", tmp_path / "1")
    rewrite(folder, change)
    with pytest.raises(ArtifactError) as caught:
        artifact.load(folder)
    assert reason in str(caught.value)
