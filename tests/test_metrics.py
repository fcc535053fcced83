"""Owns the metrics: their names and labels, and correct counts while workers start and stop."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import requests
from flask.testing import FlaskClient
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from app import create_app
from app.config import Config
from conftest import HOUSE, ROOT, Server, rewrite, serve

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]

BINS, GOLDEN = "tabserve_feature_bin_total", "tabserve_golden_check_success"
MODEL = {"model": "boston-housing", "version": "1"}
ERRORS = ("rmse", "mae", "bias")
PREDICTED = {"method": "POST", "route": "/predict", "status": "200"}


def series(text: str) -> Series:
    """Return the value of every series; fails for text that Prometheus could not read, and for duplicate series."""
    found: Series = {}
    for family in parse_text(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def value(found: Series, name: str, **labels: str) -> float:
    """Return the value of one series, 0 if there is none."""
    return found.get((name, frozenset(labels.items())), 0.0)


def by_label(found: Series, name: str, *labels: str) -> dict[tuple[str, ...], float]:
    """Return the values of one metric by the values of some of its labels."""
    return {tuple(dict(key[1])[label] for label in labels): count for key, count in found.items() if key[0] == name}


def scrape(server: Server) -> Series:
    """Scrape any worker on a connection of its own, and return every series."""
    return series(requests.get(f"{server.url}/metrics", timeout=10).text)


def predict(server: Server, count: int) -> None:
    """Send prediction requests, each on a connection of its own, so that any worker may get it."""
    for _ in range(count):
        assert requests.post(f"{server.url}/predict", json=HOUSE, timeout=10).status_code == 200


def wait_until(true: Callable[[], bool]) -> None:
    """Return once a condition is true; fail after 15 s."""
    deadline = time.monotonic() + 15
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def has_workers(server: Server, count: int) -> bool:
    """Return whether the server has so many workers."""
    return len(server.workers()) == count


def kill_worker(server: Server) -> None:
    """Kill one of two workers as the kernel does when memory runs out, and wait for its successor."""
    victim = server.workers()[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in server.workers() and len(server.workers()) == 2)


def test_names_and_labels(client: FlaskClient) -> None:
    """The metrics and their labels are exactly those that are listed here."""
    client.post("/predict", json=HOUSE)
    client.post("/predict", json={})
    families = {family.name: family for family in parse_text(client.get("/metrics").text)}
    labels = {name: {label for sample in one.samples for label in sample.labels} for name, one in families.items()}

    assert {name: family.type for name, family in families.items() if not name.endswith("_created")} == {
        "http_requests": "counter",
        "http_request_duration_seconds": "histogram",
        "tabserve_requests_in_flight": "gauge",
        "tabserve_inference_duration_seconds": "summary",
        "tabserve_engine_duration_seconds": "summary",
        "tabserve_rows": "counter",
        "tabserve_rejected_rows": "counter",
        "tabserve_overload_rejections": "counter",
        "tabserve_batch_rows": "histogram",
        "tabserve_batch_wait_seconds": "histogram",
        "tabserve_gpu_memory_used_bytes": "gauge",
        "tabserve_gpu_memory_total_bytes": "gauge",
        "tabserve_gpu_busy_ratio": "gauge",
        "tabserve_ready": "gauge",
        "tabserve_model_info": "gauge",
        "tabserve_golden_check_success": "gauge",
        "tabserve_feature_bin": "counter",
        "tabserve_feature_bin_reference_ratio": "gauge",
        "tabserve_prediction_bin": "counter",
        "tabserve_prediction_bin_reference_ratio": "gauge",
        "tabserve_reference_rows": "gauge",
        "tabserve_prediction_log_rows": "counter",
        "tabserve_prediction_log_dropped_rows": "counter",
        "tabserve_prediction_log_removed_rows": "counter",
        "tabserve_prediction_log_failures": "counter",
        "tabserve_feedback_rows": "counter",
        **{f"tabserve_{kind}_{name}": "gauge" for kind in ("validation", "live_error") for name in ERRORS},
        "tabserve_validation_rows": "gauge",
        "tabserve_live_error_rows": "gauge",
    }
    assert labels["http_requests"] == {"method", "route", "status"}
    assert labels["http_request_duration_seconds"] == {"route", "le"}
    assert labels["tabserve_inference_duration_seconds"] == {"model", "version", "outcome"}
    assert labels["tabserve_engine_duration_seconds"] == {"model", "version"}
    assert labels["tabserve_rows"] == {"model", "version"}
    assert labels["tabserve_rejected_rows"] == {"model", "version", "reason", "feature"}
    assert labels["tabserve_feature_bin"] == {"model", "version", "feature", "bin"}
    assert labels["tabserve_feature_bin_reference_ratio"] == {"model", "version", "feature", "bin"}
    assert labels["tabserve_prediction_bin"] == {"model", "version", "bin"}
    assert labels["tabserve_prediction_bin_reference_ratio"] == {"model", "version", "bin"}
    assert labels["tabserve_golden_check_success"] == labels["tabserve_reference_rows"] == {"model", "version"}
    assert labels["tabserve_validation_rmse"] == {"model", "version"}
    assert labels["tabserve_prediction_log_dropped_rows"] == {"reason"}
    assert labels["tabserve_prediction_log_removed_rows"] == {"reason"}
    assert labels["tabserve_feedback_rows"] == {"outcome"}
    assert labels["tabserve_model_info"] == {"model", "version", "algorithm", "digest"}
    assert all(family.documentation for family in families.values())


def test_every_request_is_counted_once(client: FlaskClient) -> None:
    """A request is counted by its method, the route's pattern and its status."""
    client.post("/predict", json=HOUSE)
    client.post("/predict", json={})
    client.post("/models/boston-housing/predict", json=HOUSE)
    client.get("/predict")
    found = series(client.get("/metrics").text)

    requests_made = by_label(found, "http_requests_total", "method", "route", "status")
    assert {key: count for key, count in requests_made.items() if count} == {
        ("POST", "/predict", "200"): 1,
        ("POST", "/predict", "422"): 1,
        ("POST", "/models/<name>/predict", "200"): 1,
        ("GET", "unmatched", "405"): 1,
    }
    assert value(found, "http_request_duration_seconds_count", route="/predict") == 2


