"""Vertex AI's environment on a real server."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from tests.support.server import serve
from tests.support.service import ANSWER, HOUSE, strict_json


def test_environment_of_vertex_ai(store: Path, tmp_path: Path) -> None:
    """The real server answers at the paths in Vertex AI's variables, and ignores its other variables."""
    given = {
        "AIP_HTTP_PORT": "8080",
        "AIP_HEALTH_ROUTE": "/v1/endpoints/1/deployedModels/2",
        "AIP_PREDICT_ROUTE": "/v1/endpoints/1/deployedModels/2:predict",
        "AIP_STORAGE_URI": "",
        "AIP_FRAMEWORK": "CUSTOM_CONTAINER",
    }
    with serve(store, tmp_path, wait=given["AIP_HEALTH_ROUTE"], WEB_CONCURRENCY="1", **given) as server:
        reply = requests.post(server.url + given["AIP_PREDICT_ROUTE"], json={"instances": [HOUSE]}, timeout=10)

    assert strict_json(reply) == {"predictions": [ANSWER]}


@pytest.mark.parametrize("name", ["AIP_HEALTH_ROUTE", "AIP_PREDICT_ROUTE"])
def test_wrong_path_ends_the_start(name: str, tmp_path: Path, store: Path) -> None:
    """An invalid path in a variable stops the start, and the log names the variable."""
    wrong = {name: "predict"}
    with (
        pytest.raises(AssertionError, match=f"{name} is 'predict', not a path"),
        serve(store, tmp_path, WEB_CONCURRENCY="1", **wrong),
    ):
        pass
