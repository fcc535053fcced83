"""What a shadow costs the requests: the same server with and without one, in turns.

Clients send one row at random times, at a rate that is a quarter of what the server can answer: the client, which is
slower than the server, would wait for itself at higher ones. Latency counts from the time
at which a request was due (no coordinated omission). Then wrk sends as many requests as the server takes. The server
has one worker with a core of its own, and the clients have the others, so that they take nothing from each other. Many
short rounds, since a shared machine is noisy: both servers see the same noise.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from scipy.stats import binom

from benchmarks.contenders import COLUMNS, MODEL, ROOT
from benchmarks.figures import Figures
from benchmarks.load import HOST, load, open_load, post
from benchmarks.machine import machine
from benchmarks.report import markdown, number
from benchmarks.servers import environ_of, free_port, stop, wait_for
from benchmarks.tables import rows_of
from model.cli.main import main as run_command

SETTINGS = {
    "without": {"TABSERVE_MODELS": f"{MODEL}@1"},
    "with": {"TABSERVE_MODELS": f"{MODEL}@1,{MODEL}@2:shadow"},
}
CONNECTIONS = 32
SATURATING = 8
N_TREES = 390  # of the challenger: about as many as the champion has
WARM_UP_SECONDS = 2
PAUSE_SECONDS = 1  # in which a shadow answers what waits; it would take the core from the other server
SATURATED_ROUNDS = 10
FEWEST_ROUNDS = 6  # of which the smallest and the largest have the median between them with 97 %


@dataclass(slots=True)
class Found:
    """What one server did; every list has one entry per round."""

    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)  # under wrk
    asked: int = 0  # of the shadow, in rows
    compared: int = 0


@dataclass(frozen=True, slots=True)
class Results(Figures):
    """One run: its machine and settings, and both servers."""

    machine: dict[str, str]
    rounds: int
    seconds: int
    per_second: int  # of the clients with a rate
    servers: dict[str, Found]

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read what `write` wrote."""
        raw = json.loads(path.read_text())
        return cls(servers={name: Found(**found) for name, found in raw.pop("servers").items()}, **raw)


