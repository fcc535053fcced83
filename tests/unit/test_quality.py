"""The four dimensions of quality: each fault of a table is found, named and counted, and a right table has none."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from model.errors import DataError
from model.table.checks import DIMENSIONS, KINDS, MINIMUM_ROWS, Finding, Quality, check, report
from model.table.description import ColumnDescription, Description, Rule
from model.table.profile import written
from model.table.quality import to_html
from model.table.reader import open_table
from tests.support.quality import COLUMNS, HEADER, HOUSES, N_ROWS, TODAY, house, houses, write
from tests.support.service import ROOT

Checked = Callable[..., Quality]


@pytest.fixture
def checked(tmp_path: Path) -> Checked:
    """Check a table of these rows, with some cells changed: (row, column) -> cell."""

    def run(
        cells: dict[tuple[int, str], str] | None = None,
        *,
        rows: list[list[str]] | None = None,
        description: Description = HOUSES,
        header: str = HEADER,
        today: date = TODAY,
    ) -> Quality:
        table = houses() if rows is None else [list(row) for row in rows]
        for (row, column), cell in (cells or {}).items():
            table[row][header.split(",").index(column)] = cell
        with open_table(write(tmp_path / "houses.csv", table, header)) as relation:
            return check(relation, description, today=today)

    return run


def kinds(quality: Quality) -> list[tuple[str, str | None]]:
    """Return the kind and the column of each finding, without the cells that are missing in any such table."""
    return [
        (each.kind, each.problem.feature)
        for each in quality.findings
        if (each.kind, each.problem.feature) != ("missing", "lift")
    ]


def only(quality: Quality, kind: str) -> Finding:
    """Return the one finding of a kind."""
    (found,) = [finding for finding in quality.findings if finding.kind == kind]
    return found


def test_right_table_has_no_errors(checked: Checked) -> None:
    """A table without a fault has no finding but the share of what is missing."""
    quality = checked()

    assert kinds(quality) == []
    assert only(quality, "missing").n_rows == 20
    assert report("houses", quality.findings).splitlines()[0] == "houses: 0 errors, 1 warning"


@pytest.mark.parametrize(
    ("column", "cell", "kind", "reason"),
    [
        ("area", "big", "wrong type", "'big' is not a number"),
        ("rooms", "2.5", "wrong type", "'2.5' is not a whole number"),
        ("lift", "maybe", "wrong type", "'maybe' is not true or false"),
        ("sold", "soon", "wrong type", "'soon' is not a date such as 2026-01-31"),
        ("area", "501", "out of range", "501 is not plausible: 5 to 500 m²"),
        ("area", "inf", "infinite", "inf is not finite"),
        ("area", "1e400", "infinite", "1e400 is not finite"),
        ("rooms", "9", "not allowed", "'9' is none of 1, 2, 3, 4"),
        ("zone", "Ost", "not allowed", "'Ost' is none of Nord, Süd"),
        ("sold", "2026-02-02", "date ahead", "2026-02-02 is in the future"),
    ],
)
def test_wrong_cell_is_an_error(checked: Checked, column: str, cell: str, kind: str, reason: str) -> None:
    """A cell that cannot be right is fatal, and the finding has its row, its column and the cell."""
    quality = checked({(7, column): cell, (9, column): cell})
    found = only(quality, kind)

    assert kinds(quality) == [(kind, column)]
    assert (found.fatal, found.n_rows, found.first_rows) == (True, 2, (7, 9))
    assert (found.problem.row, found.problem.feature, found.problem.reason) == (7, column, reason)
    assert found.examples == (cell, cell)
    assert str(found.problem) in report("x", quality.findings)


def test_cells_at_the_limits_are_right(checked: Checked) -> None:
    """The limits themselves are plausible, and today is not in the future."""
    narrow = replace(HOUSES, columns=(COLUMNS[0], replace(COLUMNS[1], minimum=40, maximum=69.5), *COLUMNS[2:]))

    assert kinds(checked({(3, "sold"): "2026-02-01"}, description=narrow)) == []


@pytest.mark.parametrize(
    ("column", "limits", "reason"),
    [
        ("net", {"minimum": 1010}, "1009 is not plausible: at least 1010"),
        ("net", {"maximum": 1008}, "1009 is not plausible: at most 1008"),
        ("sold", {"minimum": 1768003200.0}, "2026-01-01 is not plausible: at least 2026-01-10"),
    ],
)
def test_one_limit_is_enough(checked: Checked, column: str, limits: dict[str, Any], reason: str) -> None:
    """A column may have a minimum or a maximum alone, and dates have limits, too."""
    columns = tuple(replace(each, **limits) if each.name == column else each for each in COLUMNS)
    quality = checked(rows=houses()[9:] if column == "net" else None, description=replace(HOUSES, columns=columns))

    assert only(quality, "out of range").problem.reason == reason


def test_outliers_are_warnings(checked: Checked) -> None:
    """A value beyond five times the distance of the quartiles from them is a warning, one within is not."""
    free = replace(HOUSES, columns=tuple(replace(each, minimum=-math.inf) for each in COLUMNS))
    near = checked({(3, "area"): "135"}, description=free)
    far = checked({(3, "area"): "-30"}, description=free)

    assert kinds(near) == []
    assert kinds(far) == [("outlier", "area")]
    assert not only(far, "outlier").fatal


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({3: "14392.0"}, "14392 is above 195, far from most values"),
        ({3: "-300.50"}, "-300.5 is below -136, far from most values"),
        ({3: "-300.0", 5: "300"}, "-300 lies outside -135 to 195, far from most values"),
    ],
)
def test_outlier_says_on_which_side_it_is(checked: Checked, cells: dict[int, str], reason: str) -> None:
    """The value and the limit are written in one way, and there is no negative limit of what is never negative."""
    description = Description((ColumnDescription("n", "number"), ColumnDescription("id", "identifier")))
    rows = [[cells.get(number, str(number)), f"i{number}"] for number in range(60)]
    quality = checked(rows=rows, header="n,id", description=description)

    assert only(quality, "outlier").problem.reason == reason
    low, _ = quality.profiles[0].limits or (math.nan, math.nan)
    assert low >= 0 or any(cell.startswith("-") for cell in cells.values())


def test_outliers_of_skewed_positive_columns_are_compared_as_logarithms(checked: Checked) -> None:
    """What is large, but only in a few multiples as others are, is no outlier of a skewed column."""
    description = Description((ColumnDescription("income", "number"), ColumnDescription("n", "identifier")))
    rows = [[str(1.3**number), f"i{number}"] for number in range(60)]
    quality = checked(rows=rows, header="income,n", description=description)
    far = checked(rows=[*rows, ["1e40", "last"]], header="income,n", description=description)

    assert kinds(quality) == []
    assert quality.profiles[0].in_logarithms
    assert kinds(far) == [("outlier", "income")]


def test_repeated_value_far_from_all_others_may_stand_for_a_missing_one(checked: Checked) -> None:
    """-999 that occurs twice far from everything is a marker; a -999 among such values is a number."""
    description = Description((ColumnDescription("depth", "number"), ColumnDescription("n", "identifier")))
    rows = [[str(number), f"i{number}"] for number in range(60)]
    quality = checked(
        {(3, "depth"): "-999", (4, "depth"): "-999"}, rows=rows, header="depth,n", description=description
    )
    deep = [[str(-20 * number + 1), f"i{number}"] for number in range(60)]

    assert kinds(quality) == [("marker", "depth")]
    assert kinds(checked({(3, "depth"): "-999"}, rows=deep, header="depth,n", description=description)) == []


def test_bars_of_whole_numbers_have_as_many_of_them_each(checked: Checked) -> None:
    """A bar of the page stands for one whole number, or equally many; the last one ends at the largest value."""
    description = Description((ColumnDescription("n", "integer"), ColumnDescription("wide", "integer")))
    rows = [[str(number % 5), str(number)] for number in range(60)]
    few, wide = checked(rows=rows, header="n,wide", description=description).profiles

    assert (few.bins, few.counts) == (tuple((each, each) for each in range(5)), (12,) * 5)
    assert (wide.bins[:2], wide.bins[-1], set(wide.counts)) == (((0, 1), (2, 3)), (58, 59), {2})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2003.0, "2003"),
        (-0.0, "0"),
        (10374.4, "10374.4"),
        (0.1 + 0.2, "0.3"),
        (1234567.8, "1234568"),
        (1.5e300, "1.5e+300"),
        (None, "–"),
    ],
)
def test_numbers_of_cells_have_no_separators(value: float | None, text: str) -> None:
    """A number from a column is written in one way, and a year is not 2,003."""
    assert written(value, "number") == text


def test_few_different_values_are_counted(checked: Checked) -> None:
    """How many different values a column has is exact if they are few, and the page says so in words."""
    description = Description(tuple(ColumnDescription(name, "integer") for name in ("one", "some", "many")))
    rows = [["7", str(number % 900), str(number)] for number in range(4000)]
    quality = checked(rows=rows, header="one,some,many", description=description)
    page = to_html(quality)

    assert [each.n_distinct for each in quality.profiles[:2]] == [1, 900]
    assert "missing; 1 value</div>" in page
    assert "missing; 900 different values</div>" in page
    assert re.search(r"missing; about [34],\d{3} different values</div>", page)


def test_missing_cells_are_counted_by_column(checked: Checked) -> None:
    """Missing cells are a warning with their share; where they must not be they are an error; few values are said."""
    cells = {(row, "area"): "" for row in range(50)} | {(4, "net"): "NA", (5, "rooms"): ""}
    quality = checked(cells)

    assert kinds(quality) == [("required", "net"), ("mostly missing", "area"), ("missing", "rooms")]
    assert only(quality, "mostly missing").problem.reason == "is missing in 83.3% of the rows"
    assert only(quality, "required").first_rows == (4,)


def test_missing_targets_are_set_aside(checked: Checked) -> None:
    """Rows without a target are counted as a warning, and too few with one are an error."""
    few = checked({(row, "gross"): "" for row in range(N_ROWS - MINIMUM_ROWS + 1)})

    assert kinds(checked({(2, "gross"): ""})) == [("missing target", "gross")]
    assert kinds(few) == [("too few rows", None), ("missing target", "gross")]
    assert only(few, "too few rows").problem.reason == "19 rows with 'gross'; at least 20 are needed"


def test_mostly_empty_rows_are_warnings(checked: Checked) -> None:
    """A row of which more than half of the features are missing is a warning."""
    names = ("area", "rooms", "zone", "lift", "sold")
    quality = checked({(6, name): "" for name in names})

    assert ("mostly empty row", None) in kinds(quality)
    assert only(quality, "mostly empty row").first_rows == (6,)


def test_columns_are_compared_with_the_description(checked: Checked) -> None:
    """A described column that the table lacks is an error, one that is not described a warning."""
    quality = checked(header=HEADER.replace("zone", "area2"))

    assert kinds(quality) == [("lacking column", "zone"), ("unknown column", "area2")]


def test_repeated_rows_are_warnings(checked: Checked) -> None:
    """The second of two equal rows is a duplicate, and has the first one's identifier."""
    rows = houses()
    quality = checked(rows=[*rows, rows[3], rows[3], rows[8]])

    assert kinds(quality) == [("duplicate row", None), ("duplicate identifier", "id")]
    assert only(quality, "duplicate row").first_rows == (60, 61, 62)
    assert only(quality, "duplicate row").problem.reason == "repeats an earlier row"


