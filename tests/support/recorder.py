"""What the tests of recorder share."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from app import create_app
from app.config import Config
from app.factory import Service
from app.web.exchange import Exchange
from model import Artifact, Matrix, Store
from tests.support.metrics import Series, series
from tests.support.service import COLUMNS

Counts = dict[tuple[str, str], float]

FEATURE_BINS, PREDICTION_BINS = "tabserve_feature_bin_total", "tabserve_prediction_bin_total"


@pytest.fixture(scope="module")
def model(store: Path) -> Artifact:
    """The model that is served."""
    return Store(store).load("boston-housing")


@pytest.fixture(scope="module")
def reference(store: Path) -> dict[str, Any]:
    """The training distribution in the artifact."""
    content: dict[str, Any] = json.loads((store / "boston-housing" / "1" / "reference.json").read_text())
    return content


def random_rows(houses: pd.DataFrame, n: int, seed: int) -> NDArray[np.float64]:
    """Return rows: most in the training range, some of them training rows, and some far beyond the range."""
    random = np.random.default_rng(seed)
    low, high = houses.min().to_numpy(), houses.max().to_numpy()
    X: NDArray[np.float64] = low + (high - low) * random.uniform(-0.3, 1.3, (n, len(COLUMNS)))
    own = random.random(n) < 0.3
    X[own] = houses.to_numpy()[random.integers(len(houses), size=int(own.sum()))]
    return X


def expected(reference: dict[str, Any], X: NDArray[np.float64], y: NDArray[np.float64]) -> Counts:
    """Return numpy's count for every bin; the feature is empty for predictions."""
    found: Counts = {}
    columns = {name: (reference["features"][name], column) for name, column in zip(COLUMNS, X.T)}
    for name, (bins, values) in {**columns, "": (reference["prediction"], y)}.items():
        limits = [np.nextafter(bins["minimum"], -np.inf), *bins["edges"]]
        labels = [*(f"{i:02}" for i in range(1, len(bins["edges"]))), "10"]
        inside = [((values > low) & (values <= high)).sum() for low, high in pairwise(limits)]
        found |= {(name, label): float(count) for label, count in zip(labels, inside)}
        found[name, "below"] = float((values < bins["minimum"]).sum())
        found[name, "above"] = float((values > bins["edges"][-1]).sum())
        found[name, "missing"] = float(np.isnan(values).sum())
    return found


def bins(found: Series) -> Counts:
    """Return the count of every exposed bin."""
    counts = {}
    for (name, labels), count in found.items():
        if name in (FEATURE_BINS, PREDICTION_BINS):
            by_name = dict(labels)
            assert (by_name.pop("model"), by_name.pop("version")) == ("boston-housing", "1")
            counts[by_name.get("feature", ""), by_name["bin"]] = count
    return counts


def n_predictions(counts: Counts) -> float:
    """Return the number of counted predictions."""
    return sum(count for (feature, _), count in counts.items() if not feature)


def answered(request_id: str, model: Artifact, X: Matrix, y: NDArray[np.float64]) -> Exchange:
    """Return the exchange of a request with the rows `X` and the predictions `y`."""
    return Exchange(
        request_id, "POST", "/predict", model=model, rows=len(y), X=X, y=y, status=200, seconds=0.001, time=time.time()
    )


@pytest.fixture
def service(store: Path, tmp_path: Path) -> Iterator[Service]:
    """A service with a prediction log, in this process; its recorder is not started, and is closed at the end."""
    app = create_app(Config(store=store, prediction_log=f"sqlite:///{tmp_path / 'log.db'}"))
    yield app
    app.recorder.close()


def counted(service: Service) -> Counts:
    """Return the count of every bin without /metrics, which would count queued exchanges."""
    return bins(series(service.metrics.render("")[0].decode()))


def n_logged(service: Service) -> float:
    """Return how many rows the prediction log has got."""
    return series(service.metrics.render("")[0].decode())["tabserve_prediction_log_rows_total", frozenset()]
