"""What is wrong with a row by itself: conditions on its cells as SQL, and the rules of a description as formulas.

Each has a number. Those that SQL cannot say, such as formulas, list the rows that break them in the table `flags`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model.engine import formulas
from model.engine.formulas import Formula
from model.errors import DataError, FormulaError
from model.schema.feature import BOOLEAN, CATEGORY, DATE, INTEGER, NUMBER, Category, listed, to_text
from model.table.cells import CELLS, DAY, Cells, has_value, literal
from model.table.description import ColumnDescription, Rule
from model.table.profile import ColumnProfile, written
from model.table.source import quoted
from model.table.values import listed as listed_texts
from model.table.values import value_of

FLAGS = "flags"
"""The table of `rule` and `row` for what is not a condition of SQL."""

MAX_LISTED_ROWS = 10
"""Rows with the same problem whose numbers are listed."""

# How far the sides of == may be apart, as a share of their size: sums of decimal fractions are not exact.
TOLERANCE = 1e-9

_MAX_CELL = 60  # characters of an example
_MOSTLY = 0.5
_N_EXAMPLES = 3
_CHUNK_ROWS = 200_000
_MAX_CATEGORIES = 10_000
_TYPES = {NUMBER: "a number", INTEGER: "a whole number", BOOLEAN: "true or false", DATE: "a date such as 2026-01-31"}


@dataclass(frozen=True, slots=True)
class RowRule:
    """Something that can be wrong with a row. Without a `condition` the rows are in `flags`, by the rule's `number`.

    `reason` says what is wrong, of the cell of `column` if there is one and `has_cell`. Rows that break a rule which
    `rejects` are not in a clean table.
    """

    kind: str
    column: str | None
    reason: str
    condition: str = ""
    fatal: bool = True
    rejects: bool = True
    has_cell: bool = True
    number: int = -1


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule that rows break: how many do, which the first ones are, and what their cells are.

    `value` is the number of the first cell as limits are written, if the rule has limits of numbers.
    """

    rule: RowRule
    n_rows: int
    first_rows: tuple[int, ...]
    examples: tuple[str, ...] = ()
    value: str | None = None


def of_columns(cells: Cells, profiles: Mapping[str, ColumnProfile], *, today: date) -> list[RowRule]:
    """Return what can be wrong with the cells of each checked column, and with a row's cells together."""
    found: list[RowRule] = []
    for column in cells.checked:
        profile = profiles[column.name]
        found += _of_missing(cells, column, profile)
        if has_value(column):
            found += _of_values(cells, column, profile, today)
        if column.allowed:
            found.append(_of_allowed(cells, column))
    names = [column.name for column in cells.description.learned if column in cells.checked]
    if len(names) > 2:
        missing = " + ".join(f"(NOT {cells.known(name)})::INTEGER" for name in names)
        condition = f"{missing} > {len(names) / 2}"
        found.append(
            RowRule("mostly empty row", None, "most of its cells are missing", condition, fatal=False, rejects=False)
        )
    return [replace(rule, number=number) for number, rule in enumerate(found)]


def _of_missing(cells: Cells, column: ColumnDescription, profile: ColumnProfile) -> Iterator[RowRule]:
    if not profile.n_missing:
        return
    name, condition = column.name, f"NOT {cells.known(column.name)}"
    if name == cells.description.target:
        yield RowRule("missing target", name, "is missing, and set aside", condition, fatal=False, has_cell=False)
    elif column.required:
        yield RowRule("required", name, "is missing", condition, has_cell=False)
    else:
        kind = "mostly missing" if profile.missing > _MOSTLY else "missing"
        reason = f"is missing in {_share(profile.missing)} of the rows"
        yield RowRule(kind, name, reason, condition, fatal=False, rejects=False, has_cell=False)


def _of_values(cells: Cells, column: ColumnDescription, profile: ColumnProfile, today: date) -> Iterator[RowRule]:
    name, value = column.name, cells.value(column.name)
    wrong = f"{cells.known(name)} AND {value} IS NULL"
    if column.type == INTEGER:
        wrong = f"({wrong}) OR (isfinite({value}) AND {value} <> trunc({value}))"
    yield RowRule("wrong type", name, f"is not {_TYPES[column.type]}", wrong)
    if column.type == BOOLEAN:
        return
    low, high = column.minimum, column.maximum
    if column.type == DATE:
        tomorrow = (today - date(1970, 1, 1)).days * DAY + DAY
        is_age = name == cells.description.date
        ahead = f"{value} >= {literal(tomorrow)}"
        kind = "date ahead" if is_age else "future date"
        yield RowRule(kind, name, "is in the future", ahead, fatal=is_age, rejects=is_age)
    else:
        yield RowRule("infinite", name, "is not finite", f"isinf({value})")
    if math.isfinite(low) or math.isfinite(high):
        outside = f"{value} < {literal(low)} OR {value} > {literal(high)}"
        yield RowRule(
            "out of range", name, f"is not plausible: {_limits(column)}", f"isfinite({value}) AND ({outside})"
        )
    markers = [each for each in profile.markers if low <= each <= high and each not in column.allowed]
    among = f"{value} IN ({', '.join(map(literal, markers))})"
    if markers:
        reason = "is far from all other values, and may stand for a missing one"
        yield RowRule("marker", name, reason, among, fatal=False, rejects=False)
    if profile.limits:
        lowest, highest = profile.limits
        reason = f"{_beyond(profile, lowest, highest)}, far from most values"
        outside = f"isfinite({value}) AND ({value} < {literal(lowest)} OR {value} > {literal(highest)})"
        plausible = f"{value} BETWEEN {literal(low)} AND {literal(high)}"
        unmarked = f" AND NOT {among}" if markers else ""
        condition = f"{outside} AND {plausible}{unmarked}"
        yield RowRule("outlier", name, reason, condition, fatal=False, rejects=False)


