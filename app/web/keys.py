"""The keys and tokens that a server accepts: from the text that a client sends to the caller."""

from __future__ import annotations

import hashlib
import hmac
import importlib
import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from app.errors import TooManyRequestsError, UnauthorizedError
from app.web.caller import Caller
from app.web.limits import Buckets
from model import KeyFileError, read_keys

if TYPE_CHECKING:
    from app.web.tokens import Tokens

# Names in key files have buckets of their own. The subjects of tokens, which may be any number, share the rest.
_BUCKETS, _NAMED_BUCKETS = 2**17, 2**16
TOKEN_LABEL = "jwt"
_TOKEN_NAME = "jwt:{}"  # no name in a key file has a colon

_log = logging.getLogger("tabserve")


def _builtin_sha256() -> Callable[[bytes], Any]:
    """Return CPython's own SHA-256, where there is one: between other work it takes 0.8 µs, and OpenSSL's 4.3 µs."""
    for module in ("_sha2", "_sha256"):  # since Python 3.12, and before
        with suppress(ImportError):
            found: Callable[[bytes], Any] = importlib.import_module(module).sha256
            return found
    return hashlib.sha256


_sha256 = _builtin_sha256()


class Sources(NamedTuple):
    """Where keys and tokens come from; `rate` is the limit, in requests a second, of those without their own, or 0."""

    keys: Path | None
    jwks: Path | None = None
    issuer: str = ""
    audience: str = ""
    rate: float = 0


class Keys:
    """What a server accepts, read when it starts and again at SIGHUP. Raises `KeyFileError`.

    `rates` counts the requests of callers, over all workers.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self.rates = Buckets(_BUCKETS)
        self._buckets: dict[str, int] = {}  # of names
        self._by_digest, self._tokens = self._read()

    def read_again(self) -> None:
        """Read the files again, before workers are forked; keep what was read if one of them is broken."""
        try:
            self._by_digest, self._tokens = self._read()
        except KeyFileError as error:
            _log.error("the keys are not read again, and those from before are accepted: %s", error)

    def find(self, presented: str) -> Caller | None:
        """Return the caller of a key, or of a token that was verified before; None for any other text.

        Raises `UnauthorizedError` for a key that has expired.
        """
        digest: bytes = _sha256(presented.encode()).digest()
        found = self._by_digest.get(digest)
        if found and hmac.compare_digest(found[0], digest):
            caller = found[1]
            if caller.expires <= time.time():
                raise UnauthorizedError("expired", f"the key of {caller.name} has expired; get a new one")
            return caller
        return self._tokens.known(digest) if self._tokens else None

    def verify(self, presented: str) -> Caller:
        """Return the caller of a token that is not known yet, which takes some time. Raises `UnauthorizedError`."""
        tokens = self._tokens
        if not tokens or presented.count(".") != 2:
            raise UnauthorizedError("unknown", "the key is not known here")
        return tokens.verify(presented, _sha256(presented.encode()).digest())

    def take(self, caller: Caller) -> None:
        """Count a request of a caller towards its rate. Raises `TooManyRequestsError` if it is one too many."""
        if caller.rate and (wait := self.rates.take(caller.bucket, rate=caller.rate, burst=caller.burst)):
            raise TooManyRequestsError("rate", f"{caller.name} has sent more than {caller.rate:g} requests/s", wait)

    def _read(self) -> tuple[dict[bytes, tuple[bytes, Caller]], Tokens | None]:
        sources = self._sources
        by_digest: dict[bytes, tuple[bytes, Caller]] = {}
        for key in read_keys(sources.keys) if sources.keys else []:
            digest = bytes.fromhex(key.sha256)
            expires = key.expires.timestamp() if key.expires else math.inf
            rate = sources.rate if key.rate is None else key.rate
            caller = Caller(
                key.name,
                key.name,
                frozenset(key.scopes),
                expires,
                rate,
                key.burst or math.ceil(rate) or 1,
                self._buckets.setdefault(key.name, len(self._buckets) % _NAMED_BUCKETS),
            )
            by_digest[digest] = digest, caller
        tokens = None
        if sources.jwks:
            from app.web.tokens import Tokens  # here, since it imports PyJWT

            tokens = Tokens(
                sources.jwks, issuer=sources.issuer, audience=sources.audience, caller=self._caller_of_token
            )
        return by_digest, tokens

    def _caller_of_token(self, subject: str, scopes: frozenset[str], expires: float) -> Caller:
        name, rate = _TOKEN_NAME.format(subject), self._sources.rate
        bucket = self.rates.bucket_of(name, first=_NAMED_BUCKETS)
        return Caller(name, TOKEN_LABEL, scopes, expires, rate, math.ceil(rate) or 1, bucket)
