"""Keys for the tests of signatures."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)


def write_private(path: Path, key: PrivateKeyTypes, password: bytes = b"") -> Path:
    """Write a private key in PEM, encrypted if there is a password, and return the path."""
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    return path


def write_public(path: Path, *keys: PublicKeyTypes) -> Path:
    """Write public keys in PEM, one after the other, and return the path."""
    path.write_bytes(b"".join(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for key in keys))
    return path


def key_pair(folder: Path, name: str = "key") -> tuple[Path, Path]:
    """Write a new pair of keys and return the paths of the private and the public one."""
    key = ec.generate_private_key(ec.SECP256R1())
    return write_private(folder / f"{name}.pem", key), write_public(folder / f"{name}.pub.pem", key.public_key())
