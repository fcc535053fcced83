"""What the tests of tables share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.service import TABLE

HEADER = "CHAS,RM,TAX,PTRATIO,B,LSTAT,MEDV"
LINES = TABLE.read_text().splitlines()[1:41]  # forty rows, more than a table needs

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a table of lines under a header and return its path."""

    def write_table(lines: list[str], header: str = HEADER) -> Path:
        path = tmp_path / "table.csv"
        path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
        return path

    return write_table
