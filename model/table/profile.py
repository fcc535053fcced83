"""What the columns of a table hold: how much is missing, where most values lie, and which are far from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model.plots.bins import are_whole, histogram
from model.schema.feature import BOOLEAN, DATE, INTEGER, NUMBER
from model.table.cells import CELLS, DAY, Cells, has_value, literal
from model.table.description import ColumnDescription

# Rows that quartiles and pictures are made of; all rows of a table that has no more. A hash of its number draws a row.
SAMPLE_ROWS = 100_000
# Times the distance of the quartiles, beyond them: of normal values about one in 50 billion is so far.
OUTLIER_DISTANCE = 5.0
# With fewer values quartiles say little.
_MINIMUM_VALUES = 20
_N_BINS = 24
EXACT_DISTINCT = 1_000
"""Fewer different values than that are counted; the others are estimated."""
_N_TEXTS = 8

# What stands for a missing value in many a file, if no other value is near.
_MARKERS = (-99.0, -999.0, -9999.0, -99999.0, -999999.0, 999.0, 9999.0, 99999.0, 999999.0)
# 1899-12-30 and 31, 1900-01-01, 1970-01-01, 2099-12-31 and 9999-12-31, with which spreadsheets and databases fill up.
_DATE_MARKERS = tuple(DAY * days for days in (-25569.0, -25568.0, -25567.0, 0.0, 47481.0, 2932896.0))


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """What one column holds. Dates are seconds since 1970-01-01 UTC.

    `n_known` counts cells that are not missing, `n_values` those of the column's type. `n_distinct` is how many
    different ones there are, about that if they are 1,000 or more. `quartiles` are of a sample. What is outside
    `limits` is an outlier; `in_logarithms` says that they are at equal distances of the logarithm. `bins` are the ends
    of the bins of the sample's values within the limits, both of them values where these are whole numbers, and
    `counts` how many are in each; `texts` are its most frequent texts with the number of rows.
    """

    name: str
    type: str
    unit: str
    is_used: bool
    n_rows: int
    n_known: int
    n_values: int
    n_distinct: int
    minimum: float | None
    maximum: float | None
    quartiles: tuple[float, float, float] | None
    limits: tuple[float, float] | None
    in_logarithms: bool
    markers: tuple[float, ...]
    bins: tuple[tuple[float, float], ...]
    counts: tuple[int, ...]
    texts: tuple[tuple[str, int], ...]

    @property
    def n_missing(self) -> int:
        return self.n_rows - self.n_known

    @property
    def missing(self) -> float:
        """Return the share of the rows that is missing."""
        return self.n_missing / self.n_rows if self.n_rows else 0.0


def profiles_of(cells: Cells) -> tuple[ColumnProfile, ...]:
    """Return what each column holds, in the order of the table."""
    expressions = []
    for column in cells.columns:
        value = cells.value(column.name)
        expressions += [f"count(*) FILTER (WHERE {cells.known(column.name)})", f"approx_count_distinct({value})"]
        if has_value(column):
            finite = f"FILTER (WHERE isfinite({value}))"
            others = f"isfinite({value}) AND {value} NOT IN ({', '.join(map(literal, _markers_of(column)))})"
            expressions += [f"count({value})", f"min({value}) {finite}", f"max({value}) {finite}"]
            expressions += [f"{end}({value}) FILTER (WHERE {others})" for end in ("min", "max")]
    found = iter(cells.in_batches(expressions))
    figures_of = {column.name: [next(found) for _ in range(7 if has_value(column) else 2)] for column in cells.columns}
    few = [name for name, figures in figures_of.items() if figures[1] < 1.5 * EXACT_DISTINCT]
    exact = dict(zip(few, cells.in_batches([f"count(DISTINCT {cells.value(name)})" for name in few])))
    sample = _sample(cells)
    profiles = []
    for column in cells.columns:
        n_known, n_distinct, *of_values = figures_of[column.name]
        figures = [n_known, exact.get(column.name, n_distinct), *of_values]
        used = column in cells.checked
        profiles.append(_profile(column, used, cells.relation.n_rows, figures, sample[column.name]))
    return tuple(profiles)


def _sample(cells: Cells) -> pd.DataFrame:
    """Return the values, or texts, of the rows that are drawn."""
    every = -(-cells.relation.n_rows // SAMPLE_ROWS)
    drawn = f"WHERE hash(row) % {every} = 0" if every > 1 else ""
    chosen = ", ".join(["row", *(cells.value(column.name) for column in cells.columns)])
    frame = cells.relation.connection.execute(f"SELECT {chosen} FROM {CELLS} {drawn}").df()
    return frame.drop(columns="row").set_axis([column.name for column in cells.columns], axis="columns")


def _markers_of(column: ColumnDescription) -> tuple[float, ...]:
    return _DATE_MARKERS if column.type == DATE else _MARKERS


def _profile(
    column: ColumnDescription, used: bool, n_rows: int, figures: Sequence[float | None], sample: pd.Series
) -> ColumnProfile:
    n_known, n_distinct, *others = figures
    n_values, minimum, maximum, low, high = others or (n_known, None, None, None, None)
    quartiles = limits = None
    in_logarithms = False
    markers: tuple[float, ...] = ()
    bins: tuple[tuple[float, float], ...] = ()
    counts: tuple[int, ...] = ()
    texts: tuple[tuple[str, int], ...] = ()
    if has_value(column) and column.type != BOOLEAN:
        values = sample.to_numpy("float64", na_value=np.nan)
        values = values[np.isfinite(values)]
        if len(values):
            q1, median, q3 = map(float, _quantiles(values, (0.25, 0.5, 0.75)))
            quartiles = (q1, median, q3)
            if low is not None and high is not None and column.type in (NUMBER, INTEGER, DATE):
                far = max(q3 - q1, 0.0)
                markers = tuple(each for each in _markers_of(column) if each < low - far or each > high + far)
        if len(values) >= _MINIMUM_VALUES and column.type != DATE and not column.allowed:
            limits, in_logarithms = _limits(values[~np.isin(values, markers)])
            if limits is not None and low is not None and low >= 0:
                limits = (max(limits[0], 0.0), limits[1])
        bins, counts = _bins(values, limits, column.type)
    else:
        known = sample.dropna().map({0.0: "false", 1.0: "true"}.get if column.type == BOOLEAN else str)
        texts = tuple((str(text), int(count)) for text, count in known.value_counts().items())[:_N_TEXTS]
    return ColumnProfile(
        name=column.name,
        type=column.type,
        unit=column.unit,
        is_used=used,
        n_rows=n_rows,
        n_known=int(n_known or 0),
        n_values=int(n_values or 0),
        n_distinct=min(int(n_distinct or 0), int(n_known or 0)),
        minimum=minimum,
        maximum=maximum,
        quartiles=quartiles,
        limits=limits,
        in_logarithms=in_logarithms,
        markers=markers,
        bins=bins,
        counts=counts,
        texts=texts,
    )


def _limits(values: NDArray[np.float64]) -> tuple[tuple[float, float] | None, bool]:
    """Return the limits beyond which a value is an outlier, and whether they are of logarithms.

    They lie 5 times the distance of the quartiles beyond them. Values that are all positive and much further apart
    above the median than below, such as prices, are compared by their logarithms. There are none if the quartiles are
    equal.
    """
    if len(values) < _MINIMUM_VALUES:
        return None, False
    low, median, high = _quantiles(values, (0.05, 0.5, 0.95))
    in_logarithms = bool(values.min() > 0 and high - median > 2 * (median - low))
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.log(values) if in_logarithms else values
        q1, q3 = _quantiles(scaled, (0.25, 0.75))
        ends = np.array([q1 - OUTLIER_DISTANCE * (q3 - q1), q3 + OUTLIER_DISTANCE * (q3 - q1)])
        if not q3 > q1 or not np.isfinite(ends).all():
            return None, False
        ends = np.exp(ends) if in_logarithms else ends
    return (float(ends[0]), float(ends[1])), in_logarithms


def _quantiles(values: NDArray[np.float64], shares: Sequence[float]) -> list[float]:
    """Return quantiles that are values themselves, since the middle of the largest numbers overflows."""
    return [float(each) for each in np.quantile(values, shares, method="inverted_cdf")]


def _bins(
    values: NDArray[np.float64], limits: tuple[float, float] | None, type: str
) -> tuple[tuple[tuple[float, float], ...], tuple[int, ...]]:
    """Return the ends and counts of equal bins of the values within the limits."""
    if limits is not None:
        values = values[(values >= limits[0]) & (values <= limits[1])]
    if not len(values):
        return (), ()
    low, high = float(values.min()), float(values.max())
    whole = type != DATE and are_whole(values)
    if not whole and high / 2 - low / 2 <= 1e-9 * max(abs(low), abs(high)):
        return ((low, high),), (len(values),)
    counts, edges = histogram(values, _N_BINS, (low, high), whole=whole)
    half = 0.5 if whole else 0.0
    lowest, highest = edges[:-1] + half, np.minimum(edges[1:] - half, high)
    return tuple(zip(lowest.tolist(), highest.tolist())), tuple(counts.tolist())


def written(value: float | None, type: str) -> str:
    """Return a value for a person: a date as such, a number with all digits before its point, a dash for none.

    It has six digits in all if it is not whole, and no separators of thousands, which a year would have, too.
    """
    if value is None or math.isnan(value):
        return "–"
    if type == DATE:
        day = np.datetime64(0, "s") + np.timedelta64(int(value), "s")
        text = str(day)
        return text[:10] if text.endswith("T00:00:00") else text.replace("T", " ")
    is_whole = float(value).is_integer() or abs(value) >= 1e6
    return f"{value + 0.0:.0f}" if is_whole and abs(value) < 1e15 else f"{value:.6g}"
