"""The OpenAPI document and its pages on a real server and behind a proxy."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
import requests

from tests.support import openapi as shared
from tests.support.server import NGINX, Server, serve, wait_until
from tests.support.service import HOUSE

both = shared.both


def is_open(port: int) -> bool:
    """Return whether something listens on a port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def linked(page: str) -> list[str]:
    """Return the URLs that a page of a server links to and loads, and those that its style sheets load."""
    html = requests.get(page, headers={"Accept": "text/html"}, timeout=10).text
    named = [urljoin(page, url) for url in re.findall(r"(?:src|href)\s*=\s*[\"'](?!data:)([^\"']+)", html)]
    return named + [
        urljoin(sheet, url)
        for sheet in named
        if sheet.endswith(".css")
        for url in re.findall(r"url\(\s*[\"']?(?!data:)([^)\"']+)", requests.get(sheet, timeout=10).text)
    ]


def statuses(urls: list[str]) -> dict[str, int]:
    """Return the status of each URL."""
    return {url: requests.get(url, timeout=10).status_code for url in urls}


@pytest.mark.parametrize("path", ["/docs", "/docs/"])
def test_page_is_complete(server: Server, path: str) -> None:
    """The page and everything that it loads come from this server and exist."""
    page = requests.get(server.url + path, timeout=10)
    linked_urls = linked(page.url)

    assert (page.status_code, page.url) == (200, f"{server.url}/docs/")
    assert {"css", "png", "js"} <= {url.rpartition(".")[2] for url in linked_urls}
    assert {urlsplit(url).netloc for url in linked_urls} == {urlsplit(server.url).netloc}
    assert statuses(linked_urls) == dict.fromkeys(linked_urls, 200)


@pytest.fixture(scope="module")
def prefixed(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """A server, and its URL behind an nginx that removes /tabserve."""
    if not shutil.which("nginx"):
        pytest.skip("needs nginx (Debian: apt-get install nginx)")
    folder = tmp_path_factory.mktemp("prefixed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with serve(store, folder, WEB_CONCURRENCY="1") as server:
        user, service = "" if os.getuid() else "user root;", server.url.removeprefix("http://")
        text = NGINX.format(user=user, folder=folder, service=service, port=port)
        text = text.replace("location / {", "location /tabserve/ {").replace(
            "proxy_pass http://service;",
            "proxy_pass http://service/; proxy_set_header Host $http_host;"
            "proxy_set_header X-Forwarded-Prefix /tabserve;",
        )
        (folder / "nginx.conf").write_text(text)
        nginx = subprocess.Popen(["nginx", "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")])
        try:
            wait_until(partial(is_open, port))
            yield server, f"http://127.0.0.1:{port}/tabserve"
        finally:
            nginx.terminate()
            nginx.wait()


def test_pages_behind_a_prefix(prefixed: tuple[Server, str]) -> None:
    """Behind a proxy that removes a prefix, every link of both pages works."""
    server, url = prefixed
    linked_urls = {urlsplit(link).path for page in (f"{url}/", f"{url}/docs/") for link in linked(page)}

    assert {"/tabserve/docs/", "/tabserve/metrics", "/tabserve/docs/swagger-ui-bundle.js"} <= linked_urls
    links = [urljoin(url, path) for path in linked_urls]
    assert statuses(links) == dict.fromkeys(links, 200)
    assert requests.get(f"{url}/docs", timeout=10).url == f"{url}/docs/"
    assert statuses([f"{server.url}/livez", f"{server.url}/readyz"]) == {
        f"{server.url}/livez": 200,
        f"{server.url}/readyz": 200,
    }


def test_document_behind_a_prefix(prefixed: tuple[Server, str]) -> None:
    """The document has the paths, with and without a prefix."""
    server, url = prefixed
    document = f"{url}/openapi.json"
    servers = requests.get(document, timeout=10).json()["servers"]

    assert servers == [{"url": "/tabserve"}]
    predict = urljoin(document, servers[0]["url"]) + "/predict"
    assert requests.post(predict, json=HOUSE, timeout=10).status_code == 200
    assert requests.get(f"{server.url}/openapi.json", timeout=10).json()["servers"] == [{"url": "/"}]


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("/a", "/a"),
        ("/a/", "/a"),
        ("/a/b.c-d", "/a/b.c-d"),
        ("/client, /proxy", "/proxy"),  # each proxy appends its own
        *(
            (wrong, "/")
            for wrong in ("", "/", "a", "//evil.example", "/a//b", "http://evil.example", "/<b>", '/"', "/a b")
        ),
    ],
)
def test_prefix_of_a_trusted_proxy(server: Server, prefix: str, expected: str) -> None:
    """Only a path is a valid prefix: nothing else gets into the document, even through a trusted proxy."""
    headers = {"X-Forwarded-Prefix": prefix}
    document = requests.get(f"{server.url}/openapi.json", headers=headers, timeout=10).json()

    assert document["servers"] == [{"url": expected}]


def test_prefix_of_an_untrusted_client(store: Path, tmp_path: Path) -> None:
    """A client that is not a trusted proxy cannot change the URLs, which a cache might show to others."""
    headers = {"X-Forwarded-Prefix": "/a"}
    with serve(store, tmp_path, WEB_CONCURRENCY="1", FORWARDED_ALLOW_IPS="192.0.2.1") as server:
        document = requests.get(f"{server.url}/openapi.json", headers=headers, timeout=10).json()

    assert document["servers"] == [{"url": "/"}]
