"""The composition root: makes the parts of the service and connects them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.types import WSGIEnvironment

from flask import Flask, Response, request

from app.config import Config
from app.protocols import mlflow, native, v1, v2, vertex
from app.protocols.fast_path import FastPath
from app.routes import feedback, health, pages
from app.serving import loaded
from app.serving.inference import Inference
from app.serving.loaded import Serving
from app.telemetry import log_lines
from app.telemetry.metrics import Metrics
from app.telemetry.prediction_writer import LogWriter
from app.telemetry.recorder import Recorder
from app.web import refusal
from app.web.exchange import WSGICall, exchange_of
from app.web.middleware import Cors, ExchangeMiddleware
from app.web.reply import Reply

# About a hundred rows, or as many mistakes as take some milliseconds to report.
_IMMEDIATE_BYTES = 4_096


class Service(Flask):
    """The Flask application with the parts that the server needs.

    In each worker the server sets `in_flight` and `trusts_proxy`, opens `serving`, and starts and closes `recorder`.
    """

    serving: Serving
    metrics: Metrics
    recorder: Recorder
    in_flight: Callable[[], int] = staticmethod(lambda: 0)
    trusts_proxy: Callable[[str], bool] = staticmethod(lambda address: False)
    fast_path: FastPath
    middleware: ExchangeMiddleware

    def is_quick(self, environ: WSGIEnvironment) -> bool:
        """Return whether a reply never blocks and takes about a millisecond."""
        return (
            (environ["REQUEST_METHOD"], environ["PATH_INFO"]) in self.fast_path.immediate
            and int(environ.get("CONTENT_LENGTH", 0)) <= _IMMEDIATE_BYTES
            and "HTTP_CONTENT_ENCODING" not in environ
        )

    def answer_together(self, calls: Iterable[WSGICall]) -> list[Iterable[bytes] | Exception]:
        """Return for each call what a WSGI application would return, or the exception that it would raise."""
        return self.middleware.answer(calls)

    def make_response(self, rv: Any) -> Response:
        """Accept our own `Reply` from views, too."""
        return super().make_response(rv.to_flask() if isinstance(rv, Reply) else rv)

    def log_exception(self, exc_info: Any) -> None:
        """Log an exception as JSON, under the request's id."""
        log_lines.failure(exc_info, exchange_of(request.environ).request_id)


def create_app(
    config: Config | None = None, *, write_log: Callable[[Iterable[bytes]], None] = log_lines.write
) -> Service:
    """Load the models and return the service.

    Without `config` the settings come from the environment; `ConfigError` lists the wrong ones. With a model that
    cannot be loaded the service is live and not ready.
    """
    config = config or Config.from_environ(os.environ)
    app = Service("app", static_folder=None)
    # No redirects, which some clients do not follow: `/models//predict` is 404, `/v2/` is `/v2`.
    app.url_map.merge_slashes = app.url_map.strict_slashes = False
    app.serving = loaded.load(
        config.store,
        config.models,
        device=config.device,
        max_batch_rows=config.max_batch_rows,
        ignore_unknown=config.ignore_unknown_columns,
    )
    log, writer = None, None
    metrics = app.metrics = Metrics(
        models=lambda: app.serving.models.values(),
        golden=lambda: app.serving.golden,
        ready=lambda: app.serving.unready is None,
        live_errors=lambda: writer.live_errors if writer else (),
        runs=lambda: app.serving.take_runs(),
        usage=lambda: app.serving.usage(),
    )
    if config.prediction_log:
        from model.live.prediction_log import PredictionLog  # here, since importing SQLAlchemy takes 0.15 s and 14 MB

        log = PredictionLog(config.prediction_log)
        writer = LogWriter(log, metrics, config)
    recorder = app.recorder = Recorder(metrics, writer, write_log if config.log_requests else None)
    inference = Inference(config, app.serving, metrics, lambda: app.in_flight())

    # The first route of a path wins. Vertex AI may name any path: at /predict its format then replaces the native one.
    app.register_blueprint(health.blueprint(app.serving, metrics, recorder))
    app.register_blueprint(v2.blueprint(app.serving, inference, metrics, recorder))
    app.register_blueprint(v1.blueprint(app.serving, inference))
    app.register_blueprint(mlflow.blueprint(app.serving, inference, config))
    app.register_blueprint(vertex.blueprint(app.serving, inference, config))
    app.register_blueprint(native.blueprint(app.serving, inference))
    app.register_blueprint(feedback.blueprint(config, metrics, log, app.serving))
    app.register_blueprint(pages.blueprint(app.serving, config, lambda address: app.trusts_proxy(address)))
    refusal.register(app, refusal.refuser())
    metrics.count_failures_from_zero(rule.rule for rule in app.url_map.iter_rules() if "POST" in (rule.methods or ()))

    @app.before_request
    def name_route() -> None:
        if request.url_rule:
            exchange = exchange_of(request.environ)
            exchange.route = request.url_rule.rule
            exchange.is_probe = hasattr(app.view_functions[request.url_rule.endpoint], "probe")

    app.fast_path = FastPath(app, app.serving, inference)
    cors = Cors(config.cors_origins, _cors_routes(app)) if config.cors_origins else None
    app.wsgi_app = app.middleware = ExchangeMiddleware(app.fast_path.answer, recorder.record, cors)  # type: ignore[method-assign]
    return app


def _cors_routes(app: Service) -> set[str]:
    """Return the routes that pages of other origins may call: predictions and feedback."""
    predictions = {
        rule.rule for rule in app.url_map.iter_rules() if hasattr(app.view_functions[rule.endpoint], "fast_path")
    }
    return {*predictions, "/feedback"}
