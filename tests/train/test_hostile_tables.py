"""Hostile tables: each is read and described, or refused with one report; never a traceback, in bounded memory."""

from __future__ import annotations

import gzip
import random
import resource
from pathlib import Path

import pytest

from model.errors import ModelError
from model.table.frame import prepare
from model.table.infer import describe
from model.table.reader import open_table
from model.table.schema_file import parse, render

N_TABLES = 100
# Of cells that break parsers, casts and names.
CELLS = (
    *("", " ", "NA", "nan", "-", "?", "1", "1.5", "1,5", "1,234", "1e999", "-0", "0x1F", "1_000", "٣", "inf", "007"),
    *("2026-02-30", "31/12/2026", "12/31/2026", "2026-01-01T25:00", "true", "YES", "'; DROP TABLE data; --", "=1+1"),
    *(
        '"',
        "'",
        '""',
        'a"b',
        "a,b",
        "a;b",
        "a\tb",
        "a\nb",
        "a\r\nb",
        "\\",
        "\\N",
        "x" * 5_000,
        "é",
        "\u2028",
        "\U0001f600",
    ),
    *("<b>", "%s", "{0}", "$1,234.50", "12%", "\ufeff", "\x01", "\x7f", "\u00a0", "c0", "rowid", "data"),
)
NAMES = ("a", "A", "rowid", "c1", "data", "select", "a b", "ä", '"', "`", "1", "", "a", "y", "x" * 300, "row")


def hostile(seed: int) -> bytes:
    """Return a table that is wrong in ways that the seed chooses."""
    chance = random.Random(seed)
    width, n_rows = chance.randint(1, 8), chance.choice([0, 1, 2, 30, 300])
    separator, quoted = chance.choice(",;\t|"), chance.random() < 0.6
    of_column = [chance.sample(CELLS, chance.randint(1, 6)) for _ in range(width)]

    def line(cells: list[str]) -> str:
        shown = ['"' + cell.replace('"', '""') + '"' if quoted else cell for cell in cells]
        return separator.join(shown)

    lines = [line(chance.sample(NAMES, width))]
    for _ in range(n_rows):
        cells = [chance.choice(known) if chance.random() < 0.9 else chance.choice(CELLS) for known in of_column]
        cells = cells[: chance.randint(0, width)] if chance.random() < 0.02 else cells
        lines.append(line(cells))
    content = chance.choice(["\n", "\r\n", "\r"]).join(lines).encode(chance.choice(["utf-8", "utf-16", "utf-8-sig"]))
    if chance.random() < 0.1:
        place = chance.randrange(len(content) + 1)
        content = content[:place] + chance.randbytes(3) + content[place:]
    if chance.random() < 0.1:
        content = gzip.compress(content)[: chance.choice([None, 30])]
    return content


@pytest.mark.parametrize("seed", range(N_TABLES))
def test_hostile_table_is_described_or_refused(tmp_path: Path, seed: int) -> None:
    """A table gives a description that a schema file keeps and a frame with a column a feature, or one error."""
    path = tmp_path / "table.csv"
    path.write_bytes(hostile(seed))
    try:
        with open_table(path) as relation:
            described = describe(relation, target=relation.names[-1])
            assert [each.column.name for each in described.found] == list(relation.names)
            assert len(relation.query("SELECT * FROM data")) == relation.n_rows
            assert len(parse(render(described.description)).columns) == len(relation.names)
            table = prepare(relation, described.description)
            assert len(table.frame) == len(table.target) == len(table.row_numbers) > 0
            assert list(table.frame) == [column.name for column in table.columns]
    except ModelError as error:
        assert str(error).strip()  # noqa: PT017
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.csv"]


def test_memory_is_bounded(tmp_path: Path) -> None:
    """A table of 200 MB is read and described with less memory than it has."""
    path = tmp_path / "table.csv"
    row = ",".join(["12345.678", "a text of some length", "2026-01-05"] * 3)
    with path.open("w") as file:
        file.write(",".join(f"c{number}" for number in range(9)) + "\n")
        for block in range(170):
            file.write(f"{row}{block % 10}\n" * 10_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with open_table(path, memory_limit="128MB") as relation:
        assert describe(relation).n_rows == 1_700_000

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB
