"""GET /livez, /readyz and /metrics: what the platform and the person on call ask."""

from __future__ import annotations

from flask import Blueprint, Response, request

from app import hot
from app.body import compress
from app.errors import readiness
from app.metrics import Metrics
from app.recorder import Recorder
from app.reply import Reply
from app.serving import Serving


def blueprint(serving: Serving, metrics: Metrics, recorder: Recorder) -> Blueprint:
    """Routes for probes and for Prometheus."""
    routes = Blueprint("health", __name__)

    @routes.get("/livez")
    @hot.probe
    def livez() -> dict[str, object]:
        """Say that the process serves. Never depends on a model: a restart would not mend one."""
        return {"live": True}

    @routes.get("/readyz")
    @hot.probe
    def readyz() -> tuple[dict[str, object], int, dict[str, str]]:
        """Say whether requests should be sent here: verified models are loaded, and the server is not stopping."""
        reason = serving.unready
        if reason:
            return readiness({"ready": False, "reason": reason}, ready=False)
        versions = {name: model.version for name, model in serving.models.items()}
        return readiness({"ready": True, "models": versions}, ready=True)

    @routes.get("/metrics")
    def prometheus() -> Response:
        """Render the metrics of all workers, compressed for who accepts it."""
        recorder.flush()
        content, content_type = metrics.render(request.headers.get("Accept", ""))
        reply = compress(Reply(content, content_type), request.environ).to_flask()
        reply.vary.add("Accept")
        return reply

    return routes
