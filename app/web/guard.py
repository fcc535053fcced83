"""Checks the key of every request, before its route or its body is looked at: the only place that lets requests in.

Knows no model: what a path needs is asked of a function. A path that is not known needs a key, too.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import NamedTuple
from wsgiref.types import WSGIEnvironment

from werkzeug.exceptions import NotFound

from app.errors import AccessError, ForbiddenError, TooManyRequestsError, UnauthorizedError
from app.web.caller import Caller
from app.web.exchange import KEY, Exchange
from app.web.keys import Keys
from app.web.limits import Buckets
from app.web.refusal import Refuse
from app.web.reply import Reply
from app.web.server_facts import ServerFacts

# Unknown keys that an address may send: enough for a person who pastes a wrong one, far too few to find one.
_GUESSES_AT_ONCE = 20
_GUESSES_A_SECOND = 0.2
_ADDRESSES = 2**16  # beyond that, addresses share a bucket
_IPV6_NETWORK = 64  # bits of an address that a provider gives to one customer


class Need(NamedTuple):
    """What a request needs: the scope of its key, which may be empty for any key; None for nothing.

    `route` is the rule of its path, and `refuse` makes the reply in the words of its protocol. A hidden route does not
    exist at the address that the request came to.
    """

    route: str
    scope: str | None
    refuse: Refuse
    is_hidden: bool = False


class Guard:
    """Decides which requests are answered. Without `keys` all are whose route is not hidden.

    Call `check` for every request.
    """

    def __init__(self, keys: Keys | None, need_of: Callable[[WSGIEnvironment], Need], server: ServerFacts) -> None:
        self._keys = keys
        self._need_of = need_of
        self._server = server
        self._guesses = Buckets(_ADDRESSES)

    def check(self, environ: WSGIEnvironment) -> Reply | None:
        """Return the refusal of a request, or None to answer it; its exchange has the caller and the reason."""
        need = self._need_of(environ)
        if need.is_hidden:
            return need.refuse(NotFound())
        keys = self._keys
        if need.scope is None or keys is None:
            return None
        exchange: Exchange = environ[KEY]
        try:
            # In few calls: between other work each takes several times as long as in a loop.
            header = environ.get("HTTP_AUTHORIZATION", "")
            bearer = header[7:].strip() if header[:7] == "Bearer " else _bearer(header)
            presented = environ.get("HTTP_X_API_KEY") or bearer
            caller = exchange.caller = (presented and keys.find(presented)) or self._verify(keys, presented, environ)
            if need.scope not in caller.scopes and not caller.may(need.scope):
                raise ForbiddenError(caller.name, need.scope)
            if caller.rate:
                keys.take(caller)
        except AccessError as error:
            exchange.route, exchange.refused = need.route, error.reason
            reply = need.refuse(error)
            reply.headers += error.headers
            return reply
        return None

    def _verify(self, keys: Keys, presented: str, environ: WSGIEnvironment) -> Caller:
        """Return who sent a text that is no known key. Raises `AccessError`."""
        if not presented:
            raise UnauthorizedError("missing", "send a key as Authorization: Bearer KEY, or as X-API-Key: KEY")
        # A known key is let in wherever it comes from, so that guesses behind a proxy lock nobody out.
        bucket = self._guesses.bucket_of(self._network(environ))
        if wait := self._guesses.wait(bucket, rate=_GUESSES_A_SECOND, burst=_GUESSES_AT_ONCE):
            raise TooManyRequestsError("guesses", "too many unknown keys came from this address", wait)
        try:
            return keys.verify(presented)
        except UnauthorizedError as error:
            if error.reason == "unknown":
                self._guesses.take(bucket, rate=_GUESSES_A_SECOND, burst=_GUESSES_AT_ONCE)
            raise

    def _network(self, environ: WSGIEnvironment) -> str:
        """Return the address of a client, or its network; behind a trusted proxy the one that the proxy names last."""
        address: str = environ.get("REMOTE_ADDR", "")
        forwarded: str = environ.get("HTTP_X_FORWARDED_FOR", "")
        if forwarded and self._server.trusts_proxy(address):
            address = forwarded.rpartition(",")[2].strip()
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return address
        if isinstance(parsed, ipaddress.IPv4Address):
            return str(parsed)
        if parsed.ipv4_mapped:  # as a socket for both families names an IPv4 client
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, _IPV6_NETWORK), strict=False))


def _bearer(header: str) -> str:
    """Return the credentials of a header Authorization whose scheme is Bearer (RFC 6750); nothing of any other."""
    return header[7:].strip() if header[:7].lower() == "bearer " else ""
