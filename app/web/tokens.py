"""JSON Web Tokens: verified by the public keys of a local file (JWKS, RFC 7517), and remembered until they expire.

Source: RFC 8725, best current practices. The algorithm is the one of the key, never one that only the token names. This
imports PyJWT (60 ms), so the service imports it only if it accepts tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import orjson

from app.errors import UnauthorizedError
from app.web.caller import Caller
from model import SCOPE, KeyFileError

_LEEWAY_SECONDS = 30  # between the clocks of the issuer and of this machine
_MAX_KNOWN = 10_000  # verified tokens that are remembered; about 600 bytes each
_MAX_NAME = 128  # characters of a subject
_MAX_FILE_BYTES = 2**20
_MIN_RSA_BITS = 2048
# By type of key and curve.
_ALGORITHMS = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}


class Tokens:
    """Verifies the tokens of one issuer for one audience. `caller` makes a caller of a subject and its scopes."""

    def __init__(
        self, path: Path, *, issuer: str, audience: str, caller: Callable[[str, frozenset[str], float], Caller]
    ) -> None:
        self._keys = _read(path)
        self._issuer, self._audience = issuer, audience
        self._caller = caller
        self._known: dict[bytes, Caller] = {}
        self._decode = jwt.PyJWT().decode

    def known(self, digest: bytes) -> Caller | None:
        """Return the caller of a token that was verified before, by its SHA-256, if it has not expired."""
        caller = self._known.get(digest)
        return caller if caller and caller.expires > time.time() else None

    def verify(self, token: str, digest: bytes) -> Caller:
        """Return the caller of a token, and remember it. Raises `UnauthorizedError`."""
        try:
            header = jwt.get_unverified_header(token)
            algorithm, key = self._key_of(header)
            claims = self._decode(
                token,
                key,
                algorithms=[algorithm],
                issuer=self._issuer,
                audience=self._audience,
                leeway=_LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise UnauthorizedError("expired", "the token has expired; get a new one") from None
        except (jwt.PyJWTError, ValueError, TypeError):
            raise UnauthorizedError("unknown", "the token is not valid here") from None
        subject = claims["sub"]
        if not subject.isprintable() or not 0 < len(subject) <= _MAX_NAME:
            raise UnauthorizedError("unknown", "the token's subject is not 1 to 128 printable characters")
        caller = self._caller(subject, _scopes(claims), float(claims["exp"]) + _LEEWAY_SECONDS)
        if len(self._known) >= _MAX_KNOWN:
            for old in list(self._known)[: _MAX_KNOWN // 10]:
                self._known.pop(old, None)
        self._known[digest] = caller
        return caller

    def _key_of(self, header: dict[str, Any]) -> tuple[str, Any]:
        """Return the algorithm and the key that a token's header names. Raises `ValueError` if there is none."""
        algorithm, key_id = header.get("alg"), header.get("kid")
        found = [each for each in self._keys if each[0] == algorithm and key_id in (None, each[1])]
        if len(found) != 1:
            raise ValueError("no key for the token, or several")
        return found[0][0], found[0][2]


def _scopes(claims: dict[str, Any]) -> frozenset[str]:
    """Return those scopes of a token that are of this service: `scope` is a text, `scp` a text or a list."""
    found = claims.get("scope", claims.get("scp", ""))
    texts = found.split() if isinstance(found, str) else found if isinstance(found, list) else []
    return frozenset(text for text in texts if isinstance(text, str) and SCOPE.fullmatch(text))


def _read(path: Path) -> list[tuple[str, str | None, Any]]:
    """Return algorithm, id and key of each key of a file that can be used. Raises `KeyFileError`."""
    remedy = "name a JWKS with a public key for RS256, ES256 or EdDSA"
    try:
        with path.open("rb") as file:
            document = orjson.loads(file.read(_MAX_FILE_BYTES))
        found = document["keys"]
        keys = [key for each in found if each.get("use", "sig") == "sig" and (key := _key(each))]
    except OSError as error:
        raise KeyFileError(path, f"cannot be read ({error.strerror})", remedy) from None
    except (KeyError, TypeError, AttributeError, ValueError, jwt.PyJWTError) as error:
        raise KeyFileError(path, f"is no JWKS that can be used ({error})", remedy) from None
    if not keys:
        raise KeyFileError(path, "has no key that can be used", remedy)
    return keys


def _key(value: dict[str, Any]) -> tuple[str, str | None, Any] | None:
    """Return a public key with its algorithm and id; None for a key of another kind. Raises `ValueError`."""
    algorithm = _ALGORITHMS.get((value.get("kty", ""), value.get("crv")))
    if not algorithm or value.get("alg", algorithm) != algorithm:
        return None
    if "d" in value:
        raise ValueError("a private key is in it, which belongs to the issuer alone")
    key = jwt.PyJWK(value, algorithm).key
    if algorithm == "RS256" and key.key_size < _MIN_RSA_BITS:
        raise ValueError(f"an RSA key has less than {_MIN_RSA_BITS} bits")
    return algorithm, value.get("kid"), key
