"""Owns when a moved alias has a server load again: what is neither served nor refused."""

from __future__ import annotations

from typing import Any

from app.serving.store_watch import Moves


class Shelf:
    """A store and a server of it: what the store names, what is served, what was refused."""

    def __init__(self) -> None:
        self.named: Any = "a"
        self.served = "a"
        self.refused = ""
        self.back: list[str] = []
        self.moves = Moves(self.read, lambda: self.served, lambda: self.refused, self.back.append)

    def read(self) -> str:
        """Return what the store names, or raise what it raises."""
        if isinstance(self.named, Exception):
            raise self.named
        return str(self.named)


def test_what_is_neither_served_nor_refused_is_loaded() -> None:
    """A move is reported until it is served or refused, and then again only if the store names something else."""
    shelf = Shelf()
    assert not shelf.moves()
    shelf.named = "b"
    assert shelf.moves()
    shelf.refused = "b"
    assert not shelf.moves()
    shelf.named = "c"
    assert shelf.moves()


def test_move_back_and_forth_during_a_load() -> None:
    """A load that found the store gone back to what is served does not hide the same move when it comes again."""
    shelf = Shelf()
    shelf.named = "b"
    assert shelf.moves()
    shelf.served = "a"  # loaded after the store had gone back
    assert shelf.moves()


def test_store_that_goes_back_is_told() -> None:
    """While the store names what is served, the server is told, and loads nothing."""
    shelf = Shelf()
    shelf.refused = "b"

    assert not shelf.moves()
    assert shelf.back == ["a"]


def test_store_that_cannot_be_read(caplog: Any) -> None:
    """A store that cannot be read changes nothing and is logged once; what it names afterwards is loaded."""
    shelf = Shelf()
    shelf.named = OSError("gone")
    assert [shelf.moves() for _ in range(3)] == [False] * 3
    shelf.named = "b"

    assert shelf.moves()
    assert [record.levelname for record in caplog.records if "read" in record.message] == ["ERROR"]