def test_contradicting_rows_are_warnings(checked: Checked) -> None:
    """Equal features with another target contradict an earlier row, if they are written differently, too."""
    rows = houses()
    other = [*rows[5][:-1], "99999"]
    other[0], other[1] = "new", f"{float(other[1]):.3f}"
    quality = checked(rows=[*rows, other], description=replace(HOUSES, rules=()))

    assert ("contradiction", "gross") in kinds(quality)
    assert only(quality, "contradiction").first_rows == (60,)


def test_equal_columns_are_warnings(checked: Checked) -> None:
    """A column that is another one, row for row, is named with it."""
    rows = [[*house(number), house(number)[1]] for number in range(N_ROWS)]
    description = replace(HOUSES, columns=(*COLUMNS, ColumnDescription("size", "number")))
    quality = checked(rows=rows, header=f"{HEADER},size", description=description)

    assert kinds(quality) == [("equal columns", "size")]
    assert only(quality, "equal columns").problem.reason == "is the same as area, row for row"


def test_columns_that_are_the_same_but_for_gaps_or_a_factor_are_warnings(checked: Checked) -> None:
    """A copy with gaps and a column in another unit are named with the earlier column; likeness by chance is not."""
    names = ("g", "kg", "partly", "mostly", "few", "bit", "square")
    description = Description(tuple(ColumnDescription(name, "number") for name in names))
    rows = []
    for number in range(60):
        grams = 2700 + 25 * (number * 37 % 60)
        partly = "" if number % 4 == 0 else str(grams)
        mostly = str(grams if number != 1 else 1)
        few = str(grams) if number < 9 else ""
        rows.append([str(grams), f"{grams / 1000:.3f}", partly, mostly, few, str(number % 2), str(number**2)])
    quality = checked(rows=rows, header=",".join(names), description=description)

    found = [(each.problem.feature, each.problem.reason) for each in quality.findings if each.kind == "equal columns"]
    assert found == [
        ("kg", "is g / 1000 in all 60 rows that have both"),
        ("partly", "is the same as g in all 45 rows that have both"),
    ]


