"""The command that signs a version: sign; how commands take keys, sign new versions, and say what they verified.

The keys that servers trust are those that the servers' own setting names where a command has its environment, so that a
command does not promote what they refuse.
"""

from __future__ import annotations

import argparse
import getpass
import os
from pathlib import Path
from typing import TYPE_CHECKING

from model import Artifact, KeyFileError, Store
from model.cli.arguments import REFERENCE, Commands, store_of
from model.store.signed import Signed

if TYPE_CHECKING:
    from model.store.signature import PrivateKey

_TRUSTED_KEYS = "TABSERVE_TRUSTED_KEYS"  # the servers' setting, of files that are separated by commas


def add_sign(commands: Commands) -> None:
    """Declare the command `sign`."""
    sign = commands.add_parser("sign", help="sign every file of one version, so that servers can tell who made it")
    sign.add_argument("model", help=REFERENCE)
    sign.add_argument(
        "--key",
        type=Path,
        required=True,
        metavar="PRIVATE.pem",
        help="the private key: ECDSA on P-256, P-384 or P-521; if it is encrypted, its password is asked for",
    )
    sign.set_defaults(run=_sign)


def _sign(options: argparse.Namespace) -> None:
    from model.store import signature  # here, since importing cryptography takes 60 ms

    key = _read_key(options.key)
    store = store_of(options)
    model = store.load(options.model)
    path = signature.sign(model, key)
    store.share_signature(model.path)
    print(
        f"{model.name} version {model.version}: {len(model.manifest.files) + 1} files signed with the key "
        f"{signature.key_id(key.public_key())}, in {store.place_of(path)}"
    )


def _read_key(path: Path) -> PrivateKey:
    from model.store import signature

    return signature.read_private_key(path, lambda: _password(path))


def _password(path: Path) -> str:
    try:
        return getpass.getpass(f"password of {path}: ")
    except EOFError:
        raise KeyFileError(path, "is encrypted", "type its password, or pass it as a line of input") from None


def add_signing(parser: argparse.ArgumentParser) -> None:
    """Declare the option that names the private key of new versions; `signing_key` reads it."""
    parser.add_argument(
        "--sign",
        type=Path,
        metavar="PRIVATE.pem",
        help="sign the new version with this private key, before it is promoted (see the command sign)",
    )


def signing_key(path: Path | None, *, promotes: bool) -> PrivateKey | None:
    """Return the private key that new versions are signed with, None without a file, before there is one.

    Raises `KeyFileError` for a key that cannot be used or is none of those that servers trust, and `ValueError` if
    servers trust keys and an unsigned version is to be promoted.
    """
    key = _read_key(path) if path else None
    trusted_files = _trusted_files()
    if trusted_files and key and path:
        from model.store.signature import TrustedKeys, key_id

        if key_id(key.public_key()) not in TrustedKeys.read(trusted_files).keys:
            raise KeyFileError(path, f"is the private key of none of those in {_TRUSTED_KEYS}", "name another one")
    if trusted_files and promotes and not key:
        raise ValueError(
            f"the new version would be the champion, and no server would load it, as {_TRUSTED_KEYS} is set and it "
            "would not be signed; add --sign PRIVATE.pem, or leave out --promote if the model has a champion"
        )
    return key


def sign_new(store: Store, model: Artifact, key: PrivateKey | None) -> None:
    """Sign a version that was just added, if there is a key, and print so."""
    if key:
        from model.store import signature

        signature.sign(model, key)
        store.share_signature(model.path)
        print(f"signed   {model.name}@{model.version}, by the key {signature.key_id(key.public_key())}")


def add_trusted_keys(parser: argparse.ArgumentParser) -> None:
    """Declare the option that names public keys; `trusted` reads them."""
    parser.add_argument(
        "--key",
        type=Path,
        action="append",
        metavar="PUBLIC.pem",
        help="also check that the version is signed by this public key, as a server with TABSERVE_TRUSTED_KEYS does; "
        "several times: by one of them (default: the files in TABSERVE_TRUSTED_KEYS, if it is set)",
    )


def trusted(options: argparse.Namespace) -> Signed | None:
    """Return what verifies signatures by the keys that were named, None if there are none. Raises `KeyFileError`."""
    files = options.key or _trusted_files()
    if not files:
        return None
    from model.store.signature import TrustedKeys

    return TrustedKeys.read(files).digests


def _trusted_files() -> list[Path]:
    """Return the key files that `TABSERVE_TRUSTED_KEYS` names."""
    return [Path(name.strip()) for name in os.environ.get(_TRUSTED_KEYS, "").split(",") if name.strip()]


def print_verified(model: Artifact, *, is_signed: bool) -> None:
    """Print that a version was loaded, and so verified; `is_signed` with its signature."""
    nearness = f"within {model.tolerance:g}" if model.tolerance else "to the last bit"
    print(
        f"verified {model.name}@{model.version}: {len(model.manifest.files)} files unchanged, "
        f"{len(model.golden_rows)} golden rows answered {nearness}{', signed by a trusted key' if is_signed else ''}"
    )
