"""What the tests of store share."""

from __future__ import annotations

from pathlib import Path

import pytest

from model import Store
from model.store.artifact import Draft

SMALL = Draft({"title": "x"}, {"a.txt": b"a", "plots/b.png": b"b"})


@pytest.fixture
def shelf(tmp_path: Path) -> Store:
    """A store with versions 1 to 3 of `m`, of which 3 is the champion and the candidate, and 2 the challenger."""
    shelf = Store(tmp_path / "store")
    for _ in range(3):
        shelf.add("m", SMALL)
    shelf.move("m", "tag", {"champion": 3, "challenger": 2}, after=shelf.last_move("m"))
    return shelf
