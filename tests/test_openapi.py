"""Owns the OpenAPI document: it lists every route, its examples work, generated requests fit it; and its page."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from functools import partial
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
from conftest import HOUSE, ROOT, Server, serve
from model import Store
from model.artifact import read_draft
from test_health import curl_line
from test_server import NGINX, wait_until

NAME = "boston-housing"
ST = ROOT / ".venv-clients" / "bin" / "st"
# Swagger UI's own files, which the page loads.
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


def operations(described: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield path, method and operation of each operation in a document."""
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
    """Every example, sent with its content type, gets 200 and the same prediction."""
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


def test_every_get_is_answered(service: Service) -> None:
    """Every GET replies 200 with a content type of the document."""
    client = service.test_client()
    for path, method, operation in operations(document(client)):
        if method == "GET":
            reply = client.get(path)
            assert reply.status_code == 200, path
            assert reply.mimetype in operation["responses"]["200"]["content"], path


def test_operation_ids_are_unique(service: Service) -> None:
    """No two operations have the same operationId."""
    names = [operation["operationId"] for _, _, operation in operations(document(service.test_client()))]

    assert len(set(names)) == len(names)


def test_references_exist(service: Service) -> None:
    """Every reference is to a component of the document."""
    described = document(service.test_client())
    components = {f"#/components/schemas/{name}" for name in described["components"]["schemas"]}

    assert set(re.findall(r"'\$ref': '(.*?)'", str(described))) <= components


def test_ranges_are_the_schemas(client: FlaskClient) -> None:
    """A feature's range in the document is the model's: its ends are answered, and nothing beyond them."""
    row = document(client)["components"]["schemas"][f"{NAME}.row"]

    assert row["required"] == list(row["properties"]) == list(HOUSE)
    for name, described in row["properties"].items():
        for end in ("minimum", "maximum"):
            limit = described[end]
            assert client.post("/predict", json={**HOUSE, name: limit}).status_code == 200, (name, end)
            beyond = client.post("/predict", json={**HOUSE, name: limit * (1 + 1e-15)})
            assert beyond.get_json()["details"] == [{"row": 0, "feature": name, "reason": "out of range"}]


def test_training_ranges_are_described(client: FlaskClient, store: Path) -> None:
    """A feature's description has its training range."""
    row = document(client)["components"]["schemas"][f"{NAME}.row"]
    features = Store(store).load(NAME).schema.features

    for feature in features:
        assert f"{feature.minimum} to {feature.maximum}" in row["properties"][feature.name]["description"]


def test_document_without_a_model(tmp_path: Path) -> None:
    """A server without a model has a document, too, with the paths without a model."""
    client = create_app(Config(store=tmp_path)).test_client()
    described = document(client)

    assert {"/", "/readyz", "/v2/health/ready", "/ping"} <= described["paths"].keys()
    assert [path for path, method, _ in operations(described) if method == "POST"] == [
        "/v2/repository/index",
        "/feedback",
    ]


