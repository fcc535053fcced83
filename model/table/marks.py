"""How numbers are written: their decimal mark, and what separates their thousands, as a regular expression of RE2."""

from __future__ import annotations

from model.errors import DataError
from model.table.description import DECIMALS, THOUSANDS

# Spaces between groups of three digits, all of which a space of a description stands for.
SPACES_OF_NUMBERS = " \u00a0\u202f\u2009"


def check(decimal: str | None, thousands: str | None) -> None:
    """Raise `DataError` for marks that a person gave and that numbers are not written with."""
    if decimal not in (None, *DECIMALS):
        raise DataError(f"the decimal mark is {decimal!r}; it is a point or a comma")
    if thousands and (thousands == decimal or len(thousands) > 1 or thousands not in THOUSANDS):
        raise DataError(f"the thousands separator is {thousands!r}; it is a point, comma, space or apostrophe")


def pattern(decimal: str, thousands: str) -> str:
    """Return the regular expression of numbers that are written with these marks, with or without groups."""
    point = "[.]" if decimal == "." else decimal
    plain = rf"(\d+({point}\d*)?|{point}\d+)([eE][+-]?\d+)?"
    grouped = rf"|\d{{1,3}}([{alike(thousands)}]\d\d\d)+({point}\d*)?" if thousands else ""
    return f"[+-]?({plain}{grouped})"


def alike(thousands: str) -> str:
    """Return the characters that a thousands separator of a description stands for."""
    return next((marks for marks in (SPACES_OF_NUMBERS, "'’") if thousands in marks), thousands)
