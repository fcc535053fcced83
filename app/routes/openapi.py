"""The OpenAPI 3.1 document of the service: Flask's routes, as endpoints and views describe themselves.

Every model has paths of its own, with its features, their ranges and an example that works.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from flask import Flask, request
from werkzeug.routing import Rule

from app.config import Config
from app.protocols import describe, native
from app.protocols.access import Access
from app.protocols.describe import JSON
from app.protocols.endpoint import Endpoint
from app.protocols.paths import paths_of
from app.protocols.views import Views
from app.serving.loaded import Loaded
from app.version import VERSION
from app.web.caller import predict
from app.web.exchange import exchange_of
from model import Artifact

_TAGS = (describe.NATIVE, describe.V2, describe.V1, describe.MLFLOW, describe.VERTEX, describe.MCP, describe.SERVICE)

_COMPONENTS: JSON = {
    "Error": {
        "type": "object",
        "required": ["error", "status", "details"],
        "properties": {
            "error": {"type": "string"},
            "status": {"type": "integer"},
            "details": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["row", "feature", "reason"],
                    "properties": {
                        "row": {"type": ["integer", "null"], "description": "from 0; null for a whole column"},
                        "feature": {"type": ["string", "null"], "description": "null for a whole row"},
                        "reason": {"type": "string"},
                        "nearest": {
                            "type": ["string", "number"],
                            "description": "the known category that is most like an unknown one, if there is one, or "
                            "the limit that a number is beyond",
                        },
                        "accepted": {
                            "type": "string",
                            "description": "which texts are dates, with examples, where one is none",
                        },
                    },
                },
            },
        },
    },
    "Message": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}},
    "MLflowError": {
        "type": "object",
        "required": ["error_code", "message"],
        "properties": {"error_code": {"type": "string"}, "message": {"type": "string"}},
    },
    "RpcError": {
        "type": "object",
        "required": ["jsonrpc", "id", "error"],
        "properties": {"error": {"type": "object", "required": ["code", "message"]}},
    },
}

# The form of an error where it is not the native one.
_ERRORS = {
    describe.V2: describe.MESSAGE,
    describe.V1: describe.MESSAGE,
    describe.VERTEX: describe.MESSAGE,
    describe.MLFLOW: describe.MLFLOW_ERROR,
    describe.MCP: describe.RPC_ERROR,
}
_SECURITY: JSON = {
    "securitySchemes": {
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
}
_REFUSALS = {
    "401": "no key, or none that is accepted",
    "403": "the key lacks the scope that the route needs",
    "429": "the key has sent too many requests, or the address too many unknown keys; try again after Retry-After",
}


class Document:
    """Makes the document of a service from its routes. With `access` a key is asked for.

    Then the document describes those models that the key of its request may use.
    """

    def __init__(
        self, app: Flask, endpoints: Iterable[Endpoint], views: Views, config: Config, access: Access | None = None
    ) -> None:
        self._app = app
        self._endpoints = {endpoint.name: endpoint for endpoint in endpoints}
        self._views = views
        self._config = config
        self._access = access

    def render(self, loaded: Loaded, *, prefix: str = "") -> JSON:
        """Return the document for the loaded models, with `prefix` before all paths."""
        caller = exchange_of(request.environ).caller if self._access else None
        if caller:
            loaded = loaded.only(name for name in loaded.models if caller.may(predict(name)))
        paths: JSON = {}
        urls = self._app.url_map.bind("")
        for rule in self._app.url_map.iter_rules():
            for method, path, operation in self._operations(rule, loaded):
                # Several rules may match a path: Flask's own map decides.
                found, values = urls.match(path, method.upper(), return_rule=True)
                if found is rule:
                    if self._access and self._access.scope_of(rule, values) is not None:
                        operation = _with_key(operation)
                    # The name of a link to the operation, and of a generated client's function.
                    name = re.sub(r"\W+", "_", f"{method}{path}").strip("_")
                    paths.setdefault(path, {})[method] = {**operation, "operationId": name}
        used = {tag for methods in paths.values() for operation in methods.values() for tag in operation["tags"]}
        components = dict(_COMPONENTS)
        for model in loaded.all_versions:
            parts = {
                "row": describe.row(model),
                "native": native.describe_body(model, self._config.max_rows),
                "instances": describe.instances(model, self._config.max_rows),
                "inputs": describe.inputs(model, self._config.max_rows),
            }
            for part, schema in parts.items():
                reference = {"$ref": describe.shared(model, part)["$ref"]}
                (name,) = _of_version(reference, model, loaded).values()
                components[name.rpartition("/")[2]] = _of_version(schema, model, loaded)
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "Tabserve",
                "version": VERSION,
                "description": "Serves exactly the models that were trained, to the last bit, over many protocols.",
            },
            "servers": [{"url": prefix or "/"}],
            "tags": [{"name": name} for name in _TAGS if name in used],
            "paths": paths,
            "components": {"schemas": components, **(_SECURITY if self._access else {})},
        }

    def _operations(self, rule: Rule, loaded: Loaded) -> Iterator[tuple[str, str, JSON]]:
        """Yield method, path and operation of a rule, for each model that it may name."""
        endpoint = self._endpoints.get(rule.endpoint)
        operation = self._views.operations.get(self._app.view_functions[rule.endpoint])
        if callable(operation):
            operation = operation(loaded)
        for path, model in paths_of(rule, loaded):
            if endpoint:
                if answering := model or loaded.find(None):
                    described = endpoint.describe(answering, self._config)
                    if "version" in rule.arguments:
                        summary = f"{described['summary']} version {answering.version}"
                        described = {**_of_version(described, answering, loaded), "summary": summary}
                    yield "post", path, {**described}
            elif operation:
                summary = operation["summary"]
                if model:
                    version = f" version {model.version}" if "version" in rule.arguments else ""
                    summary = f"{model.name}{version}: {summary}"
                yield "post" if "requestBody" in operation else "get", path, {**operation, "summary": summary}


def _of_version(value: Any, model: Artifact, loaded: Loaded) -> Any:
    """Return a part of the document in which references to a model's schemas are to those of this version.

    The schemas of the version that answers are named by the model alone, so that a new version changes no name.
    """
    if loaded.models.get(model.name) is model:
        return value
    if isinstance(value, dict):
        return {key: _of_version(inner, model, loaded) for key, inner in value.items()}
    if isinstance(value, list):
        return [_of_version(inner, model, loaded) for inner in value]
    prefix = f"#/components/schemas/{model.name}."
    if isinstance(value, str) and value.startswith(prefix):
        return f"{prefix}{model.version}.{value.removeprefix(prefix)}"
    return value


def _with_key(operation: JSON) -> JSON:
    """Return an operation that needs a key, with the replies to a request without one."""
    error = _ERRORS.get(operation["tags"][0], describe.NATIVE_ERROR)
    content = {"application/json": {"schema": error}}
    refusals = {status: {"description": text, "content": content} for status, text in _REFUSALS.items()}
    return {
        **operation,
        "responses": {**operation["responses"], **refusals},
        "security": [{"bearer": []}, {"key": []}],
    }
