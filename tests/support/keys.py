"""Files of access keys, and tokens of an issuer of our own."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from model.keys import AccessKey, add_key, digest_of, new_key

ISSUER, AUDIENCE = "https://issuer.example", "tabserve"
PRIVATE: dict[str, Any] = {
    "RS256": rsa.generate_private_key(65_537, 2_048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
_WRITERS: dict[str, Any] = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}


def make_key(path: Path, name: str, *scopes: str, days: float | None = None, **limits: Any) -> str:
    """Add a key to a file and return it; it expires in so many days, or has expired where they are negative."""
    key = new_key()
    expires = None if days is None else datetime.now(UTC) + timedelta(days=days)
    add_key(path, AccessKey(name, digest_of(key), scopes, expires, **limits))
    return key


def bearer(key: str) -> dict[str, str]:
    """Return the header of a request with a key."""
    return {"Authorization": f"Bearer {key}"}


def write_jwks(path: Path) -> None:
    """Write the public keys of `PRIVATE`, each under the name of its algorithm."""
    keys = [
        {**json.loads(_WRITERS[name].to_jwk(key.public_key())), "kid": name, "use": "sig"}
        for name, key in PRIVATE.items()
    ]
    path.write_text(json.dumps({"keys": keys}))


def token(algorithm: str = "ES256", *, key_id: str | None = "", **claims: Any) -> str:
    """Return a token that is accepted, unless the claims or the key's id say otherwise; None leaves one out."""
    now = int(time.time())
    all_claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "exp": now + 600, "scope": "predict:*", **claims}
    kept = {name: value for name, value in all_claims.items() if value is not None}
    header = None if key_id is None else {"kid": key_id or algorithm}
    return jwt.encode(kept, PRIVATE[algorithm], algorithm, headers=header)
