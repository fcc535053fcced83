"""What a real server writes about its requests, and the pages of other origins."""

from __future__ import annotations

import http.client
import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.server import Server, serve
from tests.support.service import HOUSE

ORIGIN = "https://app.example.org"
ASK = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}

# Numbers and words that only these tests' requests contain.
SECRETS = ("7.31905577", "431.90557", "marmalade", "quince")
SECRET_HOUSE = {**HOUSE, "RM": 7.31905577, "TAX": 431.90557}


def logged(server: Server) -> list[dict[str, Any]]:
    """Return all lines that the server wrote; fails for a line that is not a JSON object."""
    time.sleep(0.8)  # lines are written up to 0.2 s after the reply
    text = server.stdout.read_text() + server.stderr.read_text()
    lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    assert all(isinstance(line, dict) for line in lines)
    return lines


@pytest.fixture
def own_server(store: Path, tmp_path: Path) -> Any:
    """A server with one worker that no other test uses."""
    with serve(store, tmp_path, WEB_CONCURRENCY="1") as running:
        yield running


def send(server: Server, body: bytes, **headers: str) -> None:
    """Send bytes after the head of a prediction request, however it frames them, and read all replies."""
    with closing(http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)) as connection:
        connection.putrequest("POST", "/predict")
        for name, value in {"Content-Type": "application/json", **headers}.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(body)
        connection.sock.shutdown(1)
        while connection.sock.recv(65536):
            pass


def test_no_payload_in_any_log(own_server: Server) -> None:
    """No value and no text of a request's body is ever logged, whether it is answered, refused or malformed."""
    url = f"{own_server.url}/predict"
    good = json.dumps(SECRET_HOUSE).encode()
    bad = json.dumps({**SECRET_HOUSE, "B": "marmalade", "quince": 1}).encode()
    csv = b"CHAS,RM,TAX,PTRATIO,B,quince\n0,7.31905577,431.90557,15.3,marmalade,1\n"
    for body, kind in [(good, "json"), (bad, "json"), (good[:-1], "json"), (b"marmalade" + good, "json")]:
        requests.post(url, data=body, headers={"Content-Type": f"application/{kind}"}, timeout=10)
    requests.post(url, data=csv, headers={"Content-Type": "text/csv"}, timeout=10)
    requests.post(url, data=b'"quince\xff', headers={"Content-Type": "text/csv"}, timeout=10)
    requests.post(url, data=good, headers={"Content-Type": "marmalade/quince"}, timeout=10)
    requests.get(f"{own_server.url}/marmalade?TAX=431.90557", timeout=10)

    lines = logged(own_server)
    assert len([line for line in lines if line.get("status")]) >= 8
    assert [line for line in lines if any(secret in json.dumps(line) for secret in SECRETS)] == []


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Length": "1000"}, json.dumps(SECRET_HOUSE).encode()),
        ({"Transfer-Encoding": "chunked"}, b"marmalade\r\n" + json.dumps(SECRET_HOUSE).encode()),
        ({"Transfer-Encoding": "chunked"}, b"3\r\n[0]7.31905577\r\n0\r\n\r\n"),
        ({"Content-Length": "2"}, b"[]" + json.dumps(SECRET_HOUSE, separators=(",", ":")).encode() + b"\r\n\r\n"),
        ({"Content-Length": "2"}, b"[]MARMALADE 7.31905577 HTTP/1.1\r\n431.90557: 1\r\n\r\n"),
    ],
    ids=["cut off", "no size of a chunk", "another size of a chunk", "more than its length", "a second request"],
)
def test_no_payload_of_a_broken_request(own_server: Server, headers: dict[str, str], body: bytes) -> None:
    """Bytes of a body with wrong framing are not logged either, if the server takes them for a request."""
    send(own_server, body, **headers)

    lines = logged(own_server)
    assert [line for line in lines if any(secret in json.dumps(line).lower() for secret in SECRETS)] == []


def test_one_line_a_request(own_server: Server) -> None:
    """The real server writes a JSON line for each request to standard output, and only JSON lines anywhere."""
    ids = [f"mine-{number}" for number in range(30)]
    for own in ids:
        requests.post(f"{own_server.url}/predict", json=HOUSE, headers={"X-Request-Id": own}, timeout=10)
    logged(own_server)

    lines = [json.loads(line) for line in own_server.stdout.read_text().splitlines()]
    assert [line["request_id"] for line in lines if line["route"] == "/predict"] == ids
    assert all({"time", "request_id", "method", "route", "status", "duration_ms"} <= line.keys() for line in lines)


def test_request_log_can_be_turned_off(store: Path, tmp_path: Path) -> None:
    """TABSERVE_LOG_REQUESTS=false turns off the request log; the server's own log stays JSON."""
    with serve(store, tmp_path, WEB_CONCURRENCY="1", TABSERVE_LOG_REQUESTS="false") as server:
        assert requests.post(f"{server.url}/predict", json=HOUSE, timeout=10).status_code == 200
        assert server.terminate() == 0

    assert server.stdout.read_bytes() == b""
    assert {"level", "logger", "message", "time"} <= logged(server)[0].keys()


def test_cors_in_gunicorn(store: Path, tmp_path: Path) -> None:
    """The server's event loop sends the same CORS headers as its threads."""
    with serve(
        store, tmp_path, WEB_CONCURRENCY="1", TABSERVE_CORS_ORIGINS=f"http://localhost:3000, {ORIGIN}"
    ) as server:
        url = f"{server.url}/predict"
        before = requests.options(url, headers={"Origin": ORIGIN, **ASK}, timeout=10)
        reply = requests.post(url, json=HOUSE, headers={"Origin": ORIGIN}, timeout=10)
        other = requests.post(url, json=HOUSE, headers={"Origin": "https://other.example.org"}, timeout=10)

    found = [answer.headers.get("Access-Control-Allow-Origin") for answer in (before, reply, other)]
    assert found == [ORIGIN, ORIGIN, None]
