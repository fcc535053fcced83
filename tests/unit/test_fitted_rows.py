"""Owns `fitted-rows.bin`: a version knows the rows that it was fitted on, and no others."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from model import NotInStoreError, Store
from model.store import fitted_rows
from model.store.artifact import read_draft
from tests.support.service import COLUMNS, TABLE

cells = st.floats(allow_infinity=False, width=64)


def example() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the rows of the example's table, and its targets."""
    table = pd.read_csv(TABLE)
    return table[COLUMNS].to_numpy(dtype=np.float64), table["MEDV"].to_numpy(dtype=np.float64)


def test_knows_the_rows_that_it_was_fitted_on(store: Path) -> None:
    """Of the example's table, a version has seen as many rows as it was fitted on, and none that was changed."""
    model = Store(store).load("boston-housing")
    X, y = example()
    seen = fitted_rows.has_seen(model, X, y, model.schema)

    assert seen.sum() == model.manifest.metrics.training.rows == 404
    assert not fitted_rows.has_seen(model, X, y + 0.125, model.schema).any()
    assert not fitted_rows.has_seen(model, np.nextafter(X, np.inf), y, model.schema).any()


def test_knows_rows_of_another_schema(store: Path) -> None:
    """A version whose schema has the columns in another order has seen the same rows."""
    model = Store(store).load("boston-housing")
    X, y = example()
    turned = replace(model.schema, features=model.schema.features[::-1])
    expected = fitted_rows.has_seen(model, X, y, model.schema)

    assert fitted_rows.has_seen(model, X[:, ::-1], y, turned).tolist() == expected.tolist()


def test_a_version_that_does_not_say_it(store: Path, tmp_path: Path) -> None:
    """Nobody can tell which rows a version without the file has seen."""
    shutil.copytree(store, tmp_path / "store")
    draft = read_draft(store / "boston-housing" / "1")
    files = {name: content for name, content in draft.files.items() if name != fitted_rows.FILE}
    Store(tmp_path / "store").add("boston-housing", replace(draft, files=files))
    model = Store(tmp_path / "store").load("boston-housing@2")

    with pytest.raises(NotInStoreError, match="boston-housing@2 does not say which rows it was fitted on"):
        fitted_rows.has_seen(model, model.golden_rows, np.zeros(len(model.golden_rows)), model.schema)


@given(arrays.arrays(np.float64, st.tuples(st.integers(1, 20), st.integers(1, 4)), elements=cells))
def test_rows_are_the_same_whatever_their_order_and_zeros(rows: NDArray[np.float64]) -> None:
    """A row has one hash: in any order of rows, for -0 and 0, and for every NaN."""
    y = np.arange(len(rows), dtype=np.float64)
    order = np.random.default_rng(len(rows)).permutation(len(rows))
    zeros = np.where(rows == 0, -rows, rows)
    zeros[np.isnan(zeros)] = np.array([0x7FF8000000000001], np.uint64).view(np.float64)[0]

    packed = fitted_rows.pack(rows, y)
    assert fitted_rows.pack(zeros[order], y[order]) == packed
    assert len(packed) == 8 * len(rows)  # their targets are all different


def test_labels_by_name() -> None:
    """A label is found by its name in another version's list, -1 where that one does not have it."""
    y = np.array([0.0, 1.0, 2.0])

    assert fitted_rows.of_labels(y, ("a", "b", "c"), ("c", "a")).tolist() == [1, -1, 0]
    assert fitted_rows.of_labels(y, (), ()).tolist() == [0, 1, 2]