def _beyond(profile: ColumnProfile, lowest: float, highest: float) -> str:
    """Return where outliers lie, for a person: on one side if there are values on that side alone."""
    ends = [written(each, profile.type) for each in (lowest, highest)]
    if profile.minimum is not None and profile.minimum >= lowest:
        return f"is above {ends[1]}"
    if profile.maximum is not None and profile.maximum <= highest:
        return f"is below {ends[0]}"
    return f"lies outside {' to '.join(ends)}"


def _limits(column: ColumnDescription) -> str:
    """Return a column's plausible limits, of which there is at least one, for a person."""
    low, high = (written(each, column.type) if math.isfinite(each) else "" for each in (column.minimum, column.maximum))
    limits = f"{low} to {high}" if low and high else f"at least {low}" if low else f"at most {high}"
    return f"{limits} {column.unit}".rstrip()


def _of_allowed(cells: Cells, column: ColumnDescription) -> RowRule:
    """Return the rule for a list of allowed values, which are compared as values of the column's type."""
    cell = cells.value(column.name)
    if has_value(column):
        among = ", ".join(literal(_allowed_value(cells, column, each)) for each in column.allowed)
        condition = f"isfinite({cell}) AND {cell} NOT IN ({among})"
        if column.type == INTEGER:
            condition += f" AND {cell} = trunc({cell})"
    else:
        condition = f"{cell} NOT IN {listed_texts(map(to_text, column.allowed))}"
    return RowRule("not allowed", column.name, f"is none of {listed(column.allowed)}", condition)


def _allowed_value(cells: Cells, column: ColumnDescription, allowed: Category) -> float:
    """Return an allowed value as a number. Raises `DataError` for a text that is none of the column's type."""
    if not isinstance(allowed, str):
        return float(allowed)
    ((value,),) = cells.rows(f"SELECT CAST({value_of(cells.relation, column, quoted(allowed))} AS DOUBLE)")
    if value is None:
        reason = f"allows {allowed!r}, which is not {_TYPES[column.type]}; correct it in the schema file"
        raise DataError(f"column {column.name!r} {reason}")
    return float(value)


def count(cells: Cells, rules: Sequence[RowRule]) -> list[Broken]:
    """Return the rules that rows break, in their order."""
    counts: dict[int, int] = dict(cells.rows(f"SELECT rule, count(*) FROM {FLAGS} GROUP BY rule"))
    conditions = [rule for rule in rules if rule.condition]
    found = cells.in_batches([f"count(*) FILTER (WHERE {rule.condition})" for rule in conditions])
    counts |= {rule.number: n_rows for rule, n_rows in zip(conditions, found)}
    broken = [rule for rule in rules if counts.get(rule.number)]
    by_condition = [rule for rule in broken if rule.condition]
    firsts = dict(cells.rows(f"SELECT rule, min(row, {MAX_LISTED_ROWS}) FROM {FLAGS} GROUP BY rule"))
    listed = cells.in_batches([f"min(row, {MAX_LISTED_ROWS}) FILTER (WHERE {rule.condition})" for rule in by_condition])
    firsts |= {rule.number: rows for rule, rows in zip(by_condition, listed)}
    return [
        Broken(
            rule,
            counts[rule.number],
            tuple(firsts[rule.number]),
            _examples(cells, rule, firsts),
            _value(cells, rule, firsts[rule.number][0]),
        )
        for rule in broken
    ]


def _value(cells: Cells, rule: RowRule, row: int) -> str | None:
    """Return the number in a row with all its digits, written as limits are; None for a rule without limits."""
    if rule.kind not in ("outlier", "out of range", "marker") or rule.column is None:
        return None
    column = cells.description.column(rule.column)
    if column.type == DATE:
        return None
    ((value,),) = cells.rows(f"SELECT {cells.value(rule.column)} FROM {CELLS} WHERE row = {row}")
    return written(value, column.type) if float(value).is_integer() else str(value)


def _examples(cells: Cells, rule: RowRule, firsts: Mapping[int, Sequence[int]]) -> tuple[str, ...]:
    if rule.column is None or not rule.has_cell:
        return ()
    return tuple(map(_shortened, cells.texts(rule.column, firsts[rule.number][:_N_EXAMPLES])))


