"""Answers requests for predictions in three steps, with Flask or before it: decode all, predict all, encode all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any
from wsgiref.types import WSGIApplication, WSGIEnvironment

import flask
from flask import Flask

from app.config import Config
from app.errors import BodyError, OverloadedError
from app.protocols.endpoint import Answer, Endpoint, Request
from app.protocols.paths import Paths, paths_for
from app.protocols.views import Views
from app.serving.challengers import Challenger, Choice
from app.serving.current import Serving
from app.serving.inference import Inference, Rows
from app.serving.lane import BusyError, SlowError
from app.serving.loaded import Loaded
from app.telemetry import log_lines
from app.telemetry.metrics import BUSY, FAILED, REFUSED, SLOW, Metrics
from app.web import body, refusal
from app.web.exchange import KEY, Exchange, Trace, WSGICall, exchange_of, request_id
from app.web.reply import Reply
from app.web.server_facts import ServerFacts
from model import REASONS, Artifact, ExplanationError, Schema, SchemaError

Routed = tuple[WSGIEnvironment, Endpoint, Mapping[str, str], Artifact | None]
"""A request, its endpoint, the values that its path has for the endpoint's rule, and the model if it is known."""


class Runner:
    """Makes the replies of requests that arrived together; each gets the bytes that it would get alone."""

    def __init__(
        self, config: Config, serving: Serving, inference: Inference, metrics: Metrics, server: ServerFacts
    ) -> None:
        self._config = config
        self._serving = serving
        self._inference = inference
        self._metrics = metrics
        self._server = server
        self._failures = log_lines.FirstFailures(
            "a challenger failed; the champion answers, and later failures are only counted"
        )

    def run(self, requests: Sequence[Routed], *, n_answered: int = 0) -> list[Reply]:
        """Return the reply to each request, and write into its exchange what is counted and logged.

        `n_answered` requests of the same batch have been answered already.
        """
        replies: list[Reply | None] = [None] * len(requests)
        decoded: list[tuple[int, Any]] = []
        tables: list[Rows] = []
        loaded, config = self._serving.loaded, self._config
        choices = loaded.choices
        n_free = config.max_in_flight - self._server.in_flight() + n_answered
        started = time.perf_counter()
        for number, (environ, endpoint, values, route_model) in enumerate(requests):
            exchange: Exchange = environ[KEY]
            try:
                model = route_model or loaded.get(values.get("name"), values.get("version"))
                media_type, parameters = body.content_type(environ, endpoint.media_types)
                exchange.model = model  # from here on it counts as a request for it
                exchange.names_version = "version" in values
                # Those before this one in the same batch are decoded, and wait no more.
                if n_free + number < 0:
                    raise OverloadedError(f"more than {config.max_in_flight} requests are in flight here; try again")
                max_table = config.max_rows * model.schema.max_row_bytes
                content = body.read(environ, max_bytes=config.max_body_bytes, min_expanded_bytes=max_table)
                if config.otel:
                    exchange.trace = Trace(read_seconds=time.perf_counter() - started)
                max_expanded = body.max_expanded_bytes(
                    len(content), max_bytes=config.max_body_bytes, min_expanded_bytes=max_table
                )
                intervals = model.manifest.intervals
                request = Request(
                    content, media_type, parameters, environ, model.schema, config.max_rows, max_expanded, intervals
                )
                fallback = None
                if choices and "version" not in values and (challenger := self._challenger(choices, model, environ)):
                    answered = self._challenge(challenger, endpoint, request)
                    if isinstance(answered, Reply):
                        replies[number] = answered
                        self._metrics.count_challenge(challenger.model)
                    else:
                        fallback = challenger, answered
                if not replies[number]:
                    exchange.X, detail = endpoint.decode(request)
                    decoded.append((number, detail))
                    tables.append((model, exchange.X))
                    if fallback:  # not for a request that the champion refuses, too
                        self._metrics.count_challenge(fallback[0].model, fallback[1])
            except Exception as error:
                replies[number] = self._refuse(environ, endpoint, error)
            now = time.perf_counter()
            exchange.seconds, started = now - started, now
            if exchange.trace:
                exchange.trace.decoded_seconds = exchange.seconds
        outcomes = self._inference.run(tables) if tables else []
        started = time.perf_counter()
        for (number, detail), (model, X), outcome in zip(decoded, tables, outcomes):
            environ, endpoint, _, _ = requests[number]
            exchange = environ[KEY]
            exchange.engine_seconds = outcome.seconds
            try:
                if outcome.y is None:
                    raise outcome.error or RuntimeError("no predictions")
                replies[number] = _encode(endpoint, Answer(outcome.y, X, model, detail, exchange.request_id, environ))
                exchange.rows, exchange.y = len(X), outcome.y
            except Exception as error:
                exchange.X = None  # frees memory: the exchange waits to be counted
                replies[number] = self._refuse(environ, endpoint, error)
            now = time.perf_counter()
            exchange.seconds, started = exchange.seconds + outcome.seconds + now - started, now
        return list(filter(None, replies))

    def _challenger(
        self, choices: Mapping[str, Choice], model: Artifact, environ: WSGIEnvironment
    ) -> Challenger | None:
        """Return which challenger a request without a version is for, if any."""
        choice = choices.get(model.name)
        return choice.pick(sticky(environ, self._config)) if choice else None

    def _challenge(self, challenger: Challenger, endpoint: Endpoint, request: Request) -> Reply | str:
        """Return a challenger's reply, with what is counted in the exchange; or why the champion has to answer."""
        model, environ = challenger.model, request.environ
        exchange, reason = exchange_of(environ), REFUSED
        try:
            X, detail = endpoint.decode(request._replace(schema=model.schema, intervals=model.manifest.intervals))
            reason = FAILED
            outcome = self._inference.run_within(model, X, seconds=self._config.challenger_milliseconds / 1_000)
            if outcome.y is None:
                raise outcome.error or RuntimeError("no predictions")
            reply = _encode(endpoint, Answer(outcome.y, X, model, detail, exchange.request_id, environ))
        except BusyError:
            return BUSY
        except SlowError:
            return SLOW
        except (BodyError, ExplanationError):  # the request's mistake, or what this version does not offer
            return REFUSED
        except Exception as error:  # whatever it is, the champion answers
            if reason == FAILED:
                self._failures.log(model.name, model.version, error, exchange.request_id)
            return reason
        exchange.model, exchange.X, exchange.y, exchange.rows = model, X, outcome.y, len(X)
        exchange.engine_seconds = outcome.seconds
        return reply

    def _refuse(self, environ: WSGIEnvironment, endpoint: Endpoint, error: Exception) -> Reply:
        """Return the reply to what an endpoint or the engine raised, and count or log it."""
        exchange = exchange_of(environ)
        if isinstance(error, SchemaError) and exchange.model:
            for (reason, feature), n_rows in rejected_rows(error, exchange.model.schema).items():
                self._metrics.count_rejected(exchange.model, n_rows, reason, feature)
        elif isinstance(error, OverloadedError):
            self._metrics.count_overload()
        elif not isinstance(error, refusal.KNOWN):
            log_lines.failure((type(error), error, error.__traceback__), exchange)
        return endpoint.refuse(error)


