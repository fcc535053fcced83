"""make bench: the engine alone against scikit-learn, what watching costs, then the service under load.

Speeds are ratios of what ran in turns in one process, since machines are shared and noisy; load comes from wrk
where it is installed (Debian: `apt-get install wrk`), and the latency of a lone client is measured in any case.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import psutil

from model import Artifact, Store
from model.parity import random_rows

ROOT = Path(__file__).parents[1]
CONNECTIONS = (1, 8, 32, 128)
ROUNDS = 5  # of all the connections in turn: how the kernel shares them between workers differs from round to round


def main() -> None:
    """Measure everything and print it as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--model", default="boston-housing", help="the model of the store to measure with")
    parser.add_argument("--seconds", type=int, default=2, help="how long to load the service at each step")
    options = parser.parse_args()
    store = Path(os.environ.get("TABSERVE_STORE", "store"))
    artifact = Store(store).load(options.model)

    packages = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "scikit-learn", "flask", "gunicorn"))
    print(f"{cpu()}, {os.cpu_count()} cores; Python {platform.python_version()}, {packages}\n")
    print_engine(artifact)
    sys.stdout.flush()
    subprocess.run([sys.executable, "-m", "benchmarks.watching", store.resolve()], cwd=ROOT, check=True)
    print(flush=True)
    print_service(artifact, store.resolve(), options.seconds)


def cpu() -> str:
    """Return the processor's name."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def print_engine(artifact: Artifact) -> None:
    """Time the engine against the pipeline that it was compiled from, on an array and on a data frame."""
    print("| rows | engine, µs a row | scikit-learn on an array | on a data frame |\n|---|---|---|---|")
    for n_rows, calls in ((1, 300), (100, 100), (10_000, 3)):
        engine, array, table = seconds_each(contenders(artifact, n_rows), calls)
        print(
            f"| {n_rows:,} | {engine / n_rows * 1e6:.1f} | {array / engine:.1f} times as long "
            f"| {table / engine:.1f} times |"
        )
    print()


def contenders(artifact: Artifact, n_rows: int) -> list[Callable[[], object]]:
    """Return the same prediction of random rows done by the engine, by scikit-learn, and by it on a data frame."""
    X = random_rows(artifact.schema, n_rows, seed=0)
    frame = pd.DataFrame(X, columns=list(artifact.schema.names))
    pipeline: Any = joblib.load(artifact.path / "pipeline.joblib")
    named: Any = joblib.load(artifact.path / "pipeline.joblib")
    named["scaler"].feature_names_in_ = frame.columns.to_numpy(dtype=object)  # as if it had been fitted on a frame
    return [lambda: artifact.predict(X), lambda: pipeline.predict(X), lambda: named.predict(frame)]


def seconds_each(functions: list[Callable[[], object]], calls: int, rounds: int = 9) -> list[float]:
    """Return each function's median seconds a call; the functions take turns."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, taken in zip(functions, times):
            started = time.perf_counter()
            for _ in range(calls):
                function()
            taken.append((time.perf_counter() - started) / calls)
    return [statistics.median(taken) for taken in times]


def print_service(artifact: Artifact, store: Path, seconds: int) -> None:
    """Start the service as `make run` does and measure it from outside."""
    row = dict(zip(artifact.schema.names, artifact.golden_rows[0].tolist()))
    body = json.dumps(row).encode()
    path = f"/models/{artifact.name}/predict"
    starts = []
    for _ in range(5):
        with serving(store) as (_, _, started):
            starts.append(started)
    with serving(store) as (process, port, _):
        latencies = python_client(port, path, body, requests=3000)
        processes = [process, *process.children(recursive=True)]
        memory = [each.memory_full_info().pss / 2**20 for each in processes]
        quantiles = statistics.quantiles(latencies, n=100)
        print(f"- start to ready: {statistics.median(starts):.2f} s (median of {len(starts)})")
        print(
            f"- memory (PSS): {sum(memory):.0f} MiB in all: the master {memory[0]:.0f}, "
            f"each worker {statistics.mean(memory[1:]):.0f}"
        )
        median, p99 = quantiles[49] * 1e3, quantiles[98] * 1e3
        print(f"- one row, one request after the other: median {median:.2f} ms, p99 {p99:.2f} ms")
        print("- metrics and request logs on, 2 workers, load from the same machine:\n")
        if not shutil.which("wrk"):
            print("wrk is not installed, so throughput was not measured (Debian: apt-get install wrk)")
            return
        print("| connections | requests a second | p50 | p99 |\n|---|---|---|---|")
        runs = [
            [wrk(port, path, body.decode(), connections, seconds) for connections in CONNECTIONS] for _ in range(ROUNDS)
        ]
        for connections, found in zip(CONNECTIONS, zip(*runs)):
            rate, p50, p99 = (statistics.median(figures) for figures in zip(*found))
            print(f"| {connections} | {rate:,.0f} | {p50:.2f} ms | {p99:.2f} ms |")


@contextmanager
def serving(store: Path) -> Iterator[tuple[psutil.Process, int, float]]:
    """Run gunicorn on a free port; yield its process, its port and the seconds from start to ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "gunicorn"), "--bind", f"127.0.0.1:{port}"]
    environ = {**os.environ, "TABSERVE_STORE": str(store), "TABSERVE_PREDICTION_LOG": "", "WEB_CONCURRENCY": "2"}
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        process = psutil.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=log)
        try:
            while not ready(port):
                if process.poll() is not None:
                    log.seek(0)
                    raise SystemExit(f"the service did not start:\n{log.read().decode()}")
                time.sleep(0.005)
            yield process, port, time.perf_counter() - started
        finally:
            process.terminate()
            process.wait()


def ready(port: int) -> bool:
    """Return whether the service answers that it is ready."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def python_client(port: int, path: str, body: bytes, *, requests: int) -> list[float]:
    """Return the seconds of each request, sent one after the other on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    times = []
    for _ in range(requests):
        started = time.perf_counter()
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        reply.read()
        times.append(time.perf_counter() - started)
        if reply.status != 200:
            raise SystemExit(f"the service answered {reply.status}")
    connection.close()
    return times


def wrk(port: int, path: str, body: str, connections: int, seconds: int) -> tuple[float, float, float]:
    """Load the service and return requests a second, and the median and the 99th percentile in milliseconds."""
    script = f"wrk.method = 'POST'\nwrk.body = {json.dumps(body)}\nwrk.headers['Content-Type'] = 'application/json'\n"
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", file.name]
        done = subprocess.run([*command, f"http://127.0.0.1:{port}{path}"], capture_output=True, text=True, check=True)
    if failed := re.search(r"Non-2xx.*|Socket errors.*", done.stdout):
        raise SystemExit(f"the service failed under load: {failed[0]}")
    rate = re.findall(r"^Requests/sec: +(\S+)", done.stdout, re.MULTILINE)[0]
    p50, p99 = (
        float(number) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit]
        for number, unit in re.findall(r"^ +(?:50|99)% +([\d.]+)(us|ms|s)$", done.stdout, re.MULTILINE)
    )
    return float(rate), p50, p99


if __name__ == "__main__":
    main()