def of_formulas(cells: Cells, rules: Sequence[Rule], *, first_number: int) -> tuple[list[RowRule], list[str]]:
    """Check the rules of a description, and return them with why others could not be checked.

    The rows where a rule is not true are put into `flags`; a rule that is missing there, as a cell is, holds. Sides of
    == may be `TOLERANCE` apart.
    """
    checked: list[tuple[RowRule, Formula, tuple[Formula, Formula] | None]] = []
    problems: list[str] = []
    types = {column.name: column.type for column in cells.columns}
    for number, rule in enumerate(rules, first_number):
        called = f"{rule.name} ({rule.formula})" if rule.name else rule.formula
        row_rule = RowRule("broken rule", None, f"breaks the rule: {called}", number=number)
        try:
            formula = formulas.parse(rule.formula)
            if formula.check(types) != formulas.RULE:
                problems.append(f"the rule {rule.formula!r} is no comparison, such as a <= b")
                continue
            formula.evaluate({name: np.zeros(1) for name in types}, _categories(cells, formula, types))
        except FormulaError as error:
            problems.append(str(error))
            continue
        checked.append((row_rule, formula, _sides(rule.formula, types)))
    names = list(dict.fromkeys(name for _, formula, _ in checked for name in formula.names))
    if names:
        categories = {
            name: found for _, formula, _ in checked for name, found in _categories(cells, formula, types).items()
        }
        for rows, columns in _chunks(cells, names, categories):
            for row_rule, formula, sides in checked:
                broken = rows[_is_broken(formula, sides, columns, categories)]
                if len(broken):
                    frame = pd.DataFrame({"rule": np.full(len(broken), row_rule.number, np.int32), "row": broken})
                    cells.relation.connection.append(FLAGS, frame)
    return [row_rule for row_rule, _, _ in checked], problems


def _is_broken(
    formula: Formula,
    sides: tuple[Formula, Formula] | None,
    columns: Mapping[str, NDArray[np.float64]],
    categories: Mapping[str, Sequence[str]],
) -> NDArray[np.bool_]:
    if sides is None:
        broken: NDArray[np.bool_] = formula.evaluate(columns, categories) == 0
        return broken
    left, right = (side.evaluate(columns) for side in sides)
    apart: NDArray[np.bool_] = np.abs(left - right) > TOLERANCE * np.maximum(np.abs(left), np.abs(right))
    return apart  # not where a side is NaN


def _sides(text: str, types: Mapping[str, str]) -> tuple[Formula, Formula] | None:
    """Return the sides of a rule that is one equation of numbers, None for any other."""
    left, equals, right = text.partition("==")
    try:
        sides = (formulas.parse(left), formulas.parse(right))
        kinds = {side.check(types) for side in sides}
    except FormulaError:
        return None
    return sides if equals and kinds <= {NUMBER, DATE} else None


def _categories(cells: Cells, formula: Formula, types: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the categories of a formula's columns: those of the table, and those that are allowed."""
    found = {}
    for name in formula.names:
        if types.get(name) == CATEGORY:
            text = cells.value(name)
            rows = cells.rows(f"SELECT DISTINCT {text} FROM {CELLS} WHERE {text} IS NOT NULL LIMIT {_MAX_CATEGORIES}")
            allowed = map(to_text, cells.description.column(name).allowed)
            found[name] = sorted({*(row[0] for row in rows), *allowed})
    return found


def _chunks(
    cells: Cells, names: Sequence[str], categories: Mapping[str, Sequence[str]]
) -> Iterator[tuple[NDArray[np.int64], dict[str, NDArray[np.float64]]]]:
    """Yield the numbers of rows and the values of columns `(n_rows,)`, some rows at a time.

    A category is its position, and a cell of texts that are no categories is 0 if it is not missing.
    """
    chosen = ["row"]
    for name in names:
        is_whole = has_value(cells.description.column(name)) or name in categories
        known = f"CASE WHEN {cells.known(name)} THEN 0.0 END"  # of which formulas ask no more
        chosen.append(cells.value(name) if is_whole else known)
    for first in range(0, cells.relation.n_rows, _CHUNK_ROWS):
        query = f"SELECT {', '.join(chosen)} FROM {CELLS} WHERE row >= {first} AND row < {first + _CHUNK_ROWS}"
        frame = cells.relation.connection.execute(query).df()
        columns = {}
        for place, name in enumerate(names, 1):
            found = frame.iloc[:, place]
            if name in categories:
                positions = pd.Categorical(found, categories=pd.Index(categories[name])).codes.astype(np.float64)
                columns[name] = np.where(positions < 0, np.nan, positions)
            else:
                columns[name] = found.to_numpy("float64", na_value=np.nan)
        yield frame["row"].to_numpy(np.int64), columns


def _share(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else "less than 0.1%"


def _shortened(cell: str) -> str:
    return cell if len(cell) <= _MAX_CELL else f"{cell[:_MAX_CELL]}…"
