"""Owns the answers of classifiers: labels and probabilities in every protocol, their description, and their metrics."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from numpy.typing import NDArray
from werkzeug.test import TestResponse

from app.config import Config
from app.factory import Service, create_app
from app.serving.inference import Inference
from model import Store
from model.engine.runtime import TreesEngine
from tests.support import classifiers
from tests.support.classifiers import COLUMNS, LABELS, ROW
from tests.support.metrics import by_label, series
from tests.support.service import bits, everywhere_client, refused, strict_json
from tests.support.v2 import JSON_LENGTH

NAMES = list(LABELS)
DATATYPES = {"precious": "BOOL", "mine": "BYTES", "stars": "INT64", "grade": "FP64", "many": "BYTES"}
STONES = classifiers.table(40, seed=2).fillna(57.0)
RECORDS = classifiers.rows(STONES)


@pytest.fixture(scope="module")
def client(classifiers_store: Path) -> FlaskClient:
    """A client of a service of all classifiers; `precious` is the default one. Tests must not change it."""
    return everywhere_client(classifiers_store, lambda lines: None, models=tuple(NAMES))


@dataclass(frozen=True)
class Fitted:
    """What a fitted classifier itself answers for `RECORDS`."""

    labels: list[Any]
    probabilities: NDArray[np.float64]


@pytest.fixture(scope="module")
def fitted() -> Callable[[str], Fitted]:
    """What each fitted classifier answers, by its name."""
    known: dict[str, Fitted] = {}

    def answer(name: str) -> Fitted:
        if name not in known:
            model = classifiers.fit(name)
            known[name] = Fitted(model.predict(STONES).tolist(), model.predict_proba(STONES))
        return known[name]

    return answer


def post(client: FlaskClient, path: str, body: Any, **headers: str) -> Any:
    """Send JSON, its keys in their order, and return the JSON of the reply."""
    reply = client.post(path, data=json.dumps(body), content_type="application/json", headers=headers)
    assert reply.status_code == 200, reply.text
    return strict_json(reply)


def infer_request(records: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Return rows as a V2 request."""
    inputs = [
        {"name": name, "shape": [len(records)], "datatype": "FP64", "data": [row[name] for row in records]}
        for name in COLUMNS
    ]
    return {"inputs": inputs, **more}


def same(found: list[Any], expected: list[Any]) -> bool:
    """Return whether labels are equal and of the same types."""
    return found == expected and list(map(type, found)) == list(map(type, expected))


@pytest.mark.parametrize("name", NAMES)
def test_native_reply_is_the_fitted_models(client: FlaskClient, fitted: Callable[[str], Fitted], name: str) -> None:
    """Labels have the types of training, and probabilities the bits, under labels as texts; alone and together."""
    keys = [json.dumps(label) if not isinstance(label, str) else label for label in LABELS[name]]
    reply = post(client, f"/models/{name}/predict?probabilities=true", RECORDS)
    alone = [post(client, f"/models/{name}/predict?probabilities=true", row) for row in RECORDS[:10]]

    assert list(reply) == ["prediction", "probability", "model", "version", "request_id"]
    assert same(reply["prediction"], fitted(name).labels)
    assert all(list(row) == keys for row in reply["probability"])
    found = np.array([list(row.values()) for row in reply["probability"]])
    assert np.array_equal(bits(found), bits(fitted(name).probabilities))
    assert [one["prediction"][0] for one in alone] == fitted(name).labels[:10]
    assert [one["probability"][0] for one in alone] == reply["probability"][:10]


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_on_request(client: FlaskClient, name: str) -> None:
    """Up to 20 classes, probabilities are in the reply unless the query says false; of more only if it says true."""
    path = f"/models/{name}/predict"

    assert ("probability" in post(client, path, ROW)) == (len(LABELS[name]) <= 20)
    assert "probability" in post(client, f"{path}?probabilities=true", ROW)
    assert "probability" not in post(client, f"{path}?probabilities=false", ROW)
    assert "probability" in post(client, f"{path}?probabilities=false&other=1&probabilities=true", ROW)


@pytest.mark.parametrize("query", ["probabilities=yes", "probabilities=", "probabilities=True"])
def test_query_that_is_neither_true_nor_false(client: FlaskClient, query: str) -> None:
    """Any other value of the parameter is 400, and says which parameter."""
    assert "probabilities" in refused(client.post(f"/predict?{query}", json=ROW), 400, "native")


def test_csv_is_answered_with_labels_and_probabilities(client: FlaskClient) -> None:
    """A table in CSV gets the reply that its rows get in JSON."""
    table = STONES.to_csv(index=False).encode()
    reply = strict_json(client.post("/models/mine/predict", data=table, content_type="text/csv"))
    expected = post(client, "/models/mine/predict", RECORDS)

    assert [reply[key] for key in ("prediction", "probability")] == [
        expected[key] for key in ("prediction", "probability")
    ]


