"""What rows say together: rows that repeat or contradict an earlier one, columns that are equal, variants of a text."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from model.schema.feature import CATEGORY, DATE
from model.table.cells import CELLS, Cells, has_value, literal
from model.table.description import IDENTIFIER, ColumnDescription
from model.table.profile import ColumnProfile
from model.table.rules import FLAGS, MAX_LISTED_ROWS, TOLERANCE, RowRule

# Texts of one column that are compared with each other; a column with more has no categories.
_MAX_TEXTS = 10_000
_MAX_VARIANTS = 3  # groups of variants that are listed
_SAMPLE_ROWS = 2_000  # in which columns are looked for that are alike; all rows then confirm it
_MAX_COMPARED = 1_000  # columns
_MAX_FACTOR = 1_000_000
_LEAST_ALIKE = 10  # different values that two columns have in common: fewer may be chance


@dataclass(frozen=True, slots=True)
class Alike:
    """A column that is `other` times `factor`, over `divisor`, in each of the `n_rows` that have both."""

    column: str
    other: str
    factor: int
    divisor: int
    n_rows: int

    def __str__(self) -> str:
        what = f"the same as {self.other}"
        if self.factor != self.divisor:
            what = f"{self.other} * {self.factor}" if self.divisor == 1 else f"{self.other} / {self.divisor}"
        return f"is {what} in all {self.n_rows:,} rows that have both"


@dataclass(frozen=True, slots=True)
class Variants:
    """Texts of one column that differ only in case or spaces; `n_rows` have another one than the most frequent."""

    column: str
    texts: tuple[tuple[str, ...], ...]
    n_groups: int
    n_rows: int
    first_rows: tuple[int, ...]


def of_rows(cells: Cells, *, first_number: int) -> list[RowRule]:
    """Put the rows that repeat, contradict or have the identifier of an earlier one into `flags`; return these rules.

    A row repeats another if all its cells are the same texts. It contradicts one if its features have the same values,
    and its target has another.
    """
    number = first_number
    rules = [RowRule("duplicate row", None, "repeats an earlier row", fatal=False, number=number)]
    everything = list(cells.relation.identifiers)
    _flag_repeats(cells, number, everything, "data", "rowid")
    target = cells.description.target
    features = [cells.value(column.name) for column in cells.description.learned if column in cells.columns]
    if features and any(column.name == target for column in cells.columns):
        number += 1
        reason = "contradicts an earlier row alike"
        rules.append(
            RowRule("contradiction", target, reason, fatal=False, rejects=False, has_cell=False, number=number)
        )
        answer = cells.value(target)
        _flag_contradictions(cells, number, features, answer)
    for column in cells.columns:
        if column.type == IDENTIFIER:
            number += 1
            rules.append(
                RowRule(
                    "duplicate identifier",
                    column.name,
                    "is that of an earlier row",
                    fatal=False,
                    rejects=False,
                    number=number,
                )
            )
            _flag_repeats(cells, number, [cells.value(column.name)], CELLS, "row")
    return rules


def _flag_repeats(cells: Cells, number: int, columns: list[str], source: str, row: str) -> None:
    """Flag the rows of a source whose columns, not all NULL, are those of an earlier row.

    Hashes find them, since they need little memory, and the columns themselves confirm it.
    """
    run = cells.relation.connection.execute
    known = " OR ".join(f"{column} IS NOT NULL" for column in columns)
    run(
        f"CREATE OR REPLACE TEMP TABLE keys AS SELECT {row} AS row, hash({', '.join(columns)}) AS key "
        f"FROM {source} WHERE {known}"
    )
    run(
        "CREATE OR REPLACE TEMP TABLE firsts AS "
        "SELECT key, min(row) AS first FROM keys GROUP BY key HAVING count(*) > 1"
    )
    if cells.rows("SELECT count(*) FROM firsts")[0][0]:
        same = " AND ".join(f"a.{column} IS NOT DISTINCT FROM b.{column}" for column in columns)
        run(
            f"INSERT INTO {FLAGS} SELECT {number}, keys.row FROM keys JOIN firsts USING (key) "
            f"JOIN {source} AS a ON a.{row} = keys.row JOIN {source} AS b ON b.{row} = firsts.first "
            f"WHERE keys.row > firsts.first AND {same}"
        )
    run("DROP TABLE keys; DROP TABLE firsts")


def _flag_contradictions(cells: Cells, number: int, features: list[str], answer: str) -> None:
    """Flag each row that is the first with its answer, and not the first with its features."""
    run = cells.relation.connection.execute
    given = ", ".join(features)
    run(
        f"CREATE OR REPLACE TEMP TABLE keys AS SELECT row, hash({given}) AS key, hash({given}, {answer}) AS whole "
        f"FROM {CELLS} WHERE {answer} IS NOT NULL"
    )
    run(
        "CREATE OR REPLACE TEMP TABLE firsts AS SELECT key, min(row) AS first FROM keys "
        "GROUP BY key HAVING min(whole) <> max(whole)"
    )
    run(
        f"INSERT INTO {FLAGS} SELECT {number}, row FROM "
        "(SELECT min(keys.row) AS row, any_value(first) AS first FROM keys JOIN firsts USING (key) GROUP BY whole) "
        "WHERE row > first"
    )
    run("DROP TABLE keys; DROP TABLE firsts")


def equal_columns(cells: Cells, profiles: Mapping[str, ColumnProfile]) -> list[tuple[str, str]]:
    """Return each checked column that is the same as an earlier one, row for row, with that one's name."""
    columns = [column for column in cells.checked if profiles[column.name].n_distinct > 1]
    # Hashed once more: in `hash(row, value)` a value is one operand of an exclusive or, whichever the row is.
    hashes = cells.in_batches([f"bit_xor(hash(hash(row, {cells.value(column.name)})))" for column in columns])
    first: dict[tuple[int, bool], str] = {}
    pairs = []
    for column, key in zip(columns, hashes):
        other = first.setdefault((key, has_value(column)), column.name)
        if other != column.name:
            pairs.append((column.name, other))
    return pairs


