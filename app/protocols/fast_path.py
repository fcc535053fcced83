"""Prediction routes, and the fast path to them, which bypasses Flask.

Every prediction route is a Flask route. Flask takes several times as long as a prediction to match a path and to make
its request and response objects. So paths that are known at start are answered before Flask, by the same functions and
with the same bytes.

A route decodes a request to rows, and encodes their predictions as a reply. Between the two, requests that arrive
together share one run of the engine.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar
from wsgiref.types import WSGIApplication, WSGIEnvironment

import numpy as np
from flask import Blueprint, Flask, request
from numpy.typing import NDArray

from app.serving.inference import Inference
from app.serving.loaded import Serving
from app.telemetry import log_lines
from app.web import refusal
from app.web.exchange import Exchange, WSGICall, exchange_of
from app.web.refusal import Refuse
from app.web.reply import Reply
from model import Artifact, Matrix

View = TypeVar("View", bound=Callable[..., Any])
Decoded = tuple[Matrix, Callable[[NDArray[np.float64]], Reply]]
"""The rows of a request, `(n_rows, n_features)`, and the function that encodes their predictions, `(n_rows,)`."""
Decode = Callable[[WSGIEnvironment, Artifact], Decoded]


def add(routes: Blueprint, serving: Serving, inference: Inference, decode: Decode, refuse: Refuse, *rules: str) -> None:
    """Add routes for POST at `rules`; `<name>` and `<version>` in a rule choose the model, else it is the default one.

    `refuse` makes the reply to what `decode` raises.
    """

    def decode_route(environ: WSGIEnvironment, values: Mapping[str, str]) -> Decoded:
        return decode(environ, serving.get(values.get("name"), values.get("version")))

    def view(**values: str) -> Reply:
        exchange = exchange_of(request.environ)
        exchange.X, encode = decode_route(request.environ, values)
        inference.run([exchange])
        return encode(_predictions(exchange))

    view.__doc__ = decode.__doc__
    view.fast_path = decode_route, refuse  # type: ignore[attr-defined]
    for rule in rules:
        routes.add_url_rule(rule, decode.__name__, view, methods=["POST"])


def immediate(view: View) -> View:
    """Mark a view that never blocks: the server answers it without a thread."""
    view.immediate = True  # type: ignore[attr-defined]
    return view


def probe(view: View) -> View:
    """Mark an immediate view as a health check, which platforms call every few seconds: a 200 is not logged."""
    view.probe = True  # type: ignore[attr-defined]
    return immediate(view)


class FastRoute(NamedTuple):
    """What Flask would match for a path."""

    rule: str
    values: Mapping[str, str]
    decode: Callable[[WSGIEnvironment, Mapping[str, str]], Decoded]
    refuse: Refuse


class FastPath:
    """Answers known prediction paths, and has Flask answer the others.

    `immediate` holds the methods and paths whose replies never block, of either kind.
    """

    def __init__(self, app: Flask, serving: Serving, inference: Inference) -> None:
        self._flask: WSGIApplication = app.wsgi_app
        self._inference = inference
        self._routes: dict[str, FastRoute] = {}
        self.immediate: set[tuple[str, str]] = set()
        urls = app.url_map.bind("")
        for path, method in _paths(app, serving):
            # Several rules may match a path: Flask's own map decides.
            rule, values = urls.match(path, method, return_rule=True)
            view = app.view_functions[rule.endpoint]
            if hasattr(view, "fast_path"):
                self._routes[path] = FastRoute(rule.rule, values, *view.fast_path)
            # A batched request waits for others. In the server's loop it would block the loop that reads those.
            if hasattr(view, "immediate") or (hasattr(view, "fast_path") and not serving.batches(values.get("name"))):
                self.immediate.add((method, path))

    def answer(self, calls: Iterable[WSGICall]) -> list[Iterable[bytes] | Exception]:
        """Return for each call what a WSGI application would return, or the exception that it would raise.

        Sets the time that each took in its exchange.
        """
        answers: list[Iterable[bytes] | Exception] = []
        decoded = []
        started = time.perf_counter()
        for index, call in enumerate(calls):
            environ, start_response = call
            answers.append(())
            exchange = exchange_of(environ)
            route = self._routes.get(environ["PATH_INFO"]) if environ["REQUEST_METHOD"] == "POST" else None
            if route:
                exchange.route = route.rule
                try:
                    exchange.X, encode = route.decode(environ, route.values)
                    decoded.append((index, call, route, exchange, encode))
                except Exception as error:
                    answers[index] = _refused(error, route, exchange)(environ, start_response)
            else:
                try:
                    answers[index] = self._flask(environ, start_response)
                except Exception as error:
                    answers[index] = error
            now = time.perf_counter()
            exchange.seconds, started = now - started, now
        self._inference.run([exchange for _, _, _, exchange, _ in decoded])
        started = time.perf_counter()
        for index, call, route, exchange, encode in decoded:
            try:
                reply = encode(_predictions(exchange))
            except Exception as error:
                reply = _refused(error, route, exchange)
            answers[index] = reply(*call)
            now = time.perf_counter()
            exchange.seconds, started = exchange.seconds + exchange.engine_seconds + now - started, now
        return answers


def _predictions(exchange: Exchange) -> NDArray[np.float64]:
    """Return the predictions of an exchange, or raise the engine's error."""
    if exchange.y is None:
        failure = exchange.failure or RuntimeError("the engine was not run")
        exchange.failure = exchange.X = None  # frees memory: the exchange waits to be counted
        raise failure
    return exchange.y


def _refused(error: Exception, route: FastRoute, exchange: Exchange) -> Reply:
    if not isinstance(error, refusal.KNOWN):
        log_lines.failure(sys.exc_info(), exchange.request_id)
    return route.refuse(error)


def _paths(app: Flask, serving: Serving) -> Iterable[tuple[str, str]]:
    """Yield path and method of the fast-path and immediate views, for every loaded model."""
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        if not (hasattr(view, "fast_path") or hasattr(view, "immediate")):
            continue
        method = "POST" if hasattr(view, "fast_path") else "GET"
        models = serving.models.values() if rule.arguments else [None]
        for model in models:
            values = {"name": model.name, "version": str(model.version)} if model else {}
            built = rule.build({name: values[name] for name in rule.arguments})
            if built:
                yield built[1], method
