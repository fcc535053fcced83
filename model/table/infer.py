"""Says what each column of a table is, and why. All shares are of all rows; nothing is decided on a sample alone."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from model.engine.formula_syntax import nearest
from model.errors import DataError, one_line
from model.schema import dates
from model.schema.feature import BOOLEAN, CATEGORY, DATE, INTEGER, MAX_CATEGORIES, MISSING_TEXTS, NUMBER
from model.table import copies, formats, reader
from model.table.description import (
    DAYS,
    HOURS,
    IDENTIFIER,
    LEARNED,
    TEXT,
    TYPES,
    ColumnDescription,
    Description,
)
from model.table.reader import Relation
from model.table.values import (
    FALSE_TEXTS,
    OTHER_MISSING_TEXTS,
    TRUE_TEXTS,
    listed,
    moment_of,
    number_of,
    text_of,
    value_of,
)

IGNORE = "ignore"
_SAMPLE, _SAMPLE_ROWS = "sampled", 5_000  # what to look for; it is then looked for in all rows
_BATCH = 25  # columns in one query
_MOSTLY = 0.9  # of the rows are missing: a column that says little
_ENOUGH = 0.9  # of the cells are numbers: the others are faults
_MANY_CATEGORIES = 100
_FEW_ROWS = 20  # with fewer, that all values are different says little
_WORDS_OF_TEXT, _LENGTH_OF_TEXT = 4, 40
_MAX_EXAMPLES, _MAX_EXAMPLE = 3, 20
_MANY_NUMBERS = 0.5  # of the cells: worth saying of a column of texts
_MAX_MARKS = 4  # other texts in it, which may mean missing values
_EXAMPLE_ROWS = 50_000  # among which examples are looked for
_MARKERS = (-9, -99, -999, -9999, -99999, 99, 999, 9999, 99999)
_INDEX_NAMES = {"", "id", "index", "key", "no", "nr", "number", "row", "rownames", "rowid", "unnamed: 0", "x0"}
_MOMENTS = {"year": "year", "month": "month", "day": "day", "weekday": "dayofweek", "hour": "hour"}


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in one column, beside what it is taken for: missing cells, different values, examples."""

    column: ColumnDescription
    n_missing: int
    n_distinct: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Described:
    """A description, what was found in each column, and what a person may want to decide."""

    description: Description
    found: tuple[Found, ...]
    n_rows: int
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """Return the report, a line a column."""
        head = f"{one_line(self.description.data)}: {self.n_rows:,} rows, {len(self.found):,} columns"
        rows: list[tuple[str, ...]] = [("column", "type", "missing", "used", "why", "examples")]
        roles = {self.description.group: "group", self.description.time: "time", self.description.target: "target"}
        for each in self.found:
            column = each.column
            used = roles.get(column.name) or ("yes" if column in self.description.learned else "no")
            share = f"{each.n_missing / self.n_rows:.1%}"
            cells = (column.name, column.type, share, used, column.reason, ", ".join(each.examples))
            rows.append(tuple(map(one_line, cells)))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[4]]) for row in rows]
        shown = [
            f"{line}; such as {row[5]}" if row[5] and n else line for n, (line, row) in enumerate(zip(lines, rows))
        ]
        return "\n".join([head, *(f"  {one_line(note)}" for note in self.notes), "", *shown])


@dataclass(slots=True)
class _Column:
    """The counts of one column over all rows, and what is decided so far.

    `odd` are the few texts of a column of numbers or dates that are none, and may mean a missing value.
    """

    name: str
    described: ColumnDescription
    missing: tuple[str, ...]
    n_present: int
    n_numbers: int
    n_whole: int
    n_points: int
    n_coded: int
    n_booleans: int
    n_words: float
    length: float
    n_distinct: int
    low: float | None
    high: float | None
    reasons: list[str] = field(default_factory=list)
    open_thousands: bool = False
    odd: tuple[str, ...] = ()

    def take(self, type: str, reason: str, *, use: bool = True, **facts: Any) -> None:
        self.described = replace(self.described, type=type, use=use, **facts)
        self.reasons.insert(0, reason)


