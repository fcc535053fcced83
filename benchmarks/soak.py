"""Soak test: mixed good and hostile traffic; memory must not grow, and every good reply must be exact.

Good and hostile clients run in threads until the time is over, with pauses between requests, so that the load does not
saturate the machine. Memory is that of all the server's processes (PSS).
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import itertools
import json
import os
import socket
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders import COLUMNS, LOGGED, MODEL
from benchmarks.load import HOST
from benchmarks.servers import make_venv, serving
from benchmarks.tables import pipeline_of, rows_of
from model import Matrix, Store

ALLOWED_GROWTH = 0.05  # from the first minute to the end
SAMPLES = 12  # of the memory during the settling time
JSON = {"Content-Type": "application/json"}
CSV = {"Content-Type": "text/csv"}
GZIP = {**JSON, "Content-Encoding": "gzip"}


@dataclass
class Tally:
    """The outcomes so far: failures of good requests, and results of hostile ones."""

    good: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    hostile: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)


def main() -> int:
    """Run the traffic, print the outcome, and return 1 if memory grew or a good request failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="default: 600")
    parser.add_argument("--settle", type=int, default=60, help="seconds until the first memory figure (default: 60)")
    options = parser.parse_args()
    if not 0 < options.settle < options.seconds:
        parser.error(f"--settle {options.settle} is not between 0 and --seconds {options.seconds}")
    store = Path(os.environ.get("TABSERVE_STORE", "store")).resolve()
    artifact = Store(store).find(MODEL)
    houses = rows_of(MODEL)
    expected = pipeline_of(artifact).predict(houses)
    make_venv(LOGGED)
    with serving(LOGGED, store=store, artifact=artifact, row=houses[:1]) as (server, _):
        tally, samples = Tally(), []
        started_at = time.monotonic()
        stop = threading.Event()
        good = [
            *[lambda rows=rows: _good(server.port, houses, expected, rows, tally) for rows in (1, 1, 1, 100)],
            lambda: _scrape(server.port, tally),
        ]
        hostile = _hostile(server.port)
        with ThreadPoolExecutor(len(good) + len(hostile)) as pool:
            running = [pool.submit(_again_and_again, action, stop, 0.02) for action in good]
            running += [pool.submit(_attack, name, attack, stop, tally) for name, attack in hostile.items()]
            try:
                while (passed := time.monotonic() - started_at) < options.seconds:
                    time.sleep(min(options.settle / SAMPLES, options.seconds - passed))
                    samples.append((time.monotonic() - started_at, server.pss_mib()))
            finally:
                stop.set()
            for future in running:
                future.result()
    first = statistics.median(mib for second, mib in samples if options.settle / 2 <= second <= options.settle)
    last = statistics.median(mib for second, mib in samples if second >= options.seconds - options.settle / 2)
    growth = last / first - 1
    steps = [mib for _, mib in samples[len(samples) // 10 - 1 :: max(1, len(samples) // 10)]]
    print(
        f"{options.seconds} s: {tally.good:,} good requests, {sum(tally.failures.values())} of them failed"
        f"{''.join(f'; {count} {reason}' for reason, count in tally.failures.most_common(5))}\n"
        f"hostile requests: {', '.join(f'{name} {count:,}' for name, count in sorted(tally.hostile.items()))}\n"
        f"memory: {first:.1f} MiB in the first {options.settle} s, {last:.1f} MiB at the end: {growth:+.1%} "
        f"(allowed: {ALLOWED_GROWTH:.0%}); in ten steps: {', '.join(f'{mib:.0f}' for mib in steps)}"
    )
    return int(growth > ALLOWED_GROWTH or bool(tally.failures))


def _again_and_again(action: Callable[[], None], stop: threading.Event, pause_seconds: float) -> None:
    while not stop.wait(pause_seconds):
        action()


def _attack(name: str, attack: Callable[[], str], stop: threading.Event, tally: Tally) -> None:
    """Count the results of a hostile request: a status or a broken connection. A 500 is a failure."""
    while not stop.wait(0.25):
        try:
            ended = attack()
        except (OSError, http.client.HTTPException) as error:
            ended = type(error).__name__
        with tally.lock:
            tally.hostile[f"{name}: {ended}"] += 1
            if ended == "500":
                tally.failures[f"answered 500 to {name}"] += 1


def _ask(port: int, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
    """Post on a new connection; return status and content."""
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    try:
        connection.request("POST", path, body, dict(headers))
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


_numbers = itertools.count()


def _good(port: int, houses: Matrix, expected: Any, rows: int, tally: Tally) -> None:
    """Send some houses in each format and compare every bit of the predictions."""
    start = next(_numbers) % (len(houses) - rows)
    rows_sent = houses[start : start + rows].tolist()
    text = "\n".join([",".join(COLUMNS), *[",".join(map(repr, row)) for row in rows_sent]])
    records = [dict(zip(COLUMNS, row)) for row in rows_sent]
    request_id = f"soak-{next(_numbers)}"
    requests = [
        ("/predict", json.dumps(records).encode(), {**JSON, "X-Request-Id": request_id}, "prediction"),
        ("/predict", text.encode(), CSV, "prediction"),
        (f"/v1/models/{MODEL}:predict", json.dumps({"instances": rows_sent}).encode(), JSON, "predictions"),
        ("/invocations", gzip.compress(json.dumps({"inputs": rows_sent}).encode()), GZIP, "predictions"),
    ]
    for path, body, headers, key in requests:
        try:
            status, content = _ask(port, path, body, headers)
            right = status == 200 and np.array_equal(json.loads(content)[key], expected[start : start + rows])
            reason = "" if right else f"answered {status} at {path}" if status != 200 else f"wrong bits at {path}"
        except (OSError, http.client.HTTPException) as error:
            reason = f"{type(error).__name__} at {path}"
        with tally.lock:
            tally.good += 1
            tally.failures.update([reason] if reason else [])


def _scrape(port: int, tally: Tally) -> None:
    """Read the metrics like Prometheus, but more often."""
    with tally.lock:
        tally.good += 1
    try:
        connection = http.client.HTTPConnection(HOST, port, timeout=30)
        connection.request("GET", "/metrics")
        if b"tabserve_ready 1" not in connection.getresponse().read():
            raise http.client.HTTPException("not ready")
    except (OSError, http.client.HTTPException) as error:
        with tally.lock:
            tally.failures[f"{error!r} at /metrics"] += 1
    finally:
        connection.close()
    time.sleep(1)


def _hostile(port: int) -> dict[str, Callable[[], str]]:
    """Return the attacks by name; each returns its result."""
    record = json.dumps(dict.fromkeys(COLUMNS, 1.0))
    ids = iter(lambda: next(_numbers), None)

    def posts(path: str, body: bytes, headers: Mapping[str, str]) -> Callable[[], str]:
        return lambda: str(_ask(port, path, body, headers)[0])

    def unknown_ids() -> str:
        truths = [{"request_id": f"nobody-{next(ids)}", "truth": 1.0} for _ in range(1_000)]
        return str(_ask(port, "/feedback", json.dumps(truths).encode(), JSON)[0])

    def raw(*pieces: bytes, pause_seconds: float = 0.0, reads: bool = True) -> Callable[[], str]:
        def attack() -> str:
            with socket.create_connection((HOST, port), timeout=15) as connection:
                for piece in pieces:
                    connection.sendall(piece)
                    time.sleep(pause_seconds)
                return connection.recv(64)[9:12].decode("latin-1") if reads else "left"

        return attack

    pages = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: h\r\n\r\n" * 8
    post = b"POST /predict HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
    return {
        "gzip of zeros": posts("/predict", gzip.compress(bytes(8_000_000)), GZIP),
        "gzip of spaces": posts("/predict", gzip.compress(b"[" + b" " * 8_000_000 + b"]"), GZIP),
        "NaN before numbers": posts("/predict", gzip.compress(b"[NaN" + b",1" * 2_000_000 + b"]"), GZIP),
        "empty lists": posts("/v2/models/boston-housing/infer", b"[" * 50 + b"[]," * 100_000, JSON),
        "CSV of newlines": posts("/invocations", b"\n" * 1_000_000, CSV),
        "CSV of commas": posts("/predict", b"," * 1_000_000, CSV),
        "too many rows": posts("/predict", f"[{','.join([record] * 20_000)}]".encode(), JSON),
        "bad records": posts("/predict", b"[" + b"{}," * 3_000 + b"{}]", JSON),
        "too long": posts("/predict", b" " * 9_000_000, JSON),
        "no such path": posts(f"/{'x' * 1_000}", b"{}", JSON),
        "unknown ids": unknown_ids,
        "hangs up in the body": raw(post + b"Content-Length: 100\r\n\r\n{", reads=False),
        "hangs up in a chunk": raw(post + b"Transfer-Encoding: chunked\r\n\r\nfff\r\n{", reads=False),
        "trickles": raw(*[bytes([byte]) for byte in b"POST /pre"], pause_seconds=1, reads=False),
        "silent": raw(b"", pause_seconds=10, reads=False),
        "does not read": raw(pages, b"", pause_seconds=1, reads=False),
        "no HTTP": raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    }


if __name__ == "__main__":
    sys.exit(main())
