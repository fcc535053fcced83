"""The OpenAPI document, checked by independent tools: it is valid, and its examples match its schemas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
import requests
import schemathesis

from tests.outside.clients.conftest import Model


@pytest.fixture(scope="session")
def document(model: Model) -> dict[str, Any]:
    """The document of the server."""
    found: dict[str, Any] = requests.get(f"{model.url}/openapi.json", timeout=30).json()
    return found


def bodies(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the media type object of every request or reply body that has a schema."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            places = {"request": operation.get("requestBody", {}), **operation["responses"]}
            for place, found in places.items():
                for media_type, media in found.get("content", {}).items():
                    if "schema" in media:
                        yield f"{method} {path} {place} {media_type}", media


def test_document_is_openapi(document: dict[str, Any]) -> None:
    """The document is valid OpenAPI 3.1."""
    assert document["openapi"].startswith("3.1.")
    schemathesis.openapi.from_dict(document).validate()


def test_schemas_are_json_schema(document: dict[str, Any]) -> None:
    """Every schema is valid JSON Schema 2020-12, the dialect of OpenAPI 3.1."""
    schemas = [*document["components"]["schemas"].values(), *(media["schema"] for _, media in bodies(document))]

    assert len(schemas) > 100
    for schema in schemas:
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


def test_examples_are_valid(document: dict[str, Any]) -> None:
    """Every example is valid under the schema beside it."""
    examples = {name: media for name, media in bodies(document) if "example" in media}

    assert len(examples) >= 8
    for name, media in examples.items():
        schema = {**media["schema"], "components": document["components"]}
        assert jsonschema_rs.Draft202012Validator(schema).is_valid(media["example"]), name
