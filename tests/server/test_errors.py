"""Refusals of a real server."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import requests

from tests.support.errors import CSV, HEADER, JSON, LINE, UNREADABLE, refusal
from tests.support.server import Server, serve
from tests.support.service import HOUSE


def test_server_outlives_hostile_bodies(server: Server) -> None:
    """After every unreadable body the real server answers a good request on the same connection."""
    with requests.Session() as session:
        for content_type, body in UNREADABLE:
            headers = {"Content-Type": content_type}
            refusal(session.post(f"{server.url}/predict", data=body, headers=headers, timeout=10), 400)
            assert session.post(f"{server.url}/predict", json=HOUSE, timeout=10).status_code == 200


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "in chunks"])
def test_too_many_bytes_for_gunicorn(server: Server, chunked: bool) -> None:
    """A body of more than 8 MiB is 413 from the real server, with or without a Content-Length."""
    piece = b" " * 2**16

    def pieces() -> Iterator[bytes]:
        for _ in range(129):
            yield piece

    body = pieces() if chunked else piece * 129
    reply = requests.post(f"{server.url}/predict", data=body, headers={"Content-Type": JSON}, timeout=10)

    assert refusal(reply, 413) == []


def unfinished(server: Server, headers: dict[str, str], sent: bytes) -> tuple[int, bytes] | None:
    """Send an incomplete or malformed body; return the status and the reply, or None if the connection was closed."""
    with closing(http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)) as connection:
        connection.putrequest("POST", "/predict")
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders(sent)
        connection.sock.shutdown(socket.SHUT_WR)  # no more is coming; the reply is still read
        try:
            reply = connection.getresponse()
            return reply.status, reply.read()
        except (http.client.HTTPException, ConnectionError):
            return None


@pytest.mark.parametrize(
    ("headers", "sent"),
    [
        ({"Content-Type": JSON, "Transfer-Encoding": "chunked"}, b"no size\r\n" + json.dumps(HOUSE).encode()),
        ({"Content-Type": JSON, "Transfer-Encoding": "chunked"}, b"5\r\n{}XX\r\n0\r\n\r\n"),
        ({"Content-Type": JSON, "Transfer-Encoding": "chunked"}, b"2\r\n{}"),
        ({"Content-Type": JSON, "Content-Length": "1000"}, json.dumps(HOUSE).encode()),
        ({"Content-Type": CSV, "Content-Length": "1000"}, f"{HEADER}\n{LINE}\n".encode()),
    ],
    ids=["chunk without a size", "chunk of another size", "no last chunk", "JSON cut off", "CSV cut off"],
)
def test_incomplete_body(server: Server, headers: dict[str, str], sent: bytes) -> None:
    """An incomplete body gets 400 or a closed connection, no part of it is answered, and the server lives."""
    answer = unfinished(server, headers, sent)

    assert answer is None or answer[0] == 400, answer
    assert requests.post(f"{server.url}/predict", json=HOUSE, timeout=10).status_code == 200


def test_overloaded_server(store: Path, tmp_path: Path) -> None:
    """Predictions beyond a worker's limit in flight are 503, and later ones are answered again."""
    with (
        serve(store, tmp_path, WEB_CONCURRENCY="1", TABSERVE_MAX_IN_FLIGHT="5") as server,
        ThreadPoolExecutor(20) as pool,
    ):

        def post(session: requests.Session) -> requests.Response:
            return session.post(f"{server.url}/predict", json=HOUSE, timeout=20)

        sessions = [requests.Session() for _ in range(20)]
        assert [post(session).status_code for session in sessions] == [200] * 20
        (worker,) = server.workers()
        os.kill(worker, signal.SIGSTOP)
        waiting = [pool.submit(post, session) for session in sessions]
        time.sleep(0.5)  # all have been sent
        os.kill(worker, signal.SIGCONT)
        replies = [future.result() for future in waiting]

        assert {reply.status_code for reply in replies} == {200, 503}
        for reply in replies:
            if reply.status_code == 503:
                assert refusal(reply, 503) == []
                assert reply.headers["Retry-After"] == "1"
        assert [post(session).status_code for session in sessions] == [200] * 20
