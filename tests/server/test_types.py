"""A model with features of every type, served, logged and judged: from requests over HTTP to the report."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import requests

from tests.support import gems
from tests.support.gems import GEM, NAME
from tests.support.metrics import series, value
from tests.support.server import serve, wait_until
from tests.support.service import ROOT, bits

VERSION = {"model": NAME, "version": "1"}


def test_from_requests_to_the_report(gems_store: Path, gems_pipeline: Any, tmp_path: Path) -> None:
    """Rows with categories and missing values are answered, counted, logged, given truths and reported on."""
    path, output = tmp_path / "log.db", tmp_path / "report.html"
    settings = {"TABSERVE_PREDICTION_LOG": f"sqlite:///{path}", "TABSERVE_PREDICTION_LOG_FEATURES": "true"}
    records = [*gems.rows(gems.table(300, seed=4)), *[{**GEM, "color": "new", "grade": None}] * 20]
    with serve(gems_store, tmp_path, WEB_CONCURRENCY="1", **settings) as server:
        reply = requests.post(f"{server.url}/predict", json=records, headers={"X-Request-Id": "r"}, timeout=10)
        expected = gems.predictions(gems_pipeline, records)
        assert bits(reply.json()["prediction"]).tolist() == bits(expected).tolist()
        truths = {"request_id": "r", "truth": (expected + 1).tolist()}
        assert requests.post(f"{server.url}/feedback", json=truths, timeout=10).json()["accepted"] == 320
        with closing(sqlite3.connect(path)) as database:
            wait_until(lambda: database.execute("SELECT count(*) FROM predictions").fetchone() == (320,))
        found = series(requests.get(f"{server.url}/metrics", timeout=10).text)

    def counted(feature: str, bin: str) -> float:
        return value(found, "tabserve_feature_bin_total", **VERSION, feature=feature, bin=bin)

    for label in ("Fair", "Ideal"):
        assert counted("cut", f"={label}") == sum(record["cut"] == label for record in records)
    assert counted("certified", "=true") == sum(record["certified"] for record in records)
    assert counted("color", "unseen") == 20
    assert counted("grade", "missing") == sum(record["grade"] is None for record in records)
    assert counted(gems.DEPTH, "missing") == sum(record[gems.DEPTH] is None for record in records)
    assert not any(name.startswith("tabserve_validation") for name, _ in found)
    command = [sys.executable, "-m", "model", "--store", str(gems_store), "report", NAME]
    done = subprocess.run(
        [*command, "--log", f"sqlite:///{path}", "--output", str(output)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    page = output.read_text()

    assert done.returncode == 0, done.stderr
    assert "of 9 features drifted away from training" in page
    assert re.search(r"color \(PSI [\d.]+, threshold [\d.]+\)", page)
    assert (
        "The live error has nothing to be compared with, since no rows were held out: RMSE 1.000 over 320 rows" in page
    )
    assert "nan" not in re.sub('base64,[^"]*', "", page).lower()


def test_predict_command(gems_store: Path, gems_pipeline: Any, tmp_path: Path) -> None:
    """The command predicts a table of pandas with categories and empty cells to the pipeline's bits."""
    table = gems.table(40, seed=6)
    path = tmp_path / "gems.csv"
    table.to_csv(path, index=False)
    command = [
        sys.executable,
        "-m",
        "model",
        "--store",
        str(gems_store),
        "predict",
        NAME,
        str(path),
        "--only",
        "prediction",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stderr
    expected = bits(gems.predictions(gems_pipeline, gems.rows(table))).tolist()
    assert bits(list(map(float, done.stdout.splitlines()[1:]))).tolist() == expected
    table.assign(cut="Idael").to_csv(path, index=False)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "row 0 (line 2): column 'cut': unknown category; the nearest is 'Ideal'" in done.stderr
