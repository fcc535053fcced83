"""Check a table along the four usual dimensions of data quality, in bounded memory.

They are accuracy (types, plausible ranges, outliers), completeness (missing cells), consistency (rows or columns that
repeat or contradict each other, rules) and timeliness (the age of the rows by a date column).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime

import duckdb

from model.errors import DataError, Problem, counted, first_line, one_line
from model.schema.feature import DATE
from model.table import repeats, rules
from model.table.cells import DAY, Cells
from model.table.description import Description
from model.table.profile import ColumnProfile, profiles_of
from model.table.reader import Relation
from model.table.rules import MAX_LISTED_ROWS, Broken

ACCURACY = "accuracy"
COMPLETENESS = "completeness"
CONSISTENCY = "consistency"
TIMELINESS = "timeliness"
DIMENSIONS = (ACCURACY, COMPLETENESS, CONSISTENCY, TIMELINESS)

# Cross-validation with ten folds of the training rows needs at least this many rows in the table.
MINIMUM_ROWS = 20

# What each kind of finding belongs to, and what a person does about it.
KINDS = {
    "wrong type": (
        ACCURACY,
        "correct the cells, say the column's type by --as, name texts that mean missing by --missing or in the schema "
        "file, or leave the rows out by check --clean",
    ),
    "out of range": (ACCURACY, "correct the cells, or the limits in the schema file"),
    "not allowed": (ACCURACY, "correct the cells, or add the value to the allowed ones in the schema file"),
    "infinite": (ACCURACY, "leave the cell empty if the value is not known"),
    "outlier": (ACCURACY, "look at the rows; leave out wrong ones by minimum and maximum in the schema file"),
    "marker": (ACCURACY, "if it stands for a missing value, say so by --missing, or in the schema file"),
    "future date": (ACCURACY, "correct the dates, or leave out what was not known at the time of the prediction"),
    "constant target": (ACCURACY, "give rows with other values: there is nothing to learn"),
    "missing": (COMPLETENESS, "nothing, if it will be missing in use, too; else fill it in at the source"),
    "mostly missing": (
        COMPLETENESS,
        "leave the column out by use = false in the schema file, unless a gap means much",
    ),
    "required": (COMPLETENESS, "fill the cells in, or leave out required in the schema file"),
    "mostly empty row": (COMPLETENESS, "look whether the rows are any, such as sums or remarks below a table"),
    "missing target": (COMPLETENESS, "nothing: the rows are set aside and not trained on"),
    "lacking column": (COMPLETENESS, "add the column to the table, or take it out of the schema file"),
    "too few rows": (COMPLETENESS, "collect more rows"),
    "duplicate row": (CONSISTENCY, "leave out repeated rows by --clean, unless each stands for an event of its own"),
    "contradiction": (
        CONSISTENCY,
        "look for a feature that tells the rows apart; a model answers between them",
    ),
    "duplicate identifier": (CONSISTENCY, "find out which row is right, or which the newest is"),
    "equal columns": (CONSISTENCY, "leave one of them out by use = false in the schema file"),
    "unknown column": (CONSISTENCY, "nothing: it is left out; describe it in the schema file to use it"),
    "broken rule": (CONSISTENCY, "correct the rows, or the rule in the schema file"),
    "unchecked rule": (CONSISTENCY, "correct the rule in the schema file"),
    "spelling": (CONSISTENCY, "write each category in one way"),
    "too old": (TIMELINESS, "take a newer table, or allow more days"),
    "date ahead": (TIMELINESS, "correct the dates"),
    "no date column": (TIMELINESS, "name the column of dates in the schema file or by --date"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem with a table's quality; a `fatal` one prevents training.

    `kind` is one of `KINDS`. `n_rows` counts the rows with it, `first_rows` are the numbers of the first ones, and
    `examples` are cells of theirs.
    """

    dimension: str
    problem: Problem
    fatal: bool = True
    kind: str = ""
    n_rows: int = 0
    first_rows: tuple[int, ...] = ()
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{'error  ' if self.fatal else 'warning'}  {self.dimension:<12}  {self.problem}{self._others()}"

    @property
    def remedy(self) -> str:
        """Return what to do about it; empty if only the problem says."""
        return KINDS[self.kind][1] if self.kind else ""

    def _others(self) -> str:
        if self.n_rows < 2:
            return ""
        listed = ", ".join(map(str, self.first_rows))
        if self.problem.row is None:
            return f" ({self.n_rows:,} rows: {listed}{', …' if self.n_rows > len(self.first_rows) else ''})"
        more = "" if self.n_rows > len(self.first_rows) else f": {listed}"
        return f" (the first of {self.n_rows:,} such rows{more})"


