"""Owns the report's drift of features where the log has none: what a server counted of them, read from its /metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from flask.testing import FlaskClient

from app.factory import Service
from model import ModelError, Store
from model.cli.main import main
from model.live import counted
from tests.support import gems
from tests.support.service import HOUSE, everywhere_client

NAME = "boston-housing"


def saved(client: FlaskClient, folder: Path) -> str:
    """Write what a service counted where a URL has it, and return the URL."""
    (folder / "metrics").write_text(client.get("/metrics").text)
    return f"file://{folder}"


def test_counts_are_those_of_the_rows(gems_store: Path, tmp_path: Path) -> None:
    """Every bin of every feature has as many values as were sent, whatever its name; missing and unseen ones, too."""
    client = everywhere_client(gems_store, lambda lines: None)
    rows = [gems.GEM, {**gems.GEM, "color": "Z", gems.DEPTH: None, "carat": 99.0}, gems.GEM]
    assert client.post("/predict", json=rows).status_code == 200
    model = Store(gems_store).load(gems.NAME)
    X = model.schema.matrix_from_records(rows)
    found = counted.read(saved(client, tmp_path), model)

    expected = {name: bins.count(X[:, place]) for place, (name, bins) in enumerate(model.reference.features.items())}
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("shared", [False, True])
def test_report_with_counted_features(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], shared: bool
) -> None:
    """The report judges counted features where the log has none; with features in the log, it judges these."""
    settings: dict[str, Any] = {"prediction_log": f"sqlite:///{tmp_path / 'log.db'}", "prediction_log_features": shared}
    client = everywhere_client(store, lambda lines: None, **settings)
    service = cast(Service, client.application)
    service.recorder.start()
    rows = [{**HOUSE, "LSTAT": number / 1_000, "RM": 5 + number / 100} for number in range(200)]
    assert client.post("/predict", json=rows).status_code == 200
    url = saved(client, tmp_path)
    service.recorder.close()
    log = ["--log", settings["prediction_log"], "--output", str(tmp_path / "report.html")]
    assert main(["--store", str(store), "report", NAME, *log, "--url", url]) == 0
    printed = capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()

    assert "drifted away from training" in printed
    assert "LSTAT (PSI" in printed
    assert ("since the server started" in printed) is not shared
    assert ("counted by the server since its start: 200 rows" in page) is not shared


def test_a_server_that_cannot_tell(store: Path, gems_store: Path, tmp_path: Path) -> None:
    """A server that is not there, and one that does not serve the version, are errors that say so."""
    model = Store(store).load(NAME)

    with pytest.raises(ModelError, match="the server cannot be asked at file://"):
        counted.read(f"file://{tmp_path}", model)
    with pytest.raises(ModelError, match="does not serve boston-housing version 1"):
        counted.read(saved(everywhere_client(gems_store, lambda lines: None), tmp_path), model)
    with pytest.raises(ModelError, match="the URL does not begin with"):
        counted.read("localhost:8000", model)
