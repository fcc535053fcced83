"""Routes for predictions, and the short way to them.

Every one is a Flask route. But to find a route, and to make its request and response objects, takes Flask several
times as long as a prediction: so the paths that are known beforehand are answered before Flask is asked, by the same
functions, with the same bytes.

What answers says which rows it asks the engine about, and what becomes of their predictions: so requests that come
together are run together.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import numpy as np
from flask import Blueprint, Flask, request
from numpy.typing import NDArray

from app import errors, logs
from app.errors import Refuse
from app.inference import Inference
from app.reply import Reply
from app.serving import Serving
from app.visit import Visit, visit
from model import Artifact, Matrix

View = TypeVar("View", bound=Callable[..., Any])
Asked = tuple[Matrix, Callable[[NDArray[np.float64]], Reply]]
"""The rows of a request, `(n_rows, n_features)`, and what makes the reply of their predictions, `(n_rows,)`."""
Answer = Callable[[WSGIEnvironment, Artifact], Asked]
Call = tuple[WSGIEnvironment, StartResponse]
"""What a server calls a WSGI application with."""


def add(routes: Blueprint, serving: Serving, inference: Inference, answer: Answer, refuse: Refuse, *rules: str) -> None:
    """Have `answer` answer POSTs to `rules`, with the model that `<name>` and `<version>` say or the default one.

    `refuse` answers what it raises.
    """

    def begin(environ: WSGIEnvironment, values: Mapping[str, str]) -> Asked:
        return answer(environ, serving.get(values.get("name"), values.get("version")))

    def view(**values: str) -> Reply:
        guest = visit(request.environ)
        guest.X, end = begin(request.environ, values)
        inference.run([guest])
        return end(_answers(guest))

    view.__doc__ = answer.__doc__
    view.hot = begin, refuse  # type: ignore[attr-defined]
    for rule in rules:
        routes.add_url_rule(rule, answer.__name__, view, methods=["POST"])


def quick(view: View) -> View:
    """Mark a view that waits for nothing: the server need not give it a thread."""
    view.quick = True  # type: ignore[attr-defined]
    return view


def probe(view: View) -> View:
    """Mark a quick view that platforms ask for every few seconds: an answer of 200 is not logged."""
    view.probe = True  # type: ignore[attr-defined]
    return quick(view)


class HotRoute(NamedTuple):
    """What Flask would find for a path."""

    rule: str
    values: Mapping[str, str]
    begin: Callable[[WSGIEnvironment, Mapping[str, str]], Asked]
    refuse: Refuse


class HotRoutes:
    """What stands before Flask. `quick` are the methods and paths that are answered at once, hot or not."""

    def __init__(self, app: Flask, serving: Serving, inference: Inference) -> None:
        self._inside: WSGIApplication = app.wsgi_app
        self._inference = inference
        self._hot: dict[str, HotRoute] = {}
        self.quick: set[tuple[str, str]] = set()
        urls = app.url_map.bind("")
        for path, method in _paths(app, serving):
            # Flask's own map says which of several rules answers at a path.
            rule, values = urls.match(path, method, return_rule=True)
            view = app.view_functions[rule.endpoint]
            if hasattr(view, "hot"):
                self._hot[path] = HotRoute(rule.rule, values, *view.hot)
            # Who waits for others must not do so in the server's loop, which would bring them.
            if hasattr(view, "quick") or (hasattr(view, "hot") and not serving.gathers(values.get("name"))):
                self.quick.add((method, path))

    def answer(self, calls: Iterable[Call]) -> list[Iterable[bytes] | Exception]:
        """Return what a WSGI application returns to each call, or raises; their visits learn how long each took."""
        answers: list[Iterable[bytes] | Exception] = []
        waiting = []
        begun = time.perf_counter()
        for place, call in enumerate(calls):
            environ, start_response = call
            answers.append(())
            guest = visit(environ)
            hot = self._hot.get(environ["PATH_INFO"]) if environ["REQUEST_METHOD"] == "POST" else None
            if hot:
                guest.route = hot.rule
                try:
                    guest.X, end = hot.begin(environ, hot.values)
                    waiting.append((place, call, hot, guest, end))
                except Exception as error:
                    answers[place] = _refused(error, hot, guest)(environ, start_response)
            else:
                try:
                    answers[place] = self._inside(environ, start_response)
                except Exception as error:
                    answers[place] = error
            now = time.perf_counter()
            guest.seconds, begun = now - begun, now
        self._inference.run([guest for _, _, _, guest, _ in waiting])
        begun = time.perf_counter()
        for place, call, hot, guest, end in waiting:
            try:
                reply = end(_answers(guest))
            except Exception as error:
                reply = _refused(error, hot, guest)
            answers[place] = reply(*call)
            now = time.perf_counter()
            guest.seconds, begun = guest.seconds + guest.engine_seconds + now - begun, now
        return answers


def _answers(guest: Visit) -> NDArray[np.float64]:
    """Return what the engine answered to a request, or raise why it did not."""
    if guest.y is None:
        failure = guest.failure or RuntimeError("the engine was not run")
        guest.failure = guest.X = None  # which nobody needs any more, while the visit waits to be counted
        raise failure
    return guest.y


def _refused(error: Exception, hot: HotRoute, guest: Visit) -> Reply:
    if not isinstance(error, errors.KNOWN):
        logs.failure(sys.exc_info(), guest.request_id)
    return hot.refuse(error)


def _paths(app: Flask, serving: Serving) -> Iterable[tuple[str, str]]:
    """Yield the paths of hot and quick views for all models that are loaded, with a method."""
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        if not (hasattr(view, "hot") or hasattr(view, "quick")):
            continue
        method = "POST" if hasattr(view, "hot") else "GET"
        models = serving.models.values() if rule.arguments else [None]
        for model in models:
            values = {"name": model.name, "version": str(model.version)} if model else {}
            built = rule.build({name: values[name] for name in rule.arguments})
            if built:
                yield built[1], method
