"""Owns /v1: requests of KServe V1 and TensorFlow Serving clients, in row and column format, and their errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st

from app import create_app
from app.config import Config
from app.factory import Service
from app.protocols.tables import from_instances
from model import Feature, Schema, SchemaError
from tests.support.service import ANSWER, COLUMNS, HOUSE, bits, refused, strict_json

NAME = "boston-housing"
MODEL = f"/v1/models/{NAME}"
PREDICT = f"{MODEL}:predict"
ROW = list(HOUSE.values())
OTHER = {"CHAS": 1, "RM": 5.0, "TAX": 666.0, "PTRATIO": 20.2, "B": 24.65, "LSTAT": 30.81}
COLUMN_FORMAT = {name: [HOUSE[name], OTHER[name]] for name in COLUMNS}


def ask(client: FlaskClient, document: Any, path: str = PREDICT) -> Any:
    """Send a document, without a content type as `curl -d` and TensorFlow's examples do, and return the reply."""
    return client.post(path, data=document if isinstance(document, bytes) else json.dumps(document))


def answers(client: FlaskClient, document: Any, key: str, path: str = PREDICT) -> list[float]:
    """Return the predictions of a reply that contains nothing else."""
    reply = ask(client, document, path)
    assert (reply.status_code, list(strict_json(reply))) == (200, [key]), reply.text
    return cast(list[float], strict_json(reply)[key])


def native(client: FlaskClient, rows: Any) -> list[float]:
    """Return the predictions of `/predict` for records."""
    return cast(list[float], strict_json(client.post("/predict", json=rows))["prediction"])


FORMS: dict[str, tuple[dict[str, Any], str]] = {
    "instances, lists": ({"instances": [ROW, list(OTHER.values())]}, "predictions"),
    "instances, objects": ({"instances": [HOUSE, dict(reversed(OTHER.items()))]}, "predictions"),
    "signature": ({"signature_name": "serving_default", "instances": [HOUSE, OTHER]}, "predictions"),
    "signature null": ({"signature_name": None, "instances": [HOUSE, OTHER]}, "predictions"),
    "more": ({"instances": [HOUSE, OTHER], "id": 1, "parameters": {}}, "predictions"),
    "inputs, columns": ({"inputs": COLUMN_FORMAT}, "outputs"),
    "inputs, columns backwards": ({"inputs": dict(reversed(COLUMN_FORMAT.items()))}, "outputs"),
    "inputs, columns of shape [n, 1]": (
        {"inputs": {name: [[cell] for cell in cells] for name, cells in COLUMN_FORMAT.items()}},
        "outputs",
    ),
    "inputs, one column of shape [n, 1]": ({"inputs": {**COLUMN_FORMAT, "RM": [[6.575], [5.0]]}}, "outputs"),
    "instances, cells of shape [1]": (
        {"instances": [{name: [cell] for name, cell in row.items()} for row in (HOUSE, OTHER)]},
        "predictions",
    ),
    "inputs, lists": ({"inputs": [ROW, list(OTHER.values())]}, "outputs"),
    "inputs, objects": ({"inputs": [HOUSE, OTHER]}, "outputs"),
}


@pytest.mark.parametrize("path", [PREDICT, f"{MODEL}/versions/1:predict"])
@pytest.mark.parametrize("form", FORMS)
def test_forms(everywhere: FlaskClient, form: str, path: str) -> None:
    """Every form gets the same bits as /predict, under its format's key, also at the path of a version."""
    document, key = FORMS[form]

    assert answers(everywhere, document, key, path) == native(everywhere, [HOUSE, OTHER])


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", "text/plain", "x"])
def test_any_content_type(everywhere: FlaskClient, content_type: str) -> None:
    """A body is read as JSON with any content type: TensorFlow Serving ignores it, too."""
    reply = everywhere.post(PREDICT, data=json.dumps({"instances": [ROW]}), content_type=content_type)

    assert strict_json(reply) == {"predictions": [ANSWER]}


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.tuples(*[st.floats(-1e37, 1e37)] * 6), min_size=1, max_size=10))
def test_any_rows(everywhere: FlaskClient, pipeline: Any, rows: list[tuple[float, ...]]) -> None:
    """Any float64 rows get the pipeline's bits in row format, as lists and as objects, and in column format."""
    frame = pd.DataFrame(rows, columns=COLUMNS)
    expected = bits(pipeline.predict(frame.to_numpy())).tolist()

    for document, key in [
        ({"instances": rows}, "predictions"),
        ({"instances": frame.to_dict(orient="records")}, "predictions"),
        ({"inputs": frame.to_dict(orient="list")}, "outputs"),
    ]:
        assert bits(answers(everywhere, document, key)).tolist() == expected


