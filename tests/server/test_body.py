"""Request bodies through a real server: what they may cost, and where they are cut."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil
import pytest
import requests
from flask.testing import FlaskClient

from tests.support.body import answer, bomb, every_coding, every_protocol, plain_body, post
from tests.support.server import Server, serve, wait_until
from tests.support.service import ANSWER, PROTOCOLS, refused


def blanks(length: int) -> bytes:
    """Return white space that compresses to a hundredth at best."""
    return random.Random(0).randbytes(length).translate(b" \t\r\n" * 64)


@every_protocol
@every_coding
def test_bomb(everywhere: FlaskClient, protocol: str, coding: str) -> None:
    """A compressed body that decompresses to too many bytes is 413, and the message tells so."""
    compress: Callable[[bytes, int], bytes] = gzip.compress if coding == "gzip" else zlib.compress
    message = refused(post(everywhere, protocol, compress(blanks(9 * 2**20), 1), coding), 413, protocol)

    assert message == "the decompressed body is longer than 8388608 bytes"


@pytest.fixture(scope="module")
def server(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A gunicorn with two workers and Vertex AI's path."""
    settings = {"WEB_CONCURRENCY": "2", "AIP_PREDICT_ROUTE": PROTOCOLS["Vertex AI"].path}
    with serve(store, tmp_path_factory.mktemp("server"), **settings) as running:
        yield running


def post_to(server: Server, protocol: str, body: Any, **headers: str) -> requests.Response:
    """Send a body to a running server, on a connection of its own."""
    named = {"Content-Type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
    return requests.post(server.url + PROTOCOLS[protocol].path, data=body, headers=named, timeout=30)


@contextmanager
def peak_memory(server: Server) -> Iterator[dict[int, int]]:
    """Yield the peak memory of each worker in bytes while the block ran, complete after it."""
    workers = [psutil.Process(pid) for pid in server.workers()]
    peaks = {worker.pid: worker.memory_info().rss for worker in workers}
    over = Event()

    def watch() -> None:
        while not over.wait(0.002):
            for worker in workers:
                peaks[worker.pid] = max(peaks[worker.pid], worker.memory_info().rss)

    watcher = Thread(target=watch)
    watcher.start()
    try:
        yield peaks
    finally:
        over.set()
        watcher.join()


def test_memory_is_given_back(server: Server) -> None:
    """The memory of large requests is returned to the system some seconds later, without another request."""
    long = json.dumps({"RM": ["a" * 1000] * 7000}).encode()
    wait_until(lambda: len(server.workers()) == 2)
    workers = [psutil.Process(pid) for pid in server.workers()]
    for protocol in [*PROTOCOLS] * 4:
        post_to(server, protocol, plain_body(protocol))  # the first request's memory stays
    before = sum(worker.memory_info().rss for worker in workers)
    with peak_memory(server) as peaks, ThreadPoolExecutor(8) as pool:
        assert {reply.status_code for reply in pool.map(lambda _: post_to(server, "native", long), range(24))} == {422}

    assert sum(peaks.values()) - before > 30 * 2**20
    wait_until(lambda: sum(worker.memory_info().rss for worker in workers) - before < 10 * 2**20)


@every_coding
def test_bombs_take_no_memory(server: Server, coding: str) -> None:
    """Several bombs of 2 GiB at once are 413 in every protocol; memory stays flat and good rows are answered."""
    body = bomb(coding, 2048)
    for protocol in PROTOCOLS:
        post_to(server, protocol, plain_body(protocol))  # the first request takes memory of its own
    wait_until(lambda: len(server.workers()) == 2)
    before = {pid: psutil.Process(pid).memory_info().rss for pid in server.workers()}
    with peak_memory(server) as peaks, ThreadPoolExecutor(4) as pool:
        sent = [
            (protocol, pool.submit(post_to, server, protocol, body, Content_Encoding=coding))
            for protocol in [*PROTOCOLS] * 3
        ]
        for protocol, reply in sent:
            refused(reply.result(), 413, protocol)
        for protocol in PROTOCOLS:
            assert answer(post_to(server, protocol, plain_body(protocol)), protocol) == [ANSWER]

    assert len(body) < 5 * 2**20
    assert peaks.keys() == before.keys() == set(server.workers())
    # Four threads, each with the body and decompressed bytes up to the limit, twice while a buffer grows.
    assert max(peaks[pid] - before[pid] for pid in before) < 4 * 24 * 2**20
    wait_until(lambda: max(psutil.Process(pid).memory_info().rss - before[pid] for pid in before) < 32 * 2**20)


@every_protocol
@pytest.mark.parametrize("coding", [None, "gzip"])
def test_limit_in_chunks(server: Server, protocol: str, coding: str | None) -> None:
    """A chunked body, which has no Content-Length, has the same limit to the byte."""
    whole = plain_body(protocol)
    whole += blanks(8 * 2**20 - len(whole))
    headers = {} if coding is None else {"Content_Encoding": coding}

    def chunks(body: bytes) -> Iterator[bytes]:
        sent = body if coding is None else gzip.compress(body, 1)
        yield from (sent[start : start + 2**18] for start in range(0, len(sent), 2**18))

    assert answer(post_to(server, protocol, chunks(whole), **headers), protocol) == [ANSWER]
    refused(post_to(server, protocol, chunks(whole + b" "), **headers), 413, protocol)