@pytest.mark.parametrize("name", NAMES)
def test_v2_has_two_outputs(client: FlaskClient, fitted: Callable[[str], Fitted], name: str) -> None:
    """V2 answers `predict` and `predict_proba`, as its metadata and configuration say, with the fitted model's bits."""
    labels, probabilities = post(client, f"/v2/models/{name}/infer", infer_request(RECORDS))["outputs"]
    metadata = strict_json(client.get(f"/v2/models/{name}"))["outputs"]
    config = strict_json(client.get(f"/v2/models/{name}/config"))["output"]
    n_classes = len(LABELS[name])

    assert {key: labels[key] for key in ("name", "datatype", "shape")} == {
        "name": "predict",
        "datatype": DATATYPES[name],
        "shape": [len(RECORDS)],
    }
    assert same(labels["data"], fitted(name).labels)
    assert (probabilities["name"], probabilities["datatype"]) == ("predict_proba", "FP64")
    assert probabilities["shape"] == [len(RECORDS), n_classes]
    assert np.array_equal(bits(probabilities["data"]), bits(fitted(name).probabilities).ravel())
    assert [(each["name"], each["datatype"], each["shape"]) for each in metadata] == [
        ("predict", DATATYPES[name], [-1]),
        ("predict_proba", "FP64", [-1, n_classes]),
    ]
    assert json.loads(metadata[1]["parameters"]["classes"]) == LABELS[name]
    assert [each["dims"] for each in config] == [[-1], [-1, n_classes]]


def outputs_of(reply: TestResponse) -> Iterator[tuple[str, bytes | list[Any]]]:
    """Yield the outputs of a V2 reply: the name of each, and its bytes or its data in JSON."""
    length = int(reply.headers[JSON_LENGTH])
    rest = reply.data[length:]
    for output in json.loads(reply.data[:length])["outputs"]:
        if "data" in output:
            yield output["name"], output["data"]
        else:
            size = output["parameters"]["binary_data_size"]
            yield output["name"], rest[:size]
            rest = rest[size:]
    assert not rest


@pytest.mark.parametrize("name", NAMES)
def test_v2_outputs_are_selected_and_binary(client: FlaskClient, fitted: Callable[[str], Fitted], name: str) -> None:
    """A request names outputs in its own order, and each may be binary: little-endian, strings after their lengths."""
    wanted = [{"name": "predict_proba"}, {"name": "predict", "parameters": {"binary_data": True}}]
    (first, in_json), (second, raw) = outputs_of(
        client.post(f"/v2/models/{name}/infer", json=infer_request(RECORDS, outputs=wanted))
    )
    labels, kinds = fitted(name).labels, {"BOOL": "u1", "INT64": "<i8", "FP64": "<f8"}
    if DATATYPES[name] == "BYTES":
        texts = [label.encode() for label in labels]
        expected = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    else:
        expected = np.array(labels).astype(kinds[DATATYPES[name]]).tobytes()

    assert (first, second, raw) == ("predict_proba", "predict", expected)
    assert np.array_equal(bits(in_json), bits(fitted(name).probabilities).ravel())
    both = infer_request(RECORDS, parameters={"binary_data_output": True})
    (_, raw_labels), (_, raw_probabilities) = outputs_of(client.post(f"/v2/models/{name}/infer", json=both))
    assert (raw_labels, raw_probabilities) == (expected, fitted(name).probabilities.astype("<f8").tobytes())
    only = post(client, f"/v2/models/{name}/infer", infer_request(RECORDS, outputs=[{"name": "predict"}]))
    assert [output["name"] for output in only["outputs"]] == ["predict"]


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([{"name": "prediction"}], "no output 'prediction'; it has 'predict' and 'predict_proba'"),
        ([{"name": ["predict"]}], "no output without a name"),
        ([{"name": "predict"}, {"name": "predict"}], "names 'predict' more than once"),
        ([{"name": "predict", "parameters": {"classification": 2}}], "ask for the output 'predict_proba'"),
        ([{"name": "predict", "parameters": {"binary_data": 1}}], "must be true or false"),
    ],
)
def test_v2_refuses_other_outputs(client: FlaskClient, outputs: list[Any], message: str) -> None:
    """An output that a classifier does not have, or one that is named twice, is 400 and says which there are."""
    reply = client.post("/v2/models/mine/infer", json=infer_request([ROW], outputs=outputs))

    assert message in refused(reply, 400)


