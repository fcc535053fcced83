"""From a request to its predictions, for every protocol: limits, counters and the engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar
from wsgiref.types import WSGIEnvironment

import numpy as np

from app.config import Config
from app.errors import OverloadedError
from app.serving.loaded import Serving
from app.telemetry.metrics import Metrics
from app.web import body
from app.web.exchange import Exchange, exchange_of
from model import REASONS, Artifact, DeviceError, Matrix, Schema, SchemaError

T = TypeVar("T")


class Inference:
    """The steps of every prediction: `decode` one request, then `run` the engine for one or several.

    `in_flight` returns how many requests this worker has accepted and not answered.
    """

    def __init__(self, config: Config, serving: Serving, metrics: Metrics, in_flight: Callable[[], int]) -> None:
        self.max_rows = config.max_rows
        self._config = config
        self._serving = serving
        self._metrics = metrics
        self._in_flight = in_flight

    def decode(self, environ: WSGIEnvironment, model: Artifact, decode: Callable[[bytes], T]) -> T:
        """Read the request's body, return it decoded, and count the rows that do not fit the schema of `model`.

        Raises `OverloadedError`, what `body.read` raises, and what `decode` raises.
        """
        exchange_of(environ).model = model
        if self._in_flight() > self._config.max_in_flight:
            self._metrics.count_overload()
            raise OverloadedError(f"more than {self._config.max_in_flight} requests are in flight here; try again")
        table_bytes = model.schema.max_bytes(self.max_rows) if "HTTP_CONTENT_ENCODING" in environ else 0
        content = body.read(environ, max_bytes=self._config.max_body_bytes, min_expanded_bytes=table_bytes)
        try:
            return decode(content)
        except SchemaError as error:
            for (reason, feature), n_rows in rejected_rows(error, model.schema).items():
                self._metrics.count_rejected(model, n_rows, reason, feature)
            raise

    def run(self, exchanges: Sequence[Exchange]) -> None:
        """Set the predictions of each exchange, or its `failure`.

        Requests for one model share a run of its engine if the model is exact: then the other rows of a run change no
        bit of a prediction.
        """
        together: dict[int, list[Exchange]] = {}
        for exchange in exchanges:
            assert exchange.model
            together.setdefault(id(exchange.model) if exchange.model.tolerance == 0 else id(exchange), []).append(
                exchange
            )
        for some in together.values():
            self._run_once(some)

    def _run_once(self, exchanges: Sequence[Exchange]) -> None:
        model = exchanges[0].model
        assert model
        matrices = [exchange.X for exchange in exchanges if exchange.X is not None]
        started = time.perf_counter()
        try:
            y = model.predict(np.concatenate(matrices) if len(matrices) > 1 else matrices[0])
        except Exception as error:
            _share(time.perf_counter() - started, exchanges, matrices)
            if len(exchanges) > 1:
                for exchange in exchanges:
                    self._run_once([exchange])
                return
            if isinstance(error, OverloadedError):
                self._metrics.count_overload()
            elif isinstance(error, DeviceError):
                self._serving.lose_device(error)
            exchanges[0].failure = error
            return
        _share(time.perf_counter() - started, exchanges, matrices)
        begin = 0
        for exchange, X in zip(exchanges, matrices):
            exchange.rows = len(X)
            exchange.y = y[begin : begin + exchange.rows]
            begin += exchange.rows


def _share(seconds: float, exchanges: Sequence[Exchange], matrices: Sequence[Matrix]) -> None:
    """Add to each exchange its share of the time of a run, by rows."""
    n_rows = sum(map(len, matrices))
    for exchange, X in zip(exchanges, matrices):
        exchange.engine_seconds += seconds * len(X) / n_rows


def rejected_rows(error: SchemaError, schema: Schema) -> dict[tuple[str, str], int]:
    """Return how many rows were refused for each reason and feature; a problem of a whole column counts for every row.

    The feature is empty unless it is one of the schema's: names that a client made up must not make series.
    """
    rows: dict[tuple[str, str], set[int | None]] = {}
    for problem in error.problems:
        reason = problem.reason if problem.reason in REASONS else "shape"
        feature = problem.feature if problem.feature in schema.names else ""
        rows.setdefault((reason, feature or ""), set()).add(problem.row)
    return {key: error.n_rows if None in found else len(found) for key, found in rows.items()}
