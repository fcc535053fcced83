"""Server and model metadata, health, and the index of models."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from conformance.protocol import DTYPES, JSON, Server, body_of, error_of, parse

UNKNOWN = "no-such-model-or-version"


def assert_strings(values: Any) -> None:
    assert isinstance(values, list)
    assert all(isinstance(value, str) for value in values)


def assert_model_metadata(body: JSON, model: str) -> None:
    assert body["name"] == model
    assert isinstance(body["platform"], str)
    if body.get("versions") is not None:
        assert_strings(body["versions"])
    for tensor in [*body["inputs"], *body["outputs"]]:
        assert isinstance(tensor["name"], str)
        assert tensor["datatype"] in {*DTYPES, "BYTES"}
        assert all(type(size) is int and size >= -1 for size in tensor["shape"])


@pytest.mark.core
def test_server_metadata(server: Server) -> None:
    """GET /v2 answers name, version and extensions (inference_rest.md, "Server Metadata")."""
    body = body_of(server.get("/v2"))

    assert isinstance(body["name"], str)
    assert isinstance(body["version"], str)
    assert_strings(body["extensions"])


@pytest.mark.robust
def test_server_metadata_with_slash(server: Server) -> None:
    """GET /v2/ answers like /v2, without a redirect: it is the path in open_inference_rest.yaml."""
    assert body_of(server.get("/v2/")) == body_of(server.get("/v2"))


@pytest.mark.core
@pytest.mark.parametrize("probe", ["live", "ready"])
def test_health_status(server: Server, probe: str) -> None:
    """A server that is live and ready answers both probes with 200 (open_inference_rest.yaml)."""
    assert server.get(f"/v2/health/{probe}").status_code == 200


@pytest.mark.core
@pytest.mark.parametrize("probe", ["live", "ready"])
def test_health_body(server: Server, probe: str) -> None:
    """The probes answer an object that says true (inference_rest.md, "Server Live" and "Server Ready").

    It names the field "live" in both; servers say "ready" in the second, so either is taken there.
    """
    body = body_of(server.get(f"/v2/health/{probe}"))

    assert body.get(probe, body.get("live")) is True


@pytest.mark.core
def test_model_metadata(server: Server) -> None:
    """Model metadata have name, platform, inputs and outputs (inference_rest.md, "Model Metadata")."""
    assert_model_metadata(body_of(server.get(server.model_path())), server.model)


@pytest.mark.core
def test_model_metadata_has_no_null(server: Server) -> None:
    """An optional field that is absent is left out: none of its types allows null (open_inference_rest.yaml)."""
    assert None not in body_of(server.get(server.model_path())).values()


@pytest.mark.core
def test_version_metadata(server: Server, version: str) -> None:
    """Versions that the metadata list "may be explicitly requested" (inference_rest.md, "Model Metadata")."""
    assert_model_metadata(body_of(server.get(server.model_path(version=version))), server.model)


@pytest.mark.core
def test_model_ready_status(server: Server) -> None:
    """A model that is ready answers 200 (open_inference_rest.yaml)."""
    assert server.get(server.model_path() + "/ready").status_code == 200


@pytest.mark.core
def test_model_ready_body(server: Server) -> None:
    """A model's readiness is answered with its name (inference_rest.md, "Model Ready")."""
    body = body_of(server.get(server.model_path() + "/ready"))

    assert (body["name"], body["ready"]) == (server.model, True)


@pytest.mark.core
def test_version_ready(server: Server, version: str) -> None:
    """Readiness can be asked for each version that the metadata list (inference_rest.md, table of paths)."""
    assert server.get(server.model_path(version=version) + "/ready").status_code == 200


def ask_unknown(server: Server, call: str, *, unknown: str, request: JSON) -> requests.Response:
    path = server.model_path(model=UNKNOWN) if unknown == "model" else server.model_path(version=UNKNOWN)
    return server.post(path + "/infer", request) if call == "/infer" else server.get(path + call)


@pytest.mark.core
@pytest.mark.parametrize("call", ["", "/infer"], ids=["metadata", "infer"])
def test_unknown_model_is_an_error(server: Server, infer_request: JSON, call: str) -> None:
    """A failure has an HTTP error status and an error object (inference_rest.md, both "JSON Error Object")."""
    reply = ask_unknown(server, call, unknown="model", request=infer_request)

    assert reply.status_code >= 400
    error_of(reply)


@pytest.mark.robust
@pytest.mark.parametrize("unknown", ["model", "version"])
@pytest.mark.parametrize("call", ["", "/ready", "/infer"], ids=["metadata", "ready", "infer"])
def test_unknown_is_404(server: Server, infer_request: JSON, call: str, unknown: str) -> None:
    """No such model and no such version are 404, with an error object; the specification leaves the status open."""
    reply = ask_unknown(server, call, unknown=unknown, request=infer_request)

    assert reply.status_code == 404, f"status {reply.status_code}: {reply.text[:300]}"
    error_of(reply)


@pytest.mark.repository
@pytest.mark.parametrize("body", [b"{}", pytest.param(b"", marks=pytest.mark.robust)], ids=["object", "empty"])
def test_repository_index(server: Server, body: bytes) -> None:
    """The index lists the models by name (extension_model_repository.md); tritonclient asks with an empty body."""
    reply = server.post("/v2/repository/index", body, {"Content-Type": "application/json"} if body else None)
    if reply.status_code in (404, 405):
        pytest.skip("the server has no index")

    assert reply.status_code == 200, f"status {reply.status_code}: {reply.text[:300]}"
    models = parse(reply.content)
    assert server.model in [model["name"] for model in models]
    for model in models:
        assert all(isinstance(model.get(field, ""), str) for field in ("name", "version", "state", "reason"))


@pytest.mark.repository
def test_repository_index_of_ready_models(server: Server) -> None:
    """With "ready" true the index lists models that are ready (extension_model_repository.md)."""
    reply = server.post("/v2/repository/index", {"ready": True})
    if reply.status_code in (404, 405):
        pytest.skip("the server has no index")

    assert reply.status_code == 200, f"status {reply.status_code}: {reply.text[:300]}"
    models = parse(reply.content)
    assert server.model in [model["name"] for model in models]
    assert {model.get("state", "READY") for model in models} == {"READY"}
