"""What a signature must cover: exactly the files of a version, the manifest included. Knows no cryptography.

The signature is a file of its own beside them, `model.sig`: it covers the manifest, so no manifest can list it, and a
version may be signed, or signed again, without becoming another one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from model.errors import ArtifactError
from model.store.files import open_regular

SIGNATURE = "model.sig"
MAX_SIGNATURE_BYTES = 2**20  # each file takes about 200, and an artifact has about a dozen

Signed: TypeAlias = Callable[[Path], Mapping[str, str]]
"""Returns the SHA-256 of each file that the signature in a folder covers, by its name: `TrustedKeys.digests`.

Raises `ArtifactError` if the signature does not verify.
"""

_SIGN = "restore the version from its source, or sign it again if you trust it"


def read_signature(folder: Path) -> bytes | None:
    """Return the signature's bytes, None if there is none. Raises `ArtifactError` if they cannot be read."""
    path = folder / SIGNATURE
    try:
        with open_regular(path) as file:
            content = file.read(MAX_SIGNATURE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArtifactError(path, f"cannot be read: {error.strerror or error}", "check its permissions") from None
    if len(content) > MAX_SIGNATURE_BYTES:
        raise ArtifactError(path, f"has more than {MAX_SIGNATURE_BYTES} bytes", "remove it, and sign the version")
    return content


def check_digests(folder: Path, signed: Mapping[str, str], actual: Mapping[str, str]) -> None:
    """Raise `ArtifactError` if a signature does not cover exactly these files, given their SHA-256 by name."""
    for name in sorted({*signed, *actual}):
        if name not in actual:
            raise ArtifactError(folder / name, "is signed, but is not a file of this version", _SIGN)
        if name not in signed:
            raise ArtifactError(folder / name, "is not covered by the signature", _SIGN)
        if signed[name] != actual[name]:
            raise ArtifactError(folder / name, "is not the file that was signed: its hash differs", _SIGN)


def check_no_other_files(folder: Path, names: Collection[str]) -> None:
    """Raise `ArtifactError` for anything beside files of these names, their folders and a signature; links included."""
    known = {PurePosixPath(name) for name in (*names, SIGNATURE)}
    folders = {parent for path in known for parent in path.parents}
    ahead = [PurePosixPath()]
    while ahead:
        inside = ahead.pop()
        with os.scandir(folder / inside) as entries:
            for entry in entries:
                path, is_folder = inside / entry.name, entry.is_dir(follow_symlinks=False)
                if entry.is_symlink():
                    raise ArtifactError(folder / path, "is a link, which no signature covers", "remove it")
                if path not in (folders if is_folder else known):
                    reason = "is not a file of this version, so no signature covers it"
                    raise ArtifactError(folder / path, reason, "remove it")
                if is_folder:
                    ahead.append(path)