@dataclass(frozen=True, slots=True)
class Age:
    """How old the rows are by a column of dates, of those that are not in the future.

    `newest` and `oldest` are seconds since 1970-01-01 UTC; `days` is the age of the newest row. `n_older` of `n_rows`
    with a date are more than `maximum` days old, if there is one. `months` are (2026-01, number of rows) and so on.
    """

    column: str
    newest: float
    oldest: float
    days: int
    maximum: int | None
    n_rows: int
    n_older: int
    months: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Quality:
    """All that was found out about a table; `broken` are the rules that rows break, with how many do."""

    source: str
    sha256: str
    n_rows: int
    today: date
    findings: tuple[Finding, ...]
    profiles: tuple[ColumnProfile, ...]
    broken: tuple[Broken, ...]
    age: Age | None
    cells: Cells = field(repr=False, compare=False)

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.fatal)


def report(name: str, findings: Sequence[Finding]) -> str:
    """Return all findings about the table as text, errors first, each with what to do in a line below."""
    ordered = sorted(findings, key=lambda finding: not finding.fatal)
    fatal = sum(finding.fatal for finding in findings)
    head = f"{name}: {counted(fatal, 'error')}, {counted(len(findings) - fatal, 'warning')}"
    verdict = "; no model can be trained on it" if fatal else ""
    lines = [one_line(head) + verdict]
    for finding in ordered:
        lines.append(f"  {one_line(str(finding))}")
        if finding.remedy:
            lines.append(f"{'':25}{finding.remedy}")
    return "\n".join(lines)


def check(relation: Relation, description: Description, *, today: date | None = None) -> Quality:
    """Return every problem of a table, what each column holds, and how old the rows are.

    Columns that are not used are not checked for their types and limits. Raises `DataError` for a table or a
    description that cannot be checked.
    """
    try:
        return _check(relation, description, today or datetime.now(UTC).date())
    except duckdb.Error as error:
        raise DataError(f"{relation.source} cannot be checked: {first_line(error)}") from None


def _check(relation: Relation, description: Description, today: date) -> Quality:
    cells = Cells(relation, description)
    relation.connection.execute(f"CREATE OR REPLACE TABLE {rules.FLAGS} (rule INTEGER, row BIGINT)")
    profiles = profiles_of(cells)
    by_name = {profile.name: profile for profile in profiles}
    row_rules = rules.of_columns(cells, by_name, today=today)
    more, unchecked = rules.of_formulas(cells, description.rules, first_number=len(row_rules))
    row_rules += more
    row_rules += repeats.of_rows(cells, first_number=len(row_rules) + len(unchecked))
    broken = rules.count(cells, row_rules)
    age = _age(cells, today)
    findings = [
        *_about_columns(cells, by_name),
        *(_finding("unchecked rule", Problem(None, None, reason)) for reason in unchecked),
        *(finding for each in broken if (finding := _about_rows(each))),
        *_about_likeness(cells, by_name),
        *_about_age(cells, age),
    ]
    findings.sort(key=lambda finding: (not finding.fatal, DIMENSIONS.index(finding.dimension)))
    return Quality(
        relation.source, relation.sha256, relation.n_rows, today, tuple(findings), profiles, tuple(broken), age, cells
    )


def findings_of(dimension: str, problems: Sequence[Problem], *, fatal: bool = True) -> list[Finding]:
    """Return a finding for each problem of a file that is no table, or one for all rows if there are many."""
    rows = [problem for problem in problems if problem.row is not None]
    if len(rows) > MAX_LISTED_ROWS:
        first = replace(rows[0], reason=f"{rows[0].reason} (the first of {len(rows):,} such rows)")
        problems = [*(problem for problem in problems if problem.row is None), first]
    return [Finding(dimension, problem, fatal) for problem in problems]


def _finding(kind: str, problem: Problem, *, fatal: bool = True) -> Finding:
    return Finding(KINDS[kind][0], problem, fatal, kind)


