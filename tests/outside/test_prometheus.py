"""Owns a real Prometheus with real servers: which alerts fire, drift as by numpy, and data for the panels."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests
from numpy.typing import NDArray

from model.live import verdict
from model.live.judge import MINIMUM_ROWS
from monitoring import dashboard, rules
from tests.support import classifiers, gems
from tests.support.examples import BOSTON_HOUSING, rows_of
from tests.support.server import Server, serve
from tests.support.service import COLUMNS, HOUSE, ROOT, rewrite

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="needs prometheus (Debian: apt-get install prometheus)"
)

N_ROWS = 20_000
HOLD_SECONDS = 2

Floats = NDArray[np.float64]
Series = dict[str, Any]


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait up to a minute for a condition."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A Prometheus started by `python -m monitoring run`: its port."""

    port: int

    def get(self, path: str, **parameters: str) -> Any:
        """Return the API's response."""
        reply = requests.get(f"http://127.0.0.1:{self.port}/api/v1/{path}", params=parameters, timeout=10)
        reply.raise_for_status()
        return reply.json()["data"]

    def query(self, expr: str) -> list[Series]:
        """Return the current series of an expression."""
        found: list[Series] = self.get("query", query=expr)["result"]
        return found

    def wait_for(self, expr: str) -> None:
        """Wait until an expression has a series."""

        def found() -> bool:
            try:
                return bool(self.query(expr))
            except requests.RequestException:  # it is just starting
                return False

        wait_until(found)

    def alerts(self) -> set[tuple[str, str, str]]:
        """Return the alerts that are pending or firing: name, feature if any, and state."""
        labels = [series["metric"] for series in self.query("ALERTS")]
        return {(found["alertname"], found.get("feature", ""), found["alertstate"]) for found in labels}

    def samples(self, server: Server) -> list[tuple[float, str]]:
        """Return time and value of every scrape that a server answered."""
        expr = f'tabserve_reference_rows{{instance="{server.url.removeprefix("http://")}"}}[10m]'
        found: list[tuple[float, str]] = self.query(expr)[0]["values"]
        return found


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@contextmanager
def watch(folder: Path, *servers: Server) -> Iterator[Prometheus]:
    """Run Prometheus until the block ends: scrapes and evaluates every second, over 10 minutes."""
    port = free_port()
    options = ["--port", str(port), "--window", "10m", "--hold", f"{HOLD_SECONDS}s", "--interval", "1s"]
    command = [sys.executable, "-m", "monitoring", "run", *options, "--folder", str(folder / "prometheus")]
    process = subprocess.Popen([*command, "--url", *(server.url for server in servers)], cwd=ROOT)
    try:
        prometheus = Prometheus(port)
        prometheus.wait_for(f"count(count by (instance) (tabserve_reference_rows)) == {len(servers)}")
        yield prometheus
    finally:
        process.terminate()
        process.wait(timeout=300)


def kill_evenly(prometheus: Prometheus, servers: Sequence[Server]) -> None:
    """Kill two servers after as many scrapes of one as of the other, and wait until both are gone for Prometheus.

    Of a target that is gone, `increase` adds half an interval to what it saw: as much for both, if of as many scrapes.
    """
    first, second = sorted(servers, key=lambda server: prometheus.samples(server)[0][0])
    seen = len(prometheus.samples(first))
    wait_until(lambda: len(prometheus.samples(first)) > seen)  # just scraped, a server has a second until it is again
    kill(first)
    wait_until(lambda: len(prometheus.samples(second)) >= len(prometheus.samples(first)))
    kill(second)
    prometheus.wait_for('absent(up{job="tabserve"} offset 3s == 1)')
    assert len(prometheus.samples(first)) == len(prometheus.samples(second))


def kill(server: Server) -> None:
    """Kill a server: on SIGTERM it would still answer known connections."""
    for pid in (server.process.pid, *server.workers()):
        os.kill(pid, signal.SIGKILL)
    server.process.wait()