def test_column_with_the_same_values_in_other_rows_is_not_equal(checked: Checked) -> None:
    """A column is no other one if the same values stand in other rows."""
    areas = [house(number)[1] for number in range(N_ROWS)]
    rows = [[*house(number), area] for number, area in enumerate([*areas[1:], areas[0]])]
    description = replace(HOUSES, columns=(*COLUMNS, ColumnDescription("size", "number")))

    assert "equal columns" not in dict(kinds(checked(rows=rows, header=f"{HEADER},size", description=description)))


def test_rules_are_formulas(checked: Checked) -> None:
    """A row for which a rule is not true is an error, one with a missing cell is not, and sums hold within rounding."""
    quality = checked({(1, "tax"): "191.2", (2, "tax"): ""})

    assert kinds(quality) == [("broken rule", None), ("missing", "tax")]
    assert only(quality, "broken rule").first_rows == (1,)
    assert only(quality, "broken rule").problem.reason == "breaks the rule: the sum (net + tax == gross)"


@pytest.mark.parametrize("formula", ["net +", "net > height", "net + tax", "zone > 3", "zone == 'Nirgends'"])
def test_rule_that_cannot_be_checked_is_an_error(checked: Checked, formula: str) -> None:
    """A rule that is no comparison of columns of the table is an error, which names it."""
    quality = checked(description=replace(HOUSES, rules=(Rule(formula), Rule("net < 0"))))

    assert kinds(quality) == [("unchecked rule", None), ("broken rule", None)]
    assert formula.split()[0] in only(quality, "unchecked rule").problem.reason
    assert only(quality, "broken rule").n_rows == N_ROWS


