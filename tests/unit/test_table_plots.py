"""The figures of a table are drawn for any columns, and never of more than can be read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from model.plots import table
from model.plots.style import to_png

PLOTS = (table.distributions, table.correlations, table.missing)


def frame(n_rows: int = 200) -> pd.DataFrame:
    """Return a frame with columns of all types and of odd values."""
    rng = np.random.default_rng(0)
    days = pd.to_datetime("2020-01-01") + pd.to_timedelta(rng.integers(0, 10**6, n_rows), unit="m")
    columns = pd.DataFrame(
        {
            "area $m$": np.where(np.arange(n_rows) % 4, rng.lognormal(4, 1, n_rows), np.nan),
            "same": np.ones(n_rows),
            "empty": np.full(n_rows, np.nan),
            "huge": np.where(rng.random(n_rows) < 0.5, 1.7e308, -1.7e308),
            "infinite": np.where(rng.random(n_rows) < 0.5, np.inf, 1.0),
            "zone": pd.Categorical(rng.choice(["Nord", "Süd", *map(str, range(30))], n_rows)),
            "sold": days.astype("datetime64[us]"),
        }
    )
    columns.loc[::3, "sold"] = pd.NaT
    return columns


@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.parametrize("columns", [frame(), frame().iloc[:0], frame()[["zone"]], frame().iloc[:1]])
def test_any_table_is_drawn(plot: Callable[[pd.DataFrame], Figure], columns: pd.DataFrame) -> None:
    """Numbers, categories, dates, missing and extreme values are drawn, and so is a table without rows."""
    assert to_png(plot(columns)).startswith(b"\x89PNG")


@pytest.mark.parametrize("plot", PLOTS)
def test_drawn_columns_are_bounded(plot: Callable[[pd.DataFrame], Figure]) -> None:
    """Of a wide table the first columns are drawn, and the figure says how many are not."""
    wide = pd.DataFrame(np.random.default_rng(0).random((10, table.MAX_COLUMNS + 5))).rename(columns=str)
    figure = plot(wide)

    assert figure.get_suptitle() == f"the first {table.MAX_COLUMNS} columns; 5 more are not drawn"
    assert len(figure.axes) <= table.MAX_COLUMNS + 3


def test_bars_of_whole_numbers_have_as_many_of_them_each() -> None:
    """Bins of whole numbers have edges between them, and equally many in each, so that no bar is one by chance."""
    columns = pd.DataFrame({"year": np.repeat(np.arange(1970.0, 2015), 3), "wide": np.arange(135.0)})
    year, wide = table.distributions(columns).axes[:2]

    bars = [bar for bar in year.patches if isinstance(bar, Rectangle)]
    assert [(bar.get_x(), bar.get_width(), bar.get_height()) for bar in bars] == [
        (each - 0.5, 1.0, 3) for each in range(1970, 2015)
    ]
    assert {(bar.get_width(), bar.get_height()) for bar in wide.patches if isinstance(bar, Rectangle)} == {(3.0, 3)}


def test_title_says_what_is_missing() -> None:
    """The picture of a column has its name, what share is missing, and its unit, none of them as a formula."""
    axis = table.distributions(frame(), units={"area $m$": "m²"}).axes[0]

    assert axis.get_title() == r"area \$m\$ (25.0% missing)"
    assert axis.get_xlabel() == "m²"


def test_shares_of_missing_cells_are_drawn_in_order() -> None:
    """The column with the most missing cells is on top."""
    axis = table.missing(frame()).axes[0]

    assert [label.get_text() for label in axis.get_yticklabels()][-3:] == [r"area \$m\$", "sold", "empty"]
    assert max(bar.get_width() for bar in axis.patches if isinstance(bar, Rectangle)) == 1.0


def test_correlation_of_a_column_with_itself_is_one() -> None:
    """Pearson's correlation is drawn of numbers and dates; one of a constant column is not defined."""
    axis = table.correlations(frame()).axes[0]
    matrix = np.asarray(axis.images[0].get_array())
    names = [label.get_text() for label in axis.get_xticklabels()]

    assert "zone" not in names
    assert matrix[names.index("sold"), names.index("sold")] == pytest.approx(1)
    assert np.isnan(matrix[names.index("same"), names.index("same")])
