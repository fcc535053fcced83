"""The one way from a request to its predictions, whichever protocol it came in: limits, counts and the engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar
from wsgiref.types import WSGIEnvironment

import numpy as np
from numpy.typing import NDArray

from app import body
from app.config import Config
from app.errors import OverloadedError
from app.metrics import Metrics
from app.serving import Serving
from app.visit import visit
from model import REASONS, Artifact, DeviceError, Matrix, Schema, SchemaError

T = TypeVar("T")


class Inference:
    """What a route that answers predictions does: `decode` the request, then `predict`.

    `in_flight` says how many requests this worker has taken on.
    """

    def __init__(self, config: Config, serving: Serving, metrics: Metrics, in_flight: Callable[[], int]) -> None:
        self.max_rows = config.max_rows
        self._config = config
        self._serving = serving
        self._metrics = metrics
        self._in_flight = in_flight

    def decode(self, environ: WSGIEnvironment, model: Artifact, decode: Callable[[bytes], T]) -> T:
        """Read the request's body for `model` and return what `decode` makes of it; count the rows it refuses.

        Raises `OverloadedError`, what `body.read` raises, and what `decode` raises.
        """
        visit(environ).model = model
        if self._in_flight() > self._config.max_in_flight:
            self._metrics.count_overload()
            raise OverloadedError(f"more than {self._config.max_in_flight} requests are waiting here")
        content = body.read(environ, max_bytes=self._config.max_body_bytes)
        try:
            return decode(content)
        except SchemaError as error:
            for (reason, feature), n_rows in rejected_rows(error, model.schema).items():
                self._metrics.count_rejected(model, n_rows, reason, feature)
            raise

    def predict(self, environ: WSGIEnvironment, model: Artifact, X: Matrix) -> NDArray[np.float64]:
        """Return the model's answers `(n_rows,)` to `X`, `(n_rows, n_features)`."""
        guest = visit(environ)
        started = time.perf_counter()
        try:
            y = model.predict(X)
        except OverloadedError:
            self._metrics.count_overload()
            raise
        except DeviceError as error:
            self._serving.lose_device(error)
            raise
        guest.engine_seconds = time.perf_counter() - started
        guest.rows, guest.X, guest.y = len(y), X, y
        return y


def rejected_rows(error: SchemaError, schema: Schema) -> dict[tuple[str, str], int]:
    """Return how many rows were refused for each reason and feature; a whole column's problem concerns every row.

    The feature is empty where none of the schema's is concerned: what a client calls its own makes no series.
    """
    rows: dict[tuple[str, str], set[int | None]] = {}
    for problem in error.problems:
        reason = problem.reason if problem.reason in REASONS else "shape"
        feature = problem.feature if problem.feature in schema.names else ""
        rows.setdefault((reason, feature or ""), set()).add(problem.row)
    return {key: error.n_rows if None in found else len(found) for key, found in rows.items()}