def test_variants_of_a_category_are_warnings(checked: Checked) -> None:
    """Categories that differ only in case or spaces are named together."""
    free = replace(HOUSES, columns=tuple(replace(each, allowed=()) for each in COLUMNS))
    quality = checked({(4, "zone"): "NORD", (5, "zone"): "süd"}, description=free)

    assert kinds(quality) == [("spelling", "zone")]
    assert only(quality, "spelling").first_rows == (4, 5)
    assert "'Nord' and 'NORD'" in only(quality, "spelling").problem.reason


def test_age_of_the_newest_row_is_checked(checked: Checked) -> None:
    """A table whose newest row is older than allowed is an error; one that is as old is not."""
    quality = checked(today=date(2026, 3, 1))

    assert kinds(checked(today=date(2026, 2, 27))) == []
    assert kinds(quality) == [("too old", "sold")]
    assert quality.age is not None
    assert (quality.age.days, quality.age.n_older, quality.age.n_rows) == (32, 60, 60)
    assert only(quality, "too old").problem.reason == "the newest row is 32 days old; at most 30 are allowed"


@pytest.mark.parametrize("column", ["", "when", "zone"])
def test_maximum_age_needs_a_column_of_dates(checked: Checked, column: str) -> None:
    """A maximum age without a column of dates is an error."""
    assert [kind for kind, _ in kinds(checked(description=replace(HOUSES, date=column)))] == ["no date column"]


def test_target_of_one_value_is_an_error(checked: Checked) -> None:
    """There is nothing to learn of a target that is always the same."""
    cells = {(row, "gross"): "5" for row in range(N_ROWS)}

    assert kinds(checked(cells, description=replace(HOUSES, rules=()))) == [("constant target", "gross")]


def test_every_kind_has_a_dimension_and_a_remedy() -> None:
    """Each kind of finding belongs to one of the four dimensions, and says what to do."""
    assert {dimension for dimension, _ in KINDS.values()} == set(DIMENSIONS)
    assert all(remedy for _, remedy in KINDS.values())


def test_allowed_values_are_of_the_type_of_the_column(checked: Checked) -> None:
    """Booleans and dates are compared as such; an allowed value that is none of its column's type is refused."""
    allowed = {"lift": ("yes",), "sold": ("2026-01-01", "2026-01-02T00:00:00Z")}
    columns = tuple(replace(each, allowed=allowed.get(each.name, each.allowed)) for each in COLUMNS)
    rows = [row for row in houses() if row[4] != "false" and row[5] <= "2026-01-02"] * 20
    quality = checked(rows=[*rows, house(1)], description=replace(HOUSES, columns=columns))
    wrong = tuple(replace(each, allowed=("x",)) if each.name == "rooms" else each for each in COLUMNS)

    assert [(found.kind, found.problem.feature) for found in quality.errors] == [("not allowed", "lift")]
    with pytest.raises(DataError, match="column 'rooms' allows 'x', which is not a whole number"):
        checked(description=replace(HOUSES, columns=wrong))


def test_document_explains_every_kind() -> None:
    """docs/quality.md has a line for each kind of finding, in the order of its dimensions, and for no other."""
    lines = re.findall(r"^\| `(.+?)` \| (error|warning) \|", (ROOT / "docs" / "quality.md").read_text(), re.MULTILINE)

    assert sorted(kind for kind, _ in lines) == sorted(KINDS)
