"""Opens the store at a place: a folder, or a URL, of which verified copies are kept in a folder."""

from __future__ import annotations

from pathlib import Path

from model.errors import StoreError
from model.store.urls import CACHE, missing_package, parse_location, shown
from model.store.versions import Store


def open_store(location: Path | str, *, cache: Path = CACHE) -> Store:
    """Return the store at a path or URL. Raises `StoreError` for a URL that cannot be used.

    What is behind a URL is verified and kept in a folder in `cache`, which processes share.
    """
    try:
        place = parse_location(location) if isinstance(location, str) else location
    except ValueError as error:
        raise StoreError(shown(str(location)), str(error)) from None
    if isinstance(place, Path):
        return Store(place)
    try:
        from model.store.remote import RemoteStore  # here, since serving from a folder needs no fsspec
    except ImportError:
        raise missing_package(place) from None
    return RemoteStore.at(place, cache)
