"""What is known about a table: how its file is written, what each column is and why, its rules, and its recipe."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from model.engine.formula_syntax import Call, Name, Text, printed
from model.engine.formulas import Derived
from model.schema.feature import BOOLEAN, CATEGORY, INTEGER, NUMBER, Category
from model.schema.feature import DATE as DATE

TEXT, IDENTIFIER = "text", "identifier"
TYPES = (NUMBER, INTEGER, BOOLEAN, CATEGORY, DATE, TEXT, IDENTIFIER)
# The types that learners see; a column of any other is left out.
LEARNED = (NUMBER, INTEGER, BOOLEAN, CATEGORY, DATE)

DAYS, HOURS = "days", "hours"
PARTS = ("year", "quarter", "month", "day", "weekday", "hour", DAYS, HOURS)
"""What a date can be turned into; days and hours are those since 1970-01-01 UTC."""

CSV, PARQUET, JSON = "csv", "parquet", "json"
FORMATS = (CSV, PARQUET, JSON)

DECIMALS, THOUSANDS = ".,", ".,' \u00a0\u202f_"
"""The decimal marks, and the thousands separators, that numbers may be written with."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a table's file is written. Of Parquet and JSON only the format counts.

    `decimal` and `thousands` hold for columns that do not say otherwise; an empty `thousands` is none.
    """

    format: str = CSV
    encoding: str = "utf-8"
    separator: str = ","
    quote: str = '"'
    header: bool = True
    decimal: str = "."
    thousands: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """Return the arguments of `open_table` that read a table so."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class ColumnDescription:
    """One column: what it is, why it was taken for it, and what its cells may be.

    `minimum` and `maximum` are plausible limits, and a value outside them is wrong; so is one that is not in a list
    of `allowed` values. `missing` are texts that mean a missing value in this column, beside the usual ones. `format`
    is how its dates are written, for strptime; empty: ISO 8601. `decimal` and `thousands` are those of its numbers;
    an empty `decimal` means those of the dialect. `parts` are the parts of a date that a model gets instead of it.
    No row may lack a cell of a `required` column.
    """

    name: str
    type: str = NUMBER
    use: bool = True
    reason: str = ""
    unit: str = ""
    description: str = ""
    minimum: float = -math.inf
    maximum: float = math.inf
    allowed: tuple[Category, ...] = ()
    missing: tuple[str, ...] = ()
    format: str = ""
    decimal: str = ""
    thousands: str = ""
    parts: tuple[str, ...] = ()
    required: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition on the columns of one row, as a formula that is true where the row is right."""

    formula: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Description:
    """A table as a person describes it: columns in the order of the file, rules, and what to train on it.

    Without a `dialect` it is detected when the table is read.
    `task` is regression or classification; empty: as the target's type says. `date` is the column of the rows' age,
    which is at most `max_age_days`. `data` is where the table is, `source` where it comes from in words.
    """

    columns: tuple[ColumnDescription, ...]
    dialect: Dialect | None = None
    target: str = ""
    task: str = ""
    group: str = ""
    time: str = ""
    date: str = ""
    max_age_days: int | None = None
    rules: tuple[Rule, ...] = ()
    features: tuple[Derived, ...] = ()
    name: str = ""
    title: str = ""
    source: str = ""
    purpose: str = ""
    limits: str = ""
    license: str = ""
    data: str = ""
    notebook: str = ""
    learner: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def column(self, name: str) -> ColumnDescription:
        """Return a column by its name. Raises `KeyError` if there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    @property
    def learned(self) -> tuple[ColumnDescription, ...]:
        """Return the columns that a model gets: used, of a type that learners see, and not the target or its group."""
        others = {self.target, self.group}
        return tuple(each for each in self.columns if each.use and each.type in LEARNED and each.name not in others)

    @property
    def parts(self) -> tuple[Derived, ...]:
        """Return the parts of dates that are declared, as derived features, such as `sold_month`.

        One that would have the name of a column has an underscore more.
        """
        taken = {column.name for column in self.columns}
        return tuple(_part(column.name, part, taken) for column in self.learned for part in column.parts)


def _part(name: str, part: str, taken: Collection[str]) -> Derived:
    since = (Text("1970-01-01"),) if part in (DAYS, HOURS) else ()
    formula = printed(Call(f"{part}_since" if since else part, (Name(name), *since)))
    called = f"{name}_{part}"
    while called in taken:
        called += "_"
    return Derived(called, formula, description=f"the {part} of {name}{' since 1970' if since else ''}")
