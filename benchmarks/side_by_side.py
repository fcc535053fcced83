"""The run: in each round every contender is started, compared with the pipeline, put under load and stopped.

A contender that cannot be installed, started or called is reported with the reason.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.contenders import MODEL, Contender
from benchmarks.load import Load, load, slow_clients
from benchmarks.machine import machine
from benchmarks.report import (
    ALONE,
    CONNECTIONS,
    LARGE_REQUESTS,
    LARGE_ROWS,
    N_ROWS,
    SLOW_CLIENTS,
    Found,
    Results,
    Step,
    draw,
    render,
)
from benchmarks.servers import ContenderError, Server, installed_mib, make_venv, serving
from benchmarks.tables import pipeline_of, rows_of
from model import Matrix, Store

# The steps of a round: rows, connections and other load. Steps that are compared are next to each other.
STEPS = [
    *[(rows, connections, ALONE) for rows in N_ROWS for connections in CONNECTIONS],
    (1, 32, SLOW_CLIENTS),
    (1, 32, ALONE),
    (1, 32, LARGE_REQUESTS),
    (1, 8, LARGE_REQUESTS),
    (1, 8, ALONE),
]


def run(contenders: Sequence[Contender], *, store: Path, rounds: int, seconds: int, install: bool) -> Results:
    """Measure the contenders with the champion of a store; each step of load takes `seconds`."""
    if not shutil.which("wrk"):
        raise SystemExit("wrk, which makes the load, is not installed; run apt-get install wrk")
    artifact = Store(store).find(MODEL)
    pipeline = pipeline_of(artifact)
    houses = rows_of(MODEL)
    results = Results(machine(), seconds, rounds, {})
    for contender in contenders:
        found = results.contenders[contender.name] = Found(contender.title, contender.kind, contender.version)
        try:
            found.installed_mib = installed_mib(make_venv(contender, install=install))
        except ContenderError as error:
            found.problem = str(error)
    for number in range(rounds):
        for contender in contenders:
            found = results.contenders[contender.name]
            if found.problem:
                continue
            print(f"round {number + 1} of {rounds}: {found.title}", file=sys.stderr, flush=True)
            try:
                with serving(contender, store=store, artifact=artifact, row=houses[:1]) as (server, start_seconds):
                    found.start_seconds.append(start_seconds)
                    if contender.kind != "floor":
                        for rows in N_ROWS:
                            off = np.abs(server.predict(houses[:rows]) - pipeline.predict(houses[:rows])).max()
                            found.differences[rows] = max(float(off), found.differences.get(rows, 0.0))
                    found.steps += _measure(server, houses, seconds)
                    found.pss_mib.append(server.pss_mib())
            except ContenderError as error:
                found.problem = str(error)
    return results


def save(results: Results, folder: Path) -> None:
    """Write the results into a folder: as JSON, as tables and as a plot."""
    folder.mkdir(parents=True, exist_ok=True)
    results.write(folder / "results.json")
    (folder / "table.md").write_text(render(results))
    draw(results, folder / "plot.png")


def _measure(server: Server, houses: Matrix, seconds: int) -> Iterable[Step]:
    """Warm up, then yield the result of every step."""
    large = np.resize(houses, (LARGE_ROWS, houses.shape[1]))

    def ask(rows: Matrix, connections: int, for_seconds: int = seconds) -> Load:
        path, body = server.path(rows), server.body(rows)
        return load(server.port, path, body, connections=connections, seconds=for_seconds)

    ask(houses[:1], 8)
    for n_rows, connections, beside in STEPS:
        rows = houses[:n_rows]
        if beside == SLOW_CLIENTS:
            with slow_clients(server.port, server.path(rows), server.body(rows)):
                yield Step(n_rows, connections, ask(rows, connections), beside)
        elif beside == LARGE_REQUESTS:
            with ThreadPoolExecutor() as pool:
                meanwhile = pool.submit(ask, large, 1, seconds + 1)
                yield Step(n_rows, connections, ask(rows, connections), beside)
                yield Step(LARGE_ROWS, 1, meanwhile.result(), beside)
        else:
            yield Step(n_rows, connections, ask(rows, connections), beside)
