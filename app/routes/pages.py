"""GET /, /docs and /openapi.json: what is served and how to call it, for people and tools.

The pages are files that know no model: their scripts ask for what they show, with a key where the service wants one.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any

import flask_swagger_ui
from flask import Blueprint, Response, redirect, request, send_from_directory
from werkzeug.exceptions import NotFound

from app.config import Config
from app.protocols import describe
from app.protocols.describe import SERVICE
from app.protocols.views import Views
from app.routes.html import APPLICATION, secure
from app.routes.openapi import Document
from app.routes.page_data import SCHEMA, page_data
from app.serving.current import Serving
from app.telemetry.gauges import LiveErrors
from app.telemetry.metrics import Metrics
from app.telemetry.recorder import Recorder
from app.web.reply import Reply, compress, to_json
from app.web.server_facts import ServerFacts

_PREFIX = re.compile(r"(/[A-Za-z0-9._~!$&'()*+;=:@%-]+)+")  # never `//`, which would name another host
_FILES = Path(__file__).parents[1] / "static"
_SWAGGER_UI = Path(flask_swagger_ui.__file__).parent / "dist"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


def blueprint(
    serving: Serving,
    views: Views,
    document: Document,
    server: ServerFacts,
    config: Config,
    metrics: Metrics,
    recorder: Recorder,
    live_errors: LiveErrors,
) -> Blueprint:
    """Return the routes of the pages, of what they show and of the OpenAPI document.

    Links are relative, so that they work behind a proxy that removes a prefix from the path. The document's URL starts
    with the proxy's `X-Forwarded-Prefix`, if the server trusts its address.
    """
    routes = Blueprint("pages", __name__)
    alive = {"type": "object", "required": ["status"], "properties": {"status": {"const": "alive"}}}

    @routes.before_request
    def add_slash() -> Any:
        """Redirect `/docs` to `/docs/`, which its links are relative to."""
        return redirect("docs/", 308) if request.path == "/docs" else None

    def prefix() -> str:
        """Return the prefix that a proxy removed from the path, or an empty string."""
        forwarded = request.headers.get("X-Forwarded-Prefix", "").rpartition(",")[2].strip().rstrip("/")
        trusted = forwarded and server.trusts_proxy(request.environ.get("REMOTE_ADDR", ""))
        return forwarded if trusted and _PREFIX.fullmatch(forwarded) else ""

    @routes.get("/openapi.json")
    @views.describe(describe.get(SERVICE, "This document", {"type": "object"}))
    def openapi() -> Reply:
        """Return the OpenAPI document of the loaded models, compressed if the client accepts that."""
        found = document.render(serving.loaded, prefix=request.script_root + prefix())
        return compress(to_json(found), request.environ)

    @routes.get("/")
    @views.describe(
        describe.get(SERVICE, "The models as a web page, or as JSON whether the process is alive", alive, html=True)
    )
    def index() -> Response:
        """Show the page for people.

        A client that does not accept HTML, such as KServe's V1 client, gets `{"status": "alive"}`.
        """
        if request.accept_mimetypes.best_match(("application/json", "text/html")) == "text/html":
            reply = _file("index.html")
        else:
            reply = to_json({"status": "alive"}).to_flask()
        reply.vary.add("Accept")
        return reply

    @routes.get("/static/<file>")
    def static(file: str) -> Response:
        """Return a file of the pages."""
        return _file(file)

    @routes.get("/docs/")
    @views.describe(describe.get(SERVICE, "Swagger UI of this document", html=True))
    def docs() -> Response:
        """Show Swagger UI, from the server's own files."""
        return _file("docs.html")

    @routes.get("/docs/<path:path>")
    def swagger_ui(path: str) -> Response:
        """Return a file of Swagger UI."""
        return send_from_directory(_SWAGGER_UI, path)

    @routes.get("/models/<name>/page")
    @routes.get("/models/<name>/versions/<version>/page")
    @views.describe(describe.get(SERVICE, "What the page for people shows", SCHEMA))
    def page(name: str, version: str | None = None) -> Reply:
        """Return the facts of a version for its page, and how it does in use since the server started."""
        model = serving.loaded.get(name, version)
        recorder.flush()
        reply = to_json(page_data(model, serving.loaded, config, metrics, live_errors))
        reply.headers.append(("Cache-Control", "no-store"))
        return compress(reply, request.environ)

    return routes


@cache  # of the files that exist
def _content(name: str) -> tuple[bytes, str]:
    """Return the bytes of a file of the pages, and a tag that changes with them. Raises `NotFound`."""
    path = _FILES / name
    if path.parent != _FILES or path.suffix not in _TYPES or not path.is_file():
        raise NotFound
    content = path.read_bytes()
    return content, hashlib.sha256(content).hexdigest()[:16]


def _file(name: str) -> Response:
    """Return a file of the pages, which a browser asks for again each time, and gets if it has changed."""
    content, tag = _content(name)
    media_type = f"{_TYPES[Path(name).suffix]}; charset=utf-8"
    reply = compress(Reply(content, media_type), request.environ).to_flask()
    reply.cache_control.no_cache = True
    reply.set_etag(tag, weak=True)  # the same for every coding
    reply.make_conditional(request)
    return secure(reply, APPLICATION)
