"""What columns are taken for, by which evidence, and how a description is kept in a schema file."""

from __future__ import annotations

import gzip
import math
import re
import tomllib
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomlkit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.cli.main import main
from model.engine.formulas import Derived
from model.errors import DataError
from model.table import recipes, schema_file
from model.table.description import CSV, TYPES, ColumnDescription, Description, Dialect, Rule
from model.table.infer import Described, describe
from model.table.reader import open_table
from tests.support.readme import PAGES

N_ROWS = 60


def column(cells: Callable[[int], object], name: str = "c") -> list[str]:
    """Return a column's name and its cells, by their rows."""
    return [name, *(str(cells(row)) for row in range(N_ROWS))]


def table(folder: Path, *columns: list[str], separator: str = ";") -> Path:
    """Write columns as a table."""
    path = folder / "table.csv"
    path.write_text("".join(separator.join(cells) + "\n" for cells in zip(*columns)))
    return path


def described(folder: Path, *columns: list[str], separator: str = ";", **options: object) -> Described:
    """Return what is said of a table with these columns, after one that makes it a table."""
    path = table(folder, column(lambda row: f"word{row % 7}", "words"), *columns, separator=separator)
    with open_table(path) as relation:
        return describe(relation, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cells", "type", "used", "why"),
    [
        (lambda row: row * 1.5, "number", True, "all cells are numbers"),
        (lambda row: row % 9 * 7, "integer", True, "whole numbers"),
        (lambda row: row + 1, "identifier", False, "numbers its rows from 1 to 60"),
        (lambda row: row % 2, "integer", True, "whole numbers"),
        (lambda row: ["yes", "No"][row % 2], "boolean", True, "no or yes"),
        (lambda row: ["TRUE", "false"][row % 2], "boolean", True, "false or true"),
        (lambda row: ["red", "blue", ""][row % 3], "category", True, "2 different texts"),
        (lambda row: f"{row % 5:05d}", "category", True, "'00000' begins with 0"),
        (lambda row: f"id-{row}", "identifier", False, "60 different values in 60 cells"),
        (lambda row: f"a long sentence about the house number {row}", "text", False, "free text"),
        (lambda row: "same", "category", False, "is constant; 1 text"),
        (lambda row: "", "text", False, "is empty"),
        (lambda row: row % 7 if row > 55 else "NA", "integer", False, "93.3% of it is missing"),
        (lambda row: f"2026-01-{row % 28 + 1:02d}", "date", True, "ISO 8601"),
        (lambda row: f"{row % 28 + 1}.3.2026", "date", True, "%d.%m.%Y"),
        (lambda row: f"{row % 28 + 1}/3/2026", "date", True, "%d/%m/%Y, as '"),
        (lambda row: f"3/{row % 28 + 1}/2026", "date", True, "%m/%d/%Y, as '"),
        (lambda row: f"{row % 9 + 1}/3/2026", "text", False, "cannot be told apart"),
        (lambda row: f"{row % 28 + 1} Mar 2026 14:30", "date", True, "%d %b %Y %H:%M"),
        (lambda row: 20260101 + row % 28, "date", True, "%Y%m%d"),
        (lambda row: f"{row},5", "number", True, "decimal comma"),
        (lambda row: f"{row + 1}.234,5", "number", True, "decimal comma and thousands '.'"),
        (lambda row: f"{row + 1},234.5", "number", True, "decimal point and thousands ','"),
        (lambda row: f"{row + 1} 234,5", "number", True, "decimal comma and thousands ' '"),
        (
            lambda row: "abc" if row == 7 else row * 1.5,
            "number",
            True,
            "1 cell is not a number, such as 'abc' in row 7",
        ),
        (lambda row: -999 if row % 10 == 0 else row % 9 / 4, "number", True, "-999 is there 6 times"),
        (lambda row: "?" if row % 10 == 0 else row % 9 / 4, "number", True, "'?' counts as missing"),
        (
            lambda row: "n.v." if row % 5 == 0 else row % 9 * 1.5,
            "category",
            True,
            "80.0% of the cells are numbers, the others 'n.v.'; if they mean missing, say --missing n.v., or "
            'missing = ["n.v."] in the schema file',
        ),
        (
            lambda row: ["-x-", "k A"][row % 2] if row % 5 == 0 else f"{row % 9},5",
            "category",
            True,
            "if they mean missing, say --missing=-x- --missing 'k A', or missing = [",
        ),
        (lambda row: f"a{row % 7}" if row % 3 == 0 else row % 9, "category", True, "66.7% of the cells are numbers"),
        (lambda row: "n.v." if row % 20 == 0 else row % 9 * 1.5, "number", True, "say --missing n.v., or"),
        (lambda row: -999 if row % 10 == 0 else row % 9 / 4, "number", True, "say --missing=-999, or"),
        (lambda row: f"20{row % 30:02d}-{row % 12 + 1:02d}", "date", True, "in the format %Y-%m; gives year, month, "),
        (lambda row: f"{row % 12 + 1}/2022", "date", True, "in the format %m/%Y; gives month, days"),
        (lambda row: f"{4711 + row % 3}-{row % 12 + 1:02d}", "category", True, "12 different texts"),
    ],
)
def test_what_a_column_is(tmp_path: Path, cells: Callable[[int], object], type: str, used: bool, why: str) -> None:
    """Each kind of column is recognised, and the reason says by what."""
    found = described(tmp_path, column(cells)).description.column("c")

    assert (found.type, found.use) == (type, used)
    assert why in found.reason


