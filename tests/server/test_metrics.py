"""Metrics of a real server: several workers, some of which are killed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from flask.testing import FlaskClient
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from app import create_app
from app.config import Config
from model import Store
from tests.support.metrics import (
    GOLDEN,
    MODEL,
    PREDICTED,
    by_label,
    has_workers,
    kill_worker,
    predict,
    scrape,
    series,
    value,
)
from tests.support.server import Server, serve, wait_until
from tests.support.service import HOUSE, ROOT, rewrite


def test_golden_rows_that_differ(store: Path, tmp_path: Path) -> None:
    """A version whose golden rows differ has 0: at the start, and after SIGHUP, when the old version stays served."""
    own = Path(shutil.copytree(store, tmp_path / "store"))
    folder = Path(shutil.copytree(own / "boston-housing" / "1", own / "boston-housing" / "2"))
    golden = json.loads((folder / "golden.json").read_text())
    golden["y"][0] += 1
    rewrite(folder, lambda manifest: manifest.update(version=2), {"golden.json": json.dumps(golden).encode()})
    assert value(series(create_app(Config(store=own)).test_client().get("/metrics").text), GOLDEN, **MODEL) == 1

    with serve(own, tmp_path, WEB_CONCURRENCY="1") as server:
        models = Store(own)
        models.move("boston-housing", "promote", {"champion": 2}, after=models.last_move("boston-housing"))
        first = server.workers()
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: server.workers() != first and len(server.workers()) == 1)
        wait_until(lambda: by_label(scrape(server), GOLDEN, "version") == {("1",): 1, ("2",): 0})
        predict(server, 1)

    found = series(create_app(Config(store=own)).test_client().get("/metrics").text)
    assert by_label(found, GOLDEN, "version") == {("2",): 0}
    assert by_label(found, "tabserve_model_info", "version") == {}


@pytest.mark.parametrize("multiprocess", [False, True], ids=["one process", "gunicorn"])
def test_openmetrics(client: FlaskClient, server: Server, multiprocess: bool) -> None:
    """A client that accepts OpenMetrics gets it, and Prometheus' parser reads it."""
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    reply: Any = requests.get(f"{server.url}/metrics", headers=accept, timeout=10)
    if not multiprocess:
        client.post("/predict", json=HOUSE)
        reply = client.get("/metrics", headers=accept)

    assert reply.headers["Content-Type"].startswith("application/openmetrics-text")
    families = parse_openmetrics(reply.text)  # type: ignore[no-untyped-call]
    assert {"http_requests", "tabserve_model_info"} <= {family.name for family in families}


def predicted(server: Server) -> float:
    """Return the number of predictions that a scrape has."""
    return value(scrape(server), "http_requests_total", **PREDICTED)


def wait_for_predictions(server: Server, count: float) -> None:
    """Wait until a scrape has so many predictions."""
    wait_until(lambda: predicted(server) >= count)


def test_counts_across_workers(server: Server) -> None:
    """A scrape of any worker has every request of every worker exactly once, a moment later."""
    before = scrape(server)
    predict(server, 60)
    wait_for_predictions(server, value(before, "http_requests_total", **PREDICTED) + 60)
    rows = value(before, "tabserve_rows_total", **MODEL) + 60
    wait_until(lambda: value(scrape(server), "tabserve_rows_total", **MODEL) >= rows)
    counts = [value(scrape(server), "http_requests_total", **PREDICTED) for _ in range(12)]
    after = scrape(server)

    assert counts == [value(before, "http_requests_total", **PREDICTED) + 60] * 12
    assert value(after, "tabserve_rows_total", **MODEL) - value(before, "tabserve_rows_total", **MODEL) == 60
    assert value(after, "http_request_duration_seconds_count", route="/predict") == counts[0]
    assert len([name for name, _ in after if name == "tabserve_model_info"]) == 1


def test_killed_workers_lose_no_count(store: Path, tmp_path: Path) -> None:
    """If workers are killed and replaced, no counter decreases, and counts that a scrape has had are not lost."""
    with serve(store, tmp_path, WEB_CONCURRENCY="2") as server:
        wait_until(lambda: len(server.workers()) == 2)
        predict(server, 20)
        wait_for_predictions(server, 20)
        counts = [predicted(server)]
        for killed in range(1, 5):
            kill_worker(server)
            counts.append(predicted(server))
            predict(server, 20)
            wait_for_predictions(server, 20 * (killed + 1))
            counts.append(predicted(server))

        assert counts == [20, 20, 40, 40, 60, 60, 80, 80, 100]


@pytest.mark.parametrize("damaged", [False, True], ids=["loaded again", "refused"])
def test_reload_loses_no_count(store: Path, tmp_path: Path, damaged: bool) -> None:
    """After SIGHUP, whether it loads or refuses the models, every request is still counted exactly once."""
    own = Path(shutil.copytree(store, tmp_path / "store"))
    with serve(own, tmp_path, WEB_CONCURRENCY="2") as server:
        wait_until(lambda: len(server.workers()) == 2)
        predict(server, 20)
        old = set(server.workers())
        if damaged:
            (own / "boston-housing" / "1" / "trees.npz").write_bytes(b"damaged")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: not old & set(server.workers()) and len(server.workers()) == 2)
        predict(server, 60)
        wait_for_predictions(server, 80)
        counts = [predicted(server) for _ in range(6)]

        assert counts == [80] * 6


