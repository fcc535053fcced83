"""How the numbers and dates of a column of texts are written, by counting over all its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from model.table.reader import Relation
from model.table.source import quoted
from model.table.values import moment_of, number_of

NUMBERS = ((",", ""), (".", ","), (",", "."), (".", " "), (",", " "), (".", "'"), (",", "'"))
"""How numbers may be written beside 1234.5: decimal mark and thousands separator."""

_DAYS = (
    *("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d"),
    *("%d/%m/%y", "%m/%d/%y", "%d.%m.%y", "%d-%m-%y", "%m-%d-%y"),
    *("%d %b %Y", "%d %B %Y", "%d-%b-%Y", "%d-%b-%y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y"),
)
_TIMES = ("", " %H:%M", " %H:%M:%S", "T%H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
_MONTHS = ("%Y-%m", "%Y/%m", "%m/%Y", "%b %Y", "%B %Y")
_ISO = ""
_SAMPLE_TEXTS = 300
_POSSIBLE = 0.05  # of a sample: worth a look at all rows, if only to see which other reading is wrong
_ENOUGH = 0.9  # of the cells that are there; the others are faults in a column of this kind


@dataclass(frozen=True, slots=True)
class Written:
    """How a column's numbers or dates are written: how many cells are, and the readings between which all cells leave
    a choice; `evidence` is a cell that decided between two readings.
    """

    n_cells: int
    format: str = ""
    decimal: str = "."
    thousands: str = ""
    others: tuple[str, ...] = ()
    evidence: str = ""


def numbers(relation: Relation, text: str, n_present: int, *, sample: str, enough: float = _ENOUGH) -> Written | None:
    """Return how the numbers of a column are written, if a share of `enough` is numbers in one of the ways.

    A table with a sample of the rows says whether that is likely.
    """
    given = (relation.dialect.decimal, relation.dialect.thousands)
    ways = (given,) if relation.given_decimal else NUMBERS
    counts = ", ".join(f"count({number_of('t', *way)})" for way in ways)
    n_sample, *likely = relation.sql(f"SELECT count(t), {counts} FROM (SELECT {text} AS t FROM {sample})")[0]
    if max(likely) < enough / 2 * n_sample:
        return None
    found = relation.sql(f"SELECT {counts} FROM (SELECT {text} AS t FROM data)")[0]
    n_cells = max(found)
    if n_cells < enough * n_present or not n_cells:
        return None
    best = [way for way, count in zip(ways, found) if count == n_cells]
    decimal, thousands = best[0]
    # 1,234 is a number of a decimal comma and one of thousands; 1 234 is the same with either decimal mark.
    others = (",",) if (",", "") in best and (".", ",") in best else ()
    return Written(n_cells, decimal=decimal, thousands=thousands, others=others)


def could_be_thousands(relation: Relation, text: str) -> bool:
    """Return whether all points of a column's numbers could separate thousands, as in 1.234."""
    grouped = quoted(r"[+-]?[1-9]\d{0,2}(\.\d{3})+")
    query = f"SELECT count(*) FILTER (WHERE contains(t, '.')), count(*) FILTER (WHERE regexp_full_match(t, {grouped}))"
    n_points, n_grouped = relation.sql(f"{query} FROM (SELECT {text} AS t FROM data)")[0]
    return bool(n_points == n_grouped > 0)


def dates(relation: Relation, text: str, n_present: int, *, sample: str) -> Written | None:
    """Return how the dates of a column are written, if nearly all cells are dates in one of the ways.

    A table with a sample of the rows says which ways are likely.
    """
    distinct = f"(SELECT DISTINCT {text} AS t FROM {sample} WHERE t IS NOT NULL LIMIT {_SAMPLE_TEXTS})"
    dated = r"regexp_matches(t, '[0-9]') AND length(t) BETWEEN 6 AND 40"
    n_sample, n_dated = relation.sql(f"SELECT count(*), count(*) FILTER (WHERE {dated}) FROM {distinct}")[0]
    if n_dated < _ENOUGH / 2 * n_sample:
        return None
    formats = [_ISO, *(f"{day}{time}" for day in _DAYS for time in _TIMES), *_MONTHS]
    likely = _counted(relation, distinct, formats)
    likely = {format: count for format, count in likely.items() if count > _POSSIBLE * n_sample}
    if not likely:
        return None
    found = _counted(relation, f"(SELECT {text} AS t FROM data)", list(likely))
    n_cells = max(found.values())
    if n_cells < _ENOUGH * n_present or not n_cells:
        return None
    format = next(each for each in found if found[each] == n_cells)
    if format == _ISO:
        return Written(n_cells)
    everything = f"(SELECT {text} AS t FROM data)"
    moment, others, evidence = moment_of(format, "t"), [], ""
    for other, count in found.items():
        if other in (_ISO, format):
            continue
        differs = f"FROM {everything} WHERE {moment} IS DISTINCT FROM {moment_of(other, 't')} AND {moment} IS NOT NULL"
        different = relation.sql(f"SELECT t {differs} LIMIT 1")
        if count == n_cells and different:
            others.append(other)
        elif different and not evidence:
            only = relation.sql(f"SELECT t {differs} AND {moment_of(other, 't')} IS NULL LIMIT 1")
            evidence = only[0][0] if only else ""
    return Written(n_cells, format, others=tuple(others), evidence=evidence)


def _counted(relation: Relation, table: str, formats: Sequence[str]) -> dict[str, int]:
    """Return how many texts `t` of a table are dates in each format."""
    counts = ", ".join(f"count({_plausible(format)})" for format in formats)
    return dict(zip(formats, relation.sql(f"SELECT {counts} FROM {table}")[0]))


def _plausible(format: str) -> str:
    """Return the SQL of a text's moment; that of a month is none in unusual years, since 4711-12 may be a code."""
    moment = moment_of(format, "t")
    return f"CASE WHEN year({moment}) BETWEEN 1700 AND 2199 THEN 1 END" if format in _MONTHS else moment