@pytest.mark.parametrize(
    ("other", "separator", "decimal", "thousands"),
    [
        (lambda row: f"{row},25", ";", ",", ""),  # a comma that is a decimal mark elsewhere
        (lambda row: f"{row + 1},234.25", ";", ".", ","),
        (lambda row: f"{row}.25", ";", ".", ","),
        (lambda row: "x", ";", ",", ""),  # a guess by the separator
        (lambda row: "x", "\t", ".", ","),
    ],
)
def test_ambiguous_numbers_go_by_the_other_columns(
    tmp_path: Path, other: Callable[[int], object], separator: str, decimal: str, thousands: str
) -> None:
    """What 1,234 means is decided by the other columns, and otherwise guessed and said."""
    columns = [column(lambda row: f"{row + 1},234"), column(other, "other")]

    found = described(tmp_path, *columns, separator=separator)

    assert (found.description.column("c").decimal, found.description.column("c").thousands) == (decimal, thousands)
    guessed = [note for note in found.notes if "1,234 was taken for" in note]
    assert bool(guessed) == (other(0) == "x")


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        (lambda row: row * 7 % 60 * 2, "has the target's values"),
        (lambda row: (row * 7 % 60) * 3.6 + 32, "rises with the target"),
        (lambda row: 1 / (row * 7 % 60 + 1), "falls with the target"),
    ],
)
def test_copies_of_the_target_are_left_out(tmp_path: Path, cells: Callable[[int], object], why: str) -> None:
    """A column from which the target follows is left out, and named; one that is only near it is not."""
    target = column(lambda row: row * 7 % 60 * 2, "y")
    near = column(lambda row: row * 7 % 60 * 2 + row % 3 * 5, "near")

    found = described(tmp_path, column(cells), near, target, target="y").description

    assert not found.column("c").use
    assert why in found.column("c").reason
    assert found.column("near").use


def test_category_that_determines_the_target_is_left_out(tmp_path: Path) -> None:
    """A category whose every value stands beside one target is left out."""
    columns = [column(lambda row: "abcdef"[row % 6]), column(lambda row: "nsw"[row % 3], "y")]

    found = described(tmp_path, *columns, target="y").description.column("c")

    assert not found.use
    assert "determines the target" in found.reason


def test_date_becomes_the_parts_that_vary(tmp_path: Path) -> None:
    """A date gives the parts that are not the same in all rows, as formulas that the server computes."""
    found = described(tmp_path, column(lambda row: f"2026-{row % 2 + 1:02d}-05", "sold")).description

    assert found.column("sold").parts == ("month", "weekday", "days")
    assert [(part.name, part.formula) for part in found.parts][:1] == [("sold_month", "month(sold)")]


@pytest.mark.parametrize(
    ("as_type", "type", "used", "format"),
    [
        ("category", "category", True, ""),
        ("ignore", "text", False, ""),
        ("date:%m/%d/%Y", "date", True, "%m/%d/%Y"),
        ("text", "text", False, ""),
    ],
)
def test_correction_holds(tmp_path: Path, as_type: str, type: str, used: bool, format: str) -> None:
    """What a person says of a column holds."""
    cells = column(lambda row: f"{row % 9 + 1}/3/2026")

    found = described(tmp_path, cells, types={"c": as_type}).description.column("c")

    assert (found.type, found.use, found.format) == (type, used, format)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"types": {"c": "dates"}}, "cannot be 'dates'"),
        ({"types": {"x": "date"}}, "no column 'x'"),
        ({"target": "word"}, "the nearest is 'words'"),
        ({"types": {"c": "date:%d"}}, "does not have the year"),
        ({"types": {"c": "date"}}, "cannot be told apart"),
    ],
)
def test_correction_that_cannot_be(tmp_path: Path, options: dict[str, object], part: str) -> None:
    """A correction that is none, or of no column, is an error that says what to do."""
    with pytest.raises(DataError, match=part):
        described(tmp_path, column(lambda row: f"{row % 9 + 1}/3/2026"), **options)  # type: ignore[arg-type]


def test_known_columns_stay_as_they_are(tmp_path: Path) -> None:
    """What a schema file says of a column is not decided again; columns that it lacks are added."""
    known = Description((ColumnDescription("c", "category", unit="m"),), target="other", title="Houses")

    found = described(tmp_path, column(lambda row: row % 5), column(lambda row: row * 0.5, "other"), known=known)

    assert found.description.title == "Houses"
    assert found.description.target == "other"
    assert replace(found.description.column("c"), reason="") == known.columns[0]
    assert found.description.column("other").type == "number"


def test_texts_of_a_schema_file_count_as_missing(tmp_path: Path) -> None:
    """In a column of a schema file the texts that the file lists are missing, beside those that are in any table."""
    cells = column(lambda row: ["n.v.", "-", ""][row % 3] if row < 9 else row % 9 * 1.5)
    known = Description((ColumnDescription("c", missing=("n.v.", "unknown")),))
    found = described(tmp_path, cells, known=known)

    (each,) = [found for found in found.found if found.column.name == "c"]
    assert each.n_missing == 6
    assert each.column.missing == ("n.v.", "unknown")
    assert each.column.reason == "as the schema file says; 'n.v.' counts as missing"


def test_text_that_is_odd_in_another_column_is_named(tmp_path: Path) -> None:
    """A category that is a wrong cell of another column is named, with how to say that it means missing."""
    age = column(lambda row: "n.v." if row % 20 == 0 else row % 9 * 1.5, "age")
    island = column(lambda row: "n.v." if row % 30 == 1 else f"island{row % 3}", "island")
    found = described(tmp_path, island, age)

    assert found.description.column("island").reason.endswith(
        "'n.v.' is there 2 times; in the column 'age' it seems to mean missing; "
        'if they mean missing, say --missing n.v., or missing = ["n.v."] in the schema file'
    )
    assert "n.v." not in found.description.column("words").reason
    assert "n.v." not in described(tmp_path, island).description.column("island").reason


def test_texts_that_mean_missing(tmp_path: Path) -> None:
    """A text that a person names is a missing value wherever it stands, also in columns that a schema file has."""
    cells = column(lambda row: "n.v." if row % 5 == 0 else row % 9 * 1.5)
    other = column(lambda row: "k.A." if row % 4 else row % 5, "other")
    known = Description((ColumnDescription("other", "integer", missing=("-",)), ColumnDescription("words", "category")))

    found = described(tmp_path, cells, other, missing=["n.v.", " k.A. "], known=known)

    assert (found.description.column("c").type, found.description.column("c").missing) == ("number", ("n.v.",))
    assert found.description.column("other").missing == ("-", "k.A.")
    assert {each.column.name: each.n_missing for each in found.found} == {"words": 0, "c": 12, "other": 45}
    with pytest.raises(DataError, match=r"no cell 'N\.V\.'"):
        described(tmp_path, cells, missing=["N.V."])


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        (lambda row: f"id-{row}", "is of the type identifier, which cannot be predicted"),
        (lambda row: row + 1, "is of the type identifier, which cannot be predicted"),
        (lambda row: f"a long sentence about the house number {row}", "is of the type text, which cannot be predicted"),
        (lambda row: f"2026-01-{row % 28 + 1:02d}", "is of the type date, which cannot be predicted"),
        (lambda row: "", "has no value"),
        (lambda row: 7, "has only one value"),
        (lambda row: row % 7, ""),
    ],
)
def test_target_that_cannot_be_predicted_is_named(tmp_path: Path, cells: Callable[[int], object], why: str) -> None:
    """What a target is taken for stays, and a note says why it cannot be predicted; it is not left out."""
    found = described(tmp_path, column(cells, "y"), target="y")

    assert [note for note in found.notes if note.startswith("the target 'y'")] == [
        note for note in found.notes if why and why in note
    ]
    assert any(why in note for note in found.notes) or not why
    assert found.description.column("y").use


