"""Load for a server: from wrk, and from slow clients. Knows nothing about the contenders."""

from __future__ import annotations

import http.client
import itertools
import json
import random
import selectors
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("load.lua")
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Load:
    """The result of a step: successful replies per second, and latencies in milliseconds, None without replies.

    `refused` counts replies with a status from 400 on, `broken` failed connections. `starved` counts connections that
    waited for a reply in vain, which the latencies do not include. By Little's law these are missing from the mean
    number of requests in flight. It is a lower bound, since wrk corrects its latencies for coordinated omission.
    """

    per_second: float
    p50_ms: float | None
    p99_ms: float | None
    refused: int
    broken: int
    starved: int = 0


def load(
    port: int, path: str, body: bytes, *, connections: int, seconds: int, content_type: str = "application/json"
) -> Load:
    """Post the same body repeatedly over `connections` concurrent connections."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        # Requests that time out are missing from wrk's percentiles, so the timeout exceeds the duration.
        limits = [f"-c{connections}", f"-d{seconds}s", f"--timeout={seconds + 10}s"]
        command = ["wrk", "-t1", *limits, f"-s{SCRIPT}", f"http://{HOST}:{port}{path}", "--", file.name, content_type]
        done = subprocess.run(command, capture_output=True, text=True)
    if "unable to connect" in done.stderr:
        return Load(0.0, None, None, refused=0, broken=connections, starved=connections)
    done.check_returncode()
    counted = json.loads(done.stdout.splitlines()[-1])
    under_way = counted["replies"] * counted["mean"] / counted["microseconds"] if counted["replies"] else 0
    return Load(
        per_second=(counted["replies"] - counted["refused"]) / counted["microseconds"] * 1e6,
        p50_ms=counted["p50"] / 1e3 if counted["replies"] else None,
        p99_ms=counted["p99"] / 1e3 if counted["replies"] else None,
        refused=counted["refused"],
        broken=counted["broken"],
        starved=max(0, round(connections - under_way)),
    )


def open_load(
    port: int, path: str, body: bytes, *, per_second: float, seconds: float, connections: int, seed: int
) -> list[float]:
    """Post the same body at random times (a Poisson process); return the seconds from when each was due to its reply.

    A request that finds all connections busy waits, and that counts. Raises `OSError` for a reply of another status.
    """
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    request = head.encode() + b"\r\n" + body
    gaps = random.Random(seed)
    due = list(itertools.accumulate(gaps.expovariate(per_second) for _ in range(round(per_second * seconds))))
    waits: list[float] = []
    with (
        ExitStack() as opened,
        selectors.SelectSelector() as selector,
    ):  # whose time limit is not rounded to milliseconds
        free = [opened.enter_context(socket.create_connection((HOST, port), timeout=30)) for _ in range(connections)]
        asked_at: dict[object, float] = {}
        n_sent, start = 0, time.perf_counter()
        while len(waits) < len(due):
            now = time.perf_counter() - start
            while free and n_sent < len(due) and due[n_sent] <= now:
                sock = free.pop()
                sock.sendall(request)
                asked_at[sock] = due[n_sent]
                selector.register(sock, selectors.EVENT_READ)
                n_sent += 1
            is_next_due = free and n_sent < len(due)
            for key, _ in selector.select(max(0.0, due[n_sent] - now) if is_next_due else None):
                answered = key.fileobj
                assert isinstance(answered, socket.socket)
                if not answered.recv(65_536).startswith(b"HTTP/1.1 200"):
                    raise OSError("a reply without status 200")
                waits.append(time.perf_counter() - start - asked_at.pop(answered))
                selector.unregister(answered)
                free.append(answered)
    return waits


def post(port: int, path: str, body: bytes, *, timeout_seconds: float = 30) -> bytes:
    """Return the reply to one request; raises `OSError` or `HTTPException` without a reply of status 200."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_seconds)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        content = reply.read()
    finally:
        connection.close()
    if reply.status != 200:
        raise http.client.HTTPException(f"{reply.status}: {content[:200].decode(errors='replace')}")
    return content


@contextmanager
def slow_clients(port: int, path: str, body: bytes, *, idle: int = 100, trickling: int = 4) -> Iterator[None]:
    """Keep connections open that are idle after their first reply, and some that send a byte a second."""
    with ExitStack() as clients:
        for _ in range(idle):
            connection = http.client.HTTPConnection(HOST, port, timeout=5)
            clients.callback(connection.close)
            with suppress(OSError, http.client.HTTPException):  # a server may limit connections
                connection.request("POST", path, body, {"Content-Type": "application/json"})
                connection.getresponse().read()
        stop = threading.Event()
        trickle = threading.Thread(target=_trickle, args=(port, path, trickling, stop))
        trickle.start()
        clients.callback(trickle.join)
        clients.callback(stop.set)
        yield


def _trickle(port: int, path: str, clients: int, stop: threading.Event) -> None:
    """Send the bytes of a request, one a second, on each connection; reconnect when the server closes one."""
    request = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 100\r\n\r\n".encode()
    sending: list[tuple[socket.socket, Iterator[int]]] = []
    while not stop.wait(1 if sending else 0):
        while len(sending) < clients:
            with suppress(OSError):
                sending.append((socket.create_connection((HOST, port), timeout=1), iter(request)))
        for pair in list(sending):
            connection, octets = pair
            try:
                connection.send(bytes([next(octets)]))
            except OSError:
                connection.close()
                sending.remove(pair)
    for connection, _ in sending:
        connection.close()
