"""The fast path: answers requests whose path is known before Flask looks at them.

Every endpoint is a Flask route. Flask takes several times as long as a prediction to match a path and to make its
request and response objects. So the paths of the loaded models are looked up in a table, with the same replies. The
table is made anew when another snapshot of models is served.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from wsgiref.types import WSGIApplication

from flask import Flask, request

from app.protocols.endpoint import Endpoint
from app.protocols.runner import Routed, Runner
from app.protocols.views import Views, paths_of
from app.serving.current import Serving
from app.serving.loaded import Loaded
from app.web.exchange import Call, exchange_of
from app.web.reply import Reply
from model import Artifact


class FastRoute(NamedTuple):
    """What Flask would match for a path."""

    rule: str
    values: Mapping[str, str]
    endpoint: Endpoint
    model: Artifact | None


class _Table(NamedTuple):
    """The paths for POST of one snapshot, and the methods and paths whose replies never block, those of probes too."""

    loaded: Loaded
    routes: Mapping[str, FastRoute]
    immediate: frozenset[tuple[str, str]]


class FastPath:
    """Answers known prediction paths by the runner, and has Flask answer the others."""

    def __init__(
        self, app: Flask, serving: Serving, runner: Runner, endpoints: Iterable[Endpoint], views: Views
    ) -> None:
        self._app = app
        self._flask: WSGIApplication = app.wsgi_app
        self._serving = serving
        self._runner = runner
        self._probes = views.probes
        self._endpoints = {endpoint.name: endpoint for endpoint in endpoints}
        self._table = self._make_table(serving.loaded)

    def is_immediate(self, method: str, path: str) -> bool:
        """Return whether the reply never blocks: the server may make it in its event loop."""
        return (method, path) in self._current().immediate

    def answer(self, calls: Sequence[Call]) -> list[Iterable[bytes] | Exception]:
        """Return for each call what a WSGI application would return, or the exception that it would raise.

        Sets the time that each took in its exchange.
        """
        answers: list[Iterable[bytes] | Exception] = [()] * len(calls)
        routes = self._current().routes
        fast: list[int] = []
        routed: list[Routed] = []
        for index, (environ, start_response, exchange) in enumerate(calls):
            route = routes.get(environ["PATH_INFO"]) if environ["REQUEST_METHOD"] == "POST" else None
            if route:
                exchange.route = route.rule
                fast.append(index)
                routed.append(Routed(route.endpoint, route.values, environ, exchange, route.model))
                continue
            started = time.perf_counter()
            try:
                answers[index] = self._flask(environ, start_response)
            except Exception as error:
                answers[index] = error
            exchange.seconds = time.perf_counter() - started
        replies = self._runner.run(routed, n_answered=len(calls) - len(fast))
        for index, reply in zip(fast, replies):
            answers[index] = reply(*calls[index][:2])
        return answers

    def _current(self) -> _Table:
        """Return the table of the snapshot that is served."""
        if self._table.loaded is not self._serving.loaded:
            self._table = self._make_table(self._serving.loaded)
        return self._table

    def _make_table(self, loaded: Loaded) -> _Table:
        routes, immediate = {}, set()
        urls = self._app.url_map.bind("")
        for path, method in self._paths(loaded):
            # Several rules may match a path: Flask's own map decides.
            rule, values = urls.match(path, method, return_rule=True)
            endpoint = self._endpoints.get(rule.endpoint)
            if endpoint:
                routes[path] = FastRoute(rule.rule, values, endpoint, loaded.find(values.get("name")))
            # A batched request waits for others. In the server's loop it would block the loop that reads those.
            if self._app.view_functions[rule.endpoint] in self._probes or (
                endpoint and not loaded.batches(values.get("name"))
            ):
                immediate.add((method, path))
        return _Table(loaded, routes, frozenset(immediate))

    def _paths(self, loaded: Loaded) -> Iterable[tuple[str, str]]:
        """Yield path and method of endpoints and probes, for every loaded model."""
        for rule in self._app.url_map.iter_rules():
            if rule.endpoint in self._endpoints:
                method = "POST"
            elif self._app.view_functions[rule.endpoint] in self._probes:
                method = "GET"
            else:
                continue
            yield from ((path, method) for path, _ in paths_of(rule, loaded))


def add_routes(app: Flask, endpoint: Endpoint, runner: Runner) -> None:
    """Add Flask routes for an endpoint."""

    def view(**values: str) -> Reply:
        environ = request.environ
        (reply,) = runner.run([Routed(endpoint, values, environ, exchange_of(environ))])
        return reply

    for rule in endpoint.rules:
        app.add_url_rule(rule, endpoint.name, view, methods=["POST"])
