"""What each route needs: the list of those that are open, and the scope of every other one.

A route that is in no list needs the scope `admin`, so a new one is closed until somebody decides what it shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from wsgiref.types import WSGIEnvironment

from flask import Flask
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Rule

from app.config import Config
from app.errors import UnauthorizedError
from app.protocols.endpoint import Endpoint
from app.protocols.paths import paths_of
from app.protocols.views import Views
from app.serving.current import Serving
from app.serving.loaded import Loaded
from app.web.caller import ADMIN, predict
from app.web.exchange import UNMATCHED
from app.web.guard import Need
from app.web.refusal import Refuse

METRICS_PATH = "/metrics"

# Pages whose data comes from other routes, by the key that a person types into them. Health checks are open, too.
OPEN = frozenset({"/", "/static/<file>", "/docs/", "/docs/<path:path>"})
# What any key may ask: the names of the models, which health checks show as well, and what depends on the key itself.
ANY_KEY = frozenset(
    {
        *("/models", "/v1/models", "/v2", "/v2/models", "/v2/repository/index", "/version", "/execution-parameters"),
        *("/openapi.json", "/feedback", "/mcp"),
    }
)
SCOPES = {METRICS_PATH: "metrics", "/v2/models/stats": predict("*")}


class Access:
    """Finds what a request needs, by its method and path, in the way that Flask finds its route.

    With a port for metrics, these are served there alone, and without a key.
    """

    def __init__(
        self, app: Flask, endpoints: Iterable[Endpoint], views: Views, serving: Serving, config: Config
    ) -> None:
        self._app = app
        self._endpoints = {endpoint.name for endpoint in endpoints}
        self._views = views
        self._serving = serving
        self._origins = config.cors_origins
        self._metrics_port = str(config.metrics_port or "")
        self._loaded: Loaded | None = None
        self._table: Mapping[tuple[str, str], Need] = {}

    def need_of(self, environ: WSGIEnvironment) -> Need:
        """Return what a request needs."""
        loaded = self._serving.loaded
        if self._loaded is not loaded:
            self._table, self._loaded = self._needs(loaded), loaded
        need = self._table.get((environ["REQUEST_METHOD"], environ["PATH_INFO"])) or self._match(environ)
        return self._by_port(need, environ) if self._metrics_port else need

    def scope_of(self, rule: Rule, values: Mapping[str, Any]) -> str | None:
        """Return the scope that a route needs for the values of its path; None for an open one."""
        if rule.endpoint in self._endpoints:
            name = values.get("name") or self._serving.loaded.default_name
            return predict(name) if name else ""
        if rule.rule in OPEN or self._app.view_functions[rule.endpoint] in self._views.probes:
            return None
        if rule.rule in ANY_KEY:
            return ""
        return SCOPES.get(rule.rule) or (predict(values["name"]) if "name" in values else ADMIN)

    def _needs(self, loaded: Loaded) -> dict[tuple[str, str], Need]:
        """Return what the paths of a snapshot need, but for those with other values than names and versions."""
        needs = {}
        urls = self._app.url_map.bind("")
        for found in self._app.url_map.iter_rules():
            for path, _ in paths_of(found, loaded):
                for method in (found.methods or set()) - {"OPTIONS"}:
                    rule, values = urls.match(path, method, return_rule=True)  # several rules may match a path
                    needs[method, path] = self._need(rule, values)
        return needs

    def _match(self, environ: WSGIEnvironment) -> Need:
        """Return what a request needs whose path is not one of the snapshot's."""
        try:
            rule, values = self._app.url_map.bind_to_environ(environ).match(return_rule=True)
        except HTTPException:  # no such path, or not by this method: Flask says so to whoever has a key
            return Need(UNMATCHED, "", self._refuse_of(""))
        need = self._need(rule, values)
        return need._replace(scope=self._scope_of_options(environ)) if environ["REQUEST_METHOD"] == "OPTIONS" else need

    def _scope_of_options(self, environ: WSGIEnvironment) -> str | None:
        """Return None for a browser's preflight request of an allowed origin, which never has a key."""
        asks = "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ and environ.get("HTTP_ORIGIN") in self._origins
        return None if asks else ""

    def _by_port(self, need: Need, environ: WSGIEnvironment) -> Need:
        """Return a need by the port that the request came to; the client of a Unix socket names any port itself."""
        is_for_metrics = environ["SERVER_PORT"] == self._metrics_port and environ["REMOTE_ADDR"] != ""
        if need.route == METRICS_PATH:
            return need._replace(scope=None) if is_for_metrics else need._replace(is_hidden=True)
        is_probe = need.scope is None and need.route not in OPEN and environ["REQUEST_METHOD"] != "OPTIONS"
        return need if is_probe or not is_for_metrics else need._replace(is_hidden=True)

    def _need(self, rule: Rule, values: Mapping[str, Any]) -> Need:
        return Need(rule.rule, self.scope_of(rule, values), self._refuse_of(rule.endpoint.rpartition(".")[0]))

    def _refuse_of(self, blueprint: str) -> Refuse:
        """Return what makes the reply to an error of the routes of a blueprint: its own handler, or the app's."""
        handlers: Mapping[str | None, Any] = self._app.error_handler_spec
        found = handlers.get(blueprint, {}).get(None, {})
        refuse: Refuse = found.get(UnauthorizedError) or handlers[None][None][UnauthorizedError]
        return refuse