def test_rows_are_counted(client: FlaskClient) -> None:
    """Predicted rows are counted by model and version, rejected ones by each reason and feature, too."""
    client.post("/predict", json=[HOUSE] * 3)
    client.post("/predict", json=HOUSE)
    client.post("/predict", json=[HOUSE, {**HOUSE, "RM": "x", "TAX": "y"}, {**HOUSE, "RM": None}])
    client.post("/predict", json={"columns": [*list(HOUSE)[1:], "ZN"], "data": [list(HOUSE.values())] * 5})
    client.post("/predict", json=[1, 2])
    client.post("/predict", data="{", content_type="application/json")
    found = series(client.get("/metrics").text)

    assert value(found, "tabserve_rows_total", **MODEL) == 4
    rejected = by_label(found, "tabserve_rejected_rows_total", "reason", "feature")
    assert {key: count for key, count in rejected.items() if count} == {
        ("not a number", "RM"): 1,
        ("not a number", "TAX"): 1,
        ("missing", "RM"): 1,
        ("missing", "CHAS"): 5,
        ("unknown", ""): 5,
        ("shape", ""): 2,
    }


def test_inferences_are_measured(client: FlaskClient) -> None:
    """Prediction requests are measured by their outcome, and in the engine if they reach it."""
    started = time.perf_counter()
    for rows in (1, 3, 200):
        client.post("/predict", json=[HOUSE] * rows)
    for body in ("{", "{}", "[]"):
        client.post("/predict", data=body, content_type="application/json")
    client.post("/models/titanic/predict", json=HOUSE)
    client.get("/models")
    took = time.perf_counter() - started
    found = series(client.get("/metrics").text)
    inference, engine = "tabserve_inference_duration_seconds", "tabserve_engine_duration_seconds"

    assert by_label(found, f"{inference}_count", "outcome") == {("success",): 3, ("failure",): 3}
    assert value(found, f"{engine}_count", **MODEL) == 3
    in_engine, succeeded = (
        value(found, f"{engine}_sum", **MODEL),
        value(found, f"{inference}_sum", **MODEL, outcome="success"),
    )
    assert 0 < in_engine < succeeded < took
    assert 0 < value(found, f"{inference}_sum", **MODEL, outcome="failure") < took


