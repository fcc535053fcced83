"""What the tests of stores behind a URL share."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from model.store.remote import RemoteStore
from tests.support.store import SMALL


def at(url: str, cache: Path) -> RemoteStore:
    """Return the store at a URL as another machine has it, whose copies are in this folder."""
    return RemoteStore.at(url, cache)


@pytest.fixture
def one(url: str, tmp_path: Path) -> RemoteStore:
    """The store at the URL of the test's own fixture, with the versions 1 to 3 of `m`, of which 1 is the champion."""
    store = at(url, tmp_path / "one")
    for _ in range(3):
        store.add("m", SMALL)
    return store


@pytest.fixture
def other(url: str, one: RemoteStore, tmp_path: Path) -> RemoteStore:
    """The same store, on a machine that has read nothing yet."""
    return at(url, tmp_path / "other")


def objects(url: str) -> dict[str, bytes]:
    """Return every object below a URL by its name."""
    files, root = fsspec.core.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
    return {path.removeprefix(f"{root}/"): files.cat_file(path) for path in files.find(root)}


def put(url: str, name: str, content: bytes) -> None:
    """Write an object below a URL."""
    files, root = fsspec.core.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
    files.pipe_file(f"{root}/{name}", content)


def remove(url: str, name: str) -> None:
    """Remove an object, or all below it."""
    files, root = fsspec.core.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
    files.rm(f"{root}/{name}", recursive=True)
