"""Owns the question to Prometheus, which alerts of a model fire, against a server that answers as Prometheus does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from model import ModelError
from model.live import alerts


def alert(name: str, state: str = "firing", **labels: str) -> dict[str, Any]:
    return {"labels": {"alertname": name, "model": "m", **labels}, "state": state}


@contextmanager
def prometheus(body: object, *, status: int = 200) -> Iterator[str]:
    """Answer one path with a body; yield the URL to which the path is added."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status if self.path == "/api/v1/alerts" else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            """Print nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], []),
        ([alert("TabserveFeatureDrift", feature="x"), alert("TabserveFeatureDrift", feature="y")], [alerts.ALERTS[0]]),
        ([alert("TabserveFeatureDrift", "pending")], []),
        ([alert("TabserveFeatureDrift", model="other")], []),
        ([alert("TabserveLiveErrorHigh", version="2")], [alerts.ALERTS[1]]),
        ([alert("TabserveLiveErrorHigh", version="1")], []),
        ([alert("TabserveDown"), {"labels": {"alertname": "Watchdog"}, "state": "firing"}], []),
    ],
)
def test_what_fires(found: list[Any], expected: list[str]) -> None:
    """An alert counts if it fires for the model, and for this version or for every one."""
    with prometheus({"status": "success", "data": {"alerts": found}}) as url:
        assert alerts.firing(url, "m", 2) == expected
        assert alerts.firing(f"{url}/", "m", 2) == expected


def test_other_alerts_by_name() -> None:
    """The alerts that count may be named."""
    with prometheus({"data": {"alerts": [alert("TabserveFeatureDrift"), alert("TabserveMissingValues")]}}) as url:
        assert alerts.firing(url, "m", 1, ["TabserveMissingValues"]) == ["TabserveMissingValues"]


@pytest.mark.parametrize("body", [b"<html>", [], {"data": {}}, {"data": {"alerts": [1]}}, {"data": {"alerts": [{}]}}])
def test_what_is_no_prometheus(body: object) -> None:
    """An answer of another form is an error that names the address."""
    with prometheus(body) as url, pytest.raises(ModelError, match="/api/v1/alerts is no list of alerts"):
        alerts.firing(url, "m", 1)


def test_a_prometheus_that_is_gone() -> None:
    """A Prometheus that cannot be asked is an error, and not the answer that nothing fires."""
    with prometheus({}) as url:
        pass
    with pytest.raises(ModelError, match="Prometheus cannot be asked"):
        alerts.firing(url, "m", 1)
    with prometheus({}, status=503) as url, pytest.raises(ModelError, match="503"):
        alerts.firing(url, "m", 1)
    with pytest.raises(ModelError, match="the URL does not begin with http"):
        alerts.firing("prometheus:9090", "m", 1)
