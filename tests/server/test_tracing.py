"""Owns traces by OpenTelemetry: which requests are traced, their spans at a receiver, and that nobody waits for it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from app.config import ConfigError
from app.server import settings
from tests.support.server import Server, serve, wait_until
from tests.support.service import HOUSE, ROOT

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class Receiver(ThreadingHTTPServer):
    """A receiver of OTLP over HTTP: the spans that came, and the attributes of what sent them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        """Return the address that the service sends to."""
        return f"http://127.0.0.1:{self.server_port}"

    def requests(self) -> list[Span]:
        """Return the spans of requests."""
        return [span for span in self.spans if span.kind == Span.SPAN_KIND_SERVER]

    def steps(self, request: Span) -> list[Span]:
        """Return the spans of the steps of a request, in their order."""
        inside = [span for span in self.spans if span.parent_span_id == request.span_id]
        return sorted(inside, key=lambda span: (span.start_time_unix_nano, span.end_time_unix_nano))


class Handler(BaseHTTPRequestHandler):
    """Takes a message of spans."""

    def do_POST(self) -> None:
        assert isinstance(self.server, Receiver)
        message = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/traces"
        for found in message.resource_spans:
            self.server.resources.append(facts(found.resource))
            self.server.spans += [span for scope in found.scope_spans for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        """Print nothing."""


def facts(found: Any) -> dict[str, Any]:
    """Return the attributes of a span or a resource."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in found.attributes}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver that is there."""
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@contextmanager
def traced(store: Path, folder: Path, url: str, **more: str) -> Iterator[Server]:
    """Run a server that sends traces to a URL, soon after they are made, and traces no request by itself."""
    environ = {
        "TABSERVE_OTEL": "true",
        "TABSERVE_OTEL_SHARE": "0",
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "WEB_CONCURRENCY": "2",
    }
    with serve(store, folder, **{**environ, **more}) as server:
        yield server


def predict(server: Server, traceparent: str = "", *, body: Any = HOUSE) -> requests.Response:
    """Send a request on a connection of its own, so that any worker may get it."""
    headers = {"traceparent": traceparent} if traceparent else {}
    return requests.post(f"{server.url}/predict", json=body, headers=headers, timeout=10)


def test_spans_of_a_request(store: Path, tmp_path: Path, receiver: Receiver) -> None:
    """A sampled request has a span with the client's as its parent, and within it one for each step, in their order.

    Its log line has the ids. All workers send.
    """
    with traced(store, tmp_path, receiver.url) as server:
        ids = {predict(server, SAMPLED).headers["X-Request-Id"] for _ in range(20)}
        wait_until(lambda: len(receiver.spans) == 20 * 5)
        lines = [json.loads(line) for line in server.stdout.read_text().splitlines()]
    found = receiver.requests()

    assert {facts(span)["tabserve.request_id"] for span in found} == ids
    for span in found:
        assert (span.name, span.trace_id.hex(), span.parent_span_id.hex()) == ("POST /predict", TRACE, PARENT)
        about = facts(span)
        assert about == {
            "http.request.method": "POST",
            "http.route": "/predict",
            "http.response.status_code": 200,
            "tabserve.request_id": about["tabserve.request_id"],
            "tabserve.model.name": "boston-housing",
            "tabserve.model.version": 1,
            "tabserve.rows": 1,
        }
        steps = receiver.steps(span)
        assert [step.name for step in steps] == ["read", "decode", "engine", "encode"]
        ends = [span.start_time_unix_nano, *(step.end_time_unix_nano for step in steps)]
        assert ends == sorted(ends)
        assert [step.start_time_unix_nano for step in steps] == ends[:-1]
        assert ends[-1] <= span.end_time_unix_nano + 1_000  # each is rounded
    logged = {(line["trace_id"], line["span_id"], line["parent_span_id"]) for line in lines if "span_id" in line}
    assert logged == {(TRACE, span.span_id.hex(), PARENT) for span in found}
    assert {about["service.name"] for about in receiver.resources} == {"tabserve"}


def test_what_is_not_sampled(store: Path, tmp_path: Path, receiver: Receiver) -> None:
    """Requests whose client does not sample, with a share of 0 those without one, and probes are not traced."""
    with traced(store, tmp_path, receiver.url) as server:
        for traceparent in (NOT_SAMPLED, "", "00-0-0-01", f"{SAMPLED}-x"):
            assert predict(server, traceparent).ok
        assert requests.get(f"{server.url}/livez", headers={"traceparent": SAMPLED}, timeout=10).ok
        assert predict(server, SAMPLED).ok
        wait_until(lambda: bool(receiver.requests()))

    assert len(receiver.requests()) == 1


def test_explaining_is_a_step_of_its_own(store: Path, tmp_path: Path, receiver: Receiver) -> None:
    """The first explanation takes longest of all: its span says so."""
    with traced(store, tmp_path, receiver.url) as server:
        url, headers = f"{server.url}/predict?explain=true", {"traceparent": SAMPLED}
        assert requests.post(url, json=HOUSE, headers=headers, timeout=10).ok
        wait_until(lambda: bool(receiver.requests()))
    (span,) = receiver.requests()
    steps = {step.name: step.end_time_unix_nano - step.start_time_unix_nano for step in receiver.steps(span)}

    assert list(steps) == ["read", "decode", "engine", "explain", "encode"]
    assert max(steps, key=steps.__getitem__) == "explain"


def test_requests_without_a_parent(store: Path, tmp_path: Path, receiver: Receiver) -> None:
    """With a share of 1 a request that has no parent begins a trace; refused ones and other routes have theirs, too."""
    settings = {"TABSERVE_OTEL_SHARE": "1", "OTEL_SERVICE_NAME": "prices"}
    with traced(store, tmp_path, receiver.url, **settings) as server:
        assert predict(server, NOT_SAMPLED).ok
        assert predict(server, body=[{}]).status_code == 422
        assert requests.get(f"{server.url}/models", timeout=10).ok
        assert requests.get(f"{server.url}/nothing", timeout=10).status_code == 404
        wait_until(lambda: len(receiver.requests()) == 3)
    named = {span.name: span for span in receiver.requests()}
    refused = receiver.steps(named["POST /predict"])

    assert {"POST /predict", "GET /models", "GET"} <= named.keys()
    assert {span.parent_span_id for span in named.values()} == {b""}
    assert [step.name for step in refused] == ["read", "decode"]
    assert receiver.steps(named["GET /models"]) == []
    assert {about["service.name"] for about in receiver.resources} == {"prices"}


def test_what_waits_is_sent_at_the_end(store: Path, tmp_path: Path, receiver: Receiver) -> None:
    """A server that stops sends the spans that wait."""
    with traced(store, tmp_path, receiver.url, OTEL_BSP_SCHEDULE_DELAY="600000") as server:
        assert predict(server, SAMPLED).ok
        assert receiver.spans == []
        assert server.terminate() == 0

    assert len(receiver.requests()) == 1


@pytest.mark.parametrize("hangs", [False, True], ids=["refused", "hanging"])
def test_collector_that_is_gone(store: Path, tmp_path: Path, hangs: bool) -> None:
    """Requests are answered, and the server stops, while the collector refuses connections or never answers."""
    with closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))
        if hangs:
            silent.listen(64)
        with traced(store, tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}", TABSERVE_OTEL_SHARE="1") as server:
            for _ in range(50):
                assert predict(server).status_code == 200
            assert server.terminate() == 0


