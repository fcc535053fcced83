"""The outermost WSGI middleware: it gives each request an id, checks its key, adds headers and records the exchange."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from app.web.exchange import KEY, Exchange, WSGICall, request_id
from app.web.guard import Guard

# Headers that a page of an allowed origin may send, and read from a reply (the Fetch standard, section 3.3).
_CORS_MCP = "MCP-Protocol-Version, Mcp-Method, Mcp-Name"
_CORS_REQUEST = (
    "Authorization, X-API-Key, Content-Type, Content-Encoding, Inference-Header-Content-Length, X-Request-Id, "
    "traceparent"
)
_CORS_REPLY = "X-Request-Id, X-Model-Version, Inference-Header-Content-Length, Retry-After"
_CORS_SECONDS = 600  # how long a browser caches the answer to a preflight request


@dataclass(frozen=True, slots=True)
class Cors:
    """The origins whose pages may send requests, the routes that allow it, and a header of ours that they may send."""

    origins: Collection[str]
    routes: Collection[str]
    sticky_header: str

    def headers(self, environ: WSGIEnvironment, route: str) -> list[tuple[str, str]]:
        """Return the CORS headers of a reply of `route`; to OPTIONS, those of a preflight reply."""
        if route not in self.routes:
            return []
        headers = [("Vary", "Origin")]
        origin = environ.get("HTTP_ORIGIN", "")
        if origin in self.origins:
            headers.append(("Access-Control-Allow-Origin", origin))
            if environ["REQUEST_METHOD"] == "OPTIONS":
                headers.append(("Access-Control-Allow-Methods", "POST"))
                headers.append(("Access-Control-Allow-Headers", f"{_CORS_REQUEST}, {_CORS_MCP}, {self.sticky_header}"))
                headers.append(("Access-Control-Max-Age", str(_CORS_SECONDS)))
            else:
                headers.append(("Access-Control-Expose-Headers", _CORS_REPLY))
        return headers


class ExchangeMiddleware:
    """A WSGI application around the whole service; `record` gets every exchange once its reply is made.

    Every reply has an `X-Request-Id`: the client's, if that is 1 to 128 visible ASCII characters.
    """

    def __init__(
        self,
        inner: Callable[[Sequence[WSGICall]], list[Iterable[bytes] | Exception]],
        record: Callable[[Exchange], None],
        cors: Cors | None = None,
        guard: Guard | None = None,
    ) -> None:
        self._inner = inner
        self._record = record
        self._cors = cors
        self._guard = guard

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        (answer,) = self.answer([(environ, start_response)])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def answer(self, calls: Sequence[WSGICall]) -> list[Iterable[bytes] | Exception]:
        """Return for each call what a WSGI application would return, or the exception that it would raise."""
        exchanges = [_exchange(environ) for environ, _ in calls]
        try:
            completed = [
                (environ, _completing(environ, exchange, start_response, self._cors))
                for exchange, (environ, start_response) in zip(exchanges, calls)
            ]
            return self._admit(self._guard, completed) if self._guard else self._inner(completed)
        finally:
            now = time.time()
            for exchange in exchanges:
                exchange.time = now
                self._record(exchange)

    def _admit(self, guard: Guard, calls: Sequence[WSGICall]) -> list[Iterable[bytes] | Exception]:
        """Answer those calls whose keys allow it, and refuse the others before anything reads their bodies."""
        refusals = [guard.check(environ) for environ, _ in calls]
        if not any(refusals):
            return self._inner(calls)
        admitted = [call for call, refusal in zip(calls, refusals) if not refusal]
        answers = iter(self._inner(admitted) if admitted else ())
        return [refusal(*call) if refusal else next(answers) for call, refusal in zip(calls, refusals)]


def _exchange(environ: WSGIEnvironment) -> Exchange:
    """Attach a new exchange to a request, and return it."""
    traceparent = environ.get("HTTP_TRACEPARENT", "")
    exchange = Exchange(request_id(environ), environ["REQUEST_METHOD"], traceparent=traceparent)
    environ[KEY] = exchange
    return exchange


def _completing(
    environ: WSGIEnvironment, exchange: Exchange, start_response: StartResponse, cors: Cors | None
) -> StartResponse:
    """Return a `start_response` that records the status and adds the request id and the CORS headers."""

    def start(line: str, headers: list[tuple[str, str]], *rest: Any) -> Callable[[bytes], object]:
        exchange.status = int(line[:3])
        if cors:
            headers = [*headers, *cors.headers(environ, exchange.route)]
        return start_response(line, [*headers, ("X-Request-Id", exchange.request_id)], *rest)

    return start