def distances(trained: Floats, live: Floats) -> tuple[float, float]:
    """Return PSI and KS by their definitions, at the deciles of `trained`; no share is less than 1e-4."""
    edges = np.unique(trained)
    if len(edges) > 10:
        edges = np.unique(np.quantile(trained, np.arange(1, 11) / 10, method="inverted_cdf"))

    def shares(values: Floats) -> Floats:
        return np.diff([np.mean(values <= edge) for edge in edges], prepend=0)

    p, q = np.maximum(shares(np.minimum(live, edges[-1])), 1e-4), shares(trained)
    below = np.mean(live < trained.min())
    return float(np.sum((p - q) * np.log(p / q))), float(
        max(below, *(abs(np.mean(live <= edge) - np.mean(trained <= edge)) for edge in edges))
    )


def as_in_training(rows: Floats) -> None:
    """Leave rows as they are."""


def more_rooms(rows: Floats) -> None:
    """Shift the column RM by a standard deviation, which also brings some rows out of the training range."""
    rows[:, COLUMNS.index("RM")] += rows[:, COLUMNS.index("RM")].std()


def more_at_the_river(rows: Floats) -> None:
    """Have CHAS at 1 in 45 % of the rows instead of 7 %, which hardly changes a prediction."""
    rows[: int(0.4 * len(rows)), COLUMNS.index("CHAS")] = 1


ALERTS_OF_ROOMS = {
    ("TabserveFeatureDrift", "RM", "firing"),
    ("TabserveOutOfRange", "RM", "firing"),
    ("TabservePredictionShift", "", "firing"),
}


@pytest.mark.parametrize(
    ("change", "drifting", "expected"),
    [(as_in_training, [], set()), (more_rooms, ["RM"], ALERTS_OF_ROOMS), (more_at_the_river, ["CHAS"], set())],
)
def test_drift(
    store: Path,
    tmp_path: Path,
    pipeline: Any,
    change: Callable[[Floats], None],
    drifting: Sequence[str],
    expected: set[tuple[str, str, str]],
) -> None:
    """Rows of the training data fire no alert; those of a feature that matters fire, and of one that does not do not.

    So does that of the predictions, where they are others. When both servers have gone, what they counted still
    counts, and PSI and KS are numpy's of the rows that were sent, to 1e-6. What moved the explained answers is known.
    """
    X = rows_of(BOSTON_HOUSING).X_train
    rows = np.random.default_rng(4).choice(X, N_ROWS)
    change(rows)
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()

    with (
        serve(store, folders[0], WEB_CONCURRENCY="2") as first,
        serve(store, folders[1], WEB_CONCURRENCY="2") as second,
        watch(tmp_path, first, second) as prometheus,
    ):
        for server, part in zip((first, second), np.split(rows, 2)):
            for batch in np.split(part, 2):  # of fewer requests than five no objective makes an alert
                body = {"columns": COLUMNS, "data": batch.tolist()}
                assert requests.post(f"{server.url}/predict?explain=true", json=body, timeout=30).ok
        prometheus.wait_for(f"tabserve:prediction_rows:sum offset {HOLD_SECONDS + 3}s > {N_ROWS - 1}")
        assert prometheus.alerts() == expected
        drifts = prometheus.query("tabserve:feature_drift:ratio > 1")
        assert [series["metric"]["feature"] for series in drifts] == drifting
        moved = prometheus.query('tabserve:feature_contribution:ratio{feature=~"RM|LSTAT"} > 0.2')
        assert len(moved) == 2

        kill_evenly(prometheus, (first, second))
        assert prometheus.alerts() == expected | {("TabserveDown", "", "pending")}
        recorded = {
            name: {series["metric"].get("feature", ""): float(series["value"][1]) for series in prometheus.query(name)}
            for name in (
                f"tabserve:{what}_{statistic}" for what in ("feature", "prediction") for statistic in ("psi", "ks")
            )
        }

    truth = {name: distances(X[:, i], rows[:, i]) for i, name in enumerate(COLUMNS)}
    answers = distances(pipeline.predict(X), pipeline.predict(rows))
    for number, statistic in enumerate(("psi", "ks")):
        by_feature = {name: values[number] for name, values in truth.items()}
        assert recorded[f"tabserve:feature_{statistic}"] == pytest.approx(by_feature, rel=0, abs=1e-6)
        assert recorded[f"tabserve:prediction_{statistic}"] == pytest.approx({"": answers[number]}, rel=0, abs=1e-6)


