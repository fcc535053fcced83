"""Owns what happens to every exchange: its request id, its log line, what no log ever contains, and CORS."""

from __future__ import annotations

import json
import os
import re
import select
import socket
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.factory import Service
from app.telemetry.log_lines import in_pieces, write
from model import Matrix
from tests.support.service import HOUSE, PROTOCOLS, everywhere_client

ORIGIN = "https://app.example.org"
ASK = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}

OWN_ID = re.compile("[0-9a-f]{32}")


@pytest.mark.parametrize("caller", ["a", "x" * 128, "0af7651916cd43dd8448eb211c80319c", "{!~\"';}"])
def test_id_of_the_client(client: FlaskClient, log_lines: list[dict[str, Any]], caller: str) -> None:
    """A client's id of 1 to 128 visible ASCII characters is kept in header, body and log."""
    reply = client.post("/predict", json=HOUSE, headers={"X-Request-Id": caller})

    assert reply.headers.getlist("X-Request-Id") == [caller]
    assert reply.get_json()["request_id"] == caller
    assert [line["request_id"] for line in log_lines] == [caller]


@pytest.mark.parametrize("caller", ["", "x" * 129, "a b", "a\tb", "a\x7fb", "é", "a\xa0"], ids=ascii)
def test_id_that_is_not_kept(client: FlaskClient, log_lines: list[dict[str, Any]], caller: str) -> None:
    """Any other id is replaced by a generated one, the same in header, body and log."""
    reply = client.post("/predict", json=HOUSE, environ_overrides={"HTTP_X_REQUEST_ID": caller})
    own = reply.headers["X-Request-Id"]

    assert OWN_ID.fullmatch(own)
    assert reply.get_json()["request_id"] == own
    assert [line["request_id"] for line in log_lines] == [own]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(caller=st.text(st.characters(max_codepoint=255), max_size=140))
def test_any_id(client: FlaskClient, caller: str) -> None:
    """For any id of a client, line breaks included, the reply has that id or a generated one."""
    reply = client.get("/livez", environ_overrides={"HTTP_X_REQUEST_ID": caller})
    acceptable = 1 <= len(caller) <= 128 and all("!" <= character <= "~" for character in caller)

    assert (reply.headers["X-Request-Id"] == caller) is acceptable
    assert acceptable or OWN_ID.fullmatch(reply.headers["X-Request-Id"])


def test_generated_ids_differ(client: FlaskClient) -> None:
    """Every request without an id gets a different one."""
    ids = {client.get("/livez").headers["X-Request-Id"] for _ in range(100)}

    assert len(ids) == 100


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/metrics", 200),
        ("GET", "/no", 404),
        ("PUT", "/predict", 405),
        ("POST", "/predict", 415),
    ],
)
def test_every_reply_has_an_id(client: FlaskClient, method: str, path: str, status: int) -> None:
    """Error replies have the id, too."""
    reply = client.open(path, method=method, headers={"X-Request-Id": "mine"})

    assert (reply.status_code, reply.headers["X-Request-Id"]) == (status, "mine")


def test_line_of_a_prediction(client: FlaskClient, log_lines: list[dict[str, Any]]) -> None:
    """A prediction is one line: time, id, method, route, status, duration, version and number of rows."""
    started = datetime.now(UTC)
    client.post("/predict", json=[HOUSE] * 3, headers={"X-Request-Id": "mine"})
    took = (datetime.now(UTC) - started).total_seconds() * 1000

    assert len(log_lines) == 1
    line = log_lines[0]
    assert abs(datetime.fromisoformat(line.pop("time")) - started).total_seconds() < took / 1000 + 0.001
    assert 0 < line.pop("duration_ms") <= took
    assert line == {
        "request_id": "mine",
        "method": "POST",
        "route": "/predict",
        "status": 200,
        "model": "boston-housing",
        "version": 1,
        "rows": 3,
    }


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", "/models", "/models", 200),
        ("GET", "/nothing/marmalade?quince=1", "unmatched", 404),
        ("POST", "/models/marmalade/predict", "/models/<name>/predict", 404),
        ("MARMALADE-AND-MUCH-MORE-OF-IT", "/", "unmatched", 405),
    ],
)
def test_line_of_any_request(
    client: FlaskClient, log_lines: list[dict[str, Any]], method: str, path: str, route: str, status: int
) -> None:
    """Every request is one line with the route's pattern, never with the path or a long made-up method."""
    client.open(path, method=method)

    assert [(line["method"], line["route"], line["status"]) for line in log_lines] == [(method[:16], route, status)]
    assert "model" not in log_lines[0]