@pytest.mark.parametrize("place", ["name", "cell", "target"])
def test_text_of_a_table_breaks_no_line_of_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    """Newlines, escapes of a terminal and invisible characters are shown escaped, in a line of its column."""
    hostile = "a\nb\x1b[31m\u202e\u2028z"
    name = "size" if place == "cell" else hostile
    cell = hostile if place == "cell" else "z"
    path = tmp_path / "table.csv"
    rows = [f'{row},"{cell if row % 5 else ""}",{row % 9}\n' for row in range(60)]
    path.write_text(f'row,"{name}",y\n{"".join(rows)}')
    target = hostile if place == "target" else "y"

    assert main(["describe", str(path), "--target", target]) == 0
    assert main(["check", str(path), "--target", target]) in (0, 1)
    output = capsys.readouterr().out
    assert r"a\nb\x1b[31m\u202e\u2028z" in output
    assert [line for line in output.split("\n") if not line.isprintable()] == []
    assert not any(line.startswith("b") for line in output.split("\n"))


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
LIMITS = st.floats(allow_nan=False)
OPTIONS = st.dictionaries(TEXTS, st.integers(-(2**60), 2**60) | st.booleans() | st.lists(st.integers(0, 9)), max_size=2)


@st.composite
def columns(draw: st.DrawFn, name: str) -> ColumnDescription:
    """Return any column of a description."""
    type = draw(st.sampled_from([each for each in TYPES if each != "date"]))
    low, high = sorted(draw(st.tuples(LIMITS, LIMITS)))
    return ColumnDescription(
        name,
        type,
        use=draw(st.booleans()),
        unit=draw(TEXTS),
        description=draw(TEXTS),
        minimum=low,
        maximum=high,
        allowed=tuple(draw(st.lists(TEXTS | st.integers(-9, 9) | st.floats(allow_nan=False), max_size=3))),
        missing=tuple(draw(st.lists(TEXTS, max_size=2))),
        format=draw(st.sampled_from(["", "%d.%m.%Y"])),
        decimal=draw(st.sampled_from(["", ".", ","])),
        required=draw(st.booleans()),
    )


@st.composite
def descriptions(draw: st.DrawFn) -> Description:
    """Return any description."""
    names = draw(st.lists(TEXTS.filter(bool), min_size=1, max_size=4, unique=True))
    quoted = f"`{names[0].replace('`', '``')}`"
    return Description(
        (ColumnDescription(names[0]), *(draw(columns(name)) for name in names[1:])),
        dialect=draw(st.none() | st.builds(Dialect, separator=st.sampled_from(",;\t"), header=st.booleans())),
        target=draw(st.sampled_from(["", *names])),
        task=draw(st.sampled_from(["", "regression", "classification"])),
        date=draw(st.sampled_from(["", *names])),
        max_age_days=draw(st.none() | st.integers(0, 999)),
        title=draw(TEXTS),
        purpose=draw(TEXTS),
        limits=draw(TEXTS),
        license=draw(TEXTS),
        options=draw(OPTIONS),
        rules=tuple(draw(st.lists(st.just(Rule(f"{quoted} > 0", "positive")), max_size=2))),
        features=(Derived("a name of its own for it", f"{quoted} + 1", "me"),) if draw(st.booleans()) else (),
    )


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(descriptions())
def test_schema_file_gives_the_description_back(description: Description) -> None:
    """A description that is written to a schema file is read back, reasons aside."""
    described = replace(description, columns=tuple(replace(each, reason="why\n ]") for each in description.columns))

    assert schema_file.parse(schema_file.render(described)) == description