def render(results: Results) -> str:
    """Return the tables of a run as Markdown."""
    without, shadowed = results.servers["without"], results.servers["with"]
    facts = "; ".join(f"{name} {value}" for name, value in results.machine.items())
    rows = []
    for label, name, digits in (
        (f"p50 ms, {results.per_second:,} requests/s", "p50_ms", 3),
        (f"p99 ms, {results.per_second:,} requests/s", "p99_ms", 3),
        (f"requests/s, {SATURATING} connections of wrk", "per_second", 0),
    ):
        before, after = getattr(without, name), getattr(shadowed, name)
        ratios = [b / a for a, b in zip(before, after)]
        between = "{:.3f} to {:.3f}".format(*median_interval(ratios))
        figures = [number(statistics.median(before), digits), number(statistics.median(after), digits)]
        rows.append([label, *figures, number(statistics.median(ratios), 3), between])
    table = markdown(["one row a request", "without", "with a shadow", "ratio", "95 % interval"], rows)
    share = f"{shadowed.compared / shadowed.asked:.1%}" if shadowed.asked else "none"
    return (
        f"# A shadow beside the champion\n\nMade by `python -m benchmarks.shadow`: {facts}.\n\n"
        f"Medians of {results.rounds} rounds of {results.seconds} s, in which both servers take turns; each has one "
        "worker, with a core of its own. A ratio is the median of those of the rounds, with its interval."
        f"\n\n{table}\n\n"
        f"Of {shadowed.asked:,} rows the shadow answered and compared {share}. It drops rows if there is no time.\n"
    )


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the interval in which the true median is with a probability of 95 %: two of at least six `values`."""
    first = int(binom.ppf(0.025, len(values), 0.5)) - 1
    ordered = sorted(values)
    return ordered[first], ordered[-1 - first]


def main() -> None:
    """Run the rounds, and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shadow", description=__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="rounds (default: 60)")
    parser.add_argument("--seconds", type=int, default=1, help="seconds of each load in a round (default: 1)")
    parser.add_argument("--rate", type=int, help="requests a second (default: a quarter of what the server answers)")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results", metavar="FOLDER", help="folder for the results"
    )
    options = parser.parse_args()
    if options.rounds < FEWEST_ROUNDS:
        parser.error(f"--rounds is {options.rounds}; an interval takes {FEWEST_ROUNDS} at least")
    core, *others = sorted(os.sched_getaffinity(0))
    if not others:
        parser.error("one core is not enough for the server and its clients")
    body = json.dumps(dict(zip(COLUMNS, rows_of(MODEL)[0].tolist()))).encode()
    found = {name: Found() for name in SETTINGS}
    with tempfile.TemporaryDirectory(prefix="b") as folder, ExitStack() as servers:
        store = with_challenger(Path(folder))
        os.sched_setaffinity(0, others)
        ports = {
            name: servers.enter_context(serving(store, Path(folder) / name, settings, body, core=core))
            for name, settings in SETTINGS.items()
        }
        for port in ports.values():
            load(port, "/predict", body, connections=SATURATING, seconds=WARM_UP_SECONDS)
        capacity = load(ports["without"], "/predict", body, connections=SATURATING, seconds=WARM_UP_SECONDS)
        rate = options.rate or round(capacity.per_second / 4, -2) or 100
        results = Results(machine(), options.rounds, options.seconds, int(rate), found)
        for turn in range(options.rounds):
            for name in list(ports)[:: 1 if turn % 2 else -1]:
                time.sleep(PAUSE_SECONDS)
                waits = open_load(
                    ports[name],
                    "/predict",
                    body,
                    per_second=rate,
                    seconds=options.seconds,
                    connections=CONNECTIONS,
                    seed=turn,
                )
                p50, p99 = np.percentile(waits, [50, 99]) * 1e3
                found[name].p50_ms.append(float(p50))
                found[name].p99_ms.append(float(p99))
            print(f"round {turn + 1} of {options.rounds}", file=sys.stderr, flush=True)
        for turn in range(SATURATED_ROUNDS):
            for name in list(ports)[:: 1 if turn % 2 else -1]:
                time.sleep(PAUSE_SECONDS)
                most = load(ports[name], "/predict", body, connections=SATURATING, seconds=options.seconds)
                found[name].per_second.append(most.per_second)
        found["with"].compared, found["with"].asked = compared_rows(ports["with"])
    results.write(options.results / "shadow.json")
    (options.results / "shadow.md").write_text(render(results))
    print(render(results))


def with_challenger(folder: Path) -> Path:
    """Return a store with the champion, version 1, and another version with nearly as many trees."""
    store = folder / "store"
    shutil.copytree(Path(os.environ.get("TABSERVE_STORE", "store")).resolve() / MODEL / "1", store / MODEL / "1")
    assert run_command(["--store", str(store), "train", MODEL, "--n-estimators", str(N_TREES)]) == 0
    return store


@contextmanager
def serving(store: Path, folder: Path, settings: Mapping[str, str], body: bytes, *, core: int) -> Iterator[int]:
    """Run a server with a worker on `core` until the block ends; yield its port when it answers."""
    folder.mkdir()
    port = free_port()
    binaries = Path(sys.executable).parent
    environ = {
        **environ_of(binaries, home=str(folder), port=port),
        "TABSERVE_STORE": str(store),
        "TABSERVE_PREDICTION_LOG": "",
        "WEB_CONCURRENCY": "1",
        **settings,
    }
    with (folder / "log").open("wb") as log:
        command = ["taskset", "--cpu-list", str(core), str(binaries / "gunicorn"), "--bind", f"{HOST}:{port}"]
        process = psutil.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=log)
        try:
            wait_for(lambda: post(port, "/predict", body), process)
            yield port
        finally:
            stop(process)


def compared_rows(port: int) -> tuple[int, int]:
    """Return how many rows the shadow has answered comparably, and how many it should have."""
    with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=30) as reply:
        text = reply.read().decode()
    counts = {
        name: sum(float(count) for count in re.findall(rf"^{name}_rows_total\{{.*\}} (\S+)$", text, re.MULTILINE))
        for name in ("tabserve_shadow", "tabserve_shadow_missed")
    }
    return int(counts["tabserve_shadow"]), int(sum(counts.values()))


if __name__ == "__main__":
    main()
