"""The command that says what a table is."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from model.cli.arguments import Commands
from model.cli.reading import add_reading, reading


def add_describe(commands: Commands) -> None:
    """Declare the command `describe`."""
    describe = commands.add_parser(
        "describe",
        help="say what each column of a table is, and why; write it to a schema file",
        description="Reads CSV, Parquet and JSON lines, compressed or not, from files, URLs and standard input (-): "
        "python -m model describe houses.csv --target price --out houses.toml. docs/tables.md says more.",
    )
    describe.add_argument("source", help="the table: a file, a pattern of files, a URL, or - for standard input")
    describe.add_argument(
        "--target", default="", metavar="COLUMN", help="the column to predict: columns that give it away are named"
    )
    describe.add_argument(
        "--group", default="", metavar="COLUMN", help="for the schema file: the column whose rows belong together"
    )
    describe.add_argument(
        "--time", default="", metavar="COLUMN", help="for the schema file: the column that orders the rows"
    )
    describe.add_argument(
        "--out", metavar="FILE", help="write the schema file, to be edited and given back; - prints it"
    )
    add_reading(describe)
    describe.set_defaults(run=_describe)


def _describe(options: argparse.Namespace) -> None:
    from model.table import infer, recipes, schema_file
    from model.table.reader import open_table
    from model.table.source import STANDARD_INPUT

    known = recipes.find(options.schema) if options.schema else None
    with open_table(options.source, **recipes.reading(known, reading(options))) as relation:
        described = infer.describe(
            relation,
            target=options.target,
            group=options.group,
            time=options.time,
            types=dict(options.types),
            missing=options.missing,
            known=known,
        )
    # A URL without credentials, as reports and manifests have it.
    data = described.description.data if "://" in options.source else options.source
    description = replace(described.description, data="" if options.source == STANDARD_INPUT else data)
    if options.out == "-":
        print(schema_file.render(description), end="")
        return
    print(described)
    if options.out:
        schema_file.write(description, Path(options.out))
        print(f"\nwritten to {options.out}: edit it, and give it back by --schema {options.out}", file=sys.stderr)
