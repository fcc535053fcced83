"""Compare a GPU with the CPU: networks that are trained on each, the engine that serves them, and the service.

Needs PyTorch with CUDA, and wrk for the service. The CPU is ONNX Runtime on one thread, as it is served.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from sklearn.base import clone

from benchmarks import tables
from benchmarks.contenders import MODEL, ROOT
from benchmarks.engine import seconds_each
from benchmarks.load import load, post
from benchmarks.machine import machine
from benchmarks.servers import START_SECONDS, environ_of, free_port, processes_of, stop
from model import Artifact, Matrix, Store, export
from model.engine import network
from model.store import device as on_device
from model.train.learners import mlp
from model.train.proof import random_rows

HIDDEN: tuple[tuple[int, ...], ...] = ((64, 64), (256, 256), (1024, 1024, 1024))
N_ROWS = (1, 100, 10_000)
CONNECTIONS = (1, 8, 32, 128)
DEVICES = ("cpu", "cuda")


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds, in which both devices take turns (default: 5)")
    parser.add_argument("--seconds", type=int, default=2, help="seconds of each step of load (default: 2)")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        raise SystemExit("wrk, which makes the load, is not installed; run apt-get install wrk")
    gpu = mlp.describe_device(network.find_device("cuda"))
    facts = {
        **machine(),
        "torch": torch.__version__,
        "GPU": gpu.get("name", ""),
        "driver": gpu.get("driver_version", "unknown"),
    }
    print("; ".join(f"{name} {value}" for name, value in facts.items()), end="\n\n")
    compare_training()
    with tempfile.TemporaryDirectory() as folder:
        stores = {hidden: add(Path(folder) / str(len(hidden) * hidden[0]), hidden) for hidden in HIDDEN}
        compare_engines(stores, options.rounds)
        compare_services(stores, options.rounds, options.seconds)


def title(hidden: tuple[int, ...]) -> str:
    """Return the layers in words."""
    return f"{len(hidden)} of {hidden[0]:,}"


def add(root: Path, hidden: tuple[int, ...]) -> Path:
    """Return a new store with a network for the houses, trained for a moment: its speed depends on its layers alone."""
    X, y = tables.read(MODEL)
    regressor = mlp.NetworkRegressor(hidden=hidden, max_epochs=2, device="cpu").fit(X, y)
    with redirect_stdout(sys.stderr):
        export(regressor, X, y, name=MODEL, store=root)
    return root


def compare_training() -> None:
    """Train the second example on both devices, twice on each, and compare errors and predictions on the test rows."""
    X_train, X_test, y_train, y_test = tables.split("height-weight")
    networks = {device: mlp.NetworkRegressor(device=device).fit(X_train, y_train) for device in DEVICES}
    found = {device: each.predict(X_test) for device, each in networks.items()}
    print(
        f"Training height-weight, {len(X_train):,} rows:\n\n"
        "| device | epochs | rows a second | RMSE | the same bits again | with `deterministic` |\n"
        "|---|---|---|---|---|---|"
    )
    for device, one in networks.items():
        again = [
            is_repeated(
                X_train, y_train, mlp.NetworkRegressor(max_epochs=5, deterministic=deterministic, device=device)
            )
            for deterministic in (False, True)
        ]
        error = float(np.sqrt(np.mean((found[device] - y_test) ** 2)))
        print(
            f"| {device} | {len(one.epochs_)} | {one.rows_per_second_:,.0f} | {error:.4f} | {again[0]} | {again[1]} |"
        )
    apart = np.abs(found["cpu"] - found["cuda"])
    print(f"\nPredictions differ by at most {apart.max():.3g} pounds, {np.median(apart):.3g} in the median.\n")


def is_repeated(X: Matrix, y: NDArray[np.float64], regressor: mlp.NetworkRegressor) -> bool:
    """Return whether two trainings with the same parameters end in the same bits."""
    one, two = (clone(regressor).fit(X, y).weights_ for _ in range(2))
    return bool(one == two)


def compare_engines(stores: dict[tuple[int, ...], Path], rounds: int) -> None:
    """Compare ONNX Runtime on the CPU with PyTorch on the GPU: time per call, and the largest difference."""
    print("The engine:\n\n| layers | rows | CPU, µs | GPU, µs | CPU / GPU | largest relative difference |")
    print("|---|---|---|---|---|---|")
    for hidden, root in stores.items():
        cpu = Store(root).load(MODEL)
        gpu = on_device.load(cpu, network.find_device("cuda"))
        for n_rows in N_ROWS:
            X = random_rows(cpu.schema, n_rows, seed=n_rows)
            calls = max(1, 300 // n_rows)
            on_cpu, on_gpu = seconds_each([functools.partial(model.predict, X) for model in (cpu, gpu)], calls, rounds)
            apart = relative_difference(gpu, cpu, X)
            print(
                f"| {title(hidden)} | {n_rows:,} | {on_cpu * 1e6:,.0f} | {on_gpu * 1e6:,.0f} | {on_cpu / on_gpu:.2f} "
                f"| {apart:.1e} |",
                flush=True,
            )


def relative_difference(one: Artifact, other: Artifact, X: Matrix) -> float:
    """Return the largest difference of predictions, relative to the largest prediction."""
    a, b = one.predict(X), other.predict(X)
    return float(np.abs(a - b).max() / np.abs(b).max())


def compare_services(stores: dict[tuple[int, ...], Path], rounds: int, seconds: int) -> None:
    """Compare the service on both devices, as `make run` starts it but for the prediction log."""
    houses, _ = tables.read(MODEL)
    print("\nThe service, requests a second and p99 in ms:")
    header = (
        "| layers | rows | connections | CPU | GPU | GPU / CPU | p99 CPU | p99 GPU |\n|---|---|---|---|---|---|---|---|"
    )
    for hidden, root in stores.items():
        figures: dict[tuple[int, int, str], list[tuple[float, float]]] = {}
        notes = {}
        for _ in range(rounds):
            for device in DEVICES:
                with serving(root, device) as (process, port, started):
                    for n_rows in (1, 100):
                        body = json.dumps(houses[:n_rows].to_dict("records")).encode()
                        load(port, "/predict", body, connections=8, seconds=1)
                        for connections in CONNECTIONS:
                            step = load(port, "/predict", body, connections=connections, seconds=seconds)
                            kept = figures.setdefault((n_rows, connections, device), [])
                            kept.append((step.per_second, step.p99_ms or 0.0))
                    memory = sum(each.memory_full_info().pss for each in processes_of(process)) / 2**20
                    used = gauges(port).get("tabserve_gpu_memory_used_bytes", 0) / 2**20
                    notes[device] = f"{started:.1f} s to the first answer, {memory:,.0f} MiB, {used:,.0f} MiB on a GPU"
        print(f"\n{header}")
        for n_rows in (1, 100):
            for connections in CONNECTIONS:
                (cpu, cpu_wait), (gpu, gpu_wait) = (
                    [statistics.median(values) for values in zip(*figures[n_rows, connections, device])]
                    for device in DEVICES
                )
                print(
                    f"| {title(hidden)} | {n_rows} | {connections} | {cpu:,.0f} | {gpu:,.0f} | {gpu / cpu:.2f} "
                    f"| {cpu_wait:.1f} | {gpu_wait:.1f} |",
                    flush=True,
                )
        print(f"\n{title(hidden)}: " + "; ".join(f"{device}: {note}" for device, note in notes.items()), flush=True)


def gauges(port: int) -> dict[str, float]:
    """Return the metrics that have no labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        lines = [line.split() for line in reply.read().decode().splitlines() if line[0] != "#" and "{" not in line]
    return {name: float(value) for name, value in lines}


@contextmanager
def serving(store: Path, device: str) -> Iterator[tuple[psutil.Process, int, float]]:
    """Run the service until the block ends; yield its process, its port, and the seconds to its first answer."""
    row = json.dumps(tables.read(MODEL)[0][:1].to_dict("records")).encode()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        port = free_port()
        environ = {
            **environ_of(Path(sys.executable).parent, home=folder, port=port),
            "TABSERVE_STORE": str(store),
            "TABSERVE_DEVICE": device,
            "TABSERVE_PREDICTION_LOG": "",
        }
        command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}"]
        with (Path(folder) / "log").open("wb+") as log:
            started_at = time.perf_counter()
            process = psutil.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=log)
            try:
                while True:
                    try:
                        post(port, "/predict", row)
                        break
                    except Exception as error:
                        if time.perf_counter() - started_at > START_SECONDS or process.poll() is not None:
                            log.seek(0)
                            raise SystemExit(f"the server did not answer ({error}): {log.read().decode()}") from None
                        time.sleep(0.01)
                yield process, port, time.perf_counter() - started_at
            finally:
                stop(process)


if __name__ == "__main__":
    main()