PROBES = [
    "/livez",
    "/readyz",
    "/ping",
    "/health",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/boston-housing/ready",
    "/v2/models/boston-housing/versions/1/ready",
    "/v1/models/boston-housing",
    "/vertex/health",
]


@pytest.mark.parametrize("path", PROBES)
def test_successful_probe_is_not_logged(store: Path, log_lines: list[dict[str, Any]], path: str) -> None:
    """A health check with 200 is not logged: Kubernetes alone sends 52,000 a day. One that fails is logged."""
    client = everywhere_client(store, log_lines.extend)
    assert client.get(path).status_code == 200
    assert log_lines == []

    cast(Service, client.application).serving.draining = True
    failed = client.get(path).status_code
    assert (failed == 200) == path.endswith(("/livez", "/live"))
    assert client.post(path).status_code == 405
    expected = [failed] * (failed != 200) + [405]
    assert [line["status"] for line in log_lines] == expected


def test_probes_are_counted(client: FlaskClient) -> None:
    """Requests that are not logged are still counted."""
    for _ in range(3):
        client.get("/livez")

    assert 'http_requests_total{method="GET",route="/livez",status="200"} 3.0' in client.get("/metrics").text


def test_prediction_at_the_path_of_a_probe(store: Path, log_lines: list[dict[str, Any]]) -> None:
    """If Vertex AI sets one path for both, a prediction is logged and a successful health check is not."""
    one = "/both"
    client = everywhere_client(store, log_lines.extend, aip_health_route=one, aip_predict_route=one)
    assert client.get("/both").status_code == 200
    assert client.post("/both", json={"instances": [list(HOUSE.values())]}).status_code == 200

    assert [(line["method"], line["status"]) for line in log_lines] == [("POST", 200)]


TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    "traceparent", [f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00", f"cc-{TRACE}-{SPAN}-01-more"]
)
def test_trace_of_the_client(client: FlaskClient, log_lines: list[dict[str, Any]], traceparent: str) -> None:
    """A W3C traceparent, also of a later version, adds its trace and span ids to the log line."""
    client.post("/predict", json=HOUSE, headers={"traceparent": traceparent})

    assert [(line["trace_id"], line["parent_span_id"]) for line in log_lines] == [(TRACE, SPAN)]


def test_trace_of_a_failed_request(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    """The log line of a defect has the ids of the request and of the client's trace."""

    class Broken:
        def predict(self, X: Matrix) -> Any:
            raise ZeroDivisionError

    service = cast(Service, client.application)
    loaded = service.serving.loaded
    service.swap(loaded.with_model(replace(loaded.get(None), engine=cast(Any, Broken()))))
    reply = client.post("/predict", json=HOUSE, headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})
    (record,) = caplog.records

    assert reply.status_code == 500
    expected = {"request_id": reply.headers["X-Request-Id"], "trace_id": TRACE, "parent_span_id": SPAN}
    assert getattr(record, "fields", None) == expected


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00_{TRACE}_{SPAN}_01",
    ],
    ids=ascii,
)
def test_invalid_trace(client: FlaskClient, log_lines: list[dict[str, Any]], traceparent: str) -> None:
    """An invalid traceparent adds nothing to the log line."""
    client.post("/predict", json=HOUSE, environ_overrides={"HTTP_TRACEPARENT": traceparent})

    assert [line["status"] for line in log_lines] == [200]
    assert not [line for line in log_lines if "trace_id" in line or "parent_span_id" in line]


