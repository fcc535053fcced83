"""Routes for predictions, and the short way to them.

Every one is a Flask route. But to find a route, and to make its request and response objects, takes Flask several
times as long as a prediction: so the paths that are known beforehand are answered before Flask is asked, by the same
functions, with the same bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flask import Blueprint, Flask, request

from app import errors, logs
from app.errors import Refuse
from app.reply import Reply
from app.serving import Serving
from app.visit import visit
from model import Artifact

View = TypeVar("View", bound=Callable[..., Any])
Answer = Callable[[WSGIEnvironment, Artifact], Reply]


def add(routes: Blueprint, serving: Serving, answer: Answer, refuse: Refuse, *rules: str) -> None:
    """Have `answer` answer POSTs to `rules`, with the model that `<name>` and `<version>` say or the default one.

    `refuse` answers what it raises.
    """

    def respond(environ: WSGIEnvironment, values: Mapping[str, str]) -> Reply:
        return answer(environ, serving.get(values.get("name"), values.get("version")))

    def view(**values: str) -> Reply:
        return respond(request.environ, values)

    view.__doc__ = answer.__doc__
    view.hot = respond, refuse  # type: ignore[attr-defined]
    for rule in rules:
        routes.add_url_rule(rule, answer.__name__, view, methods=["POST"])


def quick(view: View) -> View:
    """Mark a view that waits for nothing: the server need not give it a thread."""
    view.quick = True  # type: ignore[attr-defined]
    return view


class HotRoute(NamedTuple):
    """What Flask would find for a path."""

    rule: str
    values: Mapping[str, str]
    respond: Callable[[WSGIEnvironment, Mapping[str, str]], Reply]
    refuse: Refuse


class HotRoutes:
    """WSGI middleware before Flask. `quick` are the methods and paths that are answered at once, hot or not."""

    def __init__(self, app: Flask, serving: Serving) -> None:
        self._inside: WSGIApplication = app.wsgi_app
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

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        hot = self._hot.get(environ["PATH_INFO"]) if environ["REQUEST_METHOD"] == "POST" else None
        if not hot:
            return self._inside(environ, start_response)
        guest = visit(environ)
        guest.route = hot.rule
        try:
            reply = hot.respond(environ, hot.values)
        except Exception as error:
            if not isinstance(error, errors.KNOWN):
                logs.failure(sys.exc_info(), guest.request_id)
            reply = hot.refuse(error)
        return reply(environ, start_response)


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
