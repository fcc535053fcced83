"""The command that checks a table, and writes the rows that pass."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from model.cli.arguments import Commands, days
from model.cli.reading import add_reading, reading

if TYPE_CHECKING:
    from model.table.clean import Cleaned
    from model.table.description import Description
    from model.table.reader import Relation


def add_check(commands: Commands) -> None:
    """Declare the command `check`."""
    check = commands.add_parser(
        "check",
        help="check a table along four dimensions of quality; write the rows that pass",
        description="Checks accuracy, completeness, consistency and timeliness. The exit status is 1 if there are "
        "errors. docs/quality.md says what each finding means.",
    )
    check.add_argument("source", help="the table: a file, a pattern of files, a URL, or - for standard input")
    check.add_argument(
        "--target", default="", metavar="COLUMN", help="the column to predict: contradicting and missing ones are found"
    )
    check.add_argument(
        "--date",
        default="",
        metavar="COLUMN",
        help="the dates of the rows, by which --max-age is judged",
    )
    check.add_argument(
        "--max-age",
        type=days,
        metavar="DAYS",
        help="how old the newest row may be by --date, such as 30d (default: any age)",
    )
    check.add_argument("--json", action="store_true", help="print the findings as JSON")
    check.add_argument("--html", type=Path, metavar="FILE", help="write a page with plots, too")
    check.add_argument(
        "--clean",
        type=Path,
        metavar="FILE",
        help="write the rows that pass (.csv, .jsonl, with .gz or .zst, or .parquet), and the others with the reasons "
        "beside it, as NAME.rejected",
    )
    check.add_argument("--reject-outliers", action="store_true", help="with --clean, outliers do not pass, either")
    add_reading(check)
    check.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    from model.table import checks, clean, quality, recipes
    from model.table.reader import open_table

    if options.reject_outliers and not options.clean:
        raise ValueError("--reject-outliers needs --clean FILE")
    if options.html and not options.html.parent.is_dir():
        raise ValueError(f"{options.html.parent} is no folder; make it, or name another file")
    if options.clean:
        clean.check_output(options.clean, options.source)
    known = recipes.find(options.schema) if options.schema else None
    cleaned: Cleaned | None = None
    with open_table(options.source, **recipes.reading(known, reading(options))) as relation:
        found = checks.check(relation, _description(options, relation, known))
        if options.html:
            quality.write_html(found, options.html)
        if options.clean:
            cleaned = clean.clean(found, options.clean, reject_outliers=options.reject_outliers)
    if options.json:
        print(quality.to_json(found, cleaned))
    else:
        print(quality.to_text(found, cleaned))
    if options.html:
        print(f"written to {options.html}", file=sys.stderr)
    return 1 if found.errors else 0


def _description(options: argparse.Namespace, relation: Relation, known: Description | None) -> Description:
    """Return the description to check a table by: of the schema file its columns alone, else what is inferred."""
    from dataclasses import replace

    from model.table import infer

    types = dict(options.types)
    description = infer.describe(
        relation, target=options.target, types=types, missing=options.missing, known=known
    ).description
    description = infer.restricted(description, known, types)
    date = options.date or description.date
    max_age = description.max_age_days if options.max_age is None else options.max_age
    return replace(description, target=options.target or description.target, date=date, max_age_days=max_age)