def test_broken_data(store: Path, tmp_path: Path) -> None:
    """A column that is constant, out of range or missing raises an alert of its own, and one that matters a page.

    LSTAT is missing in three of four rows, which are refused; in the others RM is the same, and PTRATIO is ten times as
    large.
    """
    rows = np.random.default_rng(4).choice(rows_of(BOSTON_HOUSING).X_train, 2_000)
    rows[:, COLUMNS.index("RM")] = 6.2
    rows[:, COLUMNS.index("PTRATIO")] *= 10
    cells = rows.astype(object)
    cells[500:, COLUMNS.index("LSTAT")] = None

    with serve(store, tmp_path, WEB_CONCURRENCY="2") as server, watch(tmp_path, server) as prometheus:
        replies = [
            requests.post(f"{server.url}/predict", json={"columns": COLUMNS, "data": part.tolist()}, timeout=30)
            for part in np.split(cells, 4)
        ]
        prometheus.wait_for(f"tabserve:feature_sent_rows:sum offset {HOLD_SECONDS + 3}s > 1999")
        found = prometheus.query('ALERTS{alertname!~"TabserveFeatureDrift|TabservePredictionShift"}')

    assert [reply.status_code for reply in replies] == [200, 422, 422, 422]
    alerts = {tuple(series["metric"][label] for label in ("alertname", "feature", "severity")) for series in found}
    assert {series["metric"]["alertstate"] for series in found} == {"firing"}
    assert alerts == {
        ("TabserveConstantFeature", "RM", "warning"),
        ("TabserveOutOfRange", "PTRATIO", "warning"),
        ("TabserveMissingValues", "LSTAT", "warning"),
        ("TabserveMissingValues", "LSTAT", "critical"),
    }


def variables(prometheus: Prometheus, board: dict[str, Any]) -> dict[str, str]:
    """Return a value for each variable of the dashboard as Grafana does: the first, or all of them."""
    chosen = {"$__rate_interval": "30s"}
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
            found = prometheus.get(f"label/{label}/values", **{"match[]": filled(series, chosen)})
            chosen[f"${variable['name']}"] = found[0] if found else variable["allValue"]
    return chosen


def filled(expr: str, chosen: dict[str, str]) -> str:
    """Return an expression with values for its variables."""
    return re.sub(r"\$\w+", lambda name: chosen[name[0]], expr)


