"""Owns the fast path to predictions: its replies equal Flask's, byte for byte, and it is used."""

from __future__ import annotations

import gzip
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder

from app import create_app
from app.config import Config
from app.errors import OverloadedError
from app.factory import Service
from model import Matrix
from model.engine.runtime import TreesEngine
from model.store.manifest import CONVERTED_ENGINE
from tests.support.metrics import MODEL, series, value
from tests.support.service import COLUMNS, HOUSE, PROTOCOLS, Protocol, everywhere_client

ROW = list(HOUSE.values())
ID = {"X-Request-Id": "the-same"}
JSON = {"Content-Type": "application/json"}

every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=list(PROTOCOLS))


@pytest.fixture
def lines() -> list[dict[str, Any]]:
    """The lines that `client` logs."""
    return []


@pytest.fixture
def client(store: Path, lines: list[dict[str, Any]]) -> FlaskClient:
    """A client of a service that answers at the paths of all protocols."""
    return everywhere_client(store, lines.extend, max_body_bytes=2_000_000, max_rows=200)


def both_ways(client: FlaskClient, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    """Return status and body of a POST after checking that the fast path and Flask reply the same, with all headers.

    A slash at the end avoids the fast path, and Flask ignores it.
    """
    replies = [client.post(p, data=body, headers={**ID, **headers}) for p in (path, f"{path}/")]
    fast, flask = ((reply.status, list(reply.headers), reply.data) for reply in replies)

    assert fast == flask
    return replies[0].status_code, replies[0].data


@every_protocol
def test_good_requests(client: FlaskClient, protocol: Protocol, lines: list[dict[str, Any]]) -> None:
    """One row and many get the same reply and log line, whatever the client accepts."""
    for n_rows in (1, 2, 150):
        body = json.dumps(protocol.write([ROW] * n_rows)).encode()
        for more in ({}, {"Accept": "text/csv"}, {"Accept-Encoding": "gzip, deflate;q=0.5"}, {"Accept-Encoding": "br"}):
            status, _ = both_ways(client, protocol.path, body, {**JSON, **more})
            assert status == 200

    for line in lines:
        del line["time"], line["duration_ms"]
    assert lines[::2] == lines[1::2]


@every_protocol
@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", JSON, 400),
        (b"{", JSON, 400),
        (b"[" * 200, JSON, 400),
        (b"17", JSON, 400),
        (b"x" * 2_000_001, JSON, 413),
        (gzip.compress(b" " * 3_000_000), {**JSON, "Content-Encoding": "gzip"}, 413),
        (b"no gzip", {**JSON, "Content-Encoding": "gzip"}, 400),
        (b"{}", {**JSON, "Content-Encoding": "br"}, 415),
    ],
    ids=["nothing", "cut off", "deep", "a number", "long", "long when inflated", "no gzip", "another coding"],
)
def test_bad_bodies(client: FlaskClient, protocol: Protocol, body: bytes, headers: dict[str, str], status: int) -> None:
    """A body that the route cannot read is refused with the same reply."""
    assert both_ways(client, protocol.path, body, headers)[0] == status


@every_protocol
def test_bad_rows(client: FlaskClient, protocol: Protocol) -> None:
    """Rows that do not fit the schema, and too many rows, are refused with the same reply."""
    for row in ([None, *ROW[1:]], ["a", *ROW[1:]], [*ROW[:5], 1e400], [True, *ROW[1:]]):
        body = json.dumps(protocol.write([row])).encode()
        assert both_ways(client, protocol.path, body, JSON)[0] == protocol.unfit
    assert both_ways(client, protocol.path, json.dumps(protocol.write([ROW] * 201)).encode(), JSON)[0] == 413


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from([*COLUMNS, "instances", "inputs", "columns", "data"]), inner)
        ),
    ).map(lambda value: json.dumps(value).encode()),
    kind=st.sampled_from(
        [
            "application/json",
            "text/csv",
            "text/csv; header=absent",
            "text/plain",
            "application/json; charset=latin-1",
            "",
        ]
    ),
)
def test_any_body(everywhere: FlaskClient, body: bytes, kind: str) -> None:
    """Any body of any content type gets the same reply in every protocol."""
    for protocol in PROTOCOLS.values():
        both_ways(everywhere, protocol.path, body, {"Content-Type": kind} if kind else {})


