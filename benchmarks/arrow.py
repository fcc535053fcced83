"""Requests of 10,000 rows as streams of Arrow beside the same rows in JSON: how many a second, and what others wait.

The same server answers both, in turns: as `make run` starts it, without its prediction log, and without it with a tenth
of the trees, since the engine takes the same time for both formats. wrk sends one format over a few connections. Then
clients send one row at random times, while one connection sends tables without a pause, or while none does. Their
latency counts from the time at which a request was due (no coordinated omission).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.ipc
from numpy.typing import NDArray

from benchmarks.contenders import COLUMNS, MODEL, ROOT
from benchmarks.figures import Figures
from benchmarks.load import HOST, load, open_load, post
from benchmarks.machine import machine
from benchmarks.report import markdown, number
from benchmarks.servers import environ_of, free_port, stop, wait_for
from benchmarks.tables import rows_of
from model.cli.main import main as run_command

ROWS = 10_000
TYPES = {"JSON": "application/json", "Arrow": "application/vnd.apache.arrow.stream"}
_NO_LOG = {"TABSERVE_PREDICTION_LOG": ""}
N_TREES = 40
SETTINGS = {
    "as shipped": {},
    "without a prediction log": _NO_LOG,
    f"without it, {N_TREES} trees": {**_NO_LOG, "TABSERVE_MODELS": f"{MODEL}@2"},
}
CONNECTIONS = (1, 4)
BESIDE = ("nothing", *TYPES)
PER_SECOND, CLIENTS = 100, 16  # of the clients that send one row
PAUSE_SECONDS = 1  # in which the log is written that waits


@dataclass(slots=True)
class Found:
    """What one server did; every list has one entry per round."""

    per_second: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # by connections and format
    p99_ms: dict[str, list[float]] = field(default_factory=dict)  # of one row, by what is sent beside it


@dataclass(frozen=True, slots=True)
class Results(Figures):
    """One run: its machine and settings, and both servers."""

    machine: dict[str, str]
    rounds: int
    seconds: int
    n_bytes: dict[str, int]  # of a request
    servers: dict[str, Found]

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read what `write` wrote."""
        raw = json.loads(path.read_text())
        return cls(servers={name: Found(**found) for name, found in raw.pop("servers").items()}, **raw)


def render(results: Results) -> str:
    """Return the tables of a run as Markdown."""
    facts = "; ".join(f"{name} {value}" for name, value in results.machine.items())
    speeds, waits = [], []
    for server, found in results.servers.items():
        for connections, of_types in found.per_second.items():
            ratio = statistics.median(b / a for a, b in zip(of_types["JSON"], of_types["Arrow"]))
            figures = [number(statistics.median(of_types[name]), 1) for name in TYPES]
            speeds.append([server, connections, *figures, number(ratio, 2)])
        alone = found.p99_ms[BESIDE[0]]
        ratios = [statistics.median(b / a for a, b in zip(alone, found.p99_ms[name])) for name in TYPES]
        figures = [number(statistics.median(found.p99_ms[name]), 2) for name in BESIDE]
        waits.append([server, *figures, *(number(ratio, 2) for ratio in ratios)])
    sizes = " and ".join(f"{n_bytes:,} in {name}" for name, n_bytes in results.n_bytes.items())
    heads = ["server", "connections", *(f"{name}, requests/s" for name in TYPES), "ratio"]
    others = ["server", *(f"p99 ms beside {name}" for name in BESIDE), *(f"ratio, {name}" for name in TYPES)]
    return (
        f"# Tables of {ROWS:,} rows in Arrow and in JSON\n\nMade by `python -m benchmarks.arrow`: {facts}.\n\n"
        f"Medians of {results.rounds} rounds of {results.seconds} s, in which the formats take turns. A request has "
        f"{sizes} bytes.\n\n{markdown(heads, speeds)}\n\nOne row a request, {PER_SECOND} a second, while one "
        f"connection sends such tables without a pause:\n\n{markdown(others, waits)}\n"
    )


def bodies(X: NDArray[np.float64]) -> dict[str, bytes]:
    """Return the rows `(n_rows, n_features)` as a request in each format."""
    table = pa.table(dict(zip(COLUMNS, map(np.ascontiguousarray, X.T))))
    written = pa.BufferOutputStream()
    with pa.ipc.new_stream(written, table.schema) as stream:
        stream.write_table(table)
    records = [dict(zip(COLUMNS, row)) for row in X.tolist()]
    return {"JSON": json.dumps(records).encode(), "Arrow": written.getvalue().to_pybytes()}


