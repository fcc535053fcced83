"""Owns when a moved alias has a server load again: when the store names what the last load did not see."""

from __future__ import annotations

from typing import Any

from app.serving.store_watch import Moves
from model import pause_seconds


class Shelf:
    """A store and a server of it: what the store names, and what it named at the last load."""

    def __init__(self) -> None:
        self.named: Any = "a"
        self.tried = "a"
        self.is_due = False
        self.moves = Moves(self.read, lambda: self.tried, lambda: self.is_due)

    def read(self) -> str:
        """Return what the store names, or raise what it raises."""
        if isinstance(self.named, Exception):
            raise self.named
        return str(self.named)


def test_each_state_is_loaded_once() -> None:
    """A move is reported until it was tried, whether it is served then or refused; and then again only the next one."""
    shelf = Shelf()
    assert not shelf.moves()
    shelf.named = "b"
    assert [shelf.moves() for _ in range(2)] == [True, True]
    shelf.tried = "b"
    assert not shelf.moves()
    shelf.named = "a"
    assert shelf.moves()


def test_move_back_and_forth_during_a_load() -> None:
    """A load that found the store gone back to what is served does not hide the same move when it comes again."""
    shelf = Shelf()
    shelf.named = "b"
    assert shelf.moves()
    shelf.tried = "a"  # loaded after the store had gone back
    assert shelf.moves()


def test_store_that_cannot_be_read(caplog: Any) -> None:
    """A store that cannot be read changes nothing and is logged once; what it names afterwards is loaded."""
    shelf = Shelf()
    shelf.named = OSError("gone")
    assert [shelf.moves() for _ in range(3)] == [False] * 3
    shelf.named = "b"

    assert shelf.moves()
    assert [record.levelname for record in caplog.records if "read" in record.message] == ["ERROR"]


def test_load_without_an_end_is_tried_again() -> None:
    """A load that did not finish is tried again when that is due, also if nothing has moved."""
    shelf = Shelf()
    assert not shelf.moves()
    shelf.is_due = True
    assert shelf.moves()


def test_pauses_between_tries() -> None:
    """The pause doubles from 10 s to an hour."""
    assert [pause_seconds(number) for number in (1, 2, 3, 9, 10, 10**9)] == [10, 20, 40, 2_560, 3_600, 3_600]