def test_reply_that_fails_is_no_prediction(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows whose predictions did not reach the client are not counted as predicted."""

    def fail(value: object) -> None:
        raise RuntimeError("the inside")

    monkeypatch.setattr("app.protocols.native.to_json", fail)
    assert client.post("/predict", json=HOUSE).status_code == 500
    found = series(client.get("/metrics").text)

    assert value(found, "tabserve_rows_total", **MODEL) == 0
    assert sum(count for (name, _), count in found.items() if name == "tabserve_prediction_bin_total") == 0


@every_protocol
def test_failures(client: FlaskClient, protocol: Protocol, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure of the engine is the same 500, which reveals nothing about it."""

    def fail(self: TreesEngine, X: object) -> None:
        raise RuntimeError("the inside")

    monkeypatch.setattr(TreesEngine, "predict", fail)
    status, body = both_ways(client, protocol.path, json.dumps(protocol.write([ROW])).encode(), JSON)

    assert status == 500
    assert b"inside" not in body.replace(b"nothing of the inside", b"")


@every_protocol
def test_models_are_not_loaded(store: Path, tmp_path: Path, protocol: Protocol) -> None:
    """If no model could be loaded, every request gets the same 503."""
    own = Path(shutil.copytree(store, tmp_path / "store"))
    (own / "boston-housing" / "1" / "trees.npz").write_bytes(b"damaged")
    client = everywhere_client(own, lambda lines: None)

    assert both_ways(client, protocol.path, json.dumps(protocol.write([ROW])).encode(), JSON)[0] == 503


@pytest.mark.parametrize(
    "path",
    [
        *(protocol.path for protocol in PROTOCOLS.values()),
        "/models/boston-housing/predict",
        "/v1/models/boston-housing/versions/1:predict",
        "/v2/models/boston-housing/versions/1/infer",
    ],
)
def test_fast_path_is_used(client: FlaskClient, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every prediction path is answered without Flask."""
    monkeypatch.setattr(Service, "full_dispatch_request", None)
    protocol = next(p for p in PROTOCOLS.values() if p.path.split("/")[1] == path.split("/")[1] or path[:4] == "/mod")

    reply = client.post(path, json=protocol.write([ROW]))

    assert reply.status_code == 200
    assert protocol.read(reply.json) == [25.002145787183498]


def test_path_of_another_protocol(store: Path) -> None:
    """If Vertex AI's path is one of another protocol, the fast path replies as Flask does."""
    for path in ("/predict", "/v1/models/boston-housing:predict", "/models/boston-housing/predict", "/invocations"):
        client = everywhere_client(store, lambda lines: None, aip_predict_route=path)
        for protocol in PROTOCOLS.values():
            both_ways(client, path, json.dumps(protocol.write([ROW])).encode(), JSON)


def together(service: Service, requests: list[tuple[str, str, bytes]]) -> list[tuple[str, list[Any], bytes]]:
    """Return status, headers and body of requests (method, path, JSON) that arrive together."""
    started: list[tuple[str, list[Any]]] = [("", [])] * len(requests)

    def starting(index: int) -> Any:
        def start_response(status: str, headers: list[Any], exc_info: object = None) -> None:
            started[index] = status, headers

        return start_response

    calls = [
        (
            EnvironBuilder(
                path, method=method, data=body, content_type="application/json", headers=[*ID.items()]
            ).get_environ(),
            starting(index),
        )
        for index, (method, path, body) in enumerate(requests)
    ]
    bodies = []
    for answer in service.answer_together(calls):
        assert not isinstance(answer, Exception)
        bodies.append(b"".join(answer))
    return [(status, headers, body) for (status, headers), body in zip(started, bodies)]


REQUESTS = [
    *[
        ("POST", protocol.path, json.dumps(protocol.write([row] * n_rows)).encode())
        for protocol in PROTOCOLS.values()
        for row, n_rows in ((ROW, 1), ([0.5 * cell for cell in ROW], 1), (ROW, 40), ([None, *ROW[1:]], 2))
    ],
    ("POST", "/predict", b"{"),
    ("POST", "/models/nobody/predict", b"{}"),
    ("GET", "/livez", b""),
    ("GET", "/predict", b""),
    ("GET", "/nowhere", b""),
]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=40))
def test_requests_together_and_alone(everywhere: FlaskClient, requests: list[tuple[str, str, bytes]]) -> None:
    """Requests that arrive together, of all protocols, good and bad, get the bytes that they get alone."""
    service = everywhere.application
    assert isinstance(service, Service)

    assert together(service, requests) == [together(service, [request])[0] for request in requests]