def test_limits_of_dates_are_dates_in_the_file() -> None:
    """The limits of a date are written as dates, and read as texts or as TOML's own dates."""
    column = ColumnDescription("sold", "date", minimum=1_767_225_600.0)
    text = schema_file.render(Description((column,)))

    assert 'minimum = "2026-01-01"' in text
    assert schema_file.parse(text).columns == (column,)
    assert schema_file.parse(text.replace('"2026-01-01"', "2026-01-01")).columns == (column,)


def test_reason_is_a_comment() -> None:
    """A schema file says beside a column's type why it was taken for it."""
    text = schema_file.render(Description((ColumnDescription("a", "integer", reason="all cells are whole numbers"),)))

    assert 'type = "integer" # all cells are whole numbers' in text


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a = [", ["is not TOML", "line 1"]),
        ("", ["there is no column"]),
        ('target = "x"\n[columns.y]\n', ["line 1", "the target 'x' is no column"]),
        ("[columns.y]\nminmum = 3\nuse = 1\n", ["2 faults", "line 2", "'minimum'", "line 3", "true or false"]),
        ('[columns.y]\ntype = "numbr"\n', ["line 2", "the nearest is 'number'"]),
        ("[columns.y]\nminimum = 3\nmaximum = 2\n", ["line 2", "larger than its maximum"]),
        ('[columns.y]\n[[rules]]\nformula = "y >"\n', ["line 3", "'y >'"]),
        ('[columns.y]\n[[rules]]\nformula = "z > 1"\n', ["line 3", "'z'"]),
        ('[columns.y]\n[[features]]\nformula = "y + 1"\n', ["line 2", "no name"]),
        ('[columns.y]\n[[features]]\nname = "y"\nformula = "y + 1"\n', ["line 3", "name of another column"]),
        ("columns = 3\n", ["columns is 3", "a table"]),
        ("[columns]\ny = 3\n", ["line 2", "no table"]),
        ('[columns.y]\nparts = ["moon"]\n', ["line 2", "'moon'"]),
        ("[columns.y]\nparts = [1]\n", ["line 2", "parts"]),
        ('[columns.y]\nformat = "%d"\n', ["line 2", "does not have the year"]),
        ('task = "ranking"\n[columns.y]\n', ["line 1", "classification"]),
        ('[dialect]\nseparator = ",,"\n[columns.y]\n', ["line 2", "one character"]),
        ('[dialect]\nseparator = "\'"\nquote = "\'"\n[columns.y]\n', ["line 3", "must differ"]),
        ('[dialect]\nencoding = "utf-5"\n[columns.y]\n', ["line 2", "'utf-5' is not known"]),
        ('[columns.y]\ndecimal = ")"\n', ["line 2", "decimal in columns.y is ')', and not a point or a comma"]),
        ('[columns.y]\ndecimal = ","\nthousands = ","\n', ["line 3", "thousands in columns.y", "other than the"]),
        ("[columns.y]\nallowed = [1, nan]\n", ["line 2", "allowed in columns.y has nan"]),
        ("max_age_days = 1000000000\n[columns.y]\n", ["line 1", "not from 0 to 999,999"]),
    ],
)
def test_faults_of_a_schema_file(text: str, parts: list[str]) -> None:
    """Every fault of a schema file is named with its line, and with the nearest key where there is one."""
    with pytest.raises(DataError) as raised:
        schema_file.parse(text)

    assert [part for part in parts if part not in str(raised.value)] == []


VALUES = st.sampled_from(
    [
        *(
            1,
            -1,
            0,
            2**70,
            1.5,
            math.inf,
            math.nan,
            True,
            "",
            "x",
            "a\nb",
            "-",
            [],
            [1],
            ["x"],
            [[1]],
            [True],
            [math.nan],
        ),
        *({}, {"a": 1}, date(2026, 1, 1), time(1, 2), datetime(2026, 1, 1, tzinfo=UTC), [date(2026, 1, 1)], [1.5, "x"]),
    ]
)