def sticky(environ: WSGIEnvironment, config: Config) -> str:
    """Return what decides which version answers a request: the client's header, or else the request's id."""
    return environ.get(config.sticky_key) or request_id(environ)


def _encode(endpoint: Endpoint, answer: Answer) -> Reply:
    """Return an endpoint's reply, whose header says which version answered."""
    reply = endpoint.encode(answer)
    reply.headers.append(("X-Model-Version", str(answer.model.version)))
    return reply


class FastPath:
    """Answers requests whose path is known before Flask looks at them, by the runner; has Flask answer the others.

    Every endpoint is a Flask route. Flask takes several times as long as a prediction to match a path and to make its
    request and response objects. So the paths of the loaded models are looked up, with the same replies. They are
    found anew when another snapshot of models is served.
    """

    def __init__(
        self,
        app: Flask,
        config: Config,
        serving: Serving,
        runner: Runner,
        endpoints: Sequence[Endpoint],
        views: Views,
    ) -> None:
        self._config = config
        self._flask: WSGIApplication = app.wsgi_app
        self._serving = serving
        self._runner = runner
        self._find: Callable[[Loaded], Paths] = partial(paths_for, app=app, endpoints=endpoints, views=views)
        self._paths = self._find(serving.loaded)

    def is_immediate(self, method: str, path: str) -> bool:
        """Return whether the reply never blocks: the server may make it in its event loop."""
        return (method, path) in self._current().immediate

    def may_block(self, environ: WSGIEnvironment) -> bool:
        """Return whether a request is for a challenger, or its endpoint says so, at a path that never blocks else."""
        paths, path = self._current(), environ["PATH_INFO"]
        choice = paths.choices.get(path)
        if choice is not None and choice.pick(sticky(environ, self._config)) is not None:
            return True
        route = paths.routes.get(path)
        return route is not None and route.endpoint.may_block(environ)

    def answer(self, calls: Sequence[WSGICall]) -> list[Iterable[bytes] | Exception]:
        """Return for each call what a WSGI application would return, or the exception that it would raise.

        Sets the time that each took in its exchange.
        """
        answers: list[Iterable[bytes] | Exception] = [()] * len(calls)
        routes = self._current().routes
        fast: list[int] = []
        routed: list[Routed] = []
        for index, (environ, start_response) in enumerate(calls):
            route = routes.get(environ["PATH_INFO"]) if environ["REQUEST_METHOD"] == "POST" else None
            if route:
                environ[KEY].route = route.rule
                fast.append(index)
                routed.append((environ, route.endpoint, route.values, route.model))
                continue
            started = time.perf_counter()
            try:
                answers[index] = self._flask(environ, start_response)
            except Exception as error:
                answers[index] = error
            environ[KEY].seconds = time.perf_counter() - started
        replies = self._runner.run(routed, n_answered=len(calls) - len(fast)) if fast else []
        for index, reply in zip(fast, replies):
            answers[index] = reply(*calls[index])
        return answers

    def _current(self) -> Paths:
        """Return the paths of the snapshot that is served."""
        if self._paths.loaded is not self._serving.loaded:
            self._paths = self._find(self._serving.loaded)
        return self._paths


def add_routes(app: Flask, endpoint: Endpoint, runner: Runner) -> None:
    """Add Flask routes for an endpoint."""

    def view(**values: str) -> Reply:
        (reply,) = runner.run([(flask.request.environ, endpoint, values, None)])
        return reply

    for rule in endpoint.rules:
        app.add_url_rule(rule, endpoint.name, view, methods=["POST"])


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
