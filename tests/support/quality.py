"""What the tests of a table's quality share: a table of right rows, its description, and how a fault is planted."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path

from model.table.description import ColumnDescription, Description, Rule

TODAY = date(2026, 2, 1)
N_ROWS = 60
COLUMNS = (
    ColumnDescription("id", "identifier"),
    ColumnDescription("area", "number", unit="m²", minimum=5, maximum=500),
    ColumnDescription("rooms", "integer", allowed=(1, 2, 3, 4)),
    ColumnDescription("zone", "category", allowed=("Nord", "Süd")),
    ColumnDescription("lift", "boolean"),
    ColumnDescription("sold", "date"),
    ColumnDescription("net", "number", required=True),
    ColumnDescription("tax", "number"),
    ColumnDescription("gross", "number"),
)
HOUSES = Description(
    COLUMNS,
    target="gross",
    date="sold",
    max_age_days=30,
    rules=(Rule("net + tax == gross", "the sum"), Rule("net > tax")),
)
NAMES = tuple(column.name for column in COLUMNS)
HEADER = ",".join(NAMES)


def house(number: int) -> list[str]:
    """Return the cells of one right row; no two are the same."""
    net, tax = 1000 + number, 190 + number / 10
    zone, lift = ("Nord", "Süd")[number % 2], ("true", "false", "")[number % 3]
    day = f"2026-01-{number % 28 + 1:02}"
    area, rooms = f"{40 + number / 2}", str(number % 4 + 1)
    return [f"h{number}", area, rooms, zone, lift, day, str(net), f"{tax:.1f}", f"{net + tax:.1f}"]


def houses(cells: Mapping[tuple[int, str], str] | None = None, n_rows: int = N_ROWS) -> list[list[str]]:
    """Return right rows with some cells changed: (row, column) -> cell."""
    rows = [house(number) for number in range(n_rows)]
    for (row, column), cell in (cells or {}).items():
        rows[row][NAMES.index(column)] = cell
    return rows


def write(path: Path, rows: list[list[str]], header: str = HEADER) -> Path:
    """Write rows as CSV and return the path."""
    path.write_text("\n".join([header, *map(",".join, rows)]) + "\n", encoding="utf-8")
    return path
