"""What the commands share when they declare their arguments."""

from __future__ import annotations

import argparse
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What `ArgumentParser.add_subparsers` returns, for which argparse has no public name."""

REFERENCE = "the model: NAME, NAME@ALIAS or NAME@VERSION"


def days(text: str) -> int:
    """Return the days in a text such as 30d or 30. Raises argparse's error for anything else."""
    number = text.strip().lower().removesuffix("d")
    if not (number.isascii() and number.isdecimal() and len(number) <= 6):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of days, such as 30d")
    return int(number)
