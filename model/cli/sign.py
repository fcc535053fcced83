"""The command that signs a version: sign; how commands take the keys that are trusted, and say what they verified."""

from __future__ import annotations

import argparse
import getpass
from pathlib import Path

from model import Artifact, KeyFileError
from model.cli.arguments import REFERENCE, Commands, store_of
from model.store.signed import Signed


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

    key = signature.read_private_key(options.key, lambda: _password(options.key))
    store = store_of(options)
    model = store.load(options.model)
    path = signature.sign(model, key)
    store.share_signature(model.path)
    print(
        f"{model.name} version {model.version}: {len(model.manifest.files) + 1} files signed with the key "
        f"{signature.key_id(key.public_key())}, in {path}"
    )


def _password(path: Path) -> str:
    try:
        return getpass.getpass(f"password of {path}: ")
    except EOFError:
        raise KeyFileError(path, "is encrypted", "type its password, or pass it as a line of input") from None


def add_trusted_keys(parser: argparse.ArgumentParser) -> None:
    """Declare the option that names public keys; `trusted` reads them."""
    parser.add_argument(
        "--key",
        type=Path,
        action="append",
        metavar="PUBLIC.pem",
        help="also check that the version is signed by this public key, as a server with TABSERVE_TRUSTED_KEYS does; "
        "several times: by one of them",
    )


def trusted(options: argparse.Namespace) -> Signed | None:
    """Return what verifies signatures by the keys that were named, None if there are none. Raises `KeyFileError`."""
    if not options.key:
        return None
    from model.store.signature import TrustedKeys  # here, as above

    return TrustedKeys.read(options.key).digests


def print_verified(model: Artifact, options: argparse.Namespace) -> None:
    """Print that a version was loaded, and so verified, with the keys that were named."""
    nearness = f"within {model.tolerance:g}" if model.tolerance else "to the last bit"
    print(
        f"verified {model.name}@{model.version}: {len(model.manifest.files)} files unchanged, "
        f"{len(model.golden_rows)} golden rows answered {nearness}{', signed by a trusted key' if options.key else ''}"
    )
