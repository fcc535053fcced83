"""The model card, the plots and the executed notebook of a loaded version, as pages for people; the card as Markdown.

These texts and pictures come with the artifact, so they are not trusted.
"""

from __future__ import annotations

import base64
from functools import lru_cache

from flask import Blueprint, Response, render_template, request
from markdown_it import MarkdownIt
from markupsafe import Markup

from app.errors import NotReadyError
from app.protocols import describe
from app.protocols.describe import SERVICE
from app.protocols.views import Views
from app.routes import notebook
from app.routes.html import DOCUMENT, secure
from app.serving.current import Serving
from app.web.reply import Reply, compress
from model import Artifact, ArtifactError, NotInStoreError, card_of, file_content

_MARKDOWN = "text/markdown"
_KEPT_PAGES = 8  # of up to a megabyte
_MAX_PLOTS = 20
_MAX_PLOT_BYTES = 2**20
_PNG = b"\x89PNG\r\n\x1a\n"
_PLOT = Markup('<h2>{}</h2>\n<p><img src="data:image/png;base64,{}" alt="{}"></p>\n')


def blueprint(serving: Serving, views: Views) -> Blueprint:
    """Return the routes of the cards, plots and notebooks."""
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
            reply = _page(model, "model card", _card_html(text))
        else:
            reply = compress(Reply(text.encode(), f"{_MARKDOWN}; charset=utf-8"), request.environ).to_flask()
            reply.headers["X-Content-Type-Options"] = "nosniff"
            reply.cache_control.no_store = True  # the version behind a name changes
        reply.vary.add("Accept")
        return reply

    @routes.get("/models/<name>/plots")
    @routes.get("/models/<name>/versions/<version>/plots")
    @views.describe(describe.get(SERVICE, "The pictures of the training, as a web page", html=True))
    def plots(name: str, version: str | None = None) -> Response:
        """Show the pictures that a version has."""
        model = serving.loaded.get(name, version)
        return _page(model, "plots", _plots(model))

    @routes.get("/models/<name>/notebook")
    @routes.get("/models/<name>/versions/<version>/notebook")
    @views.describe(describe.get(SERVICE, "The executed notebook of the training, as a web page", html=True))
    def executed(name: str, version: str | None = None) -> Response:
        """Show the notebook that a version has; no script in it runs."""
        model = serving.loaded.get(name, version)
        content = _content(model, "notebook.ipynb", notebook.MAX_BYTES)
        if content is None:
            return _page(model, "notebook", Markup("<h1>Notebook</h1>\n<p>This version has no notebook.</p>\n"))
        return _page(model, "notebook", notebook.to_html(content, _to_html))

    return routes


def _page(model: Artifact, what: str, content: Markup) -> Response:
    """Return a page about a version. Links are relative, so that they work behind a proxy that removes a prefix."""
    home = "../" * (request.path.count("/") - 1)
    page = render_template("document.html", model=model, what=what, content=content, home=home)
    reply = compress(Reply(page.encode(), "text/html; charset=utf-8"), request.environ).to_flask()
    reply.cache_control.no_store = True  # the version behind a name changes
    return secure(reply, DOCUMENT)


def _content(model: Artifact, name: str, max_bytes: int) -> bytes | None:
    """Return the bytes of a file of a version, None if it has none. Raises `NotReadyError` if it has changed."""
    try:
        return file_content(model, name, max_bytes)
    except NotInStoreError:
        return None
    except ArtifactError as error:
        raise NotReadyError(f"{name} of {model.name} version {model.version} {error.reason}") from None


def _plots(model: Artifact) -> Markup:
    """Return the pictures of a version, each under its name."""
    parts = [Markup("<h1>Plots</h1>\n")]
    names = [name for name in sorted(model.manifest.files) if name.startswith("plots/") and name.endswith(".png")]
    for name in names[:_MAX_PLOTS]:
        picture = _content(model, name, _MAX_PLOT_BYTES)
        if picture and picture.startswith(_PNG):
            title = name.removeprefix("plots/").removesuffix(".png").replace("_", " ").capitalize()
            data = base64.b64encode(picture).decode()
            parts.append(
                Markup('<h2>{}</h2>\n<p><img src="data:image/png;base64,{}" alt="{}"></p>\n').format(title, data, title)
            )
    if len(parts) == 1:
        parts.append(Markup("<p>This version has no plots.</p>\n"))
    return Markup("").join(parts)


@lru_cache(maxsize=_KEPT_PAGES)
def _card_html(text: str) -> Markup:
    """Return a card as HTML, which may take a second or two to render."""
    return _to_html(text)


def _to_html(text: str) -> Markup:
    """Return Markdown as HTML that has no raw HTML, link or image of the text.

    The text comes with an artifact, so it is not trusted, and no card that is made here has any of these.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.disable(["link", "image", "autolink", "reference", "html_block", "html_inline"])
    tokens = parser.parse(text)
    for token, inner in zip(tokens, [*tokens[1:], None]):
        if token.type == "table_open":
            token.attrSet("tabindex", "0")  # a keyboard scrolls what is wider than the window
        elif token.type == "th_open" and inner and not inner.content:
            token.tag = "td"  # a header without a word is none
    return Markup(parser.renderer.render(tokens, parser.options, {}))
