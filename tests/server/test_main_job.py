"""The main job from end to end: train by the command line, serve by gunicorn, predict over HTTP."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import requests

from tests.support.server import Server
from tests.support.service import bits


def test_all_houses_through_gunicorn(server: Server, pipeline: Any, houses: pd.DataFrame) -> None:
    """The real server returns the trained pipeline's predictions bit for bit, in one request and one by one."""
    records = houses.to_dict(orient="records")
    expected = bits(pipeline.predict(houses.to_numpy()))
    with requests.Session() as session:

        def ask(body: Any) -> list[float]:
            prediction: list[float] = session.post(f"{server.url}/predict", json=body, timeout=10).json()["prediction"]
            return prediction

        assert np.array_equal(bits(ask(records)), expected)
        assert np.array_equal(bits([ask(record)[0] for record in records]), expected)
