"""What the commands share when they declare their arguments."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from model import Store
from model.store.location import open_store
from model.store.urls import CACHE, parse_location

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What `ArgumentParser.add_subparsers` returns, for which argparse has no public name."""

LOG = "sqlite:///predictions.db"  # what a server writes to unless it is told otherwise
_MAX_DAYS = 36_500  # a hundred years ago, or ahead, is within what a date can be

REFERENCE = "the model: NAME, NAME@ALIAS or NAME@VERSION"


def add_store(parser: argparse.ArgumentParser) -> None:
    """Declare where the store is; `store_of` opens it."""
    parser.add_argument(
        "--store",
        type=_location,
        default=Path("store"),
        metavar="PLACE",
        help="the folder of models, or a URL such as s3://bucket/models (default: store)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=CACHE,
        metavar="FOLDER",
        help="where verified copies of what is behind a URL are kept (default: %(default)s)",
    )


def _location(text: str) -> Path | str:
    try:
        return parse_location(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is {error}") from None


def store_of(options: argparse.Namespace) -> Store:
    """Return the store that was named. Raises `StoreError` for a URL that cannot be used."""
    return open_store(options.store, cache=options.cache)


def add_reasons(command: argparse.ArgumentParser) -> None:
    """Declare what the history keeps of a move: why, and by whom."""
    command.add_argument("--why", default="", help="the reason, a line that the history keeps")
    command.add_argument("--by", default="", help="who moves it (default: this user on this machine)")


def add_log(command: argparse.ArgumentParser) -> None:
    """Declare where the prediction log is, and how far back it is read."""
    command.add_argument(
        "--log",
        metavar="URL",
        default=LOG,
        help="the prediction log: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME (default: %(default)s)",
    )
    command.add_argument("--days", type=days_away, default=30, help="how far back in the log (default: %(default)s)")


def add_words(command: argparse.ArgumentParser) -> None:
    """Declare what a person says about a new model."""
    command.add_argument("--title", default="", help="what it is, in a few words (default: from the name)")
    command.add_argument("--unit", default="", help="the unit of what it predicts, such as EUR; for a regression")
    command.add_argument("--purpose", default="", help="what it is for; on the card")
    command.add_argument("--limits", default="", help="what it must not be used for; on the card and the page")
    command.add_argument("--owner", default="", help="who is responsible for the model; a tag in the manifest")
    command.add_argument("--license", default="", help="under which terms it may be used; a tag in the manifest")


def count(text: str) -> int:
    """Return the whole number of at least 1 in a text. Raises argparse's error for anything else."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 18 and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells as columns, each as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def given(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a command for the record of its run; those that are empty are left out."""
    return {
        name: value
        for name, value in vars(options).items()
        if name not in ("name", "run", "store") and (value or type(value) in (int, float))
    }


def days(text: str) -> int:
    """Return the days in a text such as 30d or 30. Raises argparse's error for anything else."""
    number = text.strip().lower().removesuffix("d")
    if not (number.isascii() and number.isdecimal() and len(number) <= 6):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days, such as 30d")
    return int(number)


def days_away(text: str) -> int:
    """Return how many days ago or ahead something is, 1 or more, as `days` does. Raises argparse's error otherwise."""
    number = days(text)
    if not 1 <= number <= _MAX_DAYS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days from 1 to {_MAX_DAYS:,}, such as 30d")
    return number


def seconds(text: str) -> float:
    """Return the seconds in a time such as 90s, 10m or 2h. Raises argparse's error for anything else."""
    from model.train.search.run import parse_budget

    try:
        return parse_budget(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
