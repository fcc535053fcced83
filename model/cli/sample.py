"""The command that draws a sample of a table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from model.cli.arguments import Commands, count
from model.cli.reading import add_dialect, reading
from model.errors import one_line


def add_sample(commands: Commands) -> None:
    """Declare the command `sample`."""
    sample = commands.add_parser(
        "sample",
        help="draw a uniform sample of a table",
        description="Writes so many rows, in the order of the table; each set of so many is equally likely. The same "
        "seed gives the same rows. The file is whole or not there.",
    )
    sample.add_argument("source", help="the table: a file, a pattern of files, a URL, or - for standard input")
    sample.add_argument(
        "output", type=Path, help="the file to write: .csv or .jsonl, with .gz or .zst, too, or .parquet"
    )
    sample.add_argument("-n", "--rows", type=count, required=True, metavar="N", help="how many rows")
    sample.add_argument("--seed", type=int, default=0, help="another number draws other rows (default: 0)")
    add_dialect(sample, "the table's file, where it is not found out rightly")
    sample.set_defaults(run=_sample)


def _sample(options: argparse.Namespace) -> None:
    from model.table import output, sample
    from model.table.reader import open_table

    if options.seed < 0:
        raise ValueError(f"the seed is {options.seed}; give a whole number of at least 0")
    output.check(options.output, options.source)
    with open_table(options.source, **reading(options)) as relation:
        for note in relation.notes:
            print(f"note: {one_line(note)}", file=sys.stderr)
        n_rows = sample.sample(relation, options.output, options.rows, seed=options.seed)
        print(f"{n_rows:,} of {relation.n_rows:,} rows, seed {options.seed}, in {options.output}")
