"""Owns the OpenAPI document: it lists every route, its examples work, generated requests fit it; and its page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app import create_app
from app.config import Config
from app.factory import Service
from app.protocols import describe
from app.web.body import JSON_LINES_TYPES
from model import Feature, Store
from tests.support import gems
from tests.support import openapi as shared
from tests.support.openapi import NAME, document
from tests.support.service import HOUSE

both = shared.both
service = shared.service

# The files that the pages load.
FILES = ("/docs/<path:path>", "/static/<file>")


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
        if rule.rule not in FILES
        for model in service.serving.loaded.models.values()
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

    assert {media_type for _, media_type, _ in sent} == {"application/json", "text/csv", *JSON_LINES_TYPES}
    assert len(sent) >= 9
    assert answers == [answers[0]] * len(sent)
    assert len(answers[0]) == 1


def test_every_example_of_every_type_is_answered(gems_everywhere: FlaskClient, gems_pipeline: Any) -> None:
    """The examples of a model with features of every type, one of them missing, get the pipeline's prediction."""
    row = document(gems_everywhere)["components"]["schemas"]["gems.row"]["examples"][0]
    answers = []
    for path, _, operation in operations(document(gems_everywhere)):
        for media_type, media in operation.get("requestBody", {}).get("content", {}).items():
            if "example" in media:
                example = media["example"]
                body = {"data": example, "content_type": media_type} if isinstance(example, str) else {"json": example}
                answers.append(prediction(gems_everywhere.post(path, **body)))

    assert None in row.values()
    assert len(answers) >= 9
    assert answers == [gems.predictions(gems_pipeline, [row]).tolist()] * len(answers)


def test_types_are_described(gems_everywhere: FlaskClient) -> None:
    """A feature has its type, null if it may be missing, and its categories if no others are accepted."""
    row = document(gems_everywhere)["components"]["schemas"]["gems.row"]
    described = {name: {key: each.get(key) for key in ("type", "enum")} for name, each in row["properties"].items()}

    assert row["required"] == [name for name in gems.COLUMNS if name not in gems.MAY_BE_MISSING]
    assert described == {
        "carat": {"type": "number", "enum": None},
        gems.DEPTH: {"type": ["number", "null"], "enum": None},
        "pieces": {"type": "integer", "enum": None},
        "certified": {"type": ["boolean", "integer"], "enum": None},
        "boxed": {"type": ["boolean", "integer", "null"], "enum": None},
        "cut": {"type": "string", "enum": gems.CATEGORIES["cut"]},
        "color": {"type": ["string", "null"], "enum": None},
        "origin": {"type": ["string", "null"], "enum": None},
        "grade": {"type": ["number", "null"], "enum": None},
    }
    assert row["properties"]["origin"]["description"] == "Congo, Peru; any other counts as missing; may be missing"
    assert row["properties"]["color"]["examples"] == gems.CATEGORIES["color"][:5]
    assert "inf" not in str(row).replace("info", "")


@pytest.mark.parametrize(("count", "is_listed"), [(1, True), (200, True), (201, False)])
def test_long_list_of_categories_is_described(count: int, is_listed: bool) -> None:
    """Up to 200 categories are listed; of more, the description has the first and their number."""
    feature = Feature("f", type="category", categories=tuple(f"k{number}" for number in range(count)), missing=True)
    described = describe.cell(feature)

    assert ("enum" in described) == is_listed
    if is_listed:
        assert described["enum"] == [*feature.categories, None]
    else:
        assert described["description"] == "k0, k1, k2, k3, k4 and 196 more; any other is refused; may be missing"


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
            detail = {"row": 0, "feature": name, "reason": "out of range", "nearest": limit}
            assert beyond.get_json()["details"] == [detail]


def test_training_ranges_are_described(client: FlaskClient, store: Path) -> None:
    """A feature's description has its training range."""
    row = document(client)["components"]["schemas"][f"{NAME}.row"]
    features = Store(store).load(NAME).schema.features

    for feature in features:
        assert (
            f"{feature.minimum:g} to {feature.maximum:g} in training" in row["properties"][feature.name]["description"]
        )


def test_document_without_a_model(tmp_path: Path) -> None:
    """A server without a model has a document, too, with the paths without a model."""
    client = create_app(Config(store=tmp_path)).test_client()
    described = document(client)

    assert {"/", "/readyz", "/v2/health/ready", "/ping"} <= described["paths"].keys()
    assert [path for path, method, _ in operations(described) if method == "POST"] == [
        "/v2/repository/index",
        "/feedback",
    ]