def test_all_houses(everywhere: FlaskClient, pipeline: Any, houses: pd.DataFrame) -> None:
    """All rows of the table get the pipeline's bits."""
    found = answers(everywhere, {"inputs": houses.to_dict(orient="list")}, "outputs")

    assert np.array_equal(bits(found), bits(pipeline.predict(houses.to_numpy())))


REQUESTS: list[Any] = [[], [ROW], 1, "x", None, True, {}]
SIGNATURES: list[Any] = ["other", "", 1, True, ["serving_default"], {}]
NO_LISTS: list[Any] = [None, 1, "x", True]


def test_model_of_one_feature() -> None:
    """Instances of a model of one feature may be bare numbers, as TensorFlow writes them, or lists or objects."""
    schema = Schema((Feature("x"),), target=Feature("y"))

    for instances in ([1.5, 2], [[1.5], [2]], [{"x": 1.5}, {"x": 2}]):
        assert from_instances(instances, schema, max_rows=2).tolist() == [[1.5], [2.0]]
    with pytest.raises(SchemaError, match="row 1, column 'x': not a number"):
        from_instances([1.5, "2"], schema, max_rows=2)
    with pytest.raises(SchemaError, match="row 1: not a list"):
        from_instances([[1.5], 2], schema, max_rows=2)