def test_dashboard_has_data(
    store: Path, worse_store: Path, classifiers_store: Path, gems_store: Path, tmp_path: Path
) -> None:
    """After predictions, errors and truths every query of the dashboard has data, except those about a GPU.

    Those about live errors have it for a regression or for a classifier, those about shadows for version 2, and those
    about categories for a model that has some.
    """
    both = tmp_path / "both"
    for name, champion, challenger in (
        ("boston-housing", store, worse_store),
        ("precious", classifiers_store, classifiers_store),
    ):
        shutil.copytree(champion / name, both / name)
        shutil.copytree(challenger / name / "1", both / name / "2")
        rewrite(both / name / "2", lambda manifest: manifest.update(version=2))
    (tmp_path / "gems").mkdir()
    stones = classifiers.table(100, seed=1)
    labels = classifiers.labels("precious", stones, seed=1).tolist()
    table = rows_of(BOSTON_HOUSING)
    X, truth = table.X, table.y.tolist()
    board = json.loads(dashboard.to_json())

    with (
        serve(
            both,
            tmp_path,
            WEB_CONCURRENCY="2",
            TABSERVE_MODELS="boston-housing,boston-housing@2:shadow,precious,precious@2:shadow",
            TABSERVE_BATCH_ROWS="64",
            TABSERVE_PREDICTION_LOG=f"sqlite:///{tmp_path}/predictions.db",
        ) as server,
        serve(gems_store, tmp_path / "gems", TABSERVE_MODELS=gems.NAME) as typed,
        watch(tmp_path, server, typed) as prometheus,
    ):

        def post(path: str, body: object, **headers: str) -> int:
            return requests.post(f"{server.url}{path}", json=body, headers=headers, timeout=30).status_code

        for request_id in ("first", "second"):  # what comes up with the first request is a rate from the second on
            house = {"columns": COLUMNS, "data": X.tolist()}
            assert post("/predict?explain=true", house, **{"X-Request-Id": request_id}) == 200
            assert post("/predict", {**HOUSE, "RM": None}) == 422
            assert post("/models/none/predict", HOUSE) == 404
            assert post("/feedback", {"request_id": request_id, "truth": truth}) == 200
            assert post("/feedback", {"request_id": "none", "truth": 1}) == 404
            of_stones = {"X-Request-Id": f"{request_id}-stones"}
            assert post("/models/precious/predict", classifiers.rows(stones), **of_stones) == 200
            assert requests.post(f"{typed.url}/predict", json=[gems.GEM] * MINIMUM_ROWS, timeout=30).ok
            assert post("/feedback", {"request_id": f"{request_id}-stones", "truth": labels}) == 200
            time.sleep(1.5)
        ids = [f"r{number}" for number in range(verdict.START + 20)]
        for request_id, row in zip(ids, X.tolist()):
            assert post("/predict", {"columns": COLUMNS, "data": [row]}, **{"X-Request-Id": request_id}) == 200
        truths = [{"request_id": request_id, "truth": y} for request_id, y in zip(ids, truth)]
        assert post("/feedback", truths) == 200
        prometheus.wait_for("tabserve:comparison_margin and tabserve:comparison_low")
        prometheus.wait_for("tabserve:live_error_rmse_threshold")
        prometheus.wait_for("tabserve:live_error_log_loss_threshold")
        for _ in range(3):  # rates are over the last seconds
            assert post("/predict?explain=true", house) == 200
            time.sleep(1.5)
        chosen = variables(prometheus, board)
        classifier = chosen | {"$model": "precious", "$feature": "carat"}
        with_categories = chosen | {"$model": "gems", "$feature": "cut"}
        panels = [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel.get("targets", [])]
        empty = [
            (title, expr)
            for title, expr in panels
            if not any(
                prometheus.query(filled(expr, {**which, "$version": version}))
                for which in (chosen, classifier, with_categories)
                for version in "12"
            )
        ]

    assert chosen == {
        "$__rate_interval": "30s",
        "$namespace": ".*",
        "$job": "tabserve",
        "$model": "boston-housing",
        "$version": "1",
        "$feature": "B",
    }
    assert len(panels) > 30
    assert [(title, expr) for title, expr in empty if "tabserve_gpu_" not in expr] == []


def test_make_monitor(server: Server, tmp_path: Path) -> None:
    """`make monitor` prints links that work, watches the server, loads every rule, and leaves nothing behind."""
    port = free_port()
    asked = [f"URL={server.url}", f"MONITOR_PORT={port}", "ARGS=--interval 1s"]
    shown = subprocess.run(
        ["make", "-n", "--no-print-directory", "monitor", *asked], cwd=ROOT, capture_output=True, text=True, check=True
    )
    command = shlex.split(shown.stdout.splitlines()[-1].removeprefix("exec .venv/bin/python "))
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(4)]
        links = [line.split()[1] for line in lines[1:]]
        pages = [requests.get(link, timeout=10) for link in links]
        prometheus = Prometheus(port)
        prometheus.wait_for('up{job="tabserve"} == 1')
        wait_until(
            lambda: "'health': 'unknown'" not in str(prometheus.get("rules"))
        )  # as long as a rule was not evaluated
        groups = prometheus.get("rules")["groups"]
        (child,) = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=300)

    assert server.url in lines[0]
    assert all(link.startswith(f"http://localhost:{port}/") for link in links)
    assert [page.status_code for page in pages] == [200, 200, 200]
    assert all("html" in page.headers["Content-Type"] for page in pages)
    assert {group["name"] for group in groups} == {group["name"] for group in rules.groups()}
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
    assert process.returncode == 0
    assert re.fullmatch(r".*Received SIGTERM, exiting gracefully.*\n", rest), rest
    assert not child.is_running()
    assert list(tmp_path.iterdir()) == []


def test_demo(store: Path) -> None:
    """The day of traffic that `make demo` sends fires the alert of the feature that drifts, and of no other."""
    command = [sys.executable, "-m", "monitoring", "demo", "--store", str(store), "--seconds", "30", "--exit"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    fired = re.findall(r"TabserveFeatureDrift (\w+)", done.stdout)

    assert fired == ["LSTAT"]
