"""How a recipe reads a table: the examples are the published ones, and a bad table is refused with its whole report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from model import Store
from model.cli.main import main
from model.errors import DataError
from model.train import recipe
from model.train.recipe import Loaded, Plan
from tests.support import tables as shared
from tests.support.examples import BOSTON_HOUSING, HEIGHT_WEIGHT, rows_of
from tests.support.service import HOUSE
from tests.support.tables import HEADER, LINES, Write

write = shared.write


def read(path: Path, **plan: object) -> Loaded:
    """Return a table of the columns of boston-housing."""
    return recipe.load(Plan(BOSTON_HOUSING, data=str(path), **plan))  # type: ignore[arg-type]


def test_built_in_table_is_the_published_one() -> None:
    """The table has the published 506 rows and 6 features in their order, and 16 rows at the cap."""
    table = recipe.load(Plan(BOSTON_HOUSING)).table

    assert list(table.frame.columns) == list(HOUSE)
    assert table.frame.shape == (506, 6)
    assert set(table.frame.dtypes) == {np.dtype("float64")}
    assert table.frame.iloc[0].to_dict() == HOUSE
    assert (table.target[0], int((table.target == 50).sum())) == (24.0, 16)
    assert np.array_equal(table.frame.to_numpy(), rows_of(BOSTON_HOUSING).X)


def test_drawn_table_is_always_the_same() -> None:
    """The table is drawn to the same bytes on every machine: a model that was trained on it can be trained again."""
    table = recipe.load(Plan(HEIGHT_WEIGHT)).table

    assert table.frame.shape == (25_000, 1)
    assert np.array_equal(table.frame.to_numpy(), rows_of(HEIGHT_WEIGHT).X)


def test_columns_are_matched_by_name(write: Write) -> None:
    """A table with its columns in another order, a byte order mark and one column more is the same table."""
    expected = read(write(LINES)).table
    lines = [f"{number},{line},{line.split(',')[0]}" for number, line in enumerate(LINES)]
    found = read(write(lines, "\ufeffindex," + HEADER.replace("CHAS", "x") + ",CHAS"))

    pd.testing.assert_frame_equal(found.table.frame[expected.frame.columns], expected.frame)
    assert [warning for warning in found.warnings if "is no column of the data set and is left out" in warning]


def test_all_errors_are_in_one_report(write: Write) -> None:
    """One `DataError` lists every error with its dimension and place, and what to do."""
    path = write(["0,six,296,15.3,396.9,4.98,24", "2,6.575,296,15.3,396.9,4.98,50.1", *LINES])
    with pytest.raises(DataError) as caught:
        read(path)

    assert "3 errors" in str(caught.value).splitlines()[0]
    for text in ("row 0, column 'RM': 'six'", "row 1, column 'CHAS'", "row 1, column 'MEDV'"):
        assert text in str(caught.value)


def test_training_on_a_bad_table_writes_nothing(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`train --data` with a bad table exits with 1 and the report on standard error, and leaves no version behind."""
    path = write([*LINES, "0,six,,15,396.9,4.98,24"])

    assert main(["--store", str(tmp_path / "store"), "train", "boston-housing", "--data", str(path)]) == 1
    output = capsys.readouterr()
    with pytest.raises(DataError) as caught:
        read(path)
    assert output.out == ""
    assert output.err == f"error: {caught.value}\n"
    assert "row 40, column 'RM': 'six'" in output.err
    assert Store(tmp_path / "store").names() == []
