"""Answers requests for predictions in three steps: decode all, predict all, encode all."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple
from wsgiref.types import WSGIEnvironment

from app.config import Config
from app.errors import OverloadedError
from app.protocols.endpoint import Answer, Endpoint, Request
from app.serving.current import Serving
from app.serving.inference import Inference, Rows
from app.telemetry import log_lines
from app.telemetry.metrics import Metrics
from app.web import body, refusal
from app.web.exchange import Exchange
from app.web.gateway import Gateway
from app.web.reply import Reply
from model import REASONS, Artifact, Schema, SchemaError


class Routed(NamedTuple):
    """A request, the endpoint that it is for, and the values that its path has for the endpoint's rule."""

    endpoint: Endpoint
    values: Mapping[str, str]
    environ: WSGIEnvironment
    exchange: Exchange
    model: Artifact | None = None  # if it is known already


class Runner:
    """Makes the replies of requests that arrived together; each gets the bytes that it would get alone."""

    def __init__(
        self, config: Config, serving: Serving, inference: Inference, metrics: Metrics, gateway: Gateway
    ) -> None:
        self._config = config
        self._serving = serving
        self._inference = inference
        self._metrics = metrics
        self._gateway = gateway

    def run(self, requests: Sequence[Routed], *, n_answered: int = 0) -> list[Reply]:
        """Return the reply to each request, and write into its exchange what is counted and logged.

        `n_answered` requests of the same batch have been answered already.
        """
        replies: list[Reply | None] = [None] * len(requests)
        loaded, max_rows, decoded = self._serving.loaded, self._config.max_rows, []
        n_free = self._config.max_in_flight - self._gateway.in_flight() + n_answered
        started = time.perf_counter()
        for number, (endpoint, values, environ, exchange, route_model) in enumerate(requests):
            try:
                model = route_model or loaded.get(values.get("name"), values.get("version"))
                # Those before this one in the same batch are decoded, and wait no more.
                read = partial(self._read, environ, exchange, model, is_overloaded=n_free + number < 0)
                exchange.X, detail = endpoint.decode(Request(environ, model.schema, max_rows, read))
                decoded.append((number, Rows(model, exchange.X), detail))
            except Exception as error:
                replies[number] = self._refuse(requests[number], error)
            now = time.perf_counter()
            exchange.seconds, started = now - started, now
        outcomes = self._inference.run([rows for _, rows, _ in decoded]) if decoded else []
        started = time.perf_counter()
        for (number, rows, detail), outcome in zip(decoded, outcomes):
            endpoint, _, environ, exchange, _ = requests[number]
            exchange.engine_seconds = outcome.seconds
            if outcome.y is None:
                exchange.X = None  # frees memory: the exchange waits to be counted
                replies[number] = self._refuse(requests[number], outcome.error or RuntimeError("no predictions"))
            else:
                exchange.rows, exchange.y = len(rows.X), outcome.y
                answer = Answer(outcome.y, rows.model, detail, exchange.request_id, environ)
                try:
                    replies[number] = endpoint.encode(answer)
                except Exception as error:
                    replies[number] = self._refuse(requests[number], error)
            now = time.perf_counter()
            exchange.seconds, started = exchange.seconds + outcome.seconds + now - started, now
        return [reply for reply in replies if reply]

    def _read(self, environ: WSGIEnvironment, exchange: Exchange, model: Artifact, *, is_overloaded: bool) -> bytes:
        """Return the body of a request for a model; from here on it counts as one."""
        exchange.model = model
        if is_overloaded:
            raise OverloadedError(f"more than {self._config.max_in_flight} requests are in flight here; try again")
        table_bytes = model.schema.max_bytes(self._config.max_rows) if "HTTP_CONTENT_ENCODING" in environ else 0
        return body.read(environ, max_bytes=self._config.max_body_bytes, min_expanded_bytes=table_bytes)

    def _refuse(self, request: Routed, error: Exception) -> Reply:
        """Return the reply to what an endpoint or the engine raised, and count or log it."""
        exchange = request.exchange
        if isinstance(error, SchemaError) and exchange.model:
            for (reason, feature), n_rows in rejected_rows(error, exchange.model.schema).items():
                self._metrics.count_rejected(exchange.model, n_rows, reason, feature)
        elif isinstance(error, OverloadedError):
            self._metrics.count_overload()
        elif not isinstance(error, refusal.KNOWN):
            log_lines.failure((type(error), error, error.__traceback__), exchange.request_id)
        return request.endpoint.refuse(error)


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
