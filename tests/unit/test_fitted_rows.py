"""Owns `fitted-features.bin`: a version knows the rows that it was fitted on, and no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from model import Artifact, NotInStoreError, Store
from model.store import fitted_rows
from model.store.artifact import read_draft
from tests.support.service import COLUMNS, TABLE

cells = st.floats(allow_infinity=False, width=64)


def example() -> NDArray[np.float64]:
    """Return the rows of the example's table."""
    return pd.read_csv(TABLE)[COLUMNS].to_numpy(dtype=np.float64)


def with_rows(store: Path, to: Path, content: bytes | None) -> Artifact:
    """Return the example's version as one that was fitted on other rows, or does not say on which."""
    draft = read_draft(store / "boston-housing" / "1")
    files = {**draft.files, fitted_rows.FILE: content}
    kept = {name: each for name, each in files.items() if each is not None}
    Store(to).add("boston-housing", replace(draft, files=kept))
    return Store(to).load("boston-housing")


def test_knows_the_rows_that_it_was_fitted_on(store: Path) -> None:
    """Of the example's table, a version has seen as many rows as it was fitted on, and none that was changed."""
    model = Store(store).load("boston-housing")
    X = example()
    seen = fitted_rows.has_seen(model, X, model.schema)

    assert seen is not None
    assert seen.sum() == model.manifest.metrics.training.rows == 404
    changed = fitted_rows.has_seen(model, np.nextafter(X, np.inf), model.schema)
    assert changed is not None
    assert not changed.any()


def test_knows_rows_of_another_schema(store: Path) -> None:
    """A version whose schema has the columns in another order has seen the same rows."""
    model = Store(store).load("boston-housing")
    X = example()
    turned = replace(model.schema, features=model.schema.features[::-1])
    seen, expected = fitted_rows.has_seen(model, X[:, ::-1], turned), fitted_rows.has_seen(model, X, model.schema)

    assert seen is not None
    assert expected is not None
    assert seen.tolist() == expected.tolist()


def test_a_version_that_does_not_say_it(store: Path, tmp_path: Path) -> None:
    """Nobody can tell which rows a version without the file has seen."""
    model = with_rows(store, tmp_path, None)

    with pytest.raises(NotInStoreError, match="boston-housing@1 does not say which rows it was fitted on"):
        fitted_rows.has_seen(model, model.golden_rows, model.schema)


@given(arrays.arrays(np.float64, st.tuples(st.integers(1, 20), st.integers(1, 4)), elements=cells))
def test_rows_are_the_same_whatever_their_order_and_zeros(rows: NDArray[np.float64]) -> None:
    """A row has one hash: in any order of rows, for -0 and 0, and for every NaN."""
    order = np.random.default_rng(len(rows)).permutation(len(rows))
    zeros = np.where(rows == 0, -rows, rows)
    zeros[np.isnan(zeros)] = np.array([0x7FF8000000000001], np.uint64).view(np.float64)[0]

    packed = fitted_rows.pack(rows)
    assert fitted_rows.pack(zeros[order]) == packed
    assert len(packed) == 8 * len(rows)


@pytest.mark.parametrize(("n_different", "tells"), [(100, True), (50, True), (49, False), (1, False)])
def test_rows_that_are_equal_by_chance(store: Path, tmp_path: Path, n_different: int, tells: bool) -> None:
    """Rows tell which of them a version was fitted on if at least half of those are different ones."""
    X = example()[np.arange(100) % n_different]

    model = with_rows(store, tmp_path, fitted_rows.pack(X))

    assert (fitted_rows.has_seen(model, X, model.schema) is not None) is tells