WRONG: dict[str, tuple[Any, str]] = {
    **{f"request {value}": (value, "JSON object") for value in REQUESTS},
    "neither": ({"rows": [ROW]}, "instances"),
    "both": ({"instances": [ROW], "inputs": [ROW]}, "instances"),
    **{f"signature {value}": ({"signature_name": value, "instances": [ROW]}, "signature_name") for value in SIGNATURES},
    **{f"instances {value}": ({"instances": value}, "instances") for value in (*NO_LISTS, HOUSE, COLUMN_FORMAT)},
    **{f"inputs {value}": ({"inputs": value}, "instances") for value in NO_LISTS},
    "no instances": ({"instances": []}, "no rows"),
    "no inputs": ({"inputs": []}, "no rows"),
    "inputs without columns": ({"inputs": {}}, "no rows"),
    "inputs without rows": ({"inputs": {name: [] for name in COLUMNS}}, "no rows"),
    "inputs, one record": ({"inputs": HOUSE}, "column 'CHAS': not a list"),
    "inputs, columns of pandas": ({"inputs": {name: {"0": 1} for name in COLUMNS}}, "column 'CHAS': not a list"),
    "column missing": ({"inputs": {**{name: [1.0] for name in COLUMNS[1:]}}}, "column 'CHAS': missing"),
    "column unknown": ({"inputs": {**COLUMN_FORMAT, "ZN": [1, 2]}}, "column 'ZN': unknown"),
    "column short": ({"inputs": {**COLUMN_FORMAT, "RM": [1]}}, "column 'RM': has 1 rows"),
    "cell of a column": ({"inputs": {**COLUMN_FORMAT, "RM": [1, "x"]}}, "row 1, column 'RM': not a number"),
    "nested column": ({"inputs": {name: [[1.0, 2.0]] for name in COLUMNS}}, "row 0, column 'RM': not a number"),
    "short row": ({"instances": [ROW, ROW[:5]]}, "row 1: has 5 cells"),
    "long row": ({"instances": [[*ROW, 1]]}, "row 0: has 7 cells"),
    "no row": ({"instances": [[]]}, "row 0: has 0 cells"),
    "bare numbers": ({"instances": ROW}, "row 0: not a list"),
    "a number among rows": ({"instances": [ROW, 1]}, "row 1: not a list"),
    "a list among objects": ({"instances": [HOUSE, ROW]}, "row 1: not an object"),
    "an object among lists": ({"instances": [ROW, HOUSE]}, "row 0: not an object"),
    "null among objects": ({"instances": [HOUSE, None]}, "row 1: not an object"),
    "null": ({"instances": [[None, *ROW[1:]]]}, "row 0, column 'CHAS': missing"),
    "text": ({"instances": [ROW, ["0", *ROW[1:]]]}, "row 1, column 'CHAS': not a number"),
    "true": ({"instances": [{**HOUSE, "CHAS": True}]}, "row 0, column 'CHAS': not a number"),
    "nested cell": ({"instances": [{**HOUSE, "CHAS": [0, 1]}]}, "row 0, column 'CHAS': not a number"),
    "bytes of TensorFlow": ({"instances": [{"b64": "AAAA"}]}, "row 0, column 'b64': unknown"),
    "unknown": ({"instances": [{**HOUSE, "ZN": 1}]}, "row 0, column 'ZN': unknown"),
    "beyond the model": ({"instances": [{**HOUSE, "RM": 1e300}]}, "row 0, column 'RM': out of range"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_request(everywhere: FlaskClient, case: str) -> None:
    """Every bad request is 400 with a message that names the problem."""
    document, named = WRONG[case]

    assert named in refused(ask(everywhere, document), 400)


def test_all_problems_at_once(everywhere: FlaskClient) -> None:
    """The message has every problem of every instance."""
    message = refused(ask(everywhere, {"instances": [{**HOUSE, "RM": None, "B": "x"}, {**HOUSE, "ZN": 1}]}), 400)

    assert set(message.removeprefix("3 problems: ").split("; ")) == {
        "row 0, column 'RM': missing",
        "row 0, column 'B': not a number",
        "row 1, column 'ZN': unknown",
    }


def test_models(everywhere: FlaskClient) -> None:
    """/v1/models lists the names of the loaded models, as KServe's client reads them."""
    assert strict_json(everywhere.get("/v1/models")) == {"models": [NAME]}


@pytest.mark.parametrize("path", [MODEL, f"{MODEL}/versions/1"])
def test_status(client: FlaskClient, path: str) -> None:
    """A model's status has the fields of KServe's and TensorFlow's clients; while draining it is 503."""

    def status(state: str, *, ready: bool) -> dict[str, Any]:
        error = {"error_code": "OK", "error_message": ""}
        return {
            "name": NAME,
            "ready": ready,
            "model_version_status": [{"version": "1", "state": state, "status": error}],
        }

    reply = client.get(path)
    assert (reply.status_code, strict_json(reply)) == (200, status("AVAILABLE", ready=True))

    cast(Service, client.application).serving.draining = True
    reply = client.get(path)
    assert (reply.status_code, strict_json(reply)) == (503, status("UNLOADING", ready=False))
    assert answers(client, {"instances": [ROW]}, "predictions") == [ANSWER]


@pytest.mark.parametrize("model", ["titanic", "titanic/versions/1", f"{NAME}/versions/2", f"{NAME}/versions/champion"])
def test_unknown_model_or_version(everywhere: FlaskClient, model: str) -> None:
    """An unknown model or version is 404, for its status and for predictions."""
    assert NAME in refused(everywhere.get(f"/v1/models/{model}"), 404)
    assert NAME in refused(ask(everywhere, {"instances": [ROW]}, f"/v1/models/{model}:predict"), 404)


def test_unloaded_model(store: Path) -> None:
    """A model that could not be loaded is 503 and not listed; the other one is ready."""
    service = create_app(Config(store=store, models=("titanic", NAME)), write_log=lambda pieces: None)
    client = service.test_client()

    refused(client.get("/v1/models/titanic"), 503)
    refused(ask(client, {"instances": [ROW]}, "/v1/models/titanic:predict"), 503)
    assert strict_json(client.get("/v1/models")) == {"models": [NAME]}
    assert client.get(MODEL).status_code == 200
    assert answers(client, {"instances": [ROW]}, "predictions") == [ANSWER]
