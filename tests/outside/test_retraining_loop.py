"""Owns the whole loop, with a real Prometheus and a real server: drift, alert, retraining, promotion, reload."""

from __future__ import annotations

import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import requests

from model import Store
from model.cli.main import main
from model.train import proof
from tests.outside.test_prometheus import watch
from tests.support.feedback import replaced
from tests.support.server import Server, serve, wait_until

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="needs prometheus (Debian: apt-get install prometheus)"
)

N_SENT, N_ROWS = 1_000, 10  # in all, and a request


def table(n_rows: int, *, low: float, slope: float, seed: int) -> pd.DataFrame:
    """Return rows whose target is a line of `area`, from `low` on, with noise of deviation 1."""
    random = np.random.default_rng(seed)
    area = random.uniform(low, low + 10, n_rows)
    rooms = random.integers(1, 6, n_rows).astype(float)
    return pd.DataFrame({"area": area, "rooms": rooms, "price": slope * area + rooms + random.normal(0, 1, n_rows)})


def known(session: requests.Session, server: Server, truths: dict[str, Any]) -> bool:
    """Send true values; return whether the log has their request."""
    status = session.post(f"{server.url}/feedback", json=truths, timeout=30).status_code
    assert status in (200, 404)
    return status == 200


def send(server: Server, rows: pd.DataFrame, name: str) -> set[int]:
    """Predict rows, some a request, and send their true values; return the versions that answered."""
    versions = set()
    with requests.Session() as session:
        for number in range(0, len(rows), N_ROWS):
            part, request_id = rows[number : number + N_ROWS], f"{name}-{number}"
            body = {"columns": ["area", "rooms"], "data": part[["area", "rooms"]].to_numpy().tolist()}
            reply = session.post(
                f"{server.url}/predict", json=body, headers={"X-Request-Id": request_id}, timeout=30
            ).json()
            versions.add(reply["version"])
            truths = {"request_id": request_id, "truth": part["price"].tolist()}
            wait_until(partial(known, session, server, truths))  # the log is written behind the reply
    return versions


def test_loop(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Drift arrives, the alert fires, a version of the logged rows is better, is promoted, and all workers serve it.

    Before the alert fires, and while it is too soon after the last version, the same command does nothing.
    """
    monkeypatch.setattr(proof, "RANDOM_ROWS", 2_000)
    store, url = Store(tmp_path / "store"), f"sqlite:///{tmp_path / 'log.db'}"
    table(500, low=10, slope=3, seed=0).to_csv(tmp_path / "prices.csv", index=False)
    train = ["train", "prices", "--data", str(tmp_path / "prices.csv"), "--target", "price", "--learner", "linear"]
    assert main(["--store", str(store.root), *train]) == 0
    settings = {"TABSERVE_PREDICTION_LOG": url, "TABSERVE_PREDICTION_LOG_FEATURES": "true", "WEB_CONCURRENCY": "2"}
    settings["TABSERVE_RELOAD_SECONDS"] = "1"

    with serve(store.root, tmp_path, **settings) as server, watch(tmp_path, server) as prometheus:

        def retrain(*options: str) -> str:
            """Run what a job runs every few minutes, and return its output."""
            asked = ["--from-log", url, "--with", str(tmp_path / "prices.csv"), "--promote", "if-better"]
            asked += ["--if-alert", f"http://127.0.0.1:{prometheus.port}", *options]
            capsys.readouterr()
            assert main(["--store", str(store.root), "retrain", "prices", *asked]) == 0
            return capsys.readouterr().out

        assert "no alert fires" in retrain("--cool-down", "1s")
        began = time.monotonic()
        assert send(server, table(N_SENT, low=18, slope=5, seed=1), "drifted") == {1}
        sent = time.monotonic()
        prometheus.wait_for('ALERTS{alertname="TabserveFeatureDrift",alertstate="firing",model="prices"}')
        fired = time.monotonic()
        assert "fires, and --cool-down is 24 h 0 min" in retrain()
        assert store.versions("prices") == [1]
        before = set(server.workers())
        output = retrain("--cool-down", "1s")
        promoted = time.monotonic()
        assert "compare  version 2 is better than version 1" in output
        assert store.aliases("prices") == {"candidate": 2, "champion": 2}
        assert store.history("prices")[-1].why.startswith("retrain --promote if-better: version 2 is better")
        wait_until(lambda: replaced(server, before))
        assert send(server, table(400, low=18, slope=5, seed=2), "after") == {2}
        served = time.monotonic()

    times = {"sent": sent - began, "alert": fired - sent, "retrained": promoted - fired, "served": served - promoted}
    with capsys.disabled():
        print("\nthe loop, in seconds:", ", ".join(f"{name} {seconds:.1f}" for name, seconds in times.items()))
    assert min(times.values()) >= 0
