"""Deliver the clean rows of a table, and those that were rejected with the reasons, as two files.

Rows keep their order and their cells as they are in the table; those of CSV stay texts, whatever the format is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.table import output as output_file
from model.table.cells import CELLS, Cells
from model.table.checks import Quality
from model.table.output import name
from model.table.rules import FLAGS, Broken

REJECTED = ".rejected"
"""What the name of the file of rejected rows has before its suffixes."""

_MAX_RULES = 200  # conditions in one query


@dataclass(frozen=True, slots=True)
class Cleaned:
    """The two files, how many rows each has, and how many rows each rule rejected; a row may break several."""

    kept_path: Path
    rejected_path: Path
    n_kept: int
    n_rejected: int
    by_rule: tuple[Broken, ...]


def rejected_path(output: Path) -> Path:
    """Return the path of the rejected rows beside the clean ones: houses.rejected.csv.gz beside houses.csv.gz."""
    suffixes = "".join(output_file.suffixes(output))
    return output.with_name(f"{output.name.removesuffix(suffixes)}{REJECTED}{suffixes}")


def check_output(output: Path, source: str = "") -> None:
    """Raise `DataError` for an output that cannot be written, or is the source: before a large table is read."""
    for path in (output, rejected_path(output)):
        output_file.check(path, source)


def clean(quality: Quality, output: Path, *, reject_outliers: bool = False) -> Cleaned:
    """Write the rows that pass to `output`, and the others with `row` and `reasons` beside it.

    Both files are whole or not there. Raises `DataError` for an output that
    cannot be written.
    """
    cells, relation = quality.cells, quality.cells.relation
    check_output(output)
    broken = [each for each in quality.broken if each.rule.rejects or (reject_outliers and each.rule.kind == "outlier")]
    _list_rejected(cells, broken)
    paths = (output, rejected_path(output))
    columns = output_file.listed(output, {each: relation.identifier(each) for each in relation.names})
    row, reasons = _free_names(relation.names)
    queries = (
        f"SELECT {columns} FROM data ANTI JOIN rejected ON data.rowid = rejected.row ORDER BY data.rowid",
        f"SELECT rejected.row AS {name(row)}, {columns}, rejected.reasons AS {name(reasons)} "
        "FROM data JOIN rejected ON data.rowid = rejected.row ORDER BY data.rowid",
    )
    # The clean rows get their name last, since without the rejected rows they say too little.
    counts = output_file.write(relation, dict(zip(paths, queries)))
    return Cleaned(paths[0], paths[1], counts[0], counts[1], tuple(broken))


def _list_rejected(cells: Cells, broken: Sequence[Broken]) -> None:
    """Make the table `rejected`: the number of each row that breaks a rule, and why in one text."""
    run = cells.relation.connection.execute
    run("CREATE OR REPLACE TABLE breaks (row BIGINT, rule INTEGER)")
    by_condition = [each.rule for each in broken if each.rule.condition]
    for first in range(0, len(by_condition), _MAX_RULES):
        rules = by_condition[first : first + _MAX_RULES]
        numbers = ", ".join(f"CASE WHEN {rule.condition} THEN {rule.number} END" for rule in rules)
        run(
            f"INSERT INTO breaks SELECT row, rule FROM (SELECT row, unnest([{numbers}]) AS rule FROM {CELLS}) "
            "WHERE rule IS NOT NULL"
        )
    flagged = [str(each.rule.number) for each in broken if not each.rule.condition]
    if flagged:
        run(f"INSERT INTO breaks SELECT row, rule FROM {FLAGS} WHERE rule IN ({', '.join(flagged)})")
    run("CREATE OR REPLACE TABLE reasons (rule INTEGER, reason VARCHAR)")
    for each in broken:
        where = "" if each.rule.column is None else f"column {each.rule.column!r} "
        run("INSERT INTO reasons VALUES (?, ?)", [each.rule.number, f"{where}{each.rule.reason}"])
    run(
        "CREATE OR REPLACE TABLE rejected AS SELECT row, string_agg(reason, '; ' ORDER BY rule) AS reasons "
        "FROM breaks JOIN reasons USING (rule) GROUP BY row"
    )


def _free_names(names: Sequence[str]) -> tuple[str, str]:
    """Return the names of the columns with a rejected row's number and reasons: no column of the table has them."""
    taken = {each.lower() for each in names}
    row, reasons = "row", "reasons"
    while row in taken or reasons in taken:
        row, reasons = f"{row}_", f"{reasons}_"
    return row, reasons
