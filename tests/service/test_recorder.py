"""Owns what is recorded about predictions: bins that equal numpy's and start at 0, with no loss between threads."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flask.testing import FlaskClient

from app.factory import Service
from model import Artifact
from tests.support import recorder as shared
from tests.support.metrics import MODEL, by_label, series, value
from tests.support.recorder import Counts, answered, bins, counted, expected, n_predictions
from tests.support.service import COLUMNS, HOUSE

model = shared.model
reference = shared.reference
service = shared.service


def test_every_bin_is_there_from_the_start(client: FlaskClient, reference: dict[str, Any]) -> None:
    """Before the first prediction exactly the bins of all features are exposed, at 0."""
    found = bins(series(client.get("/metrics").text))

    assert found == dict.fromkeys(expected(reference, np.empty((0, len(COLUMNS))), np.empty(0)), 0.0)


def test_reference_shares_are_of_the_same_bins(client: FlaskClient) -> None:
    """Each counted bin has a share of the training rows for comparison, and the shares add up to 1."""
    found = series(client.get("/metrics").text)
    shares: Counts = {}
    for (name, labels), share in found.items():
        if name in ("tabserve_feature_bin_reference_ratio", "tabserve_prediction_bin_reference_ratio"):
            shares[dict(labels).get("feature", ""), dict(labels)["bin"]] = share

    assert shares.keys() == bins(found).keys()
    for feature in ("", *COLUMNS):
        assert sum(share for (name, _), share in shares.items() if name == feature) == pytest.approx(1)


def test_refused_rows_are_in_no_bin(client: FlaskClient, houses: pd.DataFrame) -> None:
    """Rows of a refused request are not counted, not even its good ones."""
    good = dict(zip(COLUMNS, houses.iloc[0].tolist()))
    assert client.post("/predict", json=[good, {**good, "RM": "x"}]).status_code == 422
    assert client.post("/predict", json=[good, {**good, "TAX": None}]).status_code == 422

    assert set(bins(series(client.get("/metrics").text)).values()) == {0.0}


def test_scrape_counts_queued_exchanges(client: FlaskClient, houses: pd.DataFrame) -> None:
    """A scrape includes what the scraped worker answered a moment before."""
    for n in range(1, 4):
        client.post("/predict", json={"columns": COLUMNS, "data": houses.iloc[:n].to_numpy().tolist()})
        assert n_predictions(bins(series(client.get("/metrics").text))) == n * (n + 1) / 2


def test_values_outside_of_the_range(service: Service, model: Artifact, reference: dict[str, Any]) -> None:
    """Values below, at and above the limits of each bin, infinite and missing ones are counted in the right bin."""
    columns = []
    for name in COLUMNS:
        facts = reference["features"][name]
        limits = np.array([facts["minimum"], *facts["edges"]])
        limits = np.concatenate([limits, np.nextafter(limits, -np.inf), np.nextafter(limits, np.inf)])
        columns.append(np.resize(np.concatenate([[np.nan, -np.inf, np.inf, -0.0, 0.0], limits]), 45))
    X, y = np.column_stack(columns), np.resize([np.nan, -np.inf, np.inf, -1e9, 1e9, 20.0], 45)
    service.recorder.record(answered("odd", model, X, y))
    service.recorder.flush()
    found = counted(service)

    assert found == expected(reference, X, y)
    for name in ("", *COLUMNS):
        assert min(found[name, label] for label in ("below", "above", "missing")) > 0


@pytest.fixture
def no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns off counting by time."""
    monkeypatch.setattr("app.telemetry.recorder.INTERVAL_SECONDS", 60)


@pytest.mark.usefixtures("no_interval")
def test_many_rows_are_counted_by_their_request(service: Service, model: Artifact, houses: pd.DataFrame) -> None:
    """Fewer than 10,000 rows wait to be counted; the request that brings more counts them all itself."""
    X = np.resize(houses.to_numpy(), (4_999, len(COLUMNS)))
    y = model.predict(X)
    service.recorder.start()
    for number in range(2):
        service.recorder.record(answered(str(number), model, X, y))
    assert n_predictions(counted(service)) == 0
    service.recorder.record(answered("two more", model, X[:2], y[:2]))

    assert n_predictions(counted(service)) == 10_000


@pytest.mark.usefixtures("no_interval")
def test_many_requests_are_counted_by_one_of_them(service: Service, model: Artifact, houses: pd.DataFrame) -> None:
    """Fewer than 256 requests wait to be counted; the one that brings more counts them all itself."""
    X = houses.to_numpy()[:1]
    y = model.predict(X)
    service.recorder.start()
    for number in range(255):
        service.recorder.record(answered(str(number), model, X, y))
    assert n_predictions(counted(service)) == 0
    service.recorder.record(answered("one more", model, X, y))

    assert n_predictions(counted(service)) == 256


@pytest.mark.usefixtures("no_interval")
def test_explained_rows_wait_for_twice_their_memory(service: Service, model: Artifact, houses: pd.DataFrame) -> None:
    """Contributions count like as many more rows in what waits, and nothing keeps them once they are counted."""
    X = np.resize(houses.to_numpy(), (2_500, len(COLUMNS)))
    y, explained = model.predict(X), model.explanations.explain(X)
    service.recorder.start()
    first, second = (answered(str(number), model, X, y) for number in range(2))
    for exchange in (first, second):
        exchange.explained = explained
    service.recorder.record(first)
    assert n_predictions(counted(service)) == 0
    service.recorder.record(second)

    assert n_predictions(counted(service)) == 5_000
    assert first.explained is second.explained is None


def test_contributions_that_are_no_numbers_are_not_in_the_sums(service: Service, model: Artifact) -> None:
    X = np.array([list(HOUSE.values())])
    explained = model.explanations.explain(X)
    for number in (np.nan, np.inf, 1.0):
        exchange = answered("odd", model, X, model.predict(X))
        contributions = np.full((1, len(COLUMNS)), 2.0)
        contributions[0, 1] = number
        exchange.explained = replace(explained, contributions=contributions)
        service.recorder.record(exchange)
    service.recorder.flush()
    found = series(service.metrics.render("")[0].decode())

    assert value(found, "tabserve_explained_rows_total", **MODEL) == 1
    sums = by_label(found, "tabserve_feature_contribution_total", "feature")
    assert sums == {(name,): 1.0 if name == COLUMNS[1] else 2.0 for name in COLUMNS}


def test_close_counts_the_rest(service: Service, model: Artifact, houses: pd.DataFrame) -> None:
    """`close` counts the queued exchanges and leaves no thread."""
    service.recorder.start()
    X = houses.to_numpy()
    service.recorder.record(answered("a", model, X, model.predict(X)))
    service.recorder.close()

    assert n_predictions(counted(service)) == len(X)
    assert {"recorder", "prediction-log"}.isdisjoint(thread.name for thread in threading.enumerate())
