"""Probes and pages of a real server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import requests
from flask.testing import FlaskClient

from tests.support.health import BROWSER, curl_line
from tests.support.server import Server, serve
from tests.support.service import HOUSE


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_line(server: Server) -> None:
    """The page's curl line, run by a shell, returns the prediction that the page shows."""
    page = requests.get(f"{server.url}/", headers=BROWSER, timeout=10).text
    promised = re.search("It answers <strong>(.*?)</strong>", page)
    written = subprocess.run(curl_line(page), shell=True, capture_output=True, check=True, timeout=10).stdout

    assert promised
    assert json.loads(written)["prediction"] == [float(promised[1])]


@pytest.mark.parametrize("host", ["a$(touch x)", "a';touch x;'", 'a"><script>', "a`b`"])
def test_page_does_not_trust_the_host(client: FlaskClient, host: str) -> None:
    """A Host header cannot put markup into the page or a command into its curl line."""
    page = client.get("/", headers={**BROWSER, "Host": host}).text

    assert "<script>" not in page
    if "<pre>" in page:
        line = curl_line(page).replace("curl -s", "printf '%s\\n'", 1)
        printed = subprocess.run(line, shell=True, capture_output=True, check=True, timeout=10, text=True).stdout
        assert printed.splitlines()[0].endswith("/predict")
        assert len(printed.splitlines()) == 5


def test_missing_store(tmp_path: Path) -> None:
    """With a store that does not exist the real server is live and not ready."""
    with serve(tmp_path / "none", tmp_path, wait="/livez", WEB_CONCURRENCY="1") as server:
        ready = requests.get(f"{server.url}/readyz", timeout=10)

        assert ready.status_code == 503
        assert str(tmp_path / "none") in ready.json()["reason"]


@pytest.mark.parametrize("path", ["//predict", "/predict/", "//", "/livez/", "//models/boston-housing//predict"])
def test_no_redirects(server: Server, path: str) -> None:
    """No path redirects: a client that posts would lose its body."""
    reply = requests.post(server.url + path, json=HOUSE, timeout=10, allow_redirects=False)

    assert "Location" not in reply.headers
    assert reply.status_code in (200, 404, 405)
