"""A function's URL answers as the service does: the same bits, statuses and problems."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from app import create_app
from app.config import Config
from model.on_queue.aws_lambda import Handler, make_handler
from tests.support import classifiers
from tests.support.service import COLUMNS, HOUSE

# As a function's URL hands it over, in the format 2.0 of payloads; API Gateway has the same names.
REQUEST = {
    "version": "2.0",
    "routeKey": "$default",
    "rawPath": "/predict",
    "rawQueryString": "",
    "headers": {"content-type": "application/json", "host": "abc.lambda-url.eu-central-1.on.aws"},
    "requestContext": {
        "accountId": "anonymous",
        "apiId": "abc",
        "http": {"method": "POST", "path": "/predict", "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1"},
        "requestId": "id",
        "stage": "$default",
    },
    "isBase64Encoded": False,
}
BODIES: list[Any] = [
    HOUSE,
    [HOUSE, {**HOUSE, "RM": 4}],
    {name: {"0": value, "1": value} for name, value in HOUSE.items()},
    {"columns": COLUMNS, "data": [list(HOUSE.values())], "index": [0]},
    {**HOUSE, "RM": "many", "TAX": None},
    [{**HOUSE, "x": 1}, {}],
]


@pytest.fixture(scope="module")
def handler(store: Path) -> Handler:
    """A function that serves the example."""
    return make_handler(store, "boston-housing")


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("is_encoded", [False, True])
def test_same_reply(client: FlaskClient, handler: Handler, body: Any, is_encoded: bool) -> None:
    """Every form of the native API gets the service's status, and its fields with the same values."""
    text = json.dumps(body)
    sent = base64.b64encode(text.encode()).decode() if is_encoded else text
    reply = handler({**REQUEST, "body": sent, "isBase64Encoded": is_encoded}, None)
    expected = client.post("/predict", data=text, content_type="application/json")

    assert reply["statusCode"] == expected.status_code
    assert {**json.loads(reply["body"]), "request_id": ""} == {**expected.get_json(), "request_id": ""}


@pytest.mark.parametrize("name", classifiers.LABELS)
def test_labels(classifiers_store: Path, name: str) -> None:
    """A classifier's labels and probabilities are those of the service."""
    client = create_app(Config(store=classifiers_store), write_log=lambda lines: None).test_client()
    handler = make_handler(classifiers_store, name)
    example = client.get("/openapi.json").get_json()["paths"][f"/models/{name}/predict"]["post"]
    body = json.dumps(example["requestBody"]["content"]["application/json"]["example"])
    expected = client.post(f"/models/{name}/predict?probabilities=true", data=body, content_type="application/json")
    reply = json.loads(handler({**REQUEST, "body": body}, None)["body"])

    assert expected.status_code == 200
    assert {**reply, "request_id": ""} == {**expected.get_json(), "request_id": ""}


@pytest.mark.parametrize("sent", [{}, {"body": "{"}, {"body": "é!", "isBase64Encoded": True}])
def test_body_that_is_no_json(handler: Handler, sent: dict[str, Any]) -> None:
    """A request without a body, or with one that is no JSON, is answered 400 with the reason."""
    reply = handler({**REQUEST, **sent}, None)

    assert (reply["statusCode"], json.loads(reply["body"])["status"]) == (400, 400)
    assert json.loads(reply["body"])["error"].startswith("the body is not a table in JSON: ")