def places(facts: object, before: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the path of every value in tables and lists."""
    inner = facts.items() if isinstance(facts, dict) else enumerate(facts) if isinstance(facts, list) else ()
    return [path for key, value in inner for path in [(*before, key), *places(value, (*before, key))]]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_value_of_a_schema_file_is_accepted_or_named(data: st.DataObject) -> None:
    """A value that cannot be is an error that names its key."""
    facts = tomllib.loads(re.findall(r"```toml\n(.*?)```", PAGES["tables.md"], re.DOTALL)[0])
    *path, last = data.draw(st.sampled_from(places(facts)))
    inner: Any = facts
    for key in path:
        inner = inner[key]
    inner[last] = data.draw(VALUES)

    said = ""
    try:
        schema_file.parse(tomlkit.dumps(facts))
    except DataError as error:
        said = str(error)

    assert not said or [str(key) for key in (*path, last) if isinstance(key, str)][-1] in said


def test_schema_file_of_the_docs_has_every_key() -> None:
    """The schema file in docs/tables.md is one, and has each key that there is."""
    text = re.findall(r"```toml\n(.*?)```", PAGES["tables.md"], re.DOTALL)[0]

    assert schema_file.parse(text).name == "houses"
    every = [each.name for kind in (Description, ColumnDescription, Dialect, Rule, Derived) for each in fields(kind)]
    absent = [key for key in every if not re.search(rf"^(\[+)?{key}\b", text, re.MULTILINE)]
    assert absent == ["reason"]  # which is a comment


def test_examples_have_descriptions() -> None:
    """Both examples are schema files with a table and a notebook; each column of the table is described."""
    assert recipes.names() == ("boston-housing", "height-weight")
    for name in recipes.names():
        description = recipes.find(name)
        with open_table(description.data, **(description.dialect or Dialect(CSV)).options) as relation:
            assert relation.names == tuple(column.name for column in description.columns)
        assert Path(description.notebook).is_file()
        assert description.name == name


def test_name_that_is_no_example() -> None:
    """A name that is not known is an error with the nearest one."""
    with pytest.raises(DataError, match="the nearest is 'boston-housing'"):
        recipes.find("boston-houses")


def test_heights_and_weights_have_the_published_moments() -> None:
    """The simulated table has 25,000 rows with the sample moments of the published one, to seven digits."""
    text = gzip.decompress((recipes.FOLDER / "height_weight.csv.gz").read_bytes()).decode()
    header, *lines = text.splitlines()
    rows = np.array([line.split(",") for line in lines], dtype=np.float64)

    assert header == "Height-Inches,Weight-Pounds"
    assert rows.shape == (25_000, 2)
    np.testing.assert_allclose(rows.mean(axis=0), [67.993114, 127.079421], atol=1e-6)
    np.testing.assert_allclose(rows.std(axis=0, ddof=1), [1.901679, 11.660898], atol=1e-6)
    assert math.isclose(float(np.asarray(np.corrcoef(rows.T))[0, 1]), 0.5028585, abs_tol=1e-6)


def test_command_writes_a_schema_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`describe` prints a line a column, and writes a schema file that it takes back."""
    path = table(tmp_path, column(lambda row: row * 0.5, "size"), column(lambda row: f"{row % 5}", "zone"))
    file = tmp_path / "houses.toml"

    assert main(["describe", str(path), "--target", "size", "--as", "zone=category", "--out", str(file)]) == 0
    assert "zone    category" in capsys.readouterr().out
    assert main(["describe", str(path), "--schema", str(file)]) == 0
    assert "as the schema file says" in capsys.readouterr().out
    assert main(["describe", str(path), "--schema", str(file), "--out", "-"]) == 0
    assert schema_file.parse(capsys.readouterr().out).target == "size"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is no table, and a schema file that cannot be written, are one error and exit status 1."""
    path = table(tmp_path, column(lambda row: row))

    assert main(["describe", str(tmp_path / "none.csv")]) == 1
    assert main(["describe", str(path), "--out", str(tmp_path / "none" / "a.toml")]) == 1
    assert capsys.readouterr().err.count("error: ") == 2
