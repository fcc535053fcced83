"""What the tests of feedback share."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from hypothesis import strategies as st

from app import create_app
from app.config import Config
from app.factory import Service
from model.live.prediction_log import PredictionLog
from tests.support.server import Server

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
UNKNOWN_ID = "0" * 32

Answers = dict[str, list[float]]  # predictions by the request's id


@pytest.fixture(scope="module")
def service(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that keeps a prediction log, in this process."""
    database = f"sqlite:///{tmp_path_factory.mktemp('feedback') / 'log.db'}"
    app = create_app(Config(store=store, prediction_log=database, max_rows=1_000, max_body_bytes=100_000))
    app.recorder.start()
    yield app
    app.recorder.close()


@pytest.fixture
def client(service: Service) -> FlaskClient:
    """A client of the service that keeps a prediction log."""
    return service.test_client()


@contextmanager
def opened(url: str) -> Iterator[PredictionLog]:
    """Open the log beside the service."""
    log = PredictionLog(url)
    try:
        yield log
    finally:
        log.close()


def logged(url: str) -> list[float]:
    """Return every prediction in the log."""
    with opened(url) as log:
        return [float(y) for y in log.read("boston-housing", 1, features=(), since=LONG_AGO).predictions]


def logged_ids(path: Path) -> Counter[str]:
    """Return the number of rows for each request id in an SQLite log."""
    with closing(sqlite3.connect(path)) as connection:
        return Counter(request_id for (request_id,) in connection.execute("SELECT request_id FROM predictions"))


def replaced(server: Server, old: set[int]) -> bool:
    """Return whether two workers run, and none of the `old`."""
    return not old & set(server.workers()) and len(server.workers()) == 2


ids = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=128)