def test_exemplars(store: Path, tmp_path: Path, receiver: Receiver) -> None:
    """In OpenMetrics a bucket of durations names the trace of a request in it; the plain text has none."""
    with traced(store, tmp_path, receiver.url, WEB_CONCURRENCY="1") as server:
        assert predict(server, SAMPLED).ok
        metrics = f"{server.url}/metrics"
        text = requests.get(metrics, headers={"Accept": OPENMETRICS}, timeout=10).text
        plain = requests.get(metrics, timeout=10).text
    found = [line for line in text.splitlines() if f'# {{trace_id="{TRACE}"}}' in line]

    assert len(found) == 1
    assert found[0].startswith("http_request_duration_seconds_bucket{")
    assert 'route="/predict"' in found[0]
    assert TRACE not in plain


def test_nothing_is_imported_when_off(store: Path) -> None:
    """Without the setting no module of OpenTelemetry is imported."""
    code = f"""
import sys
from pathlib import Path
from app import create_app
from app.config import Config
create_app(Config(store=Path({str(store)!r}), prediction_log=""))
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_without_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is to send traces, and has not the packages, does not start and says what to install."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter", None)
    for name in [name for name in sys.modules if name.startswith("opentelemetry.exporter.")]:
        monkeypatch.delitem(sys.modules, name)

    with pytest.raises(ConfigError, match=r"pip install -r requirements-otel\.txt"):
        settings.from_environ({"TABSERVE_OTEL": "true", "TABSERVE_PREDICTION_LOG": ""})