def describe(
    relation: Relation,
    *,
    target: str = "",
    task: str = "",
    group: str = "",
    time: str = "",
    types: Mapping[str, str] | None = None,
    missing: Sequence[str] = (),
    known: Description | None = None,
) -> Described:
    """Return what each column is and why.

    `known` is what a person said of the table before: its columns stay as they are, and others are added. `types` are
    corrections by column: one of the types, `date:FORMAT`, or `ignore`. `missing` are texts that mean a missing value
    in every column, beside the usual ones. Raises `DataError` for a column that is not there, a correction that is
    none, or a text that no cell has.
    """
    types = dict(types or {})
    if known:
        target, group, time = target or known.target, group or known.group, time or known.time
    for option, name in (("target", target), ("group", group), ("time", time), *(("--as", name) for name in types)):
        if name and name not in relation.names:
            raise DataError(f"{relation.source} has no column {name!r} ({option}){nearest(name, relation.names)}")
    every = max(1, relation.n_rows // _SAMPLE_ROWS)
    relation.sql(f"CREATE OR REPLACE TEMP TABLE {_SAMPLE} AS SELECT * FROM data WHERE rowid % {every} = 0")
    marks = tuple(dict.fromkeys(map(str.strip, missing)))
    said = {column.name: column for column in known.columns} if known else {}
    columns = _counted(relation, marks, {name: column.missing for name, column in said.items()})
    for mark in marks:
        if mark.lower() not in MISSING_TEXTS and not any(mark in column.missing for column in columns):
            raise DataError(f"{relation.source} has no cell {mark!r} (--missing); write it as it stands in the table")
    for column in columns:
        if column.name in said:
            also = (*said[column.name].missing, *column.missing)
            column.described = replace(said[column.name], missing=tuple(dict.fromkeys(also)))
            column.reasons = ["as the schema file says"]
        if column.name in types:
            _correct(relation, column, types[column.name])
        elif column.name not in said:
            _decide(relation, column, is_target=column.name == target)
    notes = [*relation.notes, *_settle_thousands(relation, columns)]
    _report_odd_texts(relation, columns, {*types, *said})
    if target:
        _find_copies(relation, columns, target, {*types, *said})
        notes += _about_target(relation, next(column for column in columns if column.name == target))
    for column in columns:
        if column.name not in said or column.name in types:
            _date_parts(relation, column)
        if column.missing:
            column.reasons.append(f"{', '.join(map(repr, column.missing))} counts as missing")
    described = tuple(replace(column.described, reason="; ".join(column.reasons)) for column in columns)
    found = tuple(
        Found(each, relation.n_rows - column.n_present, column.n_distinct, _examples(relation, each))
        for each, column in zip(described, columns)
    )
    absent = tuple(column for name, column in said.items() if name not in relation.names)
    notes += [f"column {column.name!r} of the schema file is not in the table" for column in absent]
    known = known or Description(())
    description = replace(
        known,
        columns=(*described, *absent),
        dialect=relation.dialect,
        data=relation.source,
        target=target,
        task=task or known.task,
        group=group,
        time=time,
    )
    return Described(description, found, relation.n_rows, tuple(notes))


def restricted(description: Description, known: Description | None, types: Mapping[str, str]) -> Description:
    """Return a description with the columns alone that a schema file lists, and those of corrections.

    Thus a column that is new in the table is no feature by chance. Without a file, or a column in it, all are kept.
    """
    if known is None or not known.columns:
        return description
    said = {*types, *(column.name for column in known.columns)}
    return replace(description, columns=tuple(column for column in description.columns if column.name in said))


def _about_target(relation: Relation, column: _Column) -> list[str]:
    """Return why a target cannot be predicted as it is; nothing if it can."""
    described, name = column.described, column.name
    n_distinct = _n_distinct(relation, text_of(relation, described), 2)
    if n_distinct < 2:
        return [f"the target {name!r} has {'only one' if n_distinct else 'no'} value: there is nothing to learn"]
    if described.type in LEARNED and described.type != DATE:
        return []
    return [
        f"the target {name!r} is of the type {described.type}, which cannot be predicted; if it is something else, "
        f"say --as {shlex.quote(f'{name}=TYPE')}"
    ]


def _counted(relation: Relation, given: Sequence[str], known: Mapping[str, Sequence[str]]) -> list[_Column]:
    """Return the counts of every column, in as few passes over the table as memory allows.

    A cell that is one of the `given` texts is missing. So is one of the `known` texts of its column; in a column
    that is not there, one of the texts that often mean it.
    """
    columns = []
    for first in range(0, len(relation.names), _BATCH):
        names = relation.names[first : first + _BATCH]
        bare = [ColumnDescription(name) for name in names]
        raw = [text_of(relation, column) for column in bare]
        marks = [("", *given, *known.get(name, OTHER_MISSING_TEXTS)) for name in names]
        texts = ", ".join(
            f"{text} AS r{i}, CASE WHEN r{i} NOT IN {listed(marks[i])} THEN r{i} END AS t{i}"
            for i, text in enumerate(raw)
        )
        values = ", ".join(f"{number_of(f't{i}')} AS v{i}" for i in range(len(names)))
        counts = ", ".join(_counts(i, marks[i]) for i in range(len(names)))
        row = relation.sql(f"SELECT {counts} FROM (SELECT *, {values} FROM (SELECT {texts} FROM data))")[0]
        width = len(row) // len(names)
        for i, name in enumerate(names):
            n_others, *facts = row[i * width : (i + 1) * width]
            query = f"SELECT DISTINCT {raw[i]} AS r FROM data WHERE r IN {listed(marks[i])}"
            missing = tuple(sorted(text for (text,) in relation.sql(query))) if n_others else ()
            columns.append(_Column(name, ColumnDescription(name, missing=missing), missing, *facts))
    return columns


def _counts(i: int, marks: Sequence[str]) -> str:
    text, value = f"t{i}", f"v{i}"
    booleans = listed(each for each in (*TRUE_TEXTS, *FALSE_TEXTS) if each.isalpha())
    return ", ".join(
        [
            f"count(*) FILTER (WHERE r{i} IN {listed(marks)})",
            f"count({text})",
            f"count({value})",
            f"count(*) FILTER (WHERE {value} = trunc({value}))",
            f"count(*) FILTER (WHERE {value} IS NOT NULL AND NOT regexp_full_match({text}, '[+-]?[0-9]+'))",
            f"count(*) FILTER (WHERE {text} BETWEEN '00' AND '0:' AND {value} IS NOT NULL)",
            f"count(*) FILTER (WHERE lower({text}) IN {booleans})",
            f"coalesce(avg(length({text}) - length(replace({text}, ' ', ''))), 0) + 1",
            f"coalesce(avg(length({text})), 0)",
            f"approx_count_distinct({text})",
            f"min({value})",
            f"max({value})",
        ]
    )


def _correct(relation: Relation, column: _Column, type: str) -> None:
    """Take a column for what a person says, and find out how its numbers or dates are written."""
    kind, _, format = type.partition(":")
    if kind == IGNORE and not format:
        _decide(relation, column, is_target=False)
        return column.take(column.described.type, "left out, as given", use=False)
    if kind not in TYPES or (format and kind != DATE):
        raise DataError(
            f"{column.name!r} cannot be {type!r}; choose one of {', '.join(TYPES)}, date:FORMAT or {IGNORE}"
        )
    facts = {}
    if format:
        try:
            dates.check_format(format)
        except ValueError as error:
            raise DataError(f"the column {column.name!r}: {error}") from None
        facts = {"format": format}
    elif relation.type(column.name) == reader.TEXT and kind in (NUMBER, INTEGER, DATE):
        text = text_of(relation, column.described)
        if kind == DATE and (dated := formats.dates(relation, text, column.n_present, sample=_SAMPLE)):
            if dated.others:
                raise DataError(_cannot_tell(relation, column, text, dated))
            facts = {"format": dated.format}
        if kind != DATE and column.n_numbers < column.n_present:
            written = formats.numbers(relation, text, column.n_present, sample=_SAMPLE)
            facts = {"decimal": written.decimal, "thousands": written.thousands} if written else {}
            column.open_thousands = bool(written and written.others)
    return column.take(kind, f"{kind}, as given", use=kind in LEARNED, **facts)


def _cannot_tell(relation: Relation, column: _Column, text: str, dated: formats.Written) -> str:
    """Return a sentence on dates whose days and months cannot be told apart."""
    example = relation.sql(f"SELECT t FROM (SELECT {text} AS t FROM data) WHERE t IS NOT NULL LIMIT 1")[0][0]
    ways = " or ".join(f"--as '{column.name}=date:{format}'" for format in (dated.format, *dated.others))
    return f"dates such as {example!r} whose days and months cannot be told apart; say {ways}"


def _decide(relation: Relation, column: _Column, *, is_target: bool) -> None:
    """Say what a column is. A target is used, whatever it is; `_about_target` says if it cannot be predicted."""
    text = text_of(relation, column.described)
    stored, n_present = relation.type(column.name), column.n_present
    if not n_present:
        return column.take(TEXT, "is empty", use=is_target)
    if stored == reader.BOOLEAN:
        column.take(BOOLEAN, "stored as true and false")
    elif stored == reader.TIME:
        column.take(DATE, "stored as dates")
    elif stored == reader.TEXT and column.n_booleans == n_present and _n_distinct(relation, text, 3) <= 2:
        low, high = relation.sql(f"SELECT min(lower({text})), max(lower({text})) FROM data")[0]
        plain = low in ("false", "true") and high in ("false", "true")
        column.take(BOOLEAN, f"all cells are {low} or {high}{'' if plain else '; in JSON they are true and false'}")
    elif stored == reader.TEXT and (
        column.n_numbers < _ENOUGH * n_present or (relation.given_decimal and column.n_points)
    ):
        _decide_text(relation, column, text)
    else:
        _decide_number(relation, column, text)
    n_missing = relation.n_rows - n_present
    if is_target:
        column.described = replace(column.described, use=True)
        return None
    if column.n_distinct <= 2 and _n_distinct(relation, text, 2) == 1 and not n_missing:
        column.take(column.described.type, "is constant", use=False)
    elif n_missing >= _MOSTLY * relation.n_rows:
        column.take(column.described.type, f"{n_missing / relation.n_rows:.1%} of it is missing", use=False)
    return None


def _decide_number(relation: Relation, column: _Column, text: str) -> None:
    n_present, n_bad = column.n_present, column.n_present - column.n_numbers
    if column.n_coded and not column.n_points and not n_bad:
        example = relation.sql(f"SELECT min({text}) FROM data WHERE {text} LIKE '0_%'")[0][0]
        return _decide_category(relation, column, text, f"codes: {example!r} begins with 0")
    is_whole = column.n_whole == column.n_numbers and (not column.n_points or n_present < relation.n_rows)
    if relation.type(column.name) == reader.WHOLE or (is_whole and column.n_points in (0, column.n_numbers)):
        if _decide_eight_digits(relation, column, text):
            return None
        column.take(INTEGER, "all cells are whole numbers" if not n_bad else "nearly all cells are whole numbers")
    else:
        column.take(NUMBER, "all cells are numbers" if not n_bad else "nearly all cells are numbers")
        if relation.type(column.name) == reader.TEXT and relation.dialect.separator != ",":
            column.open_thousands = formats.could_be_thousands(relation, text)
    _report_bad(relation, column, text, number_of("t"), n_bad, "a number")
    _report_markers(relation, column, text)
    if column.described.type == INTEGER and not n_bad:
        _decide_identifier(relation, column, text)
    return None


def _decide_eight_digits(relation: Relation, column: _Column, text: str) -> bool:
    """Take numbers such as 20260131 for dates, if all are."""
    if column.n_distinct < _FEW_ROWS or not (column.low and column.high and 19e6 <= column.low <= column.high < 21e6):
        return False
    written = formats.dates(relation, text, column.n_present, sample=_SAMPLE)
    if not written or written.n_cells < column.n_present:
        return False
    column.take(DATE, f"all cells are dates in the format {written.format}", format=written.format)
    return True


def _decide_identifier(relation: Relation, column: _Column, text: str) -> None:
    """Leave out whole numbers that number the rows."""
    n_present, low, high = column.n_present, column.low, column.high
    if n_present < _FEW_ROWS or low is None or high is None or column.n_distinct < _ENOUGH * n_present:
        return
    if _n_distinct(relation, text, n_present) < n_present:
        return
    name = column.name.lower()
    is_called = name in _INDEX_NAMES or name.endswith(("_id", "id_", " id", "_no", "_nr")) or column.name.endswith("Id")
    if high - low + 1 == n_present and (low in (0, 1) or is_called):
        column.take(IDENTIFIER, f"numbers its rows from {low:.0f} to {high:.0f}", use=False)
    elif is_called:
        column.take(IDENTIFIER, "all values are different, and it is called one", use=False)


def _decide_text(relation: Relation, column: _Column, text: str) -> None:
    n_present = column.n_present
    written = formats.numbers(relation, text, n_present, sample=_SAMPLE)
    if written:
        decimal, thousands = written.decimal, written.thousands
        n_bad = n_present - written.n_cells
        marks = (
            f"decimal {'comma' if decimal == ',' else 'point'}{f' and thousands {thousands!r}' if thousands else ''}"
        )
        column.take(NUMBER, f"numbers with {marks}", decimal=decimal, thousands=thousands)
        _report_bad(relation, column, text, number_of("t", decimal, thousands), n_bad, "a number")
        column.open_thousands = bool(written.others)
        return
    dated = formats.dates(relation, text, n_present, sample=_SAMPLE) if column.length < dates.MAX_LENGTH else None
    if dated and dated.others:
        column.take(TEXT, _cannot_tell(relation, column, text, dated), use=False)
        return
    if dated:
        how = f"in the format {dated.format}" if dated.format else "in ISO 8601"
        reason = f"dates {how}{f', as {dated.evidence!r} shows' if dated.evidence else ''}"
        column.take(DATE, reason, format=dated.format)
        moment = moment_of(dated.format, "t")
        _report_bad(relation, column, text, moment, n_present - dated.n_cells, "a date")
        return
    if column.n_words >= _WORDS_OF_TEXT or column.length >= _LENGTH_OF_TEXT:
        n_distinct = _n_distinct(relation, text, n_present)
        if n_distinct > n_present / 2:
            column.take(TEXT, f"free text: {column.n_words:.0f} words on average", use=False)
            return
    _decide_category(relation, column, text, "")
    _report_numbers(relation, column, text)


def _decide_category(relation: Relation, column: _Column, text: str, reason: str) -> None:
    n_present = column.n_present
    n_distinct = _n_distinct(relation, text, n_present)
    column.n_distinct = n_distinct
    share = f"{n_distinct:,} different values in {n_present:,} cells"
    if n_present >= _FEW_ROWS and n_distinct > _ENOUGH * n_present:
        column.take(IDENTIFIER, "; ".join(filter(None, (reason, share))), use=False)
    elif n_distinct > MAX_CATEGORIES or (n_present >= _FEW_ROWS and n_distinct > n_present / 2):
        column.take(TEXT, f"{'; '.join(filter(None, (reason, share)))}: too many for categories", use=False)
    else:
        texts = f"{n_distinct:,} different texts" if n_distinct > 1 else "1 text"
        many = ": many; rare ones say little" if n_distinct > _MANY_CATEGORIES else ""
        column.take(CATEGORY, "; ".join(filter(None, (reason, f"{texts}{many}"))))


def _n_distinct(relation: Relation, text: str, most: int) -> int:
    """Return how many different texts there are, or at least `most`."""
    limit = f"(SELECT DISTINCT {text} AS t FROM data WHERE t IS NOT NULL LIMIT {most})"
    return int(relation.sql(f"SELECT count(*) FROM {limit}")[0][0])


def _report_numbers(relation: Relation, column: _Column, text: str) -> None:
    """Say that most cells of a column of texts are numbers, what the others are, and how to say that they are none."""
    written = formats.numbers(relation, text, column.n_present, sample=_SAMPLE, enough=_MANY_NUMBERS)
    if not written:
        return
    is_other = f"t IS NOT NULL AND ({number_of('t', written.decimal, written.thousands)}) IS NULL"
    query = f"SELECT t FROM (SELECT {text} AS t FROM data) WHERE {is_other} GROUP BY t ORDER BY count(*) DESC, t"
    others = [cell for (cell,) in relation.sql(f"{query} LIMIT {_MAX_MARKS + 1}")]
    shown = ", ".join(repr(cell[:_MAX_EXAMPLE]) for cell in others[:_MAX_MARKS])
    share = f"{written.n_cells / column.n_present:.1%} of the cells are numbers, the others"
    if len(others) > _MAX_MARKS:
        column.reasons.append(f"{share} texts such as {shown}")
    else:
        column.reasons.append(f"{share} {shown}; {_how_to_say_missing(others)}")


def _how_to_say_missing(marks: Sequence[str]) -> str:
    """Return how a person says that texts mean a missing value."""
    options = " ".join(f"--missing {shlex.quote(mark)}" if mark[0] != "-" else f"--missing={mark}" for mark in marks)
    listed_marks = json.dumps(marks, ensure_ascii=False)
    return f"if they mean missing, say {options}, or missing = {listed_marks} in the schema file"


def _report_bad(relation: Relation, column: _Column, text: str, value: str, n_bad: int, what: str) -> None:
    """Say which cells are not what nearly all others are."""
    if not n_bad:
        return
    where = f"WHERE t IS NOT NULL AND ({value}) IS NULL ORDER BY row LIMIT 1"
    row, cell = relation.sql(f"SELECT row, t FROM (SELECT rowid AS row, {text} AS t FROM data) {where}")[0]
    cells = "1 cell is" if n_bad == 1 else f"{n_bad:,} cells are"
    column.reasons.append(f"{cells} not {what}, such as {cell[:_MAX_EXAMPLE]!r} in row {row}, and wrong")
    query = f"SELECT t, count(*) FROM (SELECT {text} AS t FROM data) WHERE t IS NOT NULL AND ({value}) IS NULL"
    others = relation.sql(f"{query} GROUP BY t ORDER BY count(*) DESC, t LIMIT {_MAX_MARKS + 1}")
    if len(others) <= _MAX_MARKS and all(count > 1 for _, count in others):
        column.odd = tuple(mark for mark, _ in others)
        column.reasons.append(_how_to_say_missing(column.odd))


def _report_odd_texts(relation: Relation, columns: Sequence[_Column], settled: Collection[str]) -> None:
    """Say of each column of categories which of its texts are odd in another column, and may mean a missing value."""
    where = {mark: column.name for column in reversed(columns) for mark in column.odd}
    for column in columns:
        if not where or column.described.type != CATEGORY or column.name in settled:
            continue
        query = f"SELECT t, count(*) FROM (SELECT {text_of(relation, column.described)} AS t FROM data)"
        found = relation.sql(f"{query} WHERE t IN {listed(where)} GROUP BY t ORDER BY count(*) DESC, t")
        for mark, count in found:
            times = "once" if count == 1 else f"{count:,} times"
            column.reasons.append(f"{mark!r} is there {times}; in the column {where[mark]!r} it seems to mean missing")
        if found:
            column.reasons.append(_how_to_say_missing([mark for mark, _ in found]))


def _report_markers(relation: Relation, column: _Column, text: str) -> None:
    """Say that the lowest or highest number looks like a mark for a missing value; nothing is done about it."""
    for mark in {column.low, column.high}:
        if mark not in _MARKERS:
            continue
        value = number_of("t")
        query = f"SELECT t, {value} AS v FROM (SELECT {text} AS t FROM data)"
        aggregates = f"count(*) FILTER (WHERE v = {mark}), min(v) FILTER (WHERE v <> {mark}), "
        aggregates += f"max(v) FILTER (WHERE v <> {mark}), min(t) FILTER (WHERE v = {mark})"
        count, low, high, mark_text = relation.sql(f"SELECT {aggregates} FROM ({query})")[0]
        if low is None or count < 2:
            continue
        gap = low - mark if mark < low else mark - high
        if gap > high - low:
            column.reasons.append(f"{mark:g} is there {count:,} times and far from the others")
            column.reasons.append(_how_to_say_missing([mark_text]))


def _settle_thousands(relation: Relation, columns: Sequence[_Column]) -> list[str]:
    """Decide what 1,234 and 1.234 are by the other columns of the table, and say so."""
    notes = []
    proven = {c.described.decimal for c in columns if c.described.decimal and not c.open_thousands}
    points = any(c.n_points and c.described.type == NUMBER and not c.open_thousands for c in columns)
    proven |= {"."} if points and not any(c.described.decimal for c in columns if not c.open_thousands) else set()
    for column in columns:
        if not column.open_thousands:
            continue
        if len(proven) == 1:
            decimal, why = next(iter(proven)), "as in other columns"
        elif column.described.decimal:
            decimal = "," if relation.dialect.separator == ";" else "."
            why = "a guess"
        else:
            decimal, why = ".", "a guess"
        mark = "," if column.described.decimal else "."
        is_thousands = decimal != mark
        example = f"1{mark}234"
        column.described = replace(
            column.described,
            decimal=decimal if mark == "," or is_thousands else "",
            thousands=mark if is_thousands else "",
        )
        meaning = "one thousand" if is_thousands else "one point two"
        column.reasons[0] = f"numbers; {example} is {meaning}, {why}"
        if why == "a guess":
            notes.append(f"column {column.name!r}: {example} was taken for {meaning}; say --decimal if it is not")
    return notes


def _find_copies(relation: Relation, columns: Sequence[_Column], target: str, settled: Collection[str]) -> None:
    """Leave out columns that give the target away, unless a person said what they are."""
    of_target = next(column.described for column in columns if column.name == target)
    numeric = (NUMBER, INTEGER, BOOLEAN, DATE)
    text = text_of(relation, of_target)
    y = value_of(relation, of_target, text) if of_target.type in numeric else text
    for column in columns:
        described = column.described
        if column.name in (target, *settled) or not described.use or described.type not in LEARNED:
            continue
        own = text_of(relation, described)
        is_ordered = described.type in numeric and of_target.type in numeric
        x = value_of(relation, described, own) if is_ordered else own
        found = copies.copy_of(
            relation, x, y if is_ordered else f"CAST({y} AS VARCHAR)", sample=_SAMPLE, is_ordered=is_ordered
        )
        if found:
            column.take(described.type, found, use=False)


def _date_parts(relation: Relation, column: _Column) -> None:
    """Turn a date into the parts that vary."""
    if column.described.type != DATE or not column.described.use:
        return
    moment = moment_of(column.described.format, "t")
    if relation.type(column.name) == reader.TIME:
        moment = relation.identifier(column.name)
    counts = ", ".join(f"approx_count_distinct({part}(m))" for part in _MOMENTS.values())
    query = f"SELECT {moment} AS m FROM (SELECT {text_of(relation, column.described)} AS t FROM data)"
    if relation.type(column.name) == reader.TIME:
        query = f"SELECT {moment} AS m FROM data"
    found = relation.sql(f"SELECT {counts} FROM ({query})")[0]
    of_months = column.described.format and not dates.has_day(column.described.format)
    parts = [part for part, count in zip(_MOMENTS, found) if count > 1 and not (of_months and "day" in part)]
    parts += [HOURS if "hour" in parts else DAYS] if parts else []
    column.described = replace(column.described, parts=tuple(parts))
    if parts:
        column.reasons.append(f"gives {', '.join(parts)}")


def _examples(relation: Relation, column: ColumnDescription) -> tuple[str, ...]:
    """Return the first different cells that are there, cut to a readable length."""
    text = text_of(relation, column)
    rows = f"SELECT rowid AS row, {text} AS t FROM data WHERE rowid < {_EXAMPLE_ROWS}"
    query = f"SELECT t FROM ({rows}) WHERE t IS NOT NULL GROUP BY t ORDER BY min(row) LIMIT {_MAX_EXAMPLES}"
    cells = [cell for (cell,) in relation.sql(query)]
    return tuple(cell if len(cell) <= _MAX_EXAMPLE else f"{cell[: _MAX_EXAMPLE - 1]}…" for cell in cells)
