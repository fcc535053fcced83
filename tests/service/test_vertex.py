"""Owns Vertex AI's two routes: their paths, their replies, and their precedence over routes of the same path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
from flask.testing import FlaskClient

from app import create_app
from app.config import Config
from app.factory import Service
from tests.support.service import ANSWER, HOUSE, everywhere_client, refused, strict_json

ROW = list(HOUSE.values())
HEALTH, PREDICT = "/vertex/health", "/vertex/predict"  # where `everywhere` has them


def routed(store: Path, health: str = "", predict: str = "", **settings: Any) -> FlaskClient:
    """Return a client of a service with Vertex AI's routes at these paths."""
    config = Config(store=store, aip_health_route=health, aip_predict_route=predict, **settings)
    return create_app(config, write_log=lambda pieces: None).test_client()


@pytest.mark.parametrize(
    "document",
    [
        {"instances": [HOUSE, dict(reversed(HOUSE.items()))]},
        {"instances": [ROW, ROW], "parameters": {"anything": [1]}},
        {"instances": [ROW, ROW], "parameters": None},
    ],
    ids=["objects", "lists and parameters", "null parameters"],
)
def test_predict(everywhere: FlaskClient, document: Any) -> None:
    """Instances get as many predictions; parameters are ignored."""
    assert strict_json(everywhere.post(PREDICT, json=document)) == {"predictions": [ANSWER, ANSWER]}


@pytest.mark.parametrize("path", ["/vertex", "/v1/endpoints/1/deployedModels/2:predict", "/a/b-c_d.e~f/1", "/x/"])
def test_paths(store: Path, path: str) -> None:
    """The routes are at the configured paths, such as Vertex AI's own defaults."""
    client = routed(store, health=path + "health", predict=path)

    assert client.get(path + "health").status_code == 200
    assert strict_json(client.post(path, json={"instances": [ROW]})) == {"predictions": [ANSWER]}


@pytest.mark.parametrize(
    "path", ["/predict", "/v1/models/boston-housing:predict", "/v2/models/boston-housing/infer", "/"]
)
def test_predictions_at_a_path_of_another_protocol(store: Path, path: str) -> None:
    """Vertex AI's predictions take precedence over the native routes at the same path, and change no other route."""
    client = routed(store, predict=path)
    reply = client.post(path, json={"instances": [ROW]})

    assert strict_json(reply) == {"predictions": [ANSWER]}
    refused(client.post(path, json=HOUSE), 400)
    assert strict_json(client.post("/models/boston-housing/predict", json=HOUSE))["prediction"] == [ANSWER]
    assert client.get("/").status_code == 200
    assert client.get("/ping").status_code == 200


@pytest.mark.parametrize("path", ["/ready", "/", "/models"])
def test_health_at_a_path_of_another_protocol(store: Path, path: str) -> None:
    """Vertex AI's health route takes precedence at its path, and changes no other route."""
    client = routed(store, health=path)

    assert strict_json(client.get(path)) == {"ready": True}
    assert strict_json(client.post("/predict", json=HOUSE))["prediction"] == [ANSWER]
    cast(Service, client.application).serving.draining = True
    assert (client.get(path).status_code, strict_json(client.get(path))) == (503, {"ready": False})


def test_compatible_routes_stay(store: Path) -> None:
    """A path of health, V1, V2 or MLflow keeps its own route: its replies have the status and `predictions`, too."""
    client = routed(store, health="/livez", predict="/invocations")

    assert strict_json(client.post("/invocations", json={"instances": [ROW]})) == {"predictions": [ANSWER]}
    assert strict_json(client.post("/invocations", json={"dataframe_records": [HOUSE]})) == {"predictions": [ANSWER]}
    cast(Service, client.application).serving.draining = True
    assert strict_json(client.get("/livez")) == {"live": True}


def test_both_at_one_path(store: Path) -> None:
    """Both routes may have one path: their methods differ."""
    client = routed(store, health="/vertex", predict="/vertex")

    assert strict_json(client.get("/vertex")) == {"ready": True}
    assert strict_json(client.post("/vertex", json={"instances": [ROW]})) == {"predictions": [ANSWER]}


def test_no_routes(client: FlaskClient) -> None:
    """Without paths of Vertex AI there are no such routes, and /predict and /health are as usual."""
    assert strict_json(client.post("/predict", json=HOUSE))["prediction"] == [ANSWER]
    assert client.get("/health").data == b"\n"
    assert client.post(PREDICT, json={"instances": [ROW]}).status_code == 404
    assert client.get(HEALTH).status_code == 404


@pytest.mark.parametrize("models", [(), ("titanic",), ("boston-housing", "titanic")])
def test_health(store: Path, models: tuple[str, ...]) -> None:
    """Health is 200 if every configured model is loaded, else 503."""
    client = everywhere_client(store, lambda lines: None, models=models)
    reply = client.get(HEALTH)

    ready = "titanic" not in models
    assert (reply.status_code, strict_json(reply)) == (200 if ready else 503, {"ready": ready})


WRONG: dict[str, tuple[Any, str]] = {
    **{f"request {value}": (value, "JSON object with instances") for value in ([], [ROW], 1, "x", None, {}, HOUSE)},
    "inputs": ({"inputs": [ROW]}, "instances"),
    **{f"instances {value}": ({"instances": value}, "not a list") for value in (None, 1, "x", True, {}, HOUSE)},
    "no instances": ({"instances": []}, "no rows"),
    "short row": ({"instances": [ROW[:5]]}, "row 0: has 5 cells"),
    "mixed": ({"instances": [HOUSE, ROW]}, "row 1: not an object"),
    "null": ({"instances": [[None, *ROW[1:]]]}, "row 0, column 'CHAS': missing"),
    "text": ({"instances": [{**HOUSE, "RM": "6.575"}]}, "row 0, column 'RM': not a number"),
    "unknown": ({"instances": [{**HOUSE, "ZN": 1}]}, "row 0, column 'ZN': unknown"),
    "beyond the model": ({"instances": [{**HOUSE, "RM": 1e300}]}, "row 0, column 'RM': out of range"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_request(everywhere: FlaskClient, case: str) -> None:
    """Every bad request is 400 with a message that names the problem."""
    document, named = WRONG[case]

    assert named in refused(everywhere.post(PREDICT, data=json.dumps(document)), 400)