def test_labels_are_bounded(client: FlaskClient) -> None:
    """No text of a client becomes a label's value."""
    bodies: list[Any] = [[], {}, [1], {"ZN": 1}, {"a": {}}, {"columns": [1], "data": [1]}]
    for body in [*bodies, {"columns": ["x", "x"], "data": [[1, 2]]}]:
        client.post("/predict", json=body)
    found = series(client.get("/metrics").text)

    assert {reason for (reason,) in by_label(found, "tabserve_rejected_rows_total", "reason")} == {
        "missing",
        "unknown",
        "repeated",
        "shape",
    }


def test_gauges_of_a_version(client: FlaskClient, store: Path) -> None:
    """Reference shares, rows and validation metrics are the artifact's; golden rows are predicted as in training."""
    folder = store / "boston-housing" / "1"
    manifest = json.loads((folder / "manifest.json").read_text())
    reference = json.loads((folder / "reference.json").read_text())
    found = series(client.get("/metrics").text)
    shares = by_label(found, "tabserve_feature_bin_reference_ratio", "feature", "bin")
    outside = ("below", "above", "missing")

    for name, bins in reference["features"].items():
        assert [shares[name, label] for label in outside] == [0, 0, 0]
        inside = [shares[key] for key in sorted(shares) if key[0] == name and key[1] not in outside]
        assert inside == bins["shares"]
        assert shares[name, "10"] == bins["shares"][-1]
    predicted = by_label(found, "tabserve_prediction_bin_reference_ratio", "bin")
    assert [predicted[f"{number:02}",] for number in range(1, 11)] == reference["prediction"]["shares"]
    assert value(found, "tabserve_reference_rows", **MODEL) == manifest["metrics"]["training"]["rows"]
    for name in (*ERRORS, "rows"):
        assert value(found, f"tabserve_validation_{name}", **MODEL) == manifest["metrics"]["validation"][name]
    assert value(found, "tabserve_golden_check_success", **MODEL) == 1


def test_failures_are_counted_from_zero(client: FlaskClient) -> None:
    """Every route with POST has its counters of 500 and 503 from the start, so that a first burst is an increase."""
    found = series(client.get("/metrics").text)
    failures = by_label(found, "http_requests_total", "method", "route", "status")

    for route in ("/predict", "/models/<name>/predict", "/v2/models/<name>/infer", "/invocations", "/feedback"):
        assert failures["POST", route, "500"] == failures["POST", route, "503"] == 0


def test_ready(store: Path, client: FlaskClient) -> None:
    """The gauge equals /readyz: it is 0 if one of several models is not loaded."""
    assert value(series(client.get("/metrics").text), "tabserve_ready") == 1
    half = create_app(Config(store=store, models=("boston-housing", "titanic"))).test_client()

    assert half.get("/readyz").status_code == 503
    assert value(series(half.get("/metrics").text), "tabserve_ready") == 0


def test_every_bin_is_counted_from_zero(client: FlaskClient) -> None:
    """Before the first request every bin with a reference share has a counter at 0, so that 1 is an increase."""
    found = series(client.get("/metrics").text)
    for kind, labels in (("feature", ("feature", "bin")), ("prediction", ("bin",))):
        counts = by_label(found, f"tabserve_{kind}_bin_total", *labels)
        assert counts == dict.fromkeys(by_label(found, f"tabserve_{kind}_bin_reference_ratio", *labels), 0)
    refused = by_label(found, "tabserve_rejected_rows_total", "reason", "feature")
    assert refused == dict.fromkeys((("missing", name) for name in HOUSE), 0)


