"""What rows say together: rows that repeat or contradict an earlier one, columns that are equal, variants of a text."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from model.schema.feature import CATEGORY
from model.table.cells import CELLS, Cells, has_value
from model.table.description import IDENTIFIER
from model.table.profile import ColumnProfile
from model.table.rules import FLAGS, MAX_LISTED_ROWS, RowRule

# Texts of one column that are compared with each other; a column with more has no categories.
_MAX_TEXTS = 10_000
_MAX_VARIANTS = 3  # groups of variants that are listed


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
