"""Signatures of versions with a key (ECDSA), in the format of the OpenSSF's model-signing.

`model.sig` in a version's folder is a Sigstore bundle: a DSSE envelope around an in-toto statement that has the name
and SHA-256 of every other file, the manifest included. `model_signing verify key` accepts it, and what `model_signing
sign key` writes is accepted here. A folder may be renamed; the manifest names the model and version.

Nothing of a bundle is believed before a trusted key has verified it, and it must be the only spelling of its contents,
so no byte of it can change. Importing this module takes cryptography, 60 ms and 14 MB, which only signatures need.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from model.errors import ArtifactError, KeyFileError
from model.store import artifact
from model.store.artifact import MANIFEST, Artifact
from model.store.files import parse_json
from model.store.signed import MAX_SIGNATURE_BYTES, SIGNATURE, check_no_other_files, read_signature

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey

MAX_KEY_FILE_BYTES = 2**16  # a key takes 200

_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
# The curves of model-signing, each with the hash that goes with it.
_HASHES: Mapping[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
_PEM_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_SHA256 = re.compile("[0-9a-f]{64}")

_SIGN = f"sign the version again if you trust it, or restore it with its {SIGNATURE}"


def read_private_key(path: Path, ask_password: Callable[[], str]) -> PrivateKey:
    """Return the private key in a PEM file; `ask_password` is called if it is encrypted. Raises `KeyFileError`."""
    content = _read_key_file(path)
    blocks = {match[1].decode() for match in _PEM_BLOCK.finditer(content)}
    if not any(label.endswith("PRIVATE KEY") for label in blocks):
        what = "has a public key" if "PUBLIC KEY" in blocks else "has no key"
        raise KeyFileError(path, f"{what}, and only a private key signs", "name a PEM file with a private key")
    try:
        try:
            key = load_pem_private_key(content, None)
        except TypeError:  # it is encrypted
            key = load_pem_private_key(content, ask_password().encode())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(path, f"has no private key that can be read: {error}", "check it and its password") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _HASHES:
        raise _of_other_kind(path, key)
    return key


def _read_key_file(path: Path) -> bytes:
    """Return the bytes of a small file; unlike an artifact's, it may be a link, as Kubernetes mounts it."""
    try:
        if not path.is_file():
            raise KeyFileError(path, "is not a file" if path.exists() else "does not exist", "name a PEM file")
        with path.open("rb") as file:
            content = file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise KeyFileError(path, f"cannot be read: {error.strerror}", "check its permissions") from None
    if len(content) > MAX_KEY_FILE_BYTES:
        raise KeyFileError(path, f"has more than {MAX_KEY_FILE_BYTES} bytes", "name a PEM file with keys alone")
    return content


def _of_other_kind(path: Path, key: object) -> KeyFileError:
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        kind = f"on the curve {key.curve.name}"
    else:
        kind = f"of the kind {type(key).__name__.removesuffix('PublicKey').removesuffix('PrivateKey')}"
    return KeyFileError(
        path,
        f"has a key {kind}, and signatures take ECDSA on P-256, P-384 or P-521",
        "make one: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem",
    )


def key_id(key: ec.EllipticCurvePublicKey) -> str:
    """Return what a bundle calls its key by: the SHA-256 of the public key in PEM."""
    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """The public keys whose signatures are accepted, by `key_id`."""

    keys: Mapping[str, ec.EllipticCurvePublicKey]

    @classmethod
    def read(cls, paths: Iterable[Path]) -> TrustedKeys:
        """Read PEM files of one or more public keys each. Raises `KeyFileError` if anything in them is no such key."""
        return cls({key_id(key): key for path in paths for key in _public_keys(path)})

    def digests(self, folder: Path) -> Mapping[str, str]:
        """Return the SHA-256 of each file that the signature in a folder covers; reads no other file.

        Raises `ArtifactError` if the folder has no signature by one of the keys.
        """
        path, content = folder / SIGNATURE, read_signature(folder)
        if content is None:
            remedy = "sign it: python -m model sign NAME@VERSION --key PRIVATE.pem"
            raise ArtifactError(path, "is missing: the version is not signed", remedy)
        try:
            return self.verify(content)
        except ValueError as error:
            raise ArtifactError(path, f"does not verify: {error}", _SIGN) from None

    def verify(self, content: bytes) -> dict[str, str]:
        """Return the SHA-256 of each file that a bundle covers. Raises `ValueError` if no trusted key made it."""
        try:
            hint, payload, signature = _parse_bundle(content)
        except (LookupError, TypeError) as error:
            raise ValueError(f"it is not a bundle of a signature with a key ({error!r})") from None
        key = self.keys.get(hint)
        if key is None:
            raise ValueError(f"it was made with the key {hint}, which is not trusted")
        try:
            key.verify(signature, _pre_authentication(payload), ec.ECDSA(_HASHES[key.curve.name]))
        except InvalidSignature:
            raise ValueError("it was not made with this key for these files, or was changed") from None
        try:
            return _parse_statement(payload)
        except (LookupError, TypeError) as error:
            raise ValueError(f"it is not a statement of the files of a model ({error!r})") from None


