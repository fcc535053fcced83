"""The command that joins two tables by a key."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from model.cli.arguments import Commands
from model.cli.reading import add_dialect, reading
from model.errors import one_line


def add_join(commands: Commands) -> None:
    """Declare the command `join`."""
    join = commands.add_parser(
        "join",
        help="join the records of two tables by a key",
        description="Writes the rows of A with the columns that B has for the same key. Texts are compared as they "
        "are, others by what they say; a missing key equals none. Of a column that both tables have, a missing cell is "
        "filled from the other table; --conflict says what counts where two differ. The file is whole or not there.",
    )
    join.add_argument("left", metavar="A", help="the first table: a file, a pattern of files, a URL, or -")
    join.add_argument("right", metavar="B", help="the second table")
    join.add_argument(
        "output", metavar="OUT", type=Path, help="the file to write: .csv or .jsonl, with .gz or .zst, or .parquet"
    )
    join.add_argument(
        "--on", action="append", required=True, metavar="COLUMN", help="the key; several times for several columns"
    )
    join.add_argument(
        "--how",
        choices=("inner", "left", "outer"),
        default="inner",
        help="which rows: those of both tables (inner), all of A (left), or all (outer) (default: inner)",
    )
    join.add_argument(
        "--conflict",
        choices=("error", "left", "right"),
        default="error",
        help="where both tables have another value: an error (default), that of A (left), or that of B (right)",
    )
    join.add_argument(
        "--repeated", action="store_true", help="keys may repeat: every pair of rows is written (default: an error)"
    )
    add_dialect(join, "the files of both tables, where they are not found out rightly")
    join.set_defaults(run=_join)


def _join(options: argparse.Namespace) -> None:
    from model.table import by_key, output
    from model.table.reader import open_table

    output.check(options.output, options.left, options.right)
    given = reading(options)
    with tempfile.TemporaryDirectory(prefix="tabserve-join-") as temporary:
        with open_table(options.right, **given) as relation:
            _print_notes(relation.notes, relation.source)
            right = by_key.set_aside(relation, Path(temporary) / "right.parquet")
        with open_table(options.left, **given) as left:
            _print_notes(left.notes, left.source)
            joined = by_key.join(
                left,
                right,
                options.output,
                on=list(dict.fromkeys(options.on)),
                kind=options.how,
                conflict=options.conflict,
                repeated=options.repeated,
            )
    print(
        f"{joined.n_rows:,} rows in {options.output}; without another: {joined.n_left_alone:,} of A, "
        f"{joined.n_right_alone:,} of B"
    )


def _print_notes(notes: Sequence[str], source: str) -> None:
    for note in notes:
        print(f"note: {source}: {one_line(note)}", file=sys.stderr)