@pytest.mark.parametrize("name", NAMES)
def test_v1_answers_labels(client: FlaskClient, fitted: Callable[[str], Fitted], name: str) -> None:
    """V1 answers labels, and the signature `predict_proba` lists of probabilities, in rows and in columns."""
    path = f"/v1/models/{name}:predict"
    columns = {column: [row[column] for row in RECORDS] for column in COLUMNS}

    assert same(post(client, path, {"instances": RECORDS})["predictions"], fitted(name).labels)
    assert same(post(client, path, {"inputs": columns})["outputs"], fitted(name).labels)
    found = post(client, path, {"instances": RECORDS, "signature_name": "predict_proba"})["predictions"]
    assert np.array_equal(bits(found), bits(fitted(name).probabilities))
    reply = client.post(path, json={"instances": RECORDS, "signature_name": "classify"})
    assert "'serving_default' or 'predict_proba'" in refused(reply, 400)


@pytest.mark.parametrize(
    ("path", "rows", "parameters"),
    [("/invocations", "dataframe_records", "params"), ("/vertex/predict", "instances", "parameters")],
)
@pytest.mark.parametrize("name", NAMES)
def test_default_model_answers_labels(
    classifiers_store: Path, fitted: Callable[[str], Fitted], name: str, path: str, rows: str, parameters: str
) -> None:
    """MLflow's and Vertex AI's routes answer labels, and probabilities if the request's parameters say so."""
    client = everywhere_client(classifiers_store, lambda lines: None, models=(name,))

    assert same(post(client, path, {rows: RECORDS})["predictions"], fitted(name).labels)
    for method in ("predict", "predict_proba"):
        body = {rows: RECORDS, parameters: {"predict_method": method, "other": 1}}
        found = post(client, path, body)["predictions"]
        if method == "predict":
            assert found == fitted(name).labels
        else:
            assert np.array_equal(bits(found), bits(fitted(name).probabilities))
    for other in ("predict_log_proba", None, ["predict_proba"]):
        reply = client.post(path, json={rows: RECORDS, parameters: {"predict_method": other}})
        message = refused(reply, 400, "MLflow" if path == "/invocations" else "Vertex AI")
        assert "neither 'predict' nor 'predict_proba'" in message
    others: list[Any] = [None, [], {"other": 1}]
    for ignored in others:
        assert post(client, path, {rows: RECORDS, parameters: ignored})["predictions"] == fitted(name).labels


@pytest.mark.parametrize("name", NAMES)
def test_csv_replies(classifiers_store: Path, fitted: Callable[[str], Fitted], name: str) -> None:
    """A client that accepts CSV gets a label a line, quoted where CSV needs it, or the probabilities of a row."""
    client = everywhere_client(classifiers_store, lambda lines: None, models=(name,))
    kinds: dict[str, Any] = {"Accept": "text/csv"}
    table = STONES.to_csv(index=False).encode()
    labels = client.post("/invocations", data=table, content_type="text/csv", headers=kinds)
    body = {"instances": RECORDS, "params": {"predict_method": "predict_proba"}}
    probabilities = client.post("/invocations", json=body, headers=kinds)

    expected = [str(label).lower() if isinstance(label, bool) else str(label) for label in fitted(name).labels]
    assert [line for (line,) in csv.reader(io.StringIO(labels.text))] == expected
    found = [list(map(float, line)) for line in csv.reader(io.StringIO(probabilities.text))]
    assert np.array_equal(bits(found), bits(fitted(name).probabilities))


def test_regression_has_no_probabilities(everywhere: FlaskClient) -> None:
    """A regression refuses the method `predict_proba`, as its description says, and V1's signature of that name."""
    house = [0, 6.575, 296.0, 15.3, 396.9, 4.98]
    asked = {"predict_method": "predict_proba"}
    mlflow = everywhere.post("/invocations", json={"instances": [house], "params": asked})
    vertex = everywhere.post("/vertex/predict", json={"instances": [house], "parameters": asked})
    v1 = everywhere.post(
        "/v1/models/boston-housing:predict", json={"instances": [house], "signature_name": "predict_proba"}
    )

    described = strict_json(everywhere.get("/openapi.json"))["paths"]
    for path, key in (("/invocations", "params"), ("/vertex/predict", "parameters")):
        body = described[path]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
        assert body[key] == {"properties": {"predict_method": {"const": "predict"}}}
    assert "regression" in refused(mlflow, 400, "MLflow")
    assert "regression" in refused(vertex, 400, "Vertex AI")
    assert "serving_default" in refused(v1, 400, "V1")