def is_open(port: int) -> bool:
    """Return whether something listens on a port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def linked(page: str) -> list[str]:
    """Return the URLs that a page of a server links to and loads, and those that its style sheets load."""
    html = requests.get(page, headers={"Accept": "text/html"}, timeout=10).text
    named = [urljoin(page, url) for url in re.findall(r"(?:src|href)\s*=\s*[\"'](?!data:)([^\"']+)", html)]
    return named + [
        urljoin(sheet, url)
        for sheet in named
        if sheet.endswith(".css")
        for url in re.findall(r"url\(\s*[\"']?(?!data:)([^)\"']+)", requests.get(sheet, timeout=10).text)
    ]


def statuses(urls: list[str]) -> dict[str, int]:
    """Return the status of each URL."""
    return {url: requests.get(url, timeout=10).status_code for url in urls}


@pytest.mark.parametrize("path", ["/docs", "/docs/"])
def test_page_is_complete(server: Server, path: str) -> None:
    """The page and everything that it loads come from this server and exist."""
    page = requests.get(server.url + path, timeout=10)
    linked_urls = linked(page.url)

    assert (page.status_code, page.url) == (200, f"{server.url}/docs/")
    assert {"css", "png", "js"} <= {url.rpartition(".")[2] for url in linked_urls}
    assert {urlsplit(url).netloc for url in linked_urls} == {urlsplit(server.url).netloc}
    assert statuses(linked_urls) == dict.fromkeys(linked_urls, 200)


@pytest.fixture(scope="module")
def prefixed(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """A server, and its URL behind an nginx that removes /tabserve."""
    if not shutil.which("nginx"):
        pytest.skip("needs nginx (Debian: apt-get install nginx)")
    folder = tmp_path_factory.mktemp("prefixed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with serve(store, folder, WEB_CONCURRENCY="1") as server:
        user, service = "" if os.getuid() else "user root;", server.url.removeprefix("http://")
        text = NGINX.format(user=user, folder=folder, service=service, port=port)
        text = text.replace("location / {", "location /tabserve/ {").replace(
            "proxy_pass http://service;",
            "proxy_pass http://service/; proxy_set_header Host $http_host;"
            "proxy_set_header X-Forwarded-Prefix /tabserve;",
        )
        (folder / "nginx.conf").write_text(text)
        nginx = subprocess.Popen(["nginx", "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")])
        try:
            wait_until(partial(is_open, port))
            yield server, f"http://127.0.0.1:{port}/tabserve"
        finally:
            nginx.terminate()
            nginx.wait()


def test_pages_behind_a_prefix(prefixed: tuple[Server, str]) -> None:
    """Behind a proxy that removes a prefix, every link of both pages and the curl line work."""
    server, url = prefixed
    linked_urls = {urlsplit(link).path for page in (f"{url}/", f"{url}/docs/") for link in linked(page)}
    page = requests.get(f"{url}/", headers={"Accept": "text/html"}, timeout=10).text
    written = subprocess.run(curl_line(page), shell=True, capture_output=True, check=True, timeout=10).stdout

    assert {"/tabserve/docs/", "/tabserve/metrics", "/tabserve/docs/swagger-ui-bundle.js"} <= linked_urls
    links = [urljoin(url, path) for path in linked_urls]
    assert statuses(links) == dict.fromkeys(links, 200)
    assert requests.get(f"{url}/docs", timeout=10).url == f"{url}/docs/"
    assert f"curl -s {url}/predict " in page
    assert json.loads(written)["model"] == NAME
    assert statuses([f"{server.url}/livez", f"{server.url}/readyz"]) == {
        f"{server.url}/livez": 200,
        f"{server.url}/readyz": 200,
    }


def test_document_behind_a_prefix(prefixed: tuple[Server, str]) -> None:
    """The page finds the document, and the document the paths, with and without a prefix."""
    server, url = prefixed
    page = requests.get(f"{url}/docs/", timeout=10)
    match = re.search(r'"url": "([^"]+)"', page.text)
    assert match
    document = urljoin(page.url, match[1])
    servers = requests.get(document, timeout=10).json()["servers"]

    assert (document, servers) == (f"{url}/openapi.json", [{"url": "/tabserve"}])
    predict = urljoin(document, servers[0]["url"]) + "/predict"
    assert requests.post(predict, json=HOUSE, timeout=10).status_code == 200
    assert requests.get(f"{server.url}/openapi.json", timeout=10).json()["servers"] == [{"url": "/"}]


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("/a", "/a"),
        ("/a/", "/a"),
        ("/a/b.c-d", "/a/b.c-d"),
        ("/client, /proxy", "/proxy"),  # each proxy appends its own
        *(
            (wrong, "/")
            for wrong in ("", "/", "a", "//evil.example", "/a//b", "http://evil.example", "/<b>", '/"', "/a b")
        ),
    ],
)
def test_prefix_of_a_trusted_proxy(server: Server, prefix: str, expected: str) -> None:
    """Only a path is a valid prefix: nothing else gets into the document or the page, even through a trusted proxy."""
    headers = {"X-Forwarded-Prefix": prefix, "Accept": "text/html"}
    document = requests.get(f"{server.url}/openapi.json", headers=headers, timeout=10).json()
    page = requests.get(f"{server.url}/", headers=headers, timeout=10).text

    assert document["servers"] == [{"url": expected}]
    assert f"curl -s {server.url}{expected.rstrip('/')}/predict " in page


def test_prefix_of_an_untrusted_client(store: Path, tmp_path: Path) -> None:
    """A client that is not a trusted proxy cannot change the URLs, which a cache might show to others."""
    headers = {"X-Forwarded-Prefix": "/a", "Accept": "text/html"}
    with serve(store, tmp_path, WEB_CONCURRENCY="1", FORWARDED_ALLOW_IPS="192.0.2.1") as server:
        document = requests.get(f"{server.url}/openapi.json", headers=headers, timeout=10).json()
        page = requests.get(f"{server.url}/", headers=headers, timeout=10).text

    assert document["servers"] == [{"url": "/"}]
    assert f"curl -s {server.url}/predict " in page


def test_page_shows_the_document(server: Server) -> None:
    """The page loads the document, and does not use the validator, which is on another host by default."""
    page = requests.get(f"{server.url}/docs/", timeout=10).text

    assert '"url": "../openapi.json"' in page
    assert '"validatorUrl": null' in page
    assert set(re.findall(r"https?://[^/\"']+", page)) <= {server.url}


@pytest.mark.skipif(not ST.exists(), reason="there is no .venv-clients; `make test` makes it")
def test_generated_requests_fit_the_document(server: Server, tmp_path: Path) -> None:
    """Schemathesis, which generates good and bad requests from the document, finds no failure."""
    config = ROOT / "tests" / "clients" / "schemathesis.toml"
    command = [str(ST), "--no-color", "--config-file", str(config), "run", f"{server.url}/openapi.json"]
    # It stores its findings in the working directory.
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)

    assert done.returncode == 0, "\n".join(line[:500] for line in done.stdout.splitlines())
    generated = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert generated
    assert int(generated[1]) > 1000
