"""GET /models/<name>/card: the model card of a loaded version, as a page for people or as Markdown."""

from __future__ import annotations

from functools import lru_cache

from flask import Blueprint, Response, render_template, request
from markdown_it import MarkdownIt
from markupsafe import Markup

from app.protocols import describe
from app.protocols.describe import SERVICE
from app.protocols.views import Views
from app.serving.current import Serving
from app.web.reply import Reply, compress
from model import card_of

_MARKDOWN = "text/markdown"
_KEPT_PAGES = 8  # of up to a megabyte
# Nothing is loaded and nothing runs, whatever a card says.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def blueprint(serving: Serving, views: Views) -> Blueprint:
    """Return the routes of the cards."""
    routes = Blueprint("cards", __name__)
    operation = describe.get(SERVICE, "The model card, as a web page or as Markdown", html=True)
    operation["responses"]["200"]["content"][_MARKDOWN] = {"schema": {"type": "string"}}

    @routes.get("/models/<name>/card")
    @routes.get("/models/<name>/versions/<version>/card")
    @views.describe(operation)
    def card(name: str, version: str | None = None) -> Response:
        """Show the card of a version: a page to a client that prefers HTML, Markdown to any other."""
        model = serving.loaded.get(name, version)
        text = card_of(model.manifest.document, model.card)
        if request.accept_mimetypes.best_match((_MARKDOWN, "text/html")) == "text/html":
            home = "../" * (request.path.count("/") - 1)
            page = render_template("card.html", model=model, card=_to_html(text), home=home)
            reply = compress(Reply(page.encode(), "text/html; charset=utf-8"), request.environ).to_flask()
            reply.headers["Content-Security-Policy"] = _POLICY
        else:
            reply = compress(Reply(text.encode(), f"{_MARKDOWN}; charset=utf-8"), request.environ).to_flask()
        reply.headers["X-Content-Type-Options"] = "nosniff"
        reply.cache_control.no_store = True  # the version behind a name changes
        reply.vary.add("Accept")
        return reply

    return routes


@lru_cache(maxsize=_KEPT_PAGES)
def _to_html(text: str) -> Markup:
    """Return Markdown as HTML that has no raw HTML, link or image of the text.

    A card comes with its artifact, so it is not trusted, and no card that is made here has any of these.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.disable(["link", "image", "autolink", "reference", "html_block", "html_inline"])
    return Markup(parser.render(text))