def test_requests_together_share_a_run(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine runs once for all requests; if that fails, once for each, so that only the bad ones fail."""
    service = client.application
    assert isinstance(service, Service)
    predict, runs = TreesEngine.predict, []

    def fragile(self: TreesEngine, X: Matrix) -> Any:
        runs.append(len(X))
        if (X[:, 0] == 7).any():
            raise RuntimeError("the inside")
        return predict(self, X)

    monkeypatch.setattr(TreesEngine, "predict", fragile)
    good, bad = [("POST", "/predict", json.dumps({**HOUSE, "CHAS": chas}).encode()) for chas in (0, 7)]
    assert [status for status, *_ in together(service, [good] * 5)] == ["200 OK"] * 5
    assert runs == [5]

    runs.clear()
    assert [status[:3] for status, *_ in together(service, [good, bad, good])] == ["200", "500", "200"]
    assert runs == [3, 1, 1, 1]


def test_overload_of_requests_together(store: Path) -> None:
    """Of requests that arrive together, the first are refused, as many as there are too many in flight."""
    service = create_app(Config(store=store, max_in_flight=2), write_log=lambda pieces: None)
    service.server.in_flight = lambda: 4
    request = ("POST", "/predict", json.dumps(HOUSE).encode())

    assert [status[:3] for status, *_ in together(service, [request] * 4)] == ["503", "503", "200", "200"]
    # Two that are answered already are in flight no more.
    assert [status[:3] for status, *_ in together(service, [("GET", "/livez", b"")] * 2 + [request])] == ["200"] * 3


def test_time_of_a_run_that_fails_counts(
    client: FlaskClient, lines: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of a run that fails counts as time of its request, in the log and in the metrics."""

    def overloaded(self: TreesEngine, X: Matrix) -> None:
        until = time.perf_counter() + 0.05
        while time.perf_counter() < until:
            pass
        raise OverloadedError("busy")

    monkeypatch.setattr(TreesEngine, "predict", overloaded)
    assert client.post("/predict", json=HOUSE).status_code == 503
    found = series(client.get("/metrics").text)

    assert lines[0]["duration_ms"] >= 50
    assert value(found, "tabserve_inference_duration_seconds_sum", **MODEL, outcome="failure") >= 0.05


def test_inexact_model_runs_each_request_alone(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """If other rows in a run may change the last bit of a prediction, requests do not share runs."""
    service = client.application
    assert isinstance(service, Service)
    (model,) = service.serving.loaded.models.values()
    inexact = replace(model, manifest=replace(model.manifest, engine=CONVERTED_ENGINE))
    service.swap(service.serving.loaded.with_model(inexact))
    predict, runs = TreesEngine.predict, []

    def counting(self: TreesEngine, X: Matrix) -> Any:
        runs.append(len(X))
        return predict(self, X)

    monkeypatch.setattr(TreesEngine, "predict", counting)
    together(service, [("POST", "/predict", json.dumps(HOUSE).encode())] * 3)

    assert runs == [1, 1, 1]


def test_requests_together_are_counted_each(
    client: FlaskClient, lines: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request has its own log line, rows and time; they share the engine's time."""
    service = client.application
    assert isinstance(service, Service)
    predictions = [("POST", "/predict", json.dumps([HOUSE] * n_rows).encode()) for n_rows in (1, 3, 2)]
    together(service, [*predictions, ("GET", "/livez", b"")])
    found = series(client.get("/metrics").text)

    assert [line.get("rows") for line in lines[:4]] == [1, 3, 2, None]
    assert all(line["duration_ms"] > 0 for line in lines)
    assert value(found, "tabserve_rows_total", **MODEL) == 6
    engine = value(found, "tabserve_engine_duration_seconds_sum", **MODEL)
    assert 0 < engine < value(found, "tabserve_inference_duration_seconds_sum", **MODEL, outcome="success")


def test_immediate(store: Path) -> None:
    """Short predictions and health checks are immediate at every path; long, compressed or blocking ones are not."""
    service = everywhere_client(store, lambda lines: None).application
    assert isinstance(service, Service)
    probes = ["/livez", "/readyz", "/ping", "/health", "/vertex/health", "/v2/health/live", "/v2/health/ready"]
    probes += ["/v1/models/boston-housing", "/v2/models/boston-housing/ready"]
    immediate = [("GET", path) for path in probes] + [("POST", protocol.path) for protocol in PROTOCOLS.values()]

    for method, path in immediate:
        environ = {"REQUEST_METHOD": method, "PATH_INFO": path}
        assert service.is_immediate(environ)
        assert service.is_immediate({**environ, "CONTENT_LENGTH": "4096"})
        assert not service.is_immediate({**environ, "CONTENT_LENGTH": "4097"})
        assert not service.is_immediate({**environ, "HTTP_CONTENT_ENCODING": "gzip"})
        assert not service.is_immediate({**environ, "REQUEST_METHOD": "PUT"})
    for path in ("/", "/metrics", "/feedback", "/docs/", "/openapi.json", "/v2/models/boston-housing/stats", "/x"):
        for method in ("GET", "POST"):
            assert not service.is_immediate({"REQUEST_METHOD": method, "PATH_INFO": path})


def test_immediate_for_one_method_only(store: Path) -> None:
    """A path that Vertex AI sets is immediate for its own method only, whatever other methods do."""
    client = everywhere_client(store, lambda lines: None, aip_predict_route="/metrics", aip_health_route="/feedback")
    service = client.application
    assert isinstance(service, Service)

    assert service.is_immediate({"REQUEST_METHOD": "POST", "PATH_INFO": "/metrics"})
    assert not service.is_immediate({"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics"})
    assert not service.is_immediate({"REQUEST_METHOD": "POST", "PATH_INFO": "/feedback"})
