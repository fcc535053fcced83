"""What a cell is, as SQL: its text, missing or not, and its value. Training, checks and descriptions read cells by it.

A number is what `float` makes of its text, a boolean is 0 or 1, and a date is what `model.schema.dates` makes of it.
"""

from __future__ import annotations

from collections.abc import Iterable

from model.schema import dates, feature
from model.schema.feature import BOOLEAN, DATE, MISSING_TEXTS
from model.table import reader
from model.table.description import ColumnDescription
from model.table.marks import alike, pattern
from model.table.reader import Relation
from model.table.source import quoted

# What may stand for a missing value: a description lists what was found of them in a column.
OTHER_MISSING_TEXTS = ("?", "-", "--", ".", "#N/A", "<NA>", "NaT", "\\N", "nil")
TRUE_TEXTS, FALSE_TEXTS = (*feature.TRUE_TEXTS, "1", "1.0"), (*feature.FALSE_TEXTS, "0", "0.0")
# What `str.strip` removes.
_SPACES = "".join(character for character in map(chr, range(0x3001)) if character.isspace())


def trimmed(text: str) -> str:
    """Return the SQL of a text without spaces around it."""
    # That takes ten times as long as a look at both ends; a space that is not ASCII makes a text longer in bytes.
    has_none = f"({text})[1] > ' ' AND ({text})[-1] > ' ' AND strlen({text}) = length({text})"
    return f"CASE WHEN {has_none} THEN {text} ELSE trim({text}, {quoted(_SPACES)}) END"


def listed(texts: Iterable[str]) -> str:
    """Return texts as a list of SQL in parentheses."""
    return f"({', '.join(map(quoted, texts))})"


def text_of(relation: Relation, column: ColumnDescription) -> str:
    """Return the SQL of a column's cells as texts without spaces around them, NULL for a missing value."""
    text = trimmed(relation.text(column.name))
    if relation.type(column.name) != reader.TEXT:
        text = f"nullif({relation.text(column.name)}, 'nan')"
    longest = max(map(len, MISSING_TEXTS))
    missing = f"length({text}) <= {longest} AND lower({text}) IN {listed(sorted(MISSING_TEXTS))}"
    if column.missing:
        missing += f" OR {text} IN {listed(column.missing)}"
    return f"CASE WHEN {missing} THEN NULL ELSE {text} END"


def value_of(relation: Relation, column: ColumnDescription, text: str) -> str:
    """Return the SQL of a column's values as DOUBLE, from the SQL of its `text`: NULL for what is not of its type.

    A boolean is 0 or 1, a date is seconds since 1970-01-01 UTC.
    """
    if column.type == BOOLEAN:
        lower = f"lower({text})"
        return f"CASE WHEN {lower} IN {listed(TRUE_TEXTS)} THEN 1.0 WHEN {lower} IN {listed(FALSE_TEXTS)} THEN 0.0 END"
    if column.type == DATE:
        return _seconds(moment_of(column.format, text))
    decimal = column.decimal or relation.dialect.decimal
    return number_of(text, decimal, column.thousands if column.decimal else relation.dialect.thousands)


def moment_of(format: str, text: str) -> str:
    """Return the SQL of a text's moment in UTC as TIMESTAMP, NULL for what is no date."""
    iso = f"regexp_full_match({text}, {quoted(dates.ISO)})"
    written = f"replace(replace(upper({text}), ' Z', 'Z'), ',', '.')"
    moment = f"TRY_CAST(TRY_CAST({written} AS TIMESTAMPTZ) AS TIMESTAMP)"
    otherwise = ""
    if format:
        is_of_format = f"regexp_full_match({text}, {quoted(dates.pattern(format))})"
        otherwise = f" WHEN {is_of_format} THEN CAST(try_strptime({text}, {quoted(format)}) AS TIMESTAMP)"
    return f"CASE WHEN {iso} THEN {moment}{otherwise} END"


def _seconds(moment: str) -> str:
    """Return the SQL of a moment's seconds since 1970 with the bits of `model.schema.dates.parse`.

    Microseconds are whole in float64 up to 2^53; beyond, the sum of seconds and rest is the nearest to the moment.
    """
    microseconds = f"epoch_us({moment})"
    rest = f"(({microseconds} % 1000000 + 1000000) % 1000000)"
    whole = f"CAST(({microseconds} - {rest}) // 1000000 AS DOUBLE)"
    far = f"({whole} + CASE WHEN {whole} >= {dates.HIGHEST} THEN 0 ELSE {rest} END / 1000000.0::DOUBLE)"
    near = f"CAST({microseconds} AS DOUBLE) / 1000000.0::DOUBLE"
    return f"CASE WHEN abs({microseconds}) < {2**53} THEN {near} ELSE {far} END"


def number_of(text: str, decimal: str = ".", thousands: str = "") -> str:
    """Return the SQL of a text's number as DOUBLE, NULL for what is none or not finite."""
    if decimal == "." and not thousands:
        right, plain = f"NOT contains({text}, '_')", text  # DuckDB reads 1_000
    else:
        right, plain = f"regexp_full_match({text}, {quoted(pattern(decimal, thousands))})", text
        for mark in alike(thousands) if thousands else "":
            plain = f"replace({plain}, {quoted(mark)}, '')"
        plain = f"replace({plain}, {quoted(decimal)}, '.')"
    number = f"TRY_CAST({plain} AS DOUBLE)"
    return f"CASE WHEN {right} AND isfinite({number}) THEN {number} END"