@pytest.mark.parametrize("is_there", [True, False], ids=["removed", "missing"])
def test_no_folder_for_metrics_is_needed(store: Path, tmp_path: Path, is_there: bool) -> None:
    """The folder of prometheus_client's own files may be missing, or be removed while the server runs."""
    folder = tmp_path / "values"
    if is_there:
        folder.mkdir()
    with serve(store, tmp_path, WEB_CONCURRENCY="2", PROMETHEUS_MULTIPROC_DIR=str(folder)) as server:
        wait_until(lambda: len(server.workers()) == 2)
        predict(server, 20)
        if is_there:
            assert list(folder.iterdir()) == []
            folder.rmdir()
        wait_until(lambda: value(scrape(server), "http_requests_total", **PREDICTED) == 20)
        kill_worker(server)
        predict(server, 20)
        wait_until(lambda: value(scrape(server), "http_requests_total", **PREDICTED) == 40)


def test_more_workers(store: Path, tmp_path: Path) -> None:
    """Workers that TTIN adds are counted, and a scrape of any worker has all counts."""
    with serve(store, tmp_path, WEB_CONCURRENCY="1") as server:
        for count in (2, 3, 4):
            server.process.send_signal(signal.SIGTTIN)
            wait_until(partial(has_workers, server, count))
        predict(server, 40)
        wait_until(lambda: value(scrape(server), "http_requests_total", **PREDICTED) == 40)
        counts = [value(scrape(server), "http_requests_total", **PREDICTED) for _ in range(12)]

    assert counts == [40] * 12


def test_another_server_of_the_same_binary(store: Path, tmp_path: Path) -> None:
    """A server that USR2 starts beside the old one has its own counts, and keeps them when the old one stops."""
    with serve(store, tmp_path, WEB_CONCURRENCY="1") as server:
        predict(server, 20)
        old = server.process.pid
        server.process.send_signal(signal.SIGUSR2)
        wait_until(lambda: sum(bool(process.children()) for process in psutil.Process(old).children()) == 1)
        (new,) = (process for process in psutil.Process(old).children() if process.children())
        try:
            assert server.terminate() == 0
            predict(server, 20)
            wait_until(lambda: value(scrape(server), "http_requests_total", **PREDICTED) == 20)
        finally:
            new.terminate()
            new.wait(timeout=40)


CHILDREN_WITHOUT_END = """
from prometheus_client import CollectorRegistry, Counter
from app.telemetry import shared_values
shared_values.share_values()
shared_values.reserve_slots(1)
counter = Counter("seen_total", "Seen.", ["name"], registry=CollectorRegistry())
for number in range(70_000):
    counter.labels(f"x{number:0{length}}").inc()
shared_values.take_slot(0, [])
counter.labels(f"x{0:0{length}}").inc()
(family,) = shared_values.SharedCollector().collect()
print(len(family.samples), {sample.value for sample in family.samples[1:]}, family.samples[0].value)
"""


@pytest.mark.parametrize(("length", "expected"), [(1, 65_535), (300, 43_812)], ids=["values", "names"])
def test_metrics_without_end(length: int, expected: int) -> None:
    """Beyond 65,535 values or 15 MiB of names, new series are not counted, old ones are, and the log tells so once."""
    code = f"length = {length}\n{CHILDREN_WITHOUT_END}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout == f"{expected} {{1.0}} 2.0\n"
    assert done.stderr.splitlines() == [
        "the memory for metrics is full, and new ones are not counted; restart the server"
    ]


VERSIONS_WITHOUT_END = """
from prometheus_client import CollectorRegistry, Counter
from app.telemetry import shared_values
shared_values.share_values()
shared_values.reserve_slots(2)
registry = CollectorRegistry()
seen = Counter("seen_total", "Seen.", registry=registry)
bins = Counter("bins_total", "Bins.", ["model", "version", "bin"], registry=registry)
for version in range(200):
    shared_values.take_slot(version % 2, [("m", version)])
    seen.inc()
    for number in range(1_000):
        bins.labels("m", str(version), str(number)).inc()
samples = [sample for family in shared_values.SharedCollector().collect() for sample in family.samples]
print(*(sample.value for sample in samples if sample.name == "seen_total"))
print(sum(sample.value for sample in samples if sample.labels.get("version") == "199"))
"""


def test_versions_without_end() -> None:
    """A server that loads new versions for ever counts all of them: what was counted of old ones makes room."""
    done = subprocess.run(
        [sys.executable, "-c", VERSIONS_WITHOUT_END], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert (done.stdout, done.stderr) == ("200.0\n1000.0\n", "")


def test_more_workers_than_slots() -> None:
    """A worker without a slot serves, is not counted, and the log tells so."""
    code = CHILDREN_WITHOUT_END.replace("take_slot(0, [])", "take_slot(1, [])")
    done = subprocess.run(
        [sys.executable, "-c", f"length = 1\n{code}"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout == "65535 {1.0} 1.0\n"
    assert done.stderr.splitlines()[-1].startswith("too many workers share the metrics")
