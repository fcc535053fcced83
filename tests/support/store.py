"""What the tests of store share."""

from __future__ import annotations

from pathlib import Path

import pytest

from model import Store
from model.store.artifact import Draft

SMALL = Draft({"title": "x"}, {"a.txt": b"a", "plots/b.png": b"b"})


@pytest.fixture
def shelf(tmp_path: Path) -> Store:
    """A store with versions 1 to 3 of `m`, of which 3 is the champion and 2 the challenger."""
    shelf = Store(tmp_path / "store")
    for alias in ("champion", "challenger", "champion"):
        shelf.add("m", SMALL, alias=alias)
    return shelf