def main() -> None:
    """Run the rounds, and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arrow", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--seconds", type=int, default=3, help="seconds of each load in a round (default: 3)")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results", metavar="FOLDER", help="folder for the results"
    )
    options = parser.parse_args()
    houses = rows_of(MODEL)
    X = houses[np.random.default_rng(7).integers(0, len(houses), ROWS)]
    tables, row = bodies(X), json.dumps(dict(zip(COLUMNS, houses[0].tolist()))).encode()
    servers: dict[str, Found] = {}
    with tempfile.TemporaryDirectory(prefix="b") as folder:
        store = with_smaller(Path(folder))
        for turn, (name, settings) in enumerate(SETTINGS.items()):
            with serving(store, Path(folder) / str(turn), settings, row) as port:
                servers[name] = measure(port, tables, row, rounds=options.rounds, seconds=options.seconds)
            print(name, file=sys.stderr, flush=True)
    sizes = {name: len(body) for name, body in tables.items()}
    results = Results(machine(), options.rounds, options.seconds, sizes, servers)
    results.write(options.results / "arrow.json")
    (options.results / "arrow.md").write_text(render(results))
    print(render(results))


def with_smaller(folder: Path) -> Path:
    """Return a store with the champion, and version 2 with fewer trees."""
    store = folder / "store"
    source = Path(os.environ.get("TABSERVE_STORE", "store")).resolve()
    shutil.copytree(source / MODEL, store / MODEL)
    assert run_command(["--store", str(store), "train", MODEL, "--n-estimators", str(N_TREES)]) == 0
    return store


def measure(port: int, tables: Mapping[str, bytes], row: bytes, *, rounds: int, seconds: int) -> Found:
    """Return what a server does in so many rounds, after one that does not count."""
    found = Found({str(each): {name: [] for name in TYPES} for each in CONNECTIONS}, {name: [] for name in BESIDE})
    for turn in range(rounds + 1):
        order = list(TYPES)[:: 1 if turn % 2 else -1]
        for connections in CONNECTIONS:
            for name in order:
                sent = {"connections": connections, "seconds": seconds}
                most = load(port, "/predict", tables[name], content_type=TYPES[name], **sent)
                if turn:
                    found.per_second[str(connections)][name].append(most.per_second)
                time.sleep(PAUSE_SECONDS)
        for name in (BESIDE[0], *order):
            waits = _beside(port, tables.get(name), TYPES.get(name, ""), row, seconds=seconds, seed=turn)
            if turn:
                found.p99_ms[name].append(float(np.percentile(waits, 99)) * 1e3)
            time.sleep(PAUSE_SECONDS)
    return found


def _beside(port: int, table: bytes | None, kind: str, row: bytes, *, seconds: int, seed: int) -> list[float]:
    """Return what requests of one row wait while a table is sent again and again, in seconds."""
    with ExitStack() as opened:
        if table:
            thread = opened.enter_context(ThreadPoolExecutor(1))
            thread.submit(load, port, "/predict", table, connections=1, seconds=seconds + 1, content_type=kind)
            time.sleep(0.5)
        sent = {"per_second": PER_SECOND, "connections": CLIENTS, "seed": seed}
        return open_load(port, "/predict", row, seconds=seconds, **sent)


@contextmanager
def serving(store: Path, folder: Path, settings: Mapping[str, str], row: bytes) -> Iterator[int]:
    """Run a server as `make run` does until the block ends; yield its port when it answers."""
    folder.mkdir()
    port, binaries = free_port(), Path(sys.executable).parent
    environ = {
        **environ_of(binaries, home=str(folder), port=port),
        "TABSERVE_STORE": str(store),
        "TABSERVE_PREDICTION_LOG": f"sqlite:///{folder / 'predictions.db'}",
        **settings,
    }
    with (folder / "log").open("wb") as log:
        command = [str(binaries / "gunicorn"), "--bind", f"{HOST}:{port}"]
        process = psutil.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=log)
        try:
            wait_for(lambda: post(port, "/predict", row), process)
            yield port
        finally:
            stop(process)


if __name__ == "__main__":
    main()