def test_lines_of_workers_do_not_mix() -> None:
    """Lines are written in pieces that a pipe takes at once (PIPE_BUF); only a longer line exceeds that."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # keeps pieces apart
    stdout = os.dup(1)
    os.dup2(theirs.fileno(), 1)
    try:
        write(
            in_pieces(
                json.dumps({"n": n, "x": "y" * n}, separators=(",", ":")).encode() + b"\n"
                for n in [*range(100), 5000, 1]
            )
        )
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        theirs.close()
    with ours:
        pieces = list(iter(lambda: ours.recv(10_000), b""))

    assert [json.loads(line)["n"] for line in b"".join(pieces).splitlines()] == [*range(100), 5000, 1]
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert [len(piece) for piece in pieces if len(piece) > select.PIPE_BUF] == [5018]
    assert len(pieces) < 10


@pytest.fixture(scope="module")
def allowed(store: Path) -> FlaskClient:
    """A client of a service that allows the pages of two origins."""
    origins = (ORIGIN, "http://localhost:3000")
    return everywhere_client(store, lambda lines: None, cors_origins=origins, prediction_log="")


def cors_headers(reply: Any) -> dict[str, str]:
    """Return the CORS headers of a reply."""
    return {name: value for name, value in reply.headers if name.startswith("Access-Control-")}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_page_of_an_allowed_origin(allowed: FlaskClient, protocol: str) -> None:
    """A page of an allowed origin may request predictions in every protocol: by the preflight and by the reply."""
    path, rows = PROTOCOLS[protocol].path, PROTOCOLS[protocol].write([list(HOUSE.values())])
    before = allowed.options(path, headers={"Origin": ORIGIN, **ASK})
    good = allowed.post(path, json=rows, headers={"Origin": ORIGIN})
    wrong = allowed.post(path, data="{", content_type="application/json", headers={"Origin": ORIGIN})

    assert (before.status_code, good.status_code, wrong.status_code) == (200, 200, 400)
    assert [reply.headers["Access-Control-Allow-Origin"] for reply in (before, good, wrong)] == [ORIGIN] * 3
    assert before.headers["Access-Control-Allow-Methods"] == "POST"
    assert before.headers["Access-Control-Max-Age"] == "600"
    assert "Content-Type" in before.headers["Access-Control-Allow-Headers"]
    assert "X-Request-Id" in good.headers["Access-Control-Expose-Headers"]
    assert all("Origin" in reply.headers.getlist("Vary") for reply in (before, good, wrong))


def test_page_that_sends_feedback(allowed: FlaskClient) -> None:
    """Pages of an allowed origin may send feedback, too, also if it is refused."""
    before = allowed.options("/feedback", headers={"Origin": ORIGIN, **ASK})
    sent = allowed.post("/feedback", json={"request_id": "a", "row": 0, "truth": 24.0}, headers={"Origin": ORIGIN})

    assert (before.status_code, sent.status_code) == (200, 404)
    assert [reply.headers["Access-Control-Allow-Origin"] for reply in (before, sent)] == [ORIGIN] * 2


@pytest.mark.parametrize("origin", ["https://other.example.org", f"{ORIGIN}.evil.org", ORIGIN + "/", "null", "*", None])
def test_page_of_another_origin(allowed: FlaskClient, origin: str | None) -> None:
    """Any other origin, or none, gets no permission; Vary tells caches that the reply depends on it."""
    headers = {"Origin": origin} if origin else {}
    for reply in (allowed.post("/predict", json=HOUSE, headers=headers), allowed.options("/predict", headers=headers)):
        assert (reply.status_code, cors_headers(reply)) == (200, {})
        assert "Origin" in reply.headers.getlist("Vary")


@pytest.mark.parametrize(
    "path", ["/metrics", "/models", "/", "/openapi.json", "/v2/models/boston-housing/stats", "/no"]
)
def test_pages_may_request_nothing_else(allowed: FlaskClient, path: str) -> None:
    """Pages of other origins may use predictions and feedback only."""
    simple, preflight = {"Origin": ORIGIN}, {"Origin": ORIGIN, **ASK}
    for reply in (allowed.get(path, headers=simple), allowed.options(path, headers=preflight)):
        assert cors_headers(reply) == {}
        assert "Origin" not in reply.headers.getlist("Vary")


def test_no_origin_is_allowed(client: FlaskClient) -> None:
    """Without allowed origins no reply has CORS headers."""
    for reply in (
        client.post("/predict", json=HOUSE, headers={"Origin": ORIGIN}),
        client.options("/predict", headers={"Origin": ORIGIN, **ASK}),
    ):
        assert cors_headers(reply) == {}
        assert "Vary" not in reply.headers
