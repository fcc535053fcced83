"""MLflow's scoring protocol through a real server."""

from __future__ import annotations

import requests

from tests.support.mlflow import ATTRIBUTES, CSV, LINE
from tests.support.server import Server
from tests.support.service import ANSWER


def test_real_server(server: Server) -> None:
    """Through gunicorn the routes reply the same, with the attributes."""
    headers = {"Content-Type": CSV, "Accept": CSV, ATTRIBUTES: "trace=1"}
    reply = requests.post(f"{server.url}/invocations", data=f"{LINE}\n{LINE}", headers=headers, timeout=10)

    assert (reply.text, reply.headers[ATTRIBUTES]) == (f"{ANSWER!r}\n{ANSWER!r}\n", "trace=1")
    assert requests.get(f"{server.url}/ping", timeout=10).content == b"\n"