def test_page_shows_a_classifier(client: FlaskClient) -> None:
    """The page has the classes and the scores of a classifier."""
    page = client.get("/models/stars/page").get_json()

    assert page["target"]["classes"] == [1, 2, 3, 5]
    assert len(client.get("/models/many/page").get_json()["target"]["classes"]) == 25
    assert client.get("/models/precious/page").get_json()["target"]["classes"] == [False, True]
    if page["validation"]:
        assert [each["name"] for each in page["validation"]["metrics"]] == ["log_loss", "brier", "accuracy", "auc"]


def validator(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    """Return what checks a value against a schema of a document."""
    return Draft202012Validator({**schema, "components": document["components"]})


def test_replies_fit_the_document(client: FlaskClient) -> None:
    """Every example of a request fits its schema, and its reply that of replies, with probabilities or without."""
    document = strict_json(client.get("/openapi.json"))
    checked = 0
    for path, methods in document["paths"].items():
        operation = methods.get("post", {})
        media = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        if "example" not in media:
            continue
        expected = operation["responses"]["200"]["content"]["application/json"]["schema"]
        variants = [("", media["example"])]
        if path.endswith("/predict") and "parameters" in operation:
            variants += [("?probabilities=true", media["example"]), ("?probabilities=false", media["example"])]
        if ":predict" in path and path.startswith("/v1"):
            variants.append(("", {**media["example"], "signature_name": "predict_proba"}))
        if path.endswith("/infer"):
            variants.append(("", {**media["example"], "outputs": [{"name": "predict_proba"}]}))
        for query, body in variants:
            validator(document, media["schema"]).validate(body)
            validator(document, expected).validate(post(client, path + query, body))
            checked += 1

    assert checked > 40
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_document_lists_the_labels(client: FlaskClient) -> None:
    """The schema of a reply has the labels of the model, and feedback the types of all models' labels."""
    document = strict_json(client.get("/openapi.json"))
    reply = document["paths"]["/models/stars/predict"]["post"]["responses"]["200"]["content"]["application/json"]
    feedback = document["paths"]["/feedback"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    truth = feedback["anyOf"][0]["anyOf"][0]["properties"]["truth"]

    assert reply["schema"]["properties"]["prediction"]["items"] == {"type": "number", "enum": [1, 2, 3, 5]}
    assert truth["type"] == ["boolean", "number", "string"]
    assert "1, 2, 3, 5 for stars" in truth["description"]


def test_predictions_are_counted_by_label(classifiers_store: Path, fitted: Callable[[str], Fitted]) -> None:
    """Each label has a bin of the predictions, which counts its rows; the shares of training add up to 1."""
    client = create_app(Config(store=classifiers_store, models=("mine",))).test_client()
    post(client, "/predict", RECORDS)
    found = series(client.get("/metrics").text)
    counts = by_label(found, "tabserve_prediction_bin_total", "bin")
    shares = by_label(found, "tabserve_prediction_bin_reference_ratio", "bin")

    labels = fitted("mine").labels
    assert counts == {
        **{(f"={label}",): labels.count(label) for label in LABELS["mine"]},
        ("rest",): 0,
        ("unseen",): 0,
        ("missing",): 0,
    }
    assert shares.keys() == counts.keys()
    assert sum(shares.values()) == pytest.approx(1)


def test_validation_follows_the_task(client: FlaskClient, classifiers_store: Path) -> None:
    """A classifier has the metrics of a classification in validation, and none of a regression's."""
    found = series(client.get("/metrics").text)
    scores = Store(classifiers_store).load("stars").manifest.metrics.validation

    for name in ("log_loss", "log_loss_deviation", "brier", "accuracy", "auc", "rows"):
        values = by_label(found, f"tabserve_validation_{name}", "model")
        assert values.keys() == {(model,) for model in NAMES}
        assert values["stars",] == getattr(scores, name)
    for name in ("rmse", "mae", "bias"):
        assert by_label(found, f"tabserve_validation_{name}", "model") == {}


def test_requests_for_a_classifier_share_a_run(
    client: FlaskClient, fitted: Callable[[str], Fitted], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trees are run once for the requests of a batch, also where other machines may differ in a last place."""
    service = client.application
    assert isinstance(service, Service)
    model = service.serving.loaded.models["mine"]
    predict, runs = TreesEngine.predict, []

    def counting(self: TreesEngine, X: NDArray[np.float64]) -> Any:
        runs.append(len(X))
        return predict(self, X)

    monkeypatch.setattr(TreesEngine, "predict", counting)
    X = STONES.to_numpy(dtype=np.float64)
    outcomes = Inference(service.serving).run([(model, X[:1]), (model, X[1:4]), (model, X[4:6])])

    assert model.tolerance > 0
    assert runs == [6]
    answers = np.concatenate([outcome.y for outcome in outcomes if outcome.y is not None])
    assert np.array_equal(bits(answers[:, 1:]), bits(fitted("mine").probabilities[:6]))
