"""The server under test, rows to send, and the answers that every client must get for them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from numpy.typing import NDArray

TABLE = Path(__file__).parents[3] / "model" / "data" / "boston_housing.csv"
SEED = 7


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that names the server."""
    parser.addoption("--url", required=True, help="the server under test, such as http://localhost:8000")


@dataclass(frozen=True, slots=True)
class Model:
    """The model with which the server answers `/predict`."""

    url: str
    name: str
    version: str
    features: tuple[str, ...]

    @property
    def address(self) -> str:
        """Return the host and the port."""
        return self.url.removeprefix("http://")

    def predict(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """Return the native API's predictions for rows `(n_rows, n_features)`, sent as JSON to the last digit."""
        body = {"columns": self.features, "data": rows.astype(np.float64).tolist()}
        reply = requests.post(f"{self.url}/predict", json=body, timeout=30)
        assert reply.status_code == 200, reply.text
        return np.array(reply.json()["prediction"], dtype=np.float64)

    def wrong_answer(self, path: str, body: dict[str, Any]) -> str:
        """Return the text of the error that a plain HTTP client gets for a request."""
        reply = requests.post(self.url + path, json=body, timeout=30)
        assert reply.status_code >= 400
        document = reply.json()
        return str(document["error"] if "error" in document else document["message"])


@pytest.fixture(scope="session")
def model(pytestconfig: pytest.Config) -> Model:
    """The default model of the server that `--url` names."""
    url = pytestconfig.option.url
    listing = requests.get(f"{url}/models", timeout=30).json()
    name = listing["default"]
    version = next(str(entry["version"]) for entry in listing["models"] if entry["name"] == name)
    tensors = requests.get(f"{url}/v2/models/{name}", timeout=30).json()["inputs"]
    return Model(url, name, version, tuple(tensor["name"] for tensor in tensors))


@pytest.fixture(scope="session")
def houses(model: Model) -> NDArray[np.float64]:
    """All rows of the table that the model was trained on, `(506, n_features)`."""
    with TABLE.open(newline="") as file:
        return _frozen(np.array([[float(row[name]) for name in model.features] for row in csv.DictReader(file)]))


@pytest.fixture(scope="session")
def random(houses: NDArray[np.float64]) -> NDArray[np.float64]:
    """1,000 rows within the range of the table, with all 53 bits of their mantissas in use."""
    shape = (1000, houses.shape[1])
    return _frozen(np.random.default_rng(SEED).uniform(houses.min(axis=0), houses.max(axis=0), shape))


@pytest.fixture(scope="session")
def edges(model: Model, houses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pairs of rows, a single float64 step apart in one feature, with different predictions: any rounding shows.

    A pair is found by bisection between the values of a feature in two houses.
    """
    left, right = houses.copy(), houses.copy()
    house, feature = np.arange(len(houses)), np.arange(len(houses)) % houses.shape[1]
    right[house, feature] = np.roll(houses, 1, axis=0)[house, feature]
    answers = model.predict(left)
    apart = answers != model.predict(right)
    left, right, answers, feature = left[apart], right[apart], answers[apart], feature[apart]
    house = np.arange(len(left))
    for _ in range(70):  # 64 bisections leave no float64 between any two of these numbers
        middle = left.copy()
        middle[house, feature] += (right[house, feature] - left[house, feature]) / 2
        same = model.predict(middle) == answers
        between = (middle[house, feature] != left[house, feature]) & (middle[house, feature] != right[house, feature])
        left[between & same] = middle[between & same]
        right[between & ~same] = middle[between & ~same]
    return _frozen(np.concatenate([left, right]))


@pytest.fixture(scope="session", params=["houses", "random", "edges"])
def rows(request: pytest.FixtureRequest) -> NDArray[np.float64]:
    """Rows `(n_rows, n_features)` of all three kinds."""
    found: NDArray[np.float64] = request.getfixturevalue(request.param)
    return found


def _frozen(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rows as read-only, so that tests can share them."""
    rows.setflags(write=False)
    return rows


def bits(values: Any) -> list[int]:
    """Return the bit patterns of float64 values, so that equal means equal to the last bit."""
    found: list[int] = np.asarray(values, dtype=np.float64).view(np.int64).tolist()
    return found
