"""The OpenAPI document: it names every route, its examples work, it holds under made-up requests; and its page."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
import requests
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app import create_app
from app.config import Config, Route
from app.factory import Service
from conftest import HOUSE, ROOT, Server
from model import Store
from model.artifact import read_draft

NAME = "boston-housing"
ST = ROOT / ".venv-clients" / "bin" / "st"
# Swagger UI's own files, which the page asks for.
FILES = "/docs/<path:path>"

VERTEX = {
    "aip_health_route": Route("/v1/endpoints/1/deployedModels/2"),
    "aip_predict_route": Route("/v1/endpoints/1/deployedModels/2:predict"),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "one model": {},
    "two models": {"models": (NAME, "other")},
    "two models, another default": {"models": ("other", NAME)},
    "Vertex AI": VERTEX,
    "Vertex AI and two models": {"models": ("other", NAME), **VERTEX},
    "Vertex AI at one path": {"aip_health_route": Route("/vertex"), "aip_predict_route": Route("/vertex")},
    "Vertex AI at paths that there are": {"aip_health_route": Route("/ping"), "aip_predict_route": Route("/predict")},
    "Vertex AI at paths of other methods": {"aip_health_route": Route("/predict"), "aip_predict_route": Route("/")},
    "Vertex AI at a model's path": {"aip_predict_route": Route(f"/v1/models/{NAME}:predict")},
}


@pytest.fixture(scope="module")
def both(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a second model, `other`, in version 2 of two."""
    copy = Path(shutil.copytree(store, tmp_path_factory.mktemp("both") / "store"))
    for _ in range(2):
        Store(copy).add("other", read_draft(copy / NAME / "1"))
    return copy


@pytest.fixture(params=SETTINGS)
def service(request: pytest.FixtureRequest, store: Path, both: Path) -> Service:
    """The service with one model or two, with Vertex AI's routes and without."""
    settings = SETTINGS[request.param]
    return create_app(Config(store=both if "models" in settings else store, **settings), write_log=lambda pieces: None)


def document(client: FlaskClient) -> dict[str, Any]:
    """Return the document of a service."""
    reply = client.get("/openapi.json")
    assert (reply.status_code, reply.content_type) == (200, "application/json")
    found: dict[str, Any] = reply.get_json()
    return found


