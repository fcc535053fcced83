"""Where documents are written, each whole and once: a folder, or objects behind a URL."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from model.errors import StoreError
from model.on_queue.message import Answer, Message
from model.store import artifact
from model.store.urls import missing_package, parse_location, shown


class Place(Protocol):
    """Keeps the document about a message. Raises `StoreError` or `OSError` for what may work later."""

    def keep(self, message: Message, answer: Answer) -> None:
        """Write the document, unless one is there about this message: the first stays."""


class Folder:
    """A folder with a file for each message."""

    def __init__(self, path: Path) -> None:
        artifact.make_folder(path)
        self._path = path

    def keep(self, message: Message, answer: Answer) -> None:
        incoming = self._path / f".{uuid.uuid4().hex}"
        try:
            artifact.write(incoming, answer.content)
            os.link(incoming, self._path / _name(message))  # a rename would replace the other one
        except FileExistsError:
            return
        finally:
            incoming.unlink(missing_ok=True)
        artifact.sync_folder(self._path)


class Bucket:
    """A URL below which there is an object for each message."""

    def __init__(self, url: str) -> None:
        try:
            from model.store.objects import Objects
        except ImportError:
            raise missing_package(url) from None
        self._objects = Objects(url)
        self._objects.check_creates()
        self._objects.check_bucket()

    def keep(self, message: Message, answer: Answer) -> None:
        try:
            self._objects.create(_name(message), answer.content)
        except FileExistsError:
            return


def open_place(location: str) -> Place:
    """Return the place that a path or a URL names. Raises `StoreError` if it cannot be written to."""
    try:
        place = parse_location(location)
    except ValueError as error:
        raise StoreError(shown(location), f"is {error}") from None
    try:
        return Folder(place) if isinstance(place, Path) else Bucket(place)
    except OSError as error:
        raise StoreError(location, f"cannot be written to ({error.strerror}); name another folder") from None


def below(location: str, name: str) -> str:
    """Return the path or URL of a folder in a place."""
    return f"{location.rstrip('/')}/{name}"


def _name(message: Message) -> str:
    return f"{quote(message.id, safe='')}.json"