def _about_columns(cells: Cells, profiles: Mapping[str, ColumnProfile]) -> Iterator[Finding]:
    """Yield what is wrong with the table's size, its columns and its target."""
    description, relation = cells.description, cells.relation
    target = profiles.get(description.target)
    n_rows = target.n_known if target else relation.n_rows
    if n_rows < MINIMUM_ROWS:
        known = f" with {target.name!r}" if target and target.n_missing else ""
        reason = f"{n_rows} rows{known}; at least {MINIMUM_ROWS} are needed"
        yield _finding("too few rows", Problem(None, None, reason))
    wanted = {column.name for column in description.columns}
    lacking = [column.name for column in description.columns if column.name not in relation.names and column.use]
    for name in dict.fromkeys([*lacking, *filter(None, (description.target, description.group, description.time))]):
        if name not in relation.names:
            yield _finding("lacking column", Problem(None, name, "the table does not have this column"))
    for name in relation.names:
        if name not in wanted:
            reason = "is no column of the data set and is left out"
            yield _finding("unknown column", Problem(None, name, reason), fatal=False)
    if target and target.n_known and _is_constant(cells, target.name):
        yield _finding("constant target", Problem(None, target.name, "has only one value"))


def _is_constant(cells: Cells, name: str) -> bool:
    target = cells.value(name)
    return bool(cells.in_batches([f"min({target}) = max({target})"])[0])


def _about_rows(broken: Broken) -> Finding | None:
    """Return the finding for a rule that rows break; none if a marker for missing values is there only once."""
    rule = broken.rule
    if rule.kind == "marker" and broken.n_rows == 1:
        return None
    example = ""
    if broken.value is not None:
        example = f"{broken.value} "
    elif broken.examples:
        is_text = rule.kind in ("wrong type", "not allowed", "duplicate identifier")
        example = f"{broken.examples[0]!r} " if is_text else f"{broken.examples[0].strip()} "
    problem = Problem(broken.first_rows[0], rule.column, f"{example}{rule.reason}")
    return Finding(
        KINDS[rule.kind][0], problem, rule.fatal, rule.kind, broken.n_rows, broken.first_rows, broken.examples
    )


def _about_likeness(cells: Cells, profiles: Mapping[str, ColumnProfile]) -> Iterator[Finding]:
    equal = repeats.equal_columns(cells, profiles)
    for name, other in equal:
        yield _finding("equal columns", Problem(None, name, f"is the same as {other}, row for row"), fatal=False)
    for alike in repeats.columns_alike(cells, profiles, dict(equal)):
        yield _finding("equal columns", Problem(None, alike.column, str(alike)), fatal=False)
    for each in repeats.variants(cells):
        groups = "; ".join(" and ".join(map(repr, texts)) for texts in each.texts)
        more = f"; and {each.n_groups - len(each.texts):,} more" if each.n_groups > len(each.texts) else ""
        problem = Problem(None, each.column, f"{groups}{more} differ only in case or spaces")
        examples = tuple(text for texts in each.texts for text in texts)
        yield Finding(CONSISTENCY, problem, False, "spelling", each.n_rows, each.first_rows, examples)


def _age(cells: Cells, today: date) -> Age | None:
    """Return how old the rows are by the date column; None without one, or without a date in it."""
    description = cells.description
    column = next((each for each in cells.columns if each.name == description.date and each.type == DATE), None)
    if column is None:
        return None
    value, maximum = cells.value(column.name), description.max_age_days
    n_days = (today - date(1970, 1, 1)).days
    past = f"FILTER (WHERE {value} < {(n_days + 1) * DAY})"
    older = f"count(*) FILTER (WHERE {value} < {(n_days - (maximum or 0)) * DAY})"
    month = f"histogram(strftime(make_timestamp(CAST({value} * 1000000 AS BIGINT)), '%Y-%m')) {past}"
    newest, oldest, n_rows, n_older, months = cells.in_batches(
        [f"max({value}) {past}", f"min({value}) {past}", f"count({value}) {past}", older, month]
    )
    if newest is None:
        return None
    days = n_days - math.floor(newest / DAY)
    n_older = 0 if maximum is None else n_older
    return Age(column.name, newest, oldest, days, maximum, n_rows, n_older, tuple(sorted(months.items())))


def _about_age(cells: Cells, age: Age | None) -> Iterator[Finding]:
    description = cells.description
    name, maximum = description.date, description.max_age_days
    if maximum is not None and not name:
        yield _finding(
            "no date column", Problem(None, None, f"rows may be {maximum} days old, and no column of dates is named")
        )
    elif name and name not in cells.relation.names:
        yield _finding("no date column", Problem(None, name, "the table does not have this column"))
    elif name and age is None:
        yield _finding("no date column", Problem(None, name, "has no dates"), fatal=maximum is not None)
    elif age and maximum is not None and age.days > maximum:
        reason = f"the newest row is {age.days:,} days old; at most {maximum:,} are allowed"
        yield _finding("too old", Problem(None, name, reason))