def operations(described: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield path, method and operation of everything that a document describes."""
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def prediction(reply: TestResponse) -> list[float]:
    """Return the prediction in a reply of any protocol."""
    body = reply.get_json()
    found = next(body[key] for key in ("prediction", "predictions", "outputs") if key in body)
    answer: list[float] = found[0]["data"] if isinstance(found[0], dict) else found
    return answer


def test_every_route_is_described(service: Service) -> None:
    """The document has every route, for each loaded model and its version, with its methods, and nothing else."""
    routes = {
        (rule.rule.replace("<name>", model.name).replace("<version>", str(model.version)), method)
        for rule in service.url_map.iter_rules()
        if rule.rule != FILES
        for model in service.serving.models.values()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }

    assert {(path, method) for path, method, _ in operations(document(service.test_client()))} == routes


def test_every_example_is_answered(service: Service) -> None:
    """Every example, sent as what it is said to be, is answered 200, with one and the same prediction by all."""
    client = service.test_client()
    sent = [
        (path, media_type, media["example"])
        for path, method, operation in operations(document(client))
        for media_type, media in operation.get("requestBody", {}).get("content", {}).items()
        if "example" in media
    ]
    answers = []
    for path, media_type, example in sent:
        body = {"data": example, "content_type": media_type} if isinstance(example, str) else {"json": example}
        reply = client.post(path, **body)
        assert reply.status_code == 200, (path, reply.text)
        answers.append(prediction(reply))

    assert {media_type for _, media_type, _ in sent} == {"application/json", "text/csv"}
    assert len(sent) >= 9
    assert answers == [answers[0]] * len(sent)
    assert len(answers[0]) == 1


def test_every_question_is_answered(service: Service) -> None:
    """Every path that is to be read is, with 200 and a content type that the document names."""
    client = service.test_client()
    for path, method, operation in operations(document(client)):
        if method == "GET":
            reply = client.get(path)
            assert reply.status_code == 200, path
            assert reply.mimetype in operation["responses"]["200"]["content"], path


def test_operations_have_names_of_their_own(service: Service) -> None:
    """No two operations have the same operationId."""
    names = [operation["operationId"] for _, _, operation in operations(document(service.test_client()))]

    assert len(set(names)) == len(names)


def test_references_lead_somewhere(service: Service) -> None:
    """Every reference is to a component of the document."""
    described = document(service.test_client())
    components = {f"#/components/schemas/{name}" for name in described["components"]["schemas"]}

    assert set(re.findall(r"'\$ref': '(.*?)'", str(described))) <= components


def test_ranges_are_the_schemas(client: FlaskClient) -> None:
    """A feature's range in the document is what the model answers: its ends are answered, and nothing beyond them."""
    row = document(client)["components"]["schemas"][f"{NAME}.row"]

    assert row["required"] == list(row["properties"]) == list(HOUSE)
    for name, described in row["properties"].items():
        for end in ("minimum", "maximum"):
            limit = described[end]
            assert client.post("/predict", json={**HOUSE, name: limit}).status_code == 200, (name, end)
            beyond = client.post("/predict", json={**HOUSE, name: limit * (1 + 1e-15)})
            assert beyond.get_json()["details"] == [{"row": 0, "feature": name, "reason": "out of range"}]


def test_training_ranges_are_told(client: FlaskClient, store: Path) -> None:
    """A feature's description says which range training has seen."""
    row = document(client)["components"]["schemas"][f"{NAME}.row"]
    features = Store(store).load(NAME).schema.features

    for feature in features:
        assert f"{feature.minimum} to {feature.maximum}" in row["properties"][feature.name]["description"]


def test_document_without_a_model(tmp_path: Path) -> None:
    """A server without a model has a document too, of the paths that no model belongs to."""
    client = create_app(Config(store=tmp_path)).test_client()
    described = document(client)

    assert {"/", "/readyz", "/v2/health/ready", "/ping"} <= described["paths"].keys()
    assert [path for path, method, _ in operations(described) if method == "POST"] == [
        "/v2/repository/index",
        "/feedback",
    ]


@pytest.mark.parametrize("path", ["/docs", "/docs/"])
def test_page_is_complete(server: Server, path: str) -> None:
    """The page and all that it asks for, and what that asks for, comes from this server and is there."""
    page = requests.get(server.url + path, timeout=10, allow_redirects=False)
    named = re.findall(r"(?:src|href)\s*=\s*[\"']([^\"']+)", page.text)
    sheets = [url for url in named if url.endswith(".css")]
    inner = [
        urljoin(sheet, url)
        for sheet in sheets
        for url in re.findall(r"url\(\s*[\"']?(?!data:)([^)\"']+)", requests.get(server.url + sheet, timeout=10).text)
    ]
    asked = [urljoin(path, url) for url in [*named, *inner]]

    assert page.status_code == 200
    assert {url.rpartition(".")[2] for url in named} == {"css", "png", "js"}
    assert [url for url in asked if urlsplit(url).netloc] == []
    assert [requests.get(server.url + url, timeout=10).status_code for url in asked] == [200] * len(asked)


def test_page_shows_the_document(server: Server) -> None:
    """The page is told where the document is, and to send it to no validator, which is on another host by default."""
    page = requests.get(f"{server.url}/docs/", timeout=10).text

    assert '"url": "/openapi.json"' in page
    assert '"validatorUrl": null' in page
    assert set(re.findall(r"https?://[^/\"']+", page)) <= {server.url}


@pytest.mark.skipif(not ST.exists(), reason="there is no .venv-clients; `make test` makes it")
def test_document_holds_under_made_up_requests(server: Server, tmp_path: Path) -> None:
    """Schemathesis, which makes up requests from the document, right ones and wrong ones, finds nothing amiss."""
    config = ROOT / "tests" / "clients" / "schemathesis.toml"
    command = [str(ST), "--no-color", "--config-file", str(config), "run", f"{server.url}/openapi.json"]
    # It keeps what it finds in the working directory.
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, "\n".join(line[:500] for line in done.stdout.splitlines())
    generated = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert generated
    assert int(generated[1]) > 1000
