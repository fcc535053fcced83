"""What workers record of their requests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import requests

from model import Artifact
from tests.support import recorder as shared
from tests.support.metrics import scrape
from tests.support.recorder import Counts, bins, expected, n_predictions, random_rows
from tests.support.server import Server, wait_until
from tests.support.service import COLUMNS, PROTOCOLS

model = shared.model
reference = shared.reference


def difference(after: Counts, before: Counts) -> Counts:
    """Return the increase of every count."""
    assert after.keys() == before.keys()
    return {key: after[key] - before[key] for key in after}


def test_every_bin_is_there_from_the_start_in_workers(server: Server, reference: dict[str, Any]) -> None:
    """The same with several workers."""
    assert bins(scrape(server)).keys() == expected(reference, np.empty((0, len(COLUMNS))), np.empty(0)).keys()


def test_bins_are_those_of_numpy(
    server: Server, houses: pd.DataFrame, reference: dict[str, Any], model: Artifact
) -> None:
    """Random rows, in batches and alone, in several protocols and workers, are counted in numpy's bins."""
    before = bins(scrape(server))
    X = random_rows(houses, 3_000, seed=5)
    y = model.predict(X)
    protocols = [PROTOCOLS[name] for name in ("native", "V2", "V1", "MLflow")]
    start, turn = 0, 0
    while start < len(X):
        size = (1, 250, 1, 40, 700)[turn % 5]
        protocol = protocols[turn % 4]
        rows = X[start : start + size].tolist()
        reply = requests.post(server.url + protocol.path, json=protocol.write(rows), timeout=10)
        assert protocol.read(reply.json()) == y[start : start + size].tolist()
        start, turn = start + size, turn + 1
    wait_until(lambda: n_predictions(bins(scrape(server))) == n_predictions(before) + len(X))

    assert difference(bins(scrape(server)), before) == expected(reference, X, y)
