"""GET /livez, /readyz and /metrics: health and metrics, for the platform and the person on call."""

from __future__ import annotations

from flask import Blueprint, Response, request

from app.protocols import describe
from app.protocols.describe import SERVICE
from app.protocols.views import Views
from app.serving.current import Serving
from app.telemetry.metrics import Metrics
from app.telemetry.recorder import Recorder
from app.web.refusal import readiness
from app.web.reply import Reply, compress


def blueprint(serving: Serving, views: Views, metrics: Metrics, recorder: Recorder) -> Blueprint:
    """Return the routes for health checks and for Prometheus."""
    routes = Blueprint("health", __name__)
    ready = describe.flags("ready")

    @routes.get("/livez")
    @views.probe
    @views.describe(describe.get(SERVICE, "Whether the process is alive", describe.flags("live")))
    def livez() -> dict[str, object]:
        """Report that the process is alive. This never depends on a model: a restart would not fix one."""
        return {"live": True}

    @routes.get("/readyz")
    @views.probe
    @views.describe(describe.get(SERVICE, "Whether the server is ready for requests", ready, unready=ready))
    def readyz() -> tuple[dict[str, object], int, dict[str, str]]:
        """Report whether the server is ready: verified models are loaded, and it is not stopping."""
        reason = serving.unready
        if reason:
            return readiness({"ready": False, "reason": reason}, ready=False)
        versions = {name: model.version for name, model in serving.loaded.models.items()}
        return readiness({"ready": True, "models": versions}, ready=True)

    @routes.get("/metrics")
    @views.describe(describe.get(SERVICE, "Metrics of all workers, for Prometheus", text=True))
    def prometheus() -> Response:
        """Return the metrics of all workers, compressed if the client accepts that."""
        recorder.flush()
        content, content_type = metrics.render(request.headers.get("Accept", ""))
        reply = compress(Reply(content, content_type), request.environ).to_flask()
        reply.vary.add("Accept")
        return reply

    return routes
