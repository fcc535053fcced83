"""Bit vectors: a forest gives the same bits as walking its trees, for any size and any number of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import Matrix
from model.engine.forest import BitVectors, Forest, forest_of
from model.engine.runtime import TreesEngine
from model.engine.trees import Trees
from tests.support.examples import fit_gbm
from tests.support.service import bits
from tests.support.trees import compiled, split_rows, trees_of


def fitted(n_trees: int, *, max_leaves: int = 8, n_features: int = 3, n_rows: int = 300) -> tuple[Any, Matrix, Trees]:
    """Return a pipeline of `n_trees`, rows to predict, some of which are on its splits, and its trees."""
    random = np.random.default_rng(n_trees)
    X = random.normal(size=(n_rows, n_features)).round(2)
    pipeline = fit_gbm(X, random.normal(size=n_rows), n_estimators=1)
    pipeline.set_params(model__n_estimators=n_trees, model__max_depth=None, model__max_leaf_nodes=max_leaves)
    pipeline.fit(X, X[:, 0] * X[:, -1] + random.normal(size=n_rows))
    model = compiled(pipeline, X)
    return pipeline, np.vstack([random.permutation(split_rows(model, X))[:3_000], X * 3]), trees_of(model)


@pytest.mark.parametrize("n_leaves", [2, 3, 8, 9, 16, 17, 32, 33, 63, 64])
def test_trees_of_any_size_give_the_same_bits(n_leaves: int) -> None:
    """Trees of 2 to 64 leaves, which use masks of four widths, predict like the pipeline.

    Such trees grow leaf by leaf, so that scikit-learn does not store their leaves from left to right.
    """
    pipeline, rows, trees = fitted(9, max_leaves=n_leaves)
    forest = forest_of(trees)

    assert forest
    assert forest.leaves.shape == (1 + 9, n_leaves, 1)
    assert np.array_equal(bits(BitVectors(forest, rows.shape[1]).predict(rows)[:, 0]), bits(pipeline.predict(rows)))


@pytest.mark.parametrize("n_trees", [1, 6, 7, 8, 399])
def test_any_number_of_rows_gives_the_same_bits(n_trees: int) -> None:
    """From two rows on, in one chunk and in several, a row's prediction does not depend on the other rows."""
    pipeline, rows, trees = fitted(n_trees)
    forest = forest_of(trees)
    assert forest
    vectors, answers = BitVectors(forest, rows.shape[1]), pipeline.predict(rows)

    for n_rows in [*range(2, min(350, len(rows))), len(rows)]:
        assert np.array_equal(bits(vectors.predict(rows[-n_rows:])[:, 0]), bits(answers[-n_rows:])), n_rows


@pytest.mark.parametrize("n_rows", [4_095, 4_097, 8_192, 8_193, 16_385])
def test_many_rows_leave_no_row_alone(n_rows: int) -> None:
    """Whatever is over where many rows are taken in parts, each prediction has the pipeline's bits."""
    pipeline, rows, trees = fitted(60)
    forest = forest_of(trees)
    assert forest
    many = np.resize(rows, (n_rows, rows.shape[1]))

    found = BitVectors(forest, rows.shape[1]).predict(many)[:, 0]

    assert np.array_equal(bits(found), bits(pipeline.predict(many)))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), n_rows=st.integers(2, 40), n_trees=st.integers(1, 30), n_features=st.integers(1, 5))
def test_any_values_take_the_graphs_branches(seed: int, n_rows: int, n_trees: int, n_features: int) -> None:
    """Any bits of a float64, infinities and NaN included, reach the same leaves as in the graph."""
    random = np.random.default_rng(seed)
    X = random.normal(size=(30, n_features)).round(1)
    trees = trees_of(compiled(fit_gbm(X, random.normal(size=30), n_estimators=n_trees), X))
    forest = forest_of(trees)
    assert forest
    anything = random.integers(-(2**63), 2**63, (n_rows, n_features)).view(np.float64)
    rows = np.where(random.random((n_rows, n_features)) < 0.3, np.resize(X, (n_rows, n_features)), anything)
    rows[0, 0], rows[1, 0] = np.inf, -0.0
    alone = TreesEngine(trees, n_features)

    assert np.array_equal(
        bits(BitVectors(forest, n_features).predict(rows)[:, 0]),
        bits(np.concatenate([alone.predict(row[np.newaxis]) for row in rows])),
    )


@settings(max_examples=200, deadline=None)
@given(
    thresholds=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=200)
    | st.lists(st.integers(-50, 50).map(float), min_size=1, max_size=200),
    more=st.lists(st.floats(), max_size=50),
)
def test_many_rows_find_their_places_among_any_thresholds(thresholds: list[float], more: list[float]) -> None:
    """Many rows go right at exactly the thresholds below them, however these lie; a missing value goes right at all."""
    n_trees = len(thresholds)
    forest = Forest(
        feature=np.zeros(n_trees, dtype=np.int32),
        threshold=np.array(thresholds),
        missing_left=np.zeros(n_trees, dtype=np.bool_),
        n_codes=np.zeros(n_trees, dtype=np.int32),
        codes=np.zeros(0, dtype=np.int32),
        tree=np.arange(n_trees, dtype=np.int32),
        excluded=np.ones(n_trees, dtype=np.uint64),
        leaves=np.tile(np.array([[[0.0], [1.0]]]), (n_trees, 1, 1)),
        output=np.zeros(n_trees, dtype=np.int32),
    )
    edges = np.array(thresholds)
    with np.errstate(over="ignore"):
        beside = np.concatenate([edges, np.nextafter(edges, -np.inf), np.nextafter(edges, np.inf)])
    values = np.concatenate([beside, more, [np.inf, -np.inf, np.nan, 0.0, -0.0]])
    rows = np.resize(values, 2 * max(256, len(values)))

    n_right = BitVectors(forest, 1).predict(rows.reshape(-1, 1))[:, 0]

    expected = np.where(np.isnan(rows), n_trees, (edges < rows.reshape(-1, 1)).sum(axis=1))
    assert np.array_equal(n_right, expected)


@pytest.mark.parametrize(("n_trees", "max_leaves"), [(2, 65), (400, 40)], ids=["leaves", "vectors"])
def test_what_does_not_fit_is_left_to_the_graph(n_trees: int, max_leaves: int) -> None:
    """Trees of more than 64 leaves, or vectors of too much memory, make no forest."""
    _, _, trees = fitted(n_trees, max_leaves=max_leaves)

    assert forest_of(trees) is None
