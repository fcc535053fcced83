"""The composition root: makes the parts of the service and connects them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any
from wsgiref.types import WSGIEnvironment

from flask import Flask, Response, request

from app.config import Config
from app.protocols import mcp, mlflow, native, v1, v2, vertex
from app.protocols.access import Access
from app.protocols.formats import is_arrow
from app.protocols.runner import FastPath, Runner, add_routes
from app.protocols.views import Views
from app.routes import cards, feedback, health, pages
from app.routes.openapi import Document
from app.serving.current import Serving
from app.serving.inference import Inference
from app.serving.loaded import Loaded, load
from app.serving.shadow import Shadow
from app.telemetry import log_lines
from app.telemetry.gauges import LiveErrors
from app.telemetry.metrics import Metrics
from app.telemetry.prediction_writer import LogWriter
from app.telemetry.recorder import Recorder
from app.web import refusal
from app.web.exchange import WSGICall, exchange_of
from app.web.guard import Guard
from app.web.keys import Keys, Sources
from app.web.middleware import Cors, ExchangeMiddleware
from app.web.reply import Reply
from app.web.server_facts import ServerFacts

# About a hundred rows, or as many mistakes as take some milliseconds to report.
_IMMEDIATE_BYTES = 4_096


class Service(Flask):
    """The Flask application with the parts that the server needs.

    `answer_together` answers calls that came at once. In each worker the server fills in `server`, opens `serving`,
    and starts and closes `recorder`.
    """

    serving: Serving
    metrics: Metrics
    recorder: Recorder
    shadow: Shadow
    server: ServerFacts
    fast_path: FastPath
    guard: Guard | None
    answer_together: Callable[[Sequence[WSGICall]], list[Iterable[bytes] | Exception]]

    def swap(self, loaded: Loaded) -> None:
        """Serve another snapshot: requests, the fast path, the pages and the metrics see it from now on."""
        self.metrics.count_versions_from_zero(loaded)
        self.shadow.prepare(loaded)
        self.serving.swap(loaded)

    def is_immediate(self, environ: WSGIEnvironment) -> bool:
        """Return whether a reply never blocks and takes about a millisecond."""
        return (
            self.fast_path.is_immediate(environ["REQUEST_METHOD"], environ["PATH_INFO"])
            and int(environ.get("CONTENT_LENGTH", 0)) <= _IMMEDIATE_BYTES
            and "HTTP_CONTENT_ENCODING" not in environ
            and not is_arrow(environ)  # which the first time imports pyarrow
            and not self.fast_path.may_block(environ)
        )

    def make_response(self, rv: Any) -> Response:
        """Accept our own `Reply` from views, too."""
        return super().make_response(rv.to_flask() if isinstance(rv, Reply) else rv)

    def log_exception(self, exc_info: Any) -> None:
        """Log an exception as JSON, under the ids of its request."""
        log_lines.failure(exc_info, exchange_of(request.environ))


def read_keys(config: Config) -> Keys | None:
    """Return what clients may send as keys, None if no key is asked for. Raises `KeyFileError`."""
    if not (config.keys or config.jwks):
        return None
    return Keys(Sources(config.keys, config.jwks, config.jwt_issuer, config.jwt_audience, config.key_rate))


def create_app(
    config: Config,
    *,
    write_log: Callable[[Iterable[bytes]], None] = log_lines.write,
    keys: Keys | None = None,
) -> Service:
    """Load the models and return the service. With a model that cannot be loaded it is live and not ready.

    `keys` are those of `read_keys` where they outlive the service, else they are read.
    """
    keys = keys or read_keys(config)
    app = Service("app", static_folder=None)
    # No redirects, which some clients do not follow: `/models//predict` is 404, `/v2/` is `/v2`.
    app.url_map.merge_slashes = app.url_map.strict_slashes = False
    loaded = load(
        config.folder,
        config.entries,
        device=config.device,
        max_batch_rows=config.max_batch_rows,
        ignore_unknown=config.ignore_unknown_columns,
        allow_converted=config.allow_converted,
        trusted_keys=config.trusted_keys,
    )
    serving = app.serving = Serving(loaded, device=config.device, max_batch_rows=config.max_batch_rows)
    live_errors = LiveErrors()
    metrics = app.metrics = Metrics(serving, live_errors)
    log, writer = None, None
    if config.prediction_log:
        from model.live.prediction_log import PredictionLog  # here, since importing SQLAlchemy takes 0.15 s and 14 MB

        log = PredictionLog(config.prediction_log)
        writer = LogWriter(log, metrics, live_errors, config, lambda: serving.loaded.models)
    server = app.server = ServerFacts()
    inference = Inference(serving)
    shadow = app.shadow = Shadow(serving, inference, metrics, writer, server)
    shadow.prepare(loaded)
    tracer = None
    if config.otel:
        from app.telemetry.tracing import Tracer  # here, since importing OpenTelemetry takes 0.15 s

        tracer = Tracer(config.otel_share)
    recorder = app.recorder = Recorder(metrics, writer, write_log if config.log_requests else None, shadow, tracer)
    runner = Runner(config, serving, inference, metrics, server)

    # The first route of a path wins. Vertex AI may name any path: at /predict its format then replaces the native one.
    views = Views()
    endpoints = [v2.endpoint(), *v1.endpoints(), mlflow.endpoint(), vertex.endpoint(config), native.endpoint()]
    app.register_blueprint(health.blueprint(serving, views, metrics, recorder))
    app.register_blueprint(v2.blueprint(serving, views, metrics, recorder))
    app.register_blueprint(v1.blueprint(serving, views))
    app.register_blueprint(mlflow.blueprint(serving, views, config))
    app.register_blueprint(vertex.blueprint(serving, views, config))
    app.register_blueprint(native.blueprint(serving, views))
    for endpoint in endpoints:
        add_routes(app, endpoint, runner)
    app.register_blueprint(feedback.blueprint(config, metrics, log, writer, serving, views))
    if config.mcp:
        app.register_blueprint(mcp.blueprint(config, serving, views, runner, recorder.record, keys))
    access = Access(app, endpoints, views, serving, config)
    document = Document(app, endpoints, views, config, access if keys else None)
    app.register_blueprint(cards.blueprint(serving, views))
    app.register_blueprint(pages.blueprint(serving, views, document, server, config, metrics, recorder, live_errors))
    refusal.register(app, refusal.refuse_natively)
    if keys:
        metrics.count_refusals_from_zero()
    metrics.count_failures_from_zero(rule.rule for rule in app.url_map.iter_rules() if "POST" in (rule.methods or ()))

    @app.before_request
    def name_route() -> None:
        if request.url_rule:
            exchange = exchange_of(request.environ)
            exchange.route = request.url_rule.rule
            exchange.is_probe = app.view_functions[request.url_rule.endpoint] in views.probes

    app.fast_path = FastPath(app, config, serving, runner, endpoints, views)
    # Pages of other origins may call predictions and feedback.
    routes = {feedback.PATH, mcp.PATH, *(rule for endpoint in endpoints for rule in endpoint.rules)}
    cors = Cors(config.cors_origins, routes, config.sticky_header) if config.cors_origins else None
    app.guard = Guard(keys, access.need_of, server) if keys or config.metrics_port else None
    middleware = ExchangeMiddleware(app.fast_path.answer, recorder.record, cors, app.guard)
    app.wsgi_app, app.answer_together = middleware, middleware.answer  # type: ignore[method-assign]
    return app
