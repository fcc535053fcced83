"""Hostile tables: each is read, described and trained on, or refused with one report; in bounded memory."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from model import Store
from model.cli.main import main
from model.errors import ModelError
from model.table.frame import prepare
from model.table.infer import describe
from model.table.reader import open_table
from model.table.schema_file import parse, render
from model.train import proof
from tests.support.service import ROOT

N_TABLES = 100
TARGET = "target"
# Each of one process, which takes some seconds to start.
BLOCKS = [range(start, start + 50) for start in range(0, N_TABLES, 50)]
LEARNERS = ("linear", "hist-gbm", "gbm", "forest", "baseline")
needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc/self/status")
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


def hostile(seed: int, *, target: bool = False) -> bytes:
    """Return a table that is wrong in ways that the seed chooses; if it has a `target`, only its features are."""
    chance = random.Random(seed)
    width, n_rows = chance.randint(1, 8), chance.choice([60] if target else [0, 1, 2, 30, 300])
    separator, quoted = chance.choice(",;\t|"), chance.random() < 0.6 or target
    of_column = [chance.sample(CELLS, chance.randint(1, 6)) for _ in range(width)]

    def line(cells: list[str]) -> str:
        shown = ['"' + cell.replace('"', '""') + '"' if quoted else cell for cell in cells]
        return separator.join(shown)

    lines = [line(chance.sample(NAMES, width) + [TARGET] * target)]
    for row in range(n_rows):
        cells = [chance.choice(known) if chance.random() < 0.9 else chance.choice(CELLS) for known in of_column]
        if target:
            cells.append(f"{row % 7}.{row % 10}" if seed % 2 else chance.choice(["high", "low", "middle"]))
        elif chance.random() < 0.02:
            cells = cells[: chance.randint(0, width)]
        lines.append(line(cells))
    content = chance.choice(["\n", "\r\n", "\r"]).join(lines).encode(chance.choice(["utf-8", "utf-16", "utf-8-sig"]))
    if target:
        return content
    if chance.random() < 0.1:
        place = chance.randrange(len(content) + 1)
        content = content[:place] + chance.randbytes(3) + content[place:]
    if chance.random() < 0.1:
        content = gzip.compress(content)[: chance.choice([None, 30])]
    return content


def peak_memory() -> int:
    """Return the most memory that this process has had, in KiB; `ru_maxrss` may be that of the one that started it."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1])


def describe_in_little(path: Path) -> None:
    """Describe a table within 128 MB for its rows; print their number, and by how much the peak of memory has grown."""
    before = peak_memory()
    with open_table(path, memory_limit="128MB") as relation:
        n_rows = describe(relation).n_rows
    print(json.dumps([n_rows, peak_memory() - before]))


def run_alone(folder: Path, call: str) -> Any:
    """Return what a call of a function of this file prints as JSON; the process is its own, and so is its memory."""
    script = folder / "command.py"
    script.write_text(
        f"""
from pathlib import Path
from tests.train import test_hostile_tables as tables
if __name__ == "__main__":
    tables.{call}
"""
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(script)], env=environ, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def has_target(seed: int) -> bool:
    """Return whether a table is one that a model may be trained on, whose training takes seconds."""
    return seed % 7 == 1


def train(folder: Path, seeds: Sequence[int]) -> None:
    """Train a model of each table in a folder by the command line; print what it said, and the peak of memory."""
    proof.RANDOM_ROWS = 1_000
    ended = {}
    for seed in seeds:
        path, target = folder / f"{seed}.csv", TARGET
        if not has_target(seed):
            with suppress(ModelError), open_table(path) as relation:
                target = relation.names[-1]
        options = ["--data", str(path), f"--target={target}", "--learner", LEARNERS[seed % len(LEARNERS)]]
        errors = StringIO()
        with redirect_stdout(StringIO()), redirect_stderr(errors):
            status = main(["--store", str(folder / "store"), "train", f"table-{seed}", *options])
        ended[seed] = status, errors.getvalue()
    print(json.dumps([peak_memory(), ended]))


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


@needs_proc
@pytest.mark.parametrize("seeds", BLOCKS, ids=lambda seeds: f"{seeds[0]} to {seeds[-1]}")
def test_hostile_table_gives_a_candidate_or_one_report(tmp_path: Path, seeds: range) -> None:
    """`train` adds a version that can be served, or one report with its faults; beside it the run's record; in 1 GB."""
    for seed in seeds:
        (tmp_path / f"{seed}.csv").write_bytes(hostile(seed, target=has_target(seed)))
    peak, ended = run_alone(tmp_path, f"train(Path({str(tmp_path)!r}), {seeds!r})")

    store, n_candidates = Store(tmp_path / "store"), 0
    for seed, (status, said) in ended.items():
        name = f"table-{seed}"
        if status == 0:
            n_candidates += 1
            assert store.load(name).manifest.version == 1
            assert {entry.name for entry in (tmp_path / "store" / name).iterdir()} == {"1", "moves", "runs"}
            continue
        assert status == 1
        assert said.startswith(f"error: {seed}.csv")
        assert [entry.name for entry in (tmp_path / "store").glob(f"{name}/*")] == ["runs"]
        if counted := re.search(r"is not a table: (\d+) fault", said):
            assert min(int(counted[1]), 10) == len(re.findall(r"^  (?!…)", said, re.MULTILINE))
    assert n_candidates >= 5
    assert peak < 1_000_000  # KiB


@needs_proc
def test_memory_is_bounded(tmp_path: Path) -> None:
    """A table of 200 MB is read and described with less memory than it has."""
    path = tmp_path / "table.csv"
    row = ",".join(["12345.678", "a text of some length", "2026-01-05"] * 3)
    with path.open("w") as file:
        file.write(",".join(f"c{number}" for number in range(9)) + "\n")
        for block in range(170):
            file.write(f"{row}{block % 10}\n" * 10_000)

    n_rows, grown = run_alone(tmp_path, f"describe_in_little(Path({str(path)!r}))")

    assert n_rows == 1_700_000
    assert grown < 300_000  # KiB