def test_rows_are_counted_into_bins(client: FlaskClient, houses: pd.DataFrame) -> None:
    """Each value is counted in the first bin whose upper edge is not below it, or outside the training range."""
    far = [{**HOUSE, "RM": 3.5}, {**HOUSE, "RM": 8.8}, {**HOUSE, "RM": 5.565}, {**HOUSE, "RM": np.nextafter(5.565, 9)}]
    client.post("/predict", json=far)
    found = series(client.get("/metrics").text)
    rooms = {label: n for (name, label), n in by_label(found, BINS, "feature", "bin").items() if name == "RM" and n}
    assert rooms == {"below": 1, "above": 1, "01": 1, "02": 1}

    client.post("/predict", json=houses.to_dict("records"))
    found = series(client.get("/metrics").text)
    counted = by_label(found, BINS, "feature", "bin")
    for name in houses:
        assert sum(n for (feature, _), n in counted.items() if feature == name) == len(far) + len(houses)
    assert sum(by_label(found, "tabserve_prediction_bin_total", "bin").values()) == len(far) + len(houses)


def test_golden_rows_that_differ(store: Path, tmp_path: Path) -> None:
    """A version whose golden rows differ has 0: at the start, and after SIGHUP, when the old version stays served."""
    own = Path(shutil.copytree(store, tmp_path / "store"))
    folder = Path(shutil.copytree(own / "boston-housing" / "1", own / "boston-housing" / "2"))
    golden = json.loads((folder / "golden.json").read_text())
    golden["y"][0] += 1
    rewrite(folder, lambda manifest: manifest.update(version=2), {"golden.json": json.dumps(golden).encode()})
    assert value(series(create_app(Config(store=own)).test_client().get("/metrics").text), GOLDEN, **MODEL) == 1

    with serve(own, tmp_path, WEB_CONCURRENCY="1") as server:
        (own / "boston-housing" / "aliases.json").write_text('{"champion": 2}')
        first = server.workers()
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: server.workers() != first and len(server.workers()) == 1)
        wait_until(lambda: by_label(scrape(server), GOLDEN, "version") == {("1",): 1, ("2",): 0})
        predict(server, 1)

    found = series(create_app(Config(store=own)).test_client().get("/metrics").text)
    assert by_label(found, GOLDEN, "version") == {("2",): 0}
    assert by_label(found, "tabserve_model_info", "version") == {}


def test_model_info(client: FlaskClient, store: Path) -> None:
    """Each loaded version is a series, with the artifact's algorithm and digest."""
    found = series(client.get("/metrics").text)
    info = [dict(labels) for name, labels in found if name == "tabserve_model_info"]

    assert len(info) == 1
    assert info[0].items() >= MODEL.items()
    assert info[0]["digest"] in (store / "boston-housing" / "1" / "manifest.json").read_text()
    assert info[0]["algorithm"]


def test_buckets_resolve_fast_requests(client: FlaskClient) -> None:
    """Several buckets are below a millisecond, where single rows are answered, and they reach to 10 s."""
    client.post("/predict", json=HOUSE)
    found = series(client.get("/metrics").text)
    bounds = sorted(float(dict(labels)["le"]) for name, labels in found if name.endswith("_seconds_bucket"))

    assert len([bound for bound in bounds if bound < 0.001]) >= 3
    assert bounds[-2:] == [10.0, float("inf")]


def test_junk_makes_no_series(client: FlaskClient) -> None:
    """10,000 unknown paths and methods add two series: one for each status."""
    client.get("/metrics")
    before = series(client.get("/metrics").text)
    for number in range(5_000):
        client.get(f"/junk{number}")
        client.open(f"/junk/{number}?x={number}", method=f"JUNK{number}")
    found = series(client.get("/metrics").text)

    added = {(name, labels) for name, labels in found.keys() - before.keys() if name == "http_requests_total"}
    assert {frozenset(dict(labels).values()) for _, labels in added} == {
        frozenset({"GET", "unmatched", "404"}),
        frozenset({"other", "unmatched", "404"}),
    }
    assert value(found, "http_requests_total", method="GET", route="unmatched", status="404") == 5_000


def test_names_of_models_make_no_series(client: FlaskClient) -> None:
    """Requests for unknown models add no series for their names."""
    for number in range(50):
        client.post(f"/models/junk-{number}/predict", json=HOUSE)

    assert "junk" not in client.get("/metrics").text


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


def test_counts_across_workers(server: Server) -> None:
    """A scrape of any worker has every request of every worker exactly once, within a second."""
    before = scrape(server)
    predict(server, 60)
    time.sleep(1)
    counts = [value(scrape(server), "http_requests_total", **PREDICTED) for _ in range(12)]
    after = scrape(server)

    assert counts == [value(before, "http_requests_total", **PREDICTED) + 60] * 12
    assert value(after, "tabserve_rows_total", **MODEL) - value(before, "tabserve_rows_total", **MODEL) == 60
    assert value(after, "http_request_duration_seconds_count", route="/predict") == counts[0]
    assert len([name for name, _ in after if name == "tabserve_model_info"]) == 1


def test_killed_workers_lose_no_count(store: Path, tmp_path: Path) -> None:
    """If workers are killed and replaced, no counter decreases, and counts older than a second are not lost."""
    with serve(store, tmp_path, WEB_CONCURRENCY="2") as server:
        wait_until(lambda: len(server.workers()) == 2)
        predict(server, 20)
        time.sleep(1)
        counts = [value(scrape(server), "http_requests_total", **PREDICTED)]
        for _ in range(4):
            kill_worker(server)
            counts.append(value(scrape(server), "http_requests_total", **PREDICTED))
            predict(server, 20)
            time.sleep(1)
            counts.append(value(scrape(server), "http_requests_total", **PREDICTED))

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
            (own / "boston-housing" / "1" / "model.onnx").write_bytes(b"damaged")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: not old & set(server.workers()) and len(server.workers()) == 2)
        predict(server, 60)
        time.sleep(1)
        counts = [value(scrape(server), "http_requests_total", **PREDICTED) for _ in range(6)]

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
from app import shared_values
shared_values.share_values()
shared_values.reserve_slots(1)
counter = Counter("seen_total", "Seen.", ["name"], registry=CollectorRegistry())
for number in range(70_000):
    counter.labels(f"x{number:0{length}}").inc()
shared_values.take_slot(0)
counter.labels(f"x{0:0{length}}").inc()
(family,) = shared_values.SharedCollector().collect()
print(len(family.samples), {sample.value for sample in family.samples[1:]}, family.samples[0].value)
"""


@pytest.mark.parametrize(("length", "expected"), [(1, 65_535), (300, 44_557)], ids=["values", "names"])
def test_metrics_without_end(length: int, expected: int) -> None:
    """Beyond 65,535 values or 15 MiB of names, new series are not counted, old ones are, and the log tells so once."""
    code = f"length = {length}\n{CHILDREN_WITHOUT_END}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout == f"{expected} {{1.0}} 2.0\n"
    assert done.stderr.splitlines() == [
        "the memory for metrics is full, and new ones are not counted; restart the server"
    ]


def test_more_workers_than_slots() -> None:
    """A worker without a slot serves, is not counted, and the log tells so."""
    code = CHILDREN_WITHOUT_END.replace("take_slot(0)", "take_slot(1)")
    done = subprocess.run(
        [sys.executable, "-c", f"length = 1\n{code}"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout == "65535 {1.0} 1.0\n"
    assert done.stderr.splitlines()[-1].startswith("too many workers share the metrics")
