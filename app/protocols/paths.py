"""The paths of a snapshot of models: what Flask would match for each, found out before the first request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from flask import Flask
from werkzeug.routing import Rule

from app.protocols.endpoint import Endpoint
from app.protocols.views import Views
from app.serving.challengers import Choice
from app.serving.loaded import Loaded
from model import Artifact


class Route(NamedTuple):
    """What Flask would match for a path: the rule, its values, the endpoint and the model."""

    rule: str
    values: Mapping[str, str]
    endpoint: Endpoint
    model: Artifact | None


class Paths(NamedTuple):
    """The endpoints' paths for a snapshot, and the methods and paths whose replies never block, those of probes too.

    `choices` has the paths of models with a canary or an A/B test: a challenger's reply may block.
    """

    loaded: Loaded
    routes: Mapping[str, Route]
    immediate: frozenset[tuple[str, str]]
    choices: Mapping[str, Choice]


def paths_for(loaded: Loaded, app: Flask, endpoints: Iterable[Endpoint], views: Views) -> Paths:
    """Return the paths of endpoints and probes for a snapshot of models."""
    named = {endpoint.name: endpoint for endpoint in endpoints}
    routes, immediate, choices = {}, set(), {}
    urls = app.url_map.bind("")
    for found in app.url_map.iter_rules():
        is_probe = app.view_functions[found.endpoint] in views.probes
        if not is_probe and found.endpoint not in named:
            continue
        method = "GET" if is_probe else "POST"
        for path, _ in paths_of(found, loaded):
            # Several rules may match a path: Flask's own map decides.
            rule, values = urls.match(path, method, return_rule=True)
            endpoint = named.get(rule.endpoint)
            if endpoint:
                name, version = values.get("name"), values.get("version")
                model = loaded.find(name, version)
                routes[path] = Route(rule.rule, values, endpoint, model)
                if model and version is None and model.name in loaded.choices:
                    choices[path] = loaded.choices[model.name]
            # A batched request waits for others. In the server's loop it would block the loop that reads those.
            if app.view_functions[rule.endpoint] in views.probes or (
                endpoint and not loaded.batches(values.get("name"), values.get("version"))
            ):
                immediate.add((method, path))
    return Paths(loaded, routes, frozenset(immediate), choices)


def paths_of(rule: Rule, loaded: Loaded) -> Iterator[tuple[str, Artifact | None]]:
    """Yield the paths of a rule: one for each loaded model or version, with it, if it names one; else its only path."""
    models: Iterable[Artifact | None] = [None]
    if rule.arguments:
        models = loaded.all_versions if "version" in rule.arguments else loaded.models.values()
    for model in models:
        values = {"name": model.name, "version": str(model.version)} if model else {}
        if rule.arguments <= values.keys() and (built := rule.build({name: values[name] for name in rule.arguments})):
            yield built[1], model