def _public_keys(path: Path) -> list[ec.EllipticCurvePublicKey]:
    content = _read_key_file(path)
    blocks = list(_PEM_BLOCK.finditer(content))
    if not blocks or len(blocks) != content.count(b"-----BEGIN"):
        raise KeyFileError(path, "has no public key, or one that is cut off", "name a PEM file with public keys")
    keys = []
    for block in blocks:
        label = block[1].decode()
        if label.endswith("PRIVATE KEY"):
            raise KeyFileError(
                path,
                "has a private key, which belongs to whoever signs and on no server",
                f"name the public one: openssl pkey -in {path.name} -pubout -out public.pem",
            )
        if label != "PUBLIC KEY":
            raise KeyFileError(path, f"has a {label}, and not a public key", "name a PEM file with public keys")
        try:
            key = load_pem_public_key(block[0])
        except (ValueError, UnsupportedAlgorithm) as error:
            raise KeyFileError(path, f"has a public key that cannot be read: {error}", "write it again") from None
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
            raise _of_other_kind(path, key)
        keys.append(key)
    return keys


def sign(model: Artifact, key: PrivateKey) -> Path:
    """Sign every file of a loaded version, write the signature into its folder and return its path.

    Replaces an earlier signature in one step. The same version and key give the same bytes. Raises `ArtifactError` if
    the folder has files that the manifest does not list, or if the manifest has changed since it was loaded.
    """
    digests = {name: file.sha256 for name, file in model.manifest.files.items()}
    digests[MANIFEST] = hashlib.sha256(artifact.manifest_content(model)).hexdigest()
    check_no_other_files(model.path, digests)
    artifact.write_signature(model.path, bundle(digests, f"{model.name}@{model.version}", key))
    return model.path / SIGNATURE


def bundle(digests: Mapping[str, str], subject: str, key: PrivateKey) -> bytes:
    """Return the signature of files, given their SHA-256 by name; `subject` names the model for people."""
    resources = [
        {"name": name, "algorithm": "sha256", "digest": digests[name]} for name in sorted(digests, key=PurePosixPath)
    ]
    statement = {
        "_type": _STATEMENT_TYPE,
        "subject": [{"name": subject, "digest": {"sha256": _root_digest(resources)}}],
        "predicateType": _PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [SIGNATURE],
            },
            "resources": resources,
        },
    }
    payload = json.dumps(statement).encode()
    algorithm = ec.ECDSA(_HASHES[key.curve.name], deterministic_signing=True)
    signature = key.sign(_pre_authentication(payload), algorithm)
    return _compact(_bundle(key_id(key.public_key()), payload, signature))


def _bundle(hint: str, payload: bytes, signature: bytes) -> dict[str, Any]:
    return {
        "mediaType": _MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }


def _compact(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _pre_authentication(payload: bytes) -> bytes:
    """Return the bytes that are signed: DSSE's pre-authentication encoding (protocol 1.0.0)."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)


def _parse_bundle(content: bytes) -> tuple[str, bytes, bytes]:
    """Return the key's id, the payload and its signature, all of them unverified.

    Raises `ValueError`, `LookupError` or `TypeError` for anything but the one spelling of a bundle.
    """
    if len(content) > MAX_SIGNATURE_BYTES:
        raise ValueError(f"it has more than {MAX_SIGNATURE_BYTES} bytes")
    document = parse_json(content)
    if document["mediaType"] != _MEDIA_TYPE:
        raise ValueError(f"it is not of the media type {_MEDIA_TYPE}")
    if "publicKey" not in document["verificationMaterial"]:
        raise ValueError("it was made with a certificate or by Sigstore, and not with a key")
    hint, envelope = document["verificationMaterial"]["publicKey"]["hint"], document["dsseEnvelope"]
    if not isinstance(hint, str) or not _SHA256.fullmatch(hint):
        raise ValueError("it does not say with which key it was made; sign with model_signing 1.1 or newer")
    try:
        payload = base64.b64decode(envelope["payload"], validate=True)
        signature = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
    except binascii.Error as error:
        raise ValueError(f"it has no valid Base64 ({error})") from None
    if document != _bundle(hint, payload, signature) or content != _compact(document):
        raise ValueError("it has parts or spaces that a signature with a key does not have")
    return hint, payload, signature


def _parse_statement(payload: bytes) -> dict[str, str]:
    """Return the SHA-256 of each file of a verified statement. Raises `ValueError`, `LookupError` or `TypeError`."""
    statement = parse_json(payload)
    if statement["_type"] != _STATEMENT_TYPE or statement["predicateType"] != _PREDICATE_TYPE:
        raise ValueError(f"it is not a statement of the type {_PREDICATE_TYPE}")
    predicate, (subject,) = statement["predicate"], statement["subject"]
    made = predicate["serialization"]
    if (made["method"], made["hash_type"]) != ("files", "sha256"):
        raise ValueError("it does not cover whole files by their SHA-256, as is model_signing's default")
    resources = predicate["resources"]
    digests = {resource["name"]: resource["digest"] for resource in resources}
    if len(digests) != len(resources) or {resource["algorithm"] for resource in resources} - {"sha256"}:
        raise ValueError("it names a file twice, or by another hash than SHA-256")
    if not all(isinstance(name, str) and isinstance(digests[name], str) for name in digests):
        raise ValueError("it does not name files with their hashes")
    if not all(map(_SHA256.fullmatch, digests.values())) or subject["digest"]["sha256"] != _root_digest(resources):
        raise ValueError("its hashes are not SHA-256, or not those of its subject")
    return digests


def _root_digest(resources: Iterable[Mapping[str, str]]) -> str:
    """Return the SHA-256 over all digests in their order, by which a statement names the whole model."""
    return hashlib.sha256(b"".join(bytes.fromhex(resource["digest"]) for resource in resources)).hexdigest()
