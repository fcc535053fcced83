"""Measure the latency of other requests while a costly body arrives every second, and without one.

Four clients each send one row a hundred times a second. Latency counts from the time at which the request was due, so
that requests delayed by a slow one before them are included (no coordinated omission). The bodies are those for which
`benchmarks.hostile` measured the longest hold of the interpreter's lock, or the most CPU.
"""

from __future__ import annotations

import argparse
import http.client
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np

from benchmarks.contenders import COLUMNS, LOGGED, MODEL
from benchmarks.hostile import Body, bodies
from benchmarks.load import HOST
from benchmarks.machine import machine
from benchmarks.servers import Server, make_venv, serving
from benchmarks.tables import rows_of
from model import Store

CLIENTS, INTERVAL_SECONDS = 4, 0.01
COSTLIEST = {
    ("/predict records", "names"),
    ("/predict columns", "names"),
    ("/predict columns", "NaN, then numbers of 17 digits"),
    ("/predict table", "good rows"),
    ("/invocations instances", "lists"),
    ("/invocations dataframe_records", "names"),
    ("/predict CSV", "names of 100,000 characters"),
    ("/predict CSV", "cells of 100,000 digits"),
    ("/feedback", "unknown ids"),
}


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.beside", description=__doc__)
    parser.add_argument("--seconds", type=int, default=10, help="seconds for each body (default: 10)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median is reported (default: 3)")
    options = parser.parse_args()
    store = Path(os.environ.get("TABSERVE_STORE", "store")).resolve()
    houses = rows_of(MODEL)
    make_venv(LOGGED)
    chosen: dict[tuple[str, str], Body] = {}
    for body in bodies(MODEL, COLUMNS, houses[0].tolist()):
        if (body.route, body.name) in COSTLIEST:  # the second of two lengths, which is not rejected at once
            chosen[body.route, body.name] = body
    print("; ".join(f"{name} {value}" for name, value in machine().items()), end="\n\n")
    print("| one body a second | bytes | status | p50 of other requests, ms | p99, ms |\n|---|---|---|---|---|")
    with serving(LOGGED, store=store, artifact=Store(store).find(MODEL), row=houses[:1]) as (server, _):
        row = server.body(houses[:1])
        others_wait(server, row, None, seconds=3)
        for hostile in (None, *chosen.values()):
            rounds = [others_wait(server, row, hostile, seconds=options.seconds) for _ in range(options.rounds)]
            p50, p99 = np.median([waits for waits, _ in rounds], axis=0) * 1e3
            title = f"{hostile.route}: {hostile.name}" if hostile else "nothing"
            sent = f"{len(hostile.plain):,}" if hostile else ""
            statuses = ", ".join(sorted({str(status) for _, statuses in rounds for status in statuses}))
            print(f"| {title} | {sent} | {statuses} | {p50:.2f} | {p99:.2f} |", flush=True)


def others_wait(server: Server, row: bytes, hostile: Body | None, *, seconds: int) -> tuple[list[float], set[int]]:
    """Return p50 and p99 of the others' latency in seconds, and the statuses of the costly bodies."""

    def ask(first_due: float) -> list[float]:
        connection, waits = http.client.HTTPConnection(HOST, server.port, timeout=30), []
        for turn in range(round(seconds / INTERVAL_SECONDS)):
            due = first_due + turn * INTERVAL_SECONDS
            time.sleep(max(0.0, due - time.monotonic()))
            connection.request("POST", "/predict", row, {"Content-Type": "application/json"})
            connection.getresponse().read()
            waits.append(time.monotonic() - due)
        connection.close()
        return waits

    def disturb(due: float, body: Body) -> int:
        time.sleep(max(0.0, due - time.monotonic()))
        return _post(server.port, body)

    now = time.monotonic()
    with ThreadPoolExecutor(CLIENTS + seconds) as pool:
        asking = [pool.submit(ask, now + INTERVAL_SECONDS * client / CLIENTS) for client in range(CLIENTS)]
        sent = [pool.submit(disturb, now + 0.5 + turn, hostile) for turn in range(seconds) if hostile]
    waits = [wait for future in asking for wait in future.result()]
    return np.percentile(waits, [50, 99]).tolist(), {future.result() for future in sent}


def _post(port: int, body: Body) -> int:
    """Send a body on a new connection; return the status, or 0 without a response."""
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    try:
        with suppress(OSError, http.client.HTTPException):
            connection.request("POST", body.route.split()[0], body.plain, {"Content-Type": body.kind})
            return connection.getresponse().status
        return 0
    finally:
        connection.close()


if __name__ == "__main__":
    main()
