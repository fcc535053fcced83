"""What the tests of openapi share."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from app import create_app
from app.config import Config
from app.factory import Service
from model import Store
from model.store.artifact import read_draft

NAME = "boston-housing"

VERTEX = {
    "aip_health_route": "/v1/endpoints/1/deployedModels/2",
    "aip_predict_route": "/v1/endpoints/1/deployedModels/2:predict",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "one model": {},
    "two models": {"models": (NAME, "other")},
    "two models, another default": {"models": ("other", NAME)},
    "Vertex AI": VERTEX,
    "Vertex AI and two models": {"models": ("other", NAME), **VERTEX},
    "Vertex AI at one path": {"aip_health_route": "/vertex", "aip_predict_route": "/vertex"},
    "Vertex AI at paths that there are": {"aip_health_route": "/ping", "aip_predict_route": "/predict"},
    "Vertex AI at paths of other methods": {"aip_health_route": "/predict", "aip_predict_route": "/"},
    "Vertex AI at a model's path": {"aip_predict_route": f"/v1/models/{NAME}:predict"},
}


@pytest.fixture(scope="module")
def both(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a second model, `other`, with two versions."""
    copy = Path(shutil.copytree(store, tmp_path_factory.mktemp("both") / "store"))
    for _ in range(2):
        Store(copy).add("other", read_draft(copy / NAME / "1"))
    return copy


@pytest.fixture(params=SETTINGS)
def service(request: pytest.FixtureRequest, store: Path, both: Path) -> Service:
    """A service with one model or two, with and without Vertex AI's routes."""
    settings = SETTINGS[request.param]
    return create_app(Config(store=both if "models" in settings else store, **settings), write_log=lambda pieces: None)


def document(client: FlaskClient) -> dict[str, Any]:
    """Return the document of a service."""
    reply = client.get("/openapi.json")
    assert (reply.status_code, reply.content_type) == (200, "application/json")
    found: dict[str, Any] = reply.get_json()
    return found
