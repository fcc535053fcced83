"""Names of stores: what is a folder and what a URL, which package a URL needs, where copies of it are kept."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from model.errors import URL_CHAIN, StoreError

CACHE = Path("~/.cache/tabserve")  # in the image, whose home is /tmp, beside everything else that it writes
# Which file of requirements has the package for a scheme.
EXTRAS = {
    **dict.fromkeys(("s3", "s3a"), "requirements-s3.txt"),
    **dict.fromkeys(("gs", "gcs"), "requirements-gcs.txt"),
    **dict.fromkeys(("az", "abfs", "abfss"), "requirements-azure.txt"),
}


def parse_location(text: str) -> Path | str:
    """Return the folder that a text names, or the text if it is a URL; file:///PATH is that folder.

    Raises `ValueError` for what is neither.
    """
    if "://" not in text:
        if not text:
            raise ValueError("not a path")
        return Path(text)
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ValueError("not a URL") from None
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise ValueError("not a folder of this machine, such as file:///models")
        return Path(unquote(parts.path))
    if not parts.scheme or not (parts.netloc or parts.path.strip("/")):
        raise ValueError("not a URL such as s3://bucket/models")
    return text


def shown(url: str) -> str:
    """Return a URL, or each of a chain, without user, password, query and fragment, for messages and names.

    What stands in the place of a user in az://container@account.dfs.core.windows.net/models is kept.
    """
    return "::".join(map(_shown, URL_CHAIN.split(url)))


def _shown(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    try:
        parts = urlsplit(f"//{rest}")
    except ValueError:
        return "the URL"
    user, _, host = parts.netloc.rpartition("@")
    is_container = user and ":" not in user and scheme in ("az", "abfs", "abfss")
    return f"{scheme}{separator}{f'{user}@{host}' if is_container else host}{parts.path.rstrip('/')}"


def folder_of(url: str, cache: Path = CACHE, *, is_mirror: bool = False) -> Path:
    """Return the folder in `cache` for what is brought here from a URL; a mirror's is another one.

    Raises `StoreError` if `cache` is in a home folder, and there is none.
    """
    try:
        cache = cache.expanduser()
    except RuntimeError:
        raise StoreError(shown(url), f"{cache} has no home folder; name another folder for its cache") from None
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", shown(url)).strip("-.")[:80]
    digest = hashlib.sha256(url.encode()).hexdigest()[:12]
    return cache.resolve() / f"{name}-{digest}{'-mirror' if is_mirror else ''}"


def missing_package(url: str) -> StoreError:
    """Return the error that says what to install for a URL."""
    file = EXTRAS.get(url.partition("://")[0])
    remedy = f"pip install -r {file}" if file else "install the package that fsspec names for it"
    return StoreError(shown(url), f"needs a package that is not installed; {remedy}")