def columns_alike(cells: Cells, profiles: Mapping[str, ColumnProfile], equal: Collection[str]) -> list[Alike]:
    """Return each checked column of numbers or dates that is an earlier one but for gaps, or for a whole factor.

    Columns that are `equal` to an earlier one row for row are not among them.
    """
    columns = [
        column
        for column in cells.checked
        if has_value(column) and column.name not in equal and profiles[column.name].n_distinct >= _LEAST_ALIKE
    ][:_MAX_COMPARED]
    likely = _likely_alike(cells, columns)
    counts = []
    for each in likely:
        value, other = cells.value(each.column), cells.value(each.other)
        scaled = (f"({value} * {literal(each.divisor)})", f"({other} * {literal(each.factor)})")
        same = f"abs({scaled[0]} - {scaled[1]}) <= {TOLERANCE} * abs({scaled[0]})"
        both = f"isfinite({value}) AND isfinite({other})"
        counts += [f"count(*) FILTER (WHERE {both})", f"count(*) FILTER (WHERE {both} AND {same})"]
    found = iter(cells.in_batches(counts))
    return [replace(each, n_rows=n_both) for each, n_both, n_same in zip(likely, found, found) if n_both == n_same]


def _likely_alike(cells: Cells, columns: Sequence[ColumnDescription]) -> list[Alike]:
    """Return the columns that are an earlier one but for gaps or a whole factor in a sample of the rows."""
    if len(columns) < 2:
        return []
    every = -(-cells.relation.n_rows // _SAMPLE_ROWS)
    values = ", ".join(cells.value(column.name) for column in columns)
    query = f"SELECT {values} FROM {CELLS} WHERE hash(row) % {every} = 0"
    sample = cells.relation.connection.execute(query).df().to_numpy("float64", na_value=np.nan)
    known = np.isfinite(sample)
    sizes, both = np.where(known, np.abs(sample), 0.0), known.astype(np.float64)
    found = []
    with np.errstate(all="ignore"):
        factors = (sizes.T @ both) / (both.T @ sizes)  # of sums over the rows that have both
        larger = np.maximum(factors, 1 / factors)
        whole = np.round(larger)
        is_simple = (np.abs(larger - whole) <= TOLERANCE * larger) & (whole <= _MAX_FACTOR)
        for place, column in enumerate(columns):
            for earlier in np.flatnonzero(is_simple[place, :place]).tolist():
                number = int(whole[place, earlier])
                factor, divisor = (number, 1) if factors[place, earlier] > 1 else (1, number)
                rows = known[:, place] & known[:, earlier]
                mine, others = sample[rows, place] * divisor, sample[rows, earlier] * factor
                of_dates = [each.type == DATE for each in (column, columns[earlier])]
                is_same = (np.abs(mine - others) <= TOLERANCE * np.abs(mine)).all()
                if is_same and len(np.unique(mine)) >= _LEAST_ALIKE and (not any(of_dates) or number == all(of_dates)):
                    found.append(Alike(column.name, columns[earlier].name, factor, divisor, len(mine)))
                    break
    return found


def variants(cells: Cells) -> list[Variants]:
    """Return the categories of each column that differ only in upper case, accents' form or spaces."""
    found = []
    for column in cells.checked:
        if column.type != CATEGORY:
            continue
        text = cells.value(column.name)
        rows = cells.rows(
            f"SELECT {text}, count(*), min(row) FROM {CELLS} WHERE {text} IS NOT NULL "
            f"GROUP BY 1 ORDER BY 2 DESC, 3 LIMIT {_MAX_TEXTS}"
        )
        alike: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
        for row in rows:
            alike[" ".join(unicodedata.normalize("NFKC", row[0]).casefold().split())].append(row)
        groups = [group for group in alike.values() if len(group) > 1]
        if groups:
            rarer = [row for group in groups for row in group[1:]]
            found.append(
                Variants(
                    column.name,
                    tuple(tuple(text for text, *_ in group) for group in groups[:_MAX_VARIANTS]),
                    len(groups),
                    sum(n_rows for _, n_rows, _ in rarer),
                    tuple(sorted(first for *_, first in rarer)[:MAX_LISTED_ROWS]),
                )
            )
    return found
