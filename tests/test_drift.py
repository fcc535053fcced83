"""The reference bins: a training distribution as edges and shares that live values can be counted into."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import evaluate
from model.datasets import BOSTON_HOUSING, read
from model.drift import BINS, bin_numbers, reference_bins

finite = st.floats(allow_nan=False, allow_infinity=False)
# Many ties, as measurements have them, or none.
columns = st.lists(finite, min_size=1, max_size=80) | st.lists(st.integers(0, 15).map(float), min_size=1, max_size=80)


@pytest.fixture(scope="module")
def reference(store: Path) -> dict[str, Any]:
    """The reference of the trained artifact."""
    facts: dict[str, Any] = json.loads((store / "boston-housing" / "1" / "reference.json").read_text())
    return facts


def plain_bin(value: float, edges: list[float]) -> int:
    """Return the number of the first edge that is not below the value, one by one."""
    return next((number for number, edge in enumerate(edges) if value <= edge), len(edges))


@given(values=columns)
def test_reference_is_a_distribution(values: list[float]) -> None:
    """Edges are values that occur and rise strictly to the largest; at most ten shares sum to 1, none of them 0."""
    found: dict[str, Any] = reference_bins(np.array(values))
    edges, shares = found["edges"], found["shares"]

    assert found["minimum"] == min(values)
    assert edges[-1] == max(values)
    assert edges == sorted(set(edges))
    assert set(edges) <= set(values)
    assert len(shares) == len(edges) <= BINS
    assert min(shares) > 0
    assert math.fsum(shares) == pytest.approx(1, abs=1e-12)


@given(values=columns)
def test_shares_are_what_counting_gives(values: list[float]) -> None:
    """The share of a bin is the share of the values that counting them one by one puts there."""
    found = reference_bins(np.array(values))
    counts = [0] * len(found["edges"])
    for value in values:
        counts[plain_bin(value, found["edges"])] += 1

    assert found["shares"] == [count / len(values) for count in counts]


@given(values=st.lists(st.floats(allow_nan=False), max_size=40), edges=st.sets(finite, min_size=1, max_size=12))
def test_bin_numbers_are_the_plain_definition(values: list[float], edges: set[float]) -> None:
    """A value is in the bin of the first edge that is not below it, or above them all; edges and infinities too."""
    ordered = sorted(edges)
    cells = [*values, *ordered, math.inf, -math.inf]

    assert bin_numbers(np.array(cells), np.array(ordered)).tolist() == [plain_bin(cell, ordered) for cell in cells]


@pytest.mark.parametrize("ones", [1, 5, 50, 95, 99])
def test_two_values_have_a_bin_each(ones: int) -> None:
    """A 0/1 column keeps its two values apart, however rare either is."""
    values = np.array([0.0] * (100 - ones) + [1.0] * ones)

    assert reference_bins(values)["edges"] == [0.0, 1.0]
    assert reference_bins(values)["shares"] == [(100 - ones) / 100, ones / 100]


def test_values_without_ties_fall_evenly() -> None:
    """The bins of a column without ties hold a tenth each, give or take a row."""
    values = np.random.default_rng(1).permutation(1000) / 7

    assert reference_bins(values)["shares"] == pytest.approx([0.1] * 10, abs=0.0011)


def test_constant_column_is_one_bin() -> None:
    """A column of one value is one bin that holds everything."""
    assert reference_bins(np.full(30, 7.5)) == {"minimum": 7.5, "edges": [7.5], "shares": [1.0]}


def test_artifact_has_every_feature_and_the_prediction(
    reference: dict[str, Any], pipeline: Any, houses: pd.DataFrame
) -> None:
    """The artifact's reference has the bins of every feature and of the predictions, all of the training rows."""
    table = read(BOSTON_HOUSING)
    X = evaluate.split(table.X, table.y).X_train

    assert list(reference) == ["features", "prediction"]
    assert reference["features"] == {name: reference_bins(column) for name, column in zip(houses.columns, X.T)}
    assert reference["prediction"] == reference_bins(pipeline.predict(X))
