"""The options with which commands read a table: how its file is written, and what its columns are."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_SEPARATORS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "space": " "}
_READING = ("format", "encoding", "separator", "quote", "header", "decimal", "thousands")


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Declare how a table's file is written, and corrections of its columns' types. What is not given is detected."""
    group = add_dialect(parser, "the table's file, where it is not found out rightly")
    group.add_argument("--schema", type=Path, metavar="FILE", help="what is known of the table: see describe --out")
    group.add_argument(
        "--as",
        dest="types",
        metavar="COLUMN=TYPE",
        action="append",
        default=[],
        type=column_type,
        help="what a column is, where that is not as it looks: number, integer, boolean, category, text, date, "
        "date:FORMAT, identifier or ignore; may be given several times",
    )
    group.add_argument(
        "--missing",
        metavar="TEXT",
        action="append",
        default=[],
        help="a cell that means a missing value in any column, such as n.v. (--missing=-999 where it begins with -); "
        "may be given several times",
    )


def add_dialect(parser: argparse.ArgumentParser, title: str) -> argparse._ArgumentGroup:
    """Declare how a table's file is written, in a group of options with a title."""
    group = parser.add_argument_group(title)
    group.add_argument(
        "--format", choices=("csv", "parquet", "json"), help="what the file is (default: by its name and content)"
    )
    group.add_argument("--encoding", metavar="NAME", help="of its text, such as cp1252 or utf-16-le")
    group.add_argument("--separator", metavar="MARK", type=_mark, help="between cells, such as ';'; tab for a tab")
    group.add_argument("--quote", metavar="MARK", help="around cells that have a separator in them, such as '\"'")
    group.add_argument("--decimal", metavar="MARK", help="the decimal mark of its numbers: a point or a comma")
    group.add_argument("--thousands", metavar="MARK", help="what separates thousands in its numbers, such as a comma")
    group.add_argument(
        "--header", action=argparse.BooleanOptionalAction, default=None, help="whether its first row is the header"
    )
    return group


def _mark(text: str) -> str:
    """Return a separator, which may be named by a word."""
    return _SEPARATORS.get(text, text)


def column_type(text: str) -> tuple[str, str]:
    """Return the column and the type in COLUMN=TYPE."""
    column, equals, kind = text.partition("=") if "=date:" in text else text.rpartition("=")
    if "=date:" in text:
        column, _, format = text.partition("=date:")
        kind = f"date:{format}"
    if not equals or not column or not kind:
        raise argparse.ArgumentTypeError(f"{text!r} is not a column with a type, such as zip=category")
    return column, kind


def reading(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `open_table` that were given."""
    given = {name: getattr(options, name) for name in _READING}
    return {name: value for name, value in given.items() if value is not None}
