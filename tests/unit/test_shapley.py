"""Shapley values of trees: what the definition says, for every form of trees, and the same bits in every batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model.engine.shapley import MAX_TABLE_BYTES, TreeContributions
from model.engine.trees import Trees
from model.schema.features import Matrix
from tests.support.trees import random_trees, walk

N_FEATURES = 5

Known = frozenset[int]


def by_definition(value: Callable[[Known], float], n_players: int) -> tuple[float, NDArray[np.float64]]:
    """Return the value of no player, and each player's mean contribution over all orders of the players."""
    every = range(n_players)
    values = {
        frozenset(known): value(frozenset(known)) for n in range(n_players + 1) for known in combinations(every, n)
    }
    contributions = np.zeros(n_players)
    for player in every:
        for known in (known for known in values if player not in known):
            share = 1 / (n_players * comb(n_players - 1, len(known)))
            contributions[player] += share * (values[known | {player}] - values[known])
    return values[frozenset()], contributions


def path_dependent(
    trees: Trees, cover: NDArray[np.float64], players: Sequence[int], row: Matrix, output: int
) -> Callable[[Known], float]:
    """Return the sum by known players: at splits of the others the children count by their cover."""
    first_code, leaf_number = np.cumsum(trees.n_codes) - trees.n_codes, np.cumsum(trees.is_leaf) - 1
    is_wide = trees.leaves.shape[1] > 1

    def below(node: int, known: Known) -> float:
        feature = trees.feature[node]
        if feature < 0:
            return float(trees.leaves[leaf_number[node], output if is_wide else 0])
        left, right = int(trees.left[node]), int(trees.right[node])
        if players[feature] not in known:
            if not cover[node]:
                return (below(left, known) + below(right, known)) / 2
            return float((cover[left] * below(left, known) + cover[right] * below(right, known)) / cover[node])
        codes = trees.codes[first_code[node] : first_code[node] + trees.n_codes[node]]
        if np.isnan(row[feature]):
            goes_left = bool(trees.missing_left[node])
        else:
            goes_left = bool(row[feature] in codes if len(codes) else row[feature] <= trees.threshold[node])
        return below(left if goes_left else right, known)

    roots = [int(root) for root, of in zip(trees.roots, trees.output) if is_wide or of == output]
    return lambda known: sum(below(root, known) for root in roots)


def interventional(
    trees: Trees, background: Matrix, players: Sequence[int], row: Matrix, output: int
) -> Callable[[Known], float]:
    """Return the mean sum by known players, where the others have the values of background rows."""
    return lambda known: float(walk(trees, np.where(np.isin(players, list(known)), row, background))[:, output].mean())


def assert_close(found: Any, expected: Any, by: float = 1e-11) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=by)


def random_cover(random: np.random.Generator, trees: Trees) -> NDArray[np.float64]:
    """Return the rows of each node; some leaves have none."""
    cover = np.zeros(len(trees.feature))
    cover[trees.is_leaf] = random.integers(0, 5, trees.is_leaf.sum())
    for node in range(len(cover) - 1, -1, -1):
        if not trees.is_leaf[node]:
            cover[node] = cover[trees.left[node]] + cover[trees.right[node]]
    return cover


def random_rows(random: np.random.Generator, n_rows: int) -> Matrix:
    """Return rows whose first two columns may be categories, some known to no split; some values are missing."""
    X = random.normal(size=(n_rows, N_FEATURES))
    X[:, :2] = random.integers(0, 8, (n_rows, 2))
    X[random.random(X.shape) < 0.15] = np.nan
    return X


SHAPES = [
    pytest.param({"max_leaves": 5}, id="small"),
    pytest.param({"max_leaves": 9, "n_categories": 2}, id="categories"),
    pytest.param({"max_leaves": 40}, id="deep"),
    pytest.param({"max_leaves": 1}, id="constants"),
    pytest.param({"width": 3, "n_categories": 1}, id="wide leaves"),
    pytest.param({"n_outputs": 2}, id="several sums"),
    pytest.param({"dtype": np.float32}, id="float32"),
]
PLAYERS = [pytest.param([0, 1, 2, 3, 4], id="columns"), pytest.param([0, 1, 2, 0, 1], id="two columns a player")]


@pytest.mark.parametrize("max_table_bytes", [MAX_TABLE_BYTES, 4_096, 0], ids=["tables", "some tables", "no tables"])
@pytest.mark.parametrize("players", PLAYERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_contributions_are_those_of_the_definition(
    shape: dict[str, Any], players: list[int], max_table_bytes: int
) -> None:
    random = np.random.default_rng(len(str(shape)))
    for _ in range(3):
        trees = random_trees(random, n_features=N_FEATURES, n_trees=4, max_code=6, **shape)
        cover, X = random_cover(random, trees), random_rows(random, 4)
        for output in range(trees.n_outputs):
            made = TreeContributions(trees, output, cover, players, max_table_bytes=max_table_bytes)
            found = made(X)
            for row, contributions in zip(X, found):
                base, expected = by_definition(path_dependent(trees, cover, players, row, output), made.n_players)
                assert_close([made.base, *contributions], [base, *expected])


@pytest.mark.parametrize("max_table_bytes", [MAX_TABLE_BYTES, 4_096, 0], ids=["tables", "some tables", "no tables"])
@pytest.mark.parametrize("players", PLAYERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_interventional_contributions_are_those_of_the_definition(
    shape: dict[str, Any], players: list[int], max_table_bytes: int
) -> None:
    random = np.random.default_rng(len(str(shape)))
    trees = random_trees(random, n_features=N_FEATURES, n_trees=4, max_code=6, **shape)
    X, background = random_rows(random, 3), random_rows(random, 7)
    for output in range(trees.n_outputs):
        made = TreeContributions(trees, output, random_cover(random, trees), players, background, max_table_bytes)
        found = made(X)
        for row, contributions in zip(X, found):
            base, expected = by_definition(interventional(trees, background, players, row, output), made.n_players)
            assert_close([made.base, *contributions], [base, *expected], 1e-6 if "dtype" in shape else 1e-11)


@pytest.mark.parametrize("is_interventional", [False, True])
@pytest.mark.parametrize("max_table_bytes", [MAX_TABLE_BYTES, 0], ids=["tables", "no tables"])
def test_a_row_has_the_same_bits_alone_and_among_others(max_table_bytes: int, is_interventional: bool) -> None:
    random = np.random.default_rng(0)
    trees = random_trees(random, n_features=N_FEATURES, n_trees=60, max_leaves=20, n_categories=1)
    background, cover = random_rows(random, 9) if is_interventional else None, random_cover(random, trees)
    made = TreeContributions(trees, 0, cover, range(N_FEATURES), background, max_table_bytes)
    X = random_rows(random, 700)
    together = made(X)
    assert np.array_equal(together, np.vstack([made(row[np.newaxis]) for row in X]))
    assert np.array_equal(together, np.vstack([made(X[:333]), made(X[333:])]))


def test_many_trees_are_divided_and_add_up_to_the_same() -> None:
    """Parts of the trees, each with vectors of its own, together give what the trees give one by one."""
    random = np.random.default_rng(0)
    trees = random_trees(random, n_features=N_FEATURES, n_trees=700, max_leaves=16)
    cover, X = random_cover(random, trees), random_rows(random, 5)
    made = TreeContributions(trees, 0, cover, range(N_FEATURES))
    assert_close(made(X).sum(axis=1) + made.base, walk(trees, X)[:, 0], 1e-9)
    walked = TreeContributions(trees, 0, cover, range(N_FEATURES), max_table_bytes=0)
    assert_close(made(X), walked(X), 1e-10)
