"""Trees: ONNX Runtime and the bit vectors give the bits of a plain walk, whatever the trees are like."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.engine.forest import BitVectors, forest_of
from model.engine.runtime import TreesEngine
from model.engine.tree_graph import Result, result_of
from model.engine.trees import Trees
from tests.support.trees import random_trees, walk


def rows_for(trees: Trees, random: np.random.Generator, *, n_features: int, n_categories: int) -> Any:
    """Return rows with known and unknown categories, missing values, infinities and numbers next to thresholds."""
    X = random.normal(size=(30, n_features)).round(1)
    X[:, :n_categories] = random.integers(0, 25, (30, n_categories))
    numbers = np.flatnonzero(~trees.is_leaf & (trees.n_codes == 0))
    for row, node in zip(X, numbers):
        row[trees.feature[node]] = np.nextafter(trees.threshold[node], (-np.inf, np.inf)[int(random.integers(2))])
    X[random.random(X.shape) < 0.1] = np.nan
    if n_categories < n_features:
        X[:3, -1] = [np.inf, -np.inf, -0.0]
    return X


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    n_features=st.integers(1, 5),
    n_categories=st.integers(0, 5),
    n_trees=st.integers(1, 12),
    max_leaves=st.sampled_from([1, 3, 9, 40]),
    outputs=st.sampled_from([(1, 1), (1, 3), (3, 1)]),
    dtype=st.sampled_from([np.float64, np.float32]),
    decimals=st.sampled_from([0, 9]),
)
def test_engines_walk_the_trees(
    seed: int,
    n_features: int,
    n_categories: int,
    n_trees: int,
    max_leaves: int,
    outputs: tuple[int, int],
    dtype: Any,
    decimals: int,
) -> None:
    """One row, few rows and many rows get the bits of a plain walk: categories, missing values and all outputs.

    Leaves of few decimals have many equal neighbours, which ONNX Runtime joins.
    """
    random = np.random.default_rng(seed)
    n_categories = min(n_categories, n_features)
    width, n_outputs = outputs
    trees = random_trees(
        random,
        n_features=n_features,
        n_categories=n_categories,
        n_trees=n_trees,
        max_leaves=max_leaves,
        width=width,
        n_outputs=n_outputs,
        dtype=dtype,
        decimals=decimals,
    )
    X = rows_for(trees, random, n_features=n_features, n_categories=n_categories)
    expected = walk(trees, X)

    trees.check([25] * n_categories + [0] * (n_features - n_categories))
    forest = forest_of(trees)
    assert forest
    assert np.array_equal(BitVectors(forest, n_features).predict(X), expected)
    engine = TreesEngine(trees, n_features)
    assert np.array_equal(engine.predict(X), expected[:, 0].astype(np.float64))
    assert np.array_equal(np.concatenate([engine.predict(row[np.newaxis]) for row in X]), expected[:, 0])


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), n_categories=st.integers(0, 3), dtype=st.sampled_from([np.float64, np.float32]))
def test_packing_gives_the_same_trees_and_the_same_bytes(seed: int, n_categories: int, dtype: Any) -> None:
    """Packed trees are unpacked unchanged, and packed again to the same bytes."""
    trees = random_trees(np.random.default_rng(seed), n_features=3, n_categories=n_categories, dtype=dtype)
    found = Trees.unpack(trees.pack(), [25] * n_categories + [0] * (3 - n_categories))

    for name in Trees.__slots__:
        assert np.array_equal(getattr(found, name), getattr(trees, name))
    assert found.pack() == trees.pack()


def test_sums_of_float32_are_added_outside_the_graph_where_rounding_would_move_a_row() -> None:
    """A graph in float32 rounds its input, so it is made only where every threshold is the last before a rounding."""
    trees = random_trees(np.random.default_rng(0), n_features=1, n_trees=1, max_leaves=2, dtype=np.float32)
    split = ~trees.is_leaf
    assert split.any()
    for threshold, expected in (
        (0.1, Result.LEAVES),
        (float(np.float32(0.1)), Result.LEAVES),
        (np.inf, Result.FLOAT32),
    ):
        trees.threshold[split] = threshold
        assert result_of(trees) is expected
    middle = (float(np.float32(0.1)) + float(np.nextafter(np.float32(0.1), np.float32(1)))) / 2
    trees.threshold[split] = middle  # ties go to the even neighbour
    assert result_of(trees) in (Result.FLOAT32, Result.LEAVES)
    assert np.array_equal(
        TreesEngine(trees, 1).predict(np.array([[middle], [np.nextafter(middle, 1)]])),
        walk(trees, np.array([[middle], [np.nextafter(middle, 1)]]))[:, 0],
    )


@pytest.mark.parametrize("flags", [(False, True), (True, False), (False, False), (True, True)])
@pytest.mark.parametrize("leaves", [[[7.0], [7.0], [1.0]], [[7.0], [8.0], [1.0]], [[7.0, 0.0], [7.0, 2.0], [1.0, 3.0]]])
def test_missing_value_passes_splits_that_onnx_runtime_joins(
    flags: tuple[bool, bool], leaves: list[list[float]]
) -> None:
    """Two splits of one category in a row whose left leaves are equal are joined, and each knows its missing values.

    Leaves of several outputs may be equal in the first only, and are then not joined.
    """
    trees = Trees(
        roots=np.array([0], dtype=np.int32),
        output=np.array([0], dtype=np.int32),
        feature=np.array([0, -1, 0, -1, -1], dtype=np.int32),
        threshold=np.zeros(5),
        missing_left=np.array([flags[0], False, flags[1], False, False]),
        n_codes=np.array([1, 0, 1, 0, 0], dtype=np.int32),
        codes=np.array([3, 5], dtype=np.int32),
        left=np.array([1, 1, 3, 3, 4], dtype=np.int32),
        right=np.array([2, 1, 4, 3, 4], dtype=np.int32),
        leaves=np.array(leaves),
    )
    X = np.array([[np.nan], [3.0], [5.0], [0.0]])
    engine = TreesEngine(trees, 1)

    trees.check([6])
    assert [engine.sums(row[np.newaxis])[0].tolist() for row in X] == walk(trees, X).tolist()


def test_a_feature_is_compared_as_its_type_says() -> None:
    """Trees that compare a number with categories, a category as a number, or unknown categories are refused."""
    trees = random_trees(np.random.default_rng(3), n_features=1, n_categories=1, n_trees=4)
    assert trees.n_codes.any()
    first = int(np.flatnonzero(trees.n_codes)[0])
    n_codes = trees.n_codes.copy()
    n_codes[first] = 0
    changed = {name: getattr(trees, name) for name in Trees.__slots__}
    broken = Trees(**{**changed, "n_codes": n_codes, "codes": trees.codes[trees.n_codes[first] :]})

    with pytest.raises(ValueError, match="compares a feature's categories as numbers"):
        broken.check([25])
    for n_places in (0, 3):
        with pytest.raises(ValueError, match="compares a number, or a category that its feature does not have"):
            trees.check([n_places])
