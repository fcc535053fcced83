"""The headers of pages of HTML: what a browser may load for them, and what it may tell others."""

from __future__ import annotations

from flask import Response

# Whatever a text of a model says, nothing but the server's own files is loaded, and nothing inline runs.
_ANY = "default-src 'none'; style-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'"
DOCUMENT = f"{_ANY}; frame-ancestors 'none'"
APPLICATION = f"{DOCUMENT}; script-src 'self'; connect-src 'self'"


def secure(reply: Response, policy: str) -> Response:
    """Return a reply with a Content-Security-Policy and the headers that go with it."""
    reply.headers["Content-Security-Policy"] = policy
    reply.headers["X-Content-Type-Options"] = "nosniff"
    reply.headers["Referrer-Policy"] = "no-referrer"
    reply.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    return reply
