"""Exact Shapley values of trees, for many rows at once: what each player contributes to a row's sum of leaves.

A player is a feature, or several columns that are made of it. The value of a set of players is the sum that is expected
where only these are known. Two kinds are in use:

- path dependent: at a split of an unknown player a row goes both ways, by the shares of the training rows that did;
- interventional: unknown players have the values of background rows, in turn, and the sums are averaged.

In both, what a leaf contributes depends on one thing only: which players of its path let the row pass. So trees are
divided into groups: subtrees for which few bits say it for all their leaves, one for each column on the path to the
subtree and one for each split in it. All contributions of a group are computed beforehand for each of its bit patterns.
A row then needs one number for each pair of a player and a group, looked up by the pattern, which is put together from
vectors of bits as `forest` does it. What the leaves of deeper trees contribute is computed for each row instead.

The path-dependent contribution of a leaf is an integral of a product of linear factors, one for each player on its
path, which Gauss-Legendre quadrature gives exactly (Yu et al., "Linear TreeShap", NeurIPS 2022, as an interpolation of
the same polynomial). The interventional one follows from how often background rows have each pattern (Laberge and
Pequignot, "Understanding Interventional TreeSHAP", 2022; Nadel and Wettenstein, "WOODELF", 2025, for tables of
patterns).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import comb, factorial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.engine.forest import Places
from model.engine.trees import Trees
from model.schema.features import Matrix

MAX_TABLE_BYTES = 2**26  # of all tables of a model for one kind; leaves beyond are computed for each row
_MAX_BITS = 8  # of a pattern
_MAX_VECTOR_BYTES = 2**22  # of a block's vectors, which stay in the processor's caches
_LARGEST_VECTORS = 2**24  # bytes, of one column of a block; larger blocks have no tables
_NUMBERS_PER_CHUNK = 160_000  # that a row takes from tables, times rows
_NUMBERS_PER_WALK = 2**19  # of leaves that are computed for each row
_INTEGRALS_PER_BACKGROUND = 4  # rows that take as long as an integral
_TABLES_AT_ONCE = 256  # leaves

Numbers = NDArray[np.float64]
Integers = NDArray[np.intp]


class TreeContributions:
    """The contributions to one sum of leaves; a row has the same bits alone and among others."""

    def __init__(
        self,
        trees: Trees,
        output: int,
        cover: Numbers,
        players: Sequence[int],
        background: Matrix | None = None,
        max_table_bytes: int = MAX_TABLE_BYTES,
    ) -> None:
        """Compute the tables for the sum number `output` of trees.

        `cover` `(n_nodes,)` is how many training rows each node has, by their weights. `players` `(n_columns,)` are the
        player of each column, from 0 on. Leaves for which there is no room in tables are computed for each row. With
        `background` `(n_background, n_columns)` the values are interventional. Raises `ValueError` for trees that are
        too large for that.
        """
        of_columns = np.asarray(players, dtype=np.intp)
        self.n_players = int(of_columns.max()) + 1
        width = trees.leaves.shape[1]
        chosen = np.arange(len(trees.roots)) if width > 1 else np.flatnonzero(trees.output == output)
        leaves = trees.leaves[:, output if width > 1 else 0].astype(np.float64)
        self._blocks, n_bytes = [], 0
        for numbers in _in_blocks(trees, chosen):
            block = _Block(_part(trees, numbers, leaves, cover), of_columns, background, max_table_bytes - n_bytes)
            n_bytes += block.n_bytes
            self._blocks.append(block)
        self.base = float(sum(block.base for block in self._blocks))
        self.n_walked = sum(block.n_walked for block in self._blocks)
        """What is computed for each row, as a number of players on the paths of leaves; 0 if tables have all."""

    def __call__(self, X: Matrix) -> Numbers:
        """Return `(n_rows, n_players)` for `X` `(n_rows, n_columns)`; a row's numbers and `base` add up to its sum."""
        found = np.zeros((len(X), self.n_players))
        for block in self._blocks:
            block.add(X, found)
        return found


def _in_blocks(trees: Trees, chosen: Integers) -> Iterator[Integers]:
    """Yield the numbers of trees in parts whose vectors are small: one byte for each split and group."""
    n_splits = np.bincount(trees.tree[~trees.is_leaf], minlength=len(trees.roots))[chosen]
    start, total = 0, 0
    for stop, number in enumerate(n_splits.tolist()):
        if total and (total + number) ** 2 > 2 * _MAX_VECTOR_BYTES:
            yield chosen[start:stop]
            start, total = stop, 0
        total += number
    yield chosen[start:]


@dataclass(frozen=True, slots=True)
class _Part:
    """Some of the trees, with their nodes numbered anew: `values` and `cover` are `(n_nodes,)`."""

    roots: Integers
    feature: Integers
    threshold: Numbers
    missing_left: NDArray[np.bool_]
    codes: Sequence[Integers]
    left: Integers
    right: Integers
    values: Numbers
    cover: Numbers


def _part(trees: Trees, numbers: Integers, leaves: Numbers, cover: Numbers) -> _Part:
    ends = np.append(trees.roots[1:], len(trees.feature))
    sizes = ends[numbers] - trees.roots[numbers]
    roots = np.cumsum(sizes) - sizes
    moved = np.repeat(trees.roots[numbers] - roots, sizes)
    nodes = np.arange(sizes.sum()) + moved
    values = np.zeros(len(trees.feature))
    values[trees.is_leaf] = leaves
    first_code = np.cumsum(trees.n_codes) - trees.n_codes
    codes = [trees.codes[first_code[node] : first_code[node] + trees.n_codes[node]].astype(np.intp) for node in nodes]
    return _Part(
        roots=roots,
        feature=trees.feature[nodes].astype(np.intp),
        threshold=trees.threshold[nodes],
        missing_left=trees.missing_left[nodes],
        codes=codes,
        left=trees.left[nodes] - moved,
        right=trees.right[nodes] - moved,
        values=values[nodes],
        cover=cover[nodes],
    )


class _Paths:
    """The splits above each node: `(n_nodes, depth)`, from the root on; -1 beyond.

    `column` and `player` are numbers of those on a node's path, in the order in which they come first.
    """

    def __init__(self, part: _Part, players: Integers) -> None:
        is_leaf, n_nodes = part.feature < 0, len(part.feature)
        split = np.flatnonzero(~is_leaf)
        parent = np.full(n_nodes, -1)
        parent[part.left[split]] = parent[part.right[split]] = split
        levels, level = [], part.roots
        while level.size:
            levels.append(level)
            above = level[~is_leaf[level]]
            level = np.concatenate([part.left[above], part.right[above]])
        shape = (n_nodes, len(levels) - 1)
        self.node, self.column, self.player = np.full(shape, -1), np.full(shape, -1), np.full(shape, -1)
        self.depth = np.zeros(n_nodes, dtype=np.intp)
        self.n_columns, self.n_players = np.zeros(n_nodes, dtype=np.intp), np.zeros(n_nodes, dtype=np.intp)
        for depth, level in enumerate(levels[1:], 1):
            above, last = parent[level], depth - 1
            self.depth[level] = depth
            self.node[level, :last], self.node[level, last] = self.node[above, :last], above
            compared = part.feature[self.node[level, :depth]]
            for ranks, counts, keys in (
                (self.column, self.n_columns, compared),
                (self.player, self.n_players, players[compared]),
            ):
                ranks[level, :last] = ranks[above, :last]
                same = keys == keys[:, last:]
                first = same.argmax(axis=1)
                is_new = first == last
                rank = np.where(is_new, counts[above], ranks[level, first])
                ranks[level, last], counts[level] = rank, counts[above] + is_new
        self.n_splits = (~is_leaf).astype(np.intp)  # of the subtree
        for level in reversed(levels):
            above = level[~is_leaf[level]]
            self.n_splits[above] += self.n_splits[part.left[above]] + self.n_splits[part.right[above]]
        self.levels, self.parent = levels, parent

    def below(self, nodes: Integers, place: int) -> Integers:
        """Return the node to which the path from the split at a place goes on, for each of the nodes."""
        if place + 1 == self.node.shape[1]:
            return nodes
        following = self.node[nodes, place + 1]
        return np.where(following >= 0, following, nodes)


class _Block:
    """Some trees: tables for the leaves in groups, and a walk for the others."""

    def __init__(self, part: _Part, players: Integers, background: Matrix | None, max_bytes: int) -> None:
        self._part, self._players, self.n_walked, self.n_bytes = part, players, 0, 0
        is_leaf = part.feature < 0
        paths = _Paths(part, players)
        group_of, nodes = _groups(paths)
        leaves = np.flatnonzero(is_leaf)
        slots = _Slots(part, paths, leaves, players)
        is_kept = self._kept(slots, group_of[leaves], paths, nodes, max_bytes)
        if len(nodes) and not is_kept.all():
            number = np.where(is_kept, np.cumsum(is_kept) - 1, -1)
            group_of = np.where(group_of >= 0, number[group_of], -1)
            nodes = nodes[is_kept]
        in_group = group_of[leaves] >= 0
        self.base = 0.0
        self._columns: list[tuple[int, Places | None, NDArray[np.uint8]]] = []
        self._walk = None
        if not in_group.all():
            self._walk = _Walk(part, paths, slots.of(~in_group), background)
            self.base += self._walk.base
            self.n_walked = self._walk.size
        self._pair_players: Integers = np.zeros(0, dtype=np.intp)
        if in_group.any():
            self._fill(paths, group_of, nodes, slots.of(in_group), background)

    def _kept(
        self, slots: _Slots, groups: Integers, paths: _Paths, nodes: Integers, max_bytes: int
    ) -> NDArray[np.bool_]:
        """Return which groups have tables: those with the fewest bytes a leaf, as many as there is room for."""
        n_bits = paths.n_columns[nodes] + paths.n_splits[nodes]
        _, pair_groups, _ = _pairs(slots, groups)
        n_bytes = np.bincount(pair_groups, minlength=len(nodes)) * (8 << n_bits)
        order = np.argsort(n_bytes / (paths.n_splits[nodes] + 1), kind="stable")
        is_kept = np.zeros(len(nodes), dtype=np.bool_)
        is_kept[order] = np.cumsum(n_bytes[order]) <= max_bytes
        most_places = np.bincount(self._part.feature[self._part.feature >= 0], minlength=1).max() + 2
        return is_kept if most_places * np.count_nonzero(is_kept) <= _LARGEST_VECTORS else np.zeros_like(is_kept)

    def _fill(
        self, paths: _Paths, group_of: Integers, nodes: Integers, slots: _Slots, background: Matrix | None
    ) -> None:
        """Make the vectors and the tables of the groups with these nodes on top."""
        groups, self._n_groups = group_of[slots.leaves], len(nodes)
        inside = np.flatnonzero((self._part.feature >= 0) & (group_of >= 0))
        inside = inside[np.argsort(group_of[inside], kind="stable")]
        n_inside = np.bincount(group_of[inside], minlength=len(nodes))
        bit_of_split = np.full(len(group_of), -1)
        place = np.arange(len(inside)) - np.repeat(np.cumsum(n_inside) - n_inside, n_inside)
        bit_of_split[inside] = paths.n_columns[nodes][group_of[inside]] + place
        n_bits = paths.n_columns[nodes] + n_inside
        self._columns = list(self._vectors(_conditions(self._part, paths, group_of, nodes, inside, bit_of_split)))
        masks, wanted = slots.bits(self._part, paths, bit_of_split, paths.depth[nodes][groups])
        pair_players, pair_groups, pair_of = _pairs(slots, groups)
        sizes = 1 << n_bits[pair_groups]
        first = np.cumsum(sizes) - sizes
        table = np.zeros(int(sizes.sum()))
        seen = None
        if background is not None:
            patterns = self._patterns(background)[:, groups].astype(np.intp)  # (n_background, n_leaves)
            seen = _code((patterns[:, :, np.newaxis] & masks) == wanted)
        kinds = slots.n_players * (_MAX_BITS + 1) + n_bits[groups]
        for kind in np.unique(kinds).tolist():
            n_players, n = divmod(kind, _MAX_BITS + 1)
            of_kind = np.flatnonzero(kinds == kind)
            if not n_players:
                self.base += slots.values[of_kind].sum()
                continue
            pattern = np.arange(1 << n)
            for start in range(0, len(of_kind), _TABLES_AT_ONCE):
                some = of_kind[start : start + _TABLES_AT_ONCE]
                values = slots.values[some]
                if seen is None:
                    found, base = _path_dependent(slots.shares[some, :n_players], values)
                else:
                    found, base = _interventional(seen[:, some], n_players, values)
                self.base += base
                is_met = (pattern[:, np.newaxis] & masks[some, np.newaxis, :n_players]) == wanted[
                    some, np.newaxis, :n_players
                ]
                numbers = np.take_along_axis(found, _code(is_met)[:, :, np.newaxis], axis=1)
                at = first[pair_of[some, :n_players]][:, np.newaxis] + pattern[:, np.newaxis]
                np.add.at(table, at, numbers)
        self._table, self._pair_groups, self._first = table, pair_groups, first[:, np.newaxis]
        self._starts = np.flatnonzero(np.diff(pair_players, prepend=-1))
        self._pair_players = pair_players[self._starts]
        self._chunk_rows = max(4, _NUMBERS_PER_CHUNK // max(1, len(pair_players)))
        self.n_bytes = table.nbytes

    def _vectors(self, conditions: _Conditions) -> Iterator[tuple[int, Places | None, NDArray[np.uint8]]]:
        """Yield for each column that is compared its places and their vectors `(n_places, n_groups)`.

        A vector has the bits of a pattern that a value at this place sets. The last place is that of missing values.
        """
        part = self._part
        columns = part.feature[conditions.node]
        for column in np.unique(columns).tolist():
            of_column = np.flatnonzero(columns == column)
            node, goes_left = conditions.node[of_column], conditions.goes_left[of_column]
            keys = conditions.group[of_column] * _MAX_BITS + conditions.bit[of_column]
            different, same = np.unique(keys, return_inverse=True)
            missing = np.ones(len(different), dtype=np.bool_)
            np.logical_and.at(missing, same, part.missing_left[node] == goes_left)
            listed = [part.codes[each] for each in node.tolist()]
            places = None
            if any(map(len, listed)):
                n_places = max(int(each.max()) for each in listed if len(each)) + 3
                if n_places * conditions.n_groups > _LARGEST_VECTORS:
                    raise ValueError(f"a column of {n_places:,} categories is compared in too many parts of trees")
                is_met = np.ones((n_places, len(different)), dtype=np.bool_)
                for codes, left, key in zip(listed, goes_left.tolist(), same.tolist()):
                    passes = np.full(n_places, not left)
                    passes[codes] = left
                    is_met[:, key] &= passes
            else:
                edges, rank = np.unique(np.append(part.threshold[node], np.inf), return_inverse=True)
                n_places, places = len(edges) + 1, Places(edges)
                low, high = np.zeros(len(different), dtype=np.intp), np.full(len(different), n_places - 1)
                above = rank[:-1] + 1  # the first place that goes right
                np.minimum.at(high, same[goes_left], above[goes_left])
                np.maximum.at(low, same[~goes_left], above[~goes_left])
                numbers = np.arange(n_places)[:, np.newaxis]
                is_met = (low <= numbers) & (numbers < high)
            is_met[-1] = missing
            group, bit = np.divmod(different, _MAX_BITS)
            vectors = np.zeros((n_places, conditions.n_groups), dtype=np.uint8)
            for number in range(_MAX_BITS):  # a group has a bit once
                of_bit = bit == number
                vectors[:, group[of_bit]] |= is_met[:, of_bit].astype(np.uint8) << np.uint8(number)
            yield column, places, vectors

    def _patterns(self, X: Matrix) -> NDArray[np.uint8]:
        """Return the bit pattern of each group, `(n_rows, n_groups)`."""
        found: NDArray[np.uint8] | None = None
        for number, places, vectors in self._columns:
            values = np.ascontiguousarray(X[:, number])
            if places:
                at = places.of(values)
            else:
                last = len(vectors) - 1
                codes = np.minimum(values, last - 1)
                at = np.where(np.isnan(codes), last, codes).astype(np.intp)
            taken = vectors.take(at, axis=0)
            found = taken if found is None else np.bitwise_or(found, taken, out=found)
        return np.zeros((len(X), self._n_groups), dtype=np.uint8) if found is None else found

    def add(self, X: Matrix, found: Numbers) -> None:
        """Add the contributions of the block's trees to `found` `(n_rows, n_players)`."""
        if len(self._pair_players):
            for start in range(0, len(X), self._chunk_rows):
                rows = slice(start, start + self._chunk_rows)
                patterns = np.ascontiguousarray(self._patterns(X[rows]).T)  # (n_groups, n_rows)
                at = patterns.take(self._pair_groups, axis=0).astype(np.intp)
                at += self._first
                numbers = self._table.take(at, mode="clip")  # (n_pairs, n_rows)
                found[rows, self._pair_players] += np.add.reduceat(numbers, self._starts, axis=0).T
        if self._walk:
            self._walk.add(X, found)


def _groups(paths: _Paths) -> tuple[Integers, Integers]:
    """Return the number of each node's group, -1 for none, and the top nodes of the groups."""
    fits = paths.n_columns + paths.n_splits <= _MAX_BITS
    above = paths.parent
    is_top = fits & ~np.where(above >= 0, fits[above], False)
    nodes = np.flatnonzero(is_top)
    group_of = np.full(len(fits), -1)
    group_of[nodes] = np.arange(len(nodes))
    for level in paths.levels[1:]:
        inherits = level[group_of[level] < 0]
        group_of[inherits] = group_of[above[inherits]]
    return group_of, nodes


@dataclass(frozen=True, slots=True)
class _Conditions:
    """What sets the bits of groups: a bit is set if at each of its splits the row goes that way."""

    group: Integers
    bit: Integers
    node: Integers
    goes_left: NDArray[np.bool_]
    n_groups: int


def _conditions(
    part: _Part, paths: _Paths, group_of: Integers, nodes: Integers, inside: Integers, bit_of_split: Integers
) -> _Conditions:
    """Return a bit for each column on the path to a group, and one for each split inside: whether a row goes left."""
    above = paths.node[nodes]
    group, place = np.nonzero(above >= 0)
    split = above[group, place]
    following = np.full(len(split), -1)
    for number in range(above.shape[1]):
        at = place == number
        following[at] = paths.below(nodes[group[at]], number)
    return _Conditions(
        group=np.concatenate([group, group_of[inside]]),
        bit=np.concatenate([paths.column[nodes][group, place], bit_of_split[inside]]),
        node=np.concatenate([split, inside]),
        goes_left=np.concatenate([part.left[split] == following, np.ones(len(inside), dtype=np.bool_)]),
        n_groups=len(nodes),
    )


class _Slots:
    """The players on the paths of leaves, `(n_leaves, most)`: each has a slot, in the order of their first splits.

    `shares` are those of the training rows that stay on the path at all splits of the player; 1 beyond the last slot.
    `player` is -1 there.
    """

    def __init__(self, part: _Part, paths: _Paths, leaves: Integers, players: Integers) -> None:
        self.leaves, self.values, self.n_players = leaves, part.values[leaves], paths.n_players[leaves]
        shape = (len(leaves), int(self.n_players.max(initial=0)))
        self.shares, self.player = np.ones(shape), np.full(shape, -1)
        for place in range(paths.node.shape[1]):
            on = np.flatnonzero(paths.node[leaves, place] >= 0)
            split, slot = paths.node[leaves[on], place], paths.player[leaves[on], place]
            cover, of_child = part.cover[split], part.cover[paths.below(leaves[on], place)]
            # Where no training row has been, both ways are as likely.
            share = np.divide(of_child, cover, out=np.full(len(on), 0.5), where=cover > 0)
            self.shares[on, slot] *= share
            self.player[on, slot] = players[part.feature[split]]

    def of(self, chosen: NDArray[np.bool_]) -> _Slots:
        """Return the slots of some of the leaves."""
        found = object.__new__(_Slots)
        found.leaves, found.values, found.n_players = self.leaves[chosen], self.values[chosen], self.n_players[chosen]
        most = int(found.n_players.max(initial=0))
        found.shares, found.player = self.shares[chosen, :most], self.player[chosen, :most]
        return found

    def bits(
        self, part: _Part, paths: _Paths, bit_of_split: Integers, depth_of_group: Integers
    ) -> tuple[Integers, Integers]:
        """Return which bits of its group's pattern a slot looks at, and how they are where the row passes."""
        masks, wanted = np.zeros(self.player.shape, dtype=np.intp), np.zeros(self.player.shape, dtype=np.intp)
        for place in range(paths.node.shape[1]):
            on = np.flatnonzero(paths.node[self.leaves, place] >= 0)
            leaves = self.leaves[on]
            split, slot = paths.node[leaves, place], paths.player[leaves, place]
            is_inside = place >= depth_of_group[on]
            bit = np.where(is_inside, bit_of_split[split], paths.column[leaves, place])
            is_set = ~is_inside | (part.left[split] == paths.below(leaves, place))
            masks[on, slot] |= 1 << bit
            wanted[on, slot] |= is_set.astype(np.intp) << bit
        return masks, wanted


def _pairs(slots: _Slots, groups: Integers) -> tuple[Integers, Integers, Integers]:
    """Return player and group of each pair, by player, and the number of the pair of each slot, `(n_leaves, most)`."""
    leaf, slot = np.nonzero((slots.player >= 0) & (groups[:, np.newaxis] >= 0))
    n_groups = int(groups.max(initial=0)) + 1
    keys, number = np.unique(slots.player[leaf, slot] * n_groups + groups[leaf], return_inverse=True)
    pair_of = np.full(slots.player.shape, -1)
    pair_of[leaf, slot] = number
    return keys // n_groups, keys % n_groups, pair_of


def _code(is_met: NDArray[np.bool_]) -> Integers:
    """Return bits along the last axis as a number; the first is the lowest."""
    found: Integers = (is_met << np.arange(is_met.shape[-1])).sum(axis=-1)
    return found


@cache
def _points(n_players: int) -> tuple[Numbers, Numbers]:
    """Return points from 0 to 1 and weights that integrate a product of `n_players - 1` linear factors exactly."""
    points, weights = np.polynomial.legendre.leggauss((n_players + 1) // 2)
    return (points + 1) / 2, weights / 2


def _others(factors: Numbers) -> Numbers:
    """Return the products of all other factors along the first axis."""
    found = np.ones_like(factors)
    np.multiply.accumulate(factors[:-1], axis=0, out=found[1:])
    after = np.ones_like(factors[0])
    for number in range(len(factors) - 2, -1, -1):
        after = after * factors[number + 1]
        found[number] *= after
    return found


def _path_dependent(shares: Numbers, values: Numbers) -> tuple[Numbers, float]:
    """Return the contributions of leaves, `(n_leaves, 2**n_players, n_players)`, for each pattern, and their base."""
    n_players = shares.shape[1]
    passes = _bits(n_players).T[:, np.newaxis].astype(np.float64)  # (n_players, 1, 2**n_players)
    of_leaf = shares.T[:, :, np.newaxis]
    found = _integrate(passes, of_leaf, n_players) * (passes - of_leaf) * values[:, np.newaxis]
    return np.moveaxis(found, 0, -1), float((shares.prod(axis=1) * values).sum())


def _integrate(passes: Numbers, shares: Numbers, n_players: int) -> Numbers:
    """Return for each player the integral of the others' factors, which go from their share to whether they pass."""
    found: Any = 0.0
    for point, weight in zip(*_points(n_players)):
        found = found + weight * _others(passes * point + shares * (1 - point))
    numbers: Numbers = found
    return numbers


def _interventional(seen: Integers, n_players: int, values: Numbers) -> tuple[Numbers, float]:
    """Return what `_path_dependent` does, for the patterns `(n_background, n_leaves)` of background rows."""
    n_background, n_leaves = seen.shape
    size = 1 << n_players
    counts = np.bincount((seen % size + np.arange(n_leaves) * size).ravel(), minlength=n_leaves * size)
    often = counts.reshape(n_leaves, size) / n_background
    found = np.tensordot(often, _weights(n_players), axes=(1, 1)) * values[:, np.newaxis, np.newaxis]
    return found, float((often[:, -1] * values).sum())


@cache
def _weights(n_players: int) -> Numbers:
    """Return what one leaf of 1 contributes: by the row's pattern, a background row's pattern, and the player.

    Where either lets the leaf be reached at all, the players that only the row passes raise it, and those that only
    the background row passes lower it. Each set of players before one in a random order is as likely as its size says.
    """
    row, background = np.arange(1 << n_players)[:, np.newaxis], np.arange(1 << n_players)
    can_be_reached = (row | background) == (1 << n_players) - 1
    of_row, of_background = row & ~background, background & ~row
    n_row, n_background = np.bitwise_count(of_row).astype(int), np.bitwise_count(of_background).astype(int)
    orders = np.array([factorial(number) for number in range(n_players + 1)], dtype=np.float64)
    every = orders[n_row + n_background]
    raised = can_be_reached * orders[(n_row - 1).clip(0)] * orders[n_background] / every
    lowered = can_be_reached * orders[n_row] * orders[(n_background - 1).clip(0)] / every
    of_players = [
        raised * (of_row >> number & 1) - lowered * (of_background >> number & 1) for number in range(n_players)
    ]
    return np.stack(of_players, axis=-1)


def _mean_over(seen: NDArray[np.bool_], met: NDArray[np.bool_]) -> Numbers:
    """Return what leaves of 1 contribute, `(n_players, n_leaves, n_rows)`, on average over background rows.

    `seen` `(n_players, n_leaves, n_background)` and `met` `(n_players, n_leaves, n_rows)` say who passes which players.
    """
    raises, lowers = _weights_of_counts(len(met))
    found = np.zeros(met.shape)
    for background in np.moveaxis(seen, -1, 0)[..., np.newaxis]:
        of_row, of_background = met & ~background, background & ~met
        n_row, n_background = of_row.sum(axis=0), of_background.sum(axis=0)
        can_be_reached = (met | background).all(axis=0)
        found += of_row * (raises[n_row, n_background] * can_be_reached)
        found -= of_background * (lowers[n_row, n_background] * can_be_reached)
    found /= seen.shape[-1]
    return found


@cache
def _weights_of_counts(n_players: int) -> tuple[Numbers, Numbers]:
    """Return by how much a leaf of 1 is raised, or lowered, by each of the players that only one of two rows passes.

    By how many only the row passes, and how many only the background row: as in `_weights`.
    """
    counts = range(n_players + 1)
    raises = [[1 / (row * comb(row + other, row)) if row else 0.0 for other in counts] for row in counts]
    lowers = [[1 / (other * comb(row + other, other)) if other else 0.0 for other in counts] for row in counts]
    return np.array(raises), np.array(lowers)


@cache
def _bits(n_players: int) -> NDArray[np.intp]:
    """Return the bits of each pattern, `(2**n_players, n_players)`."""
    bits: NDArray[np.intp] = np.arange(1 << n_players)[:, np.newaxis] >> np.arange(n_players) & 1
    return bits


class _Walk:
    """Leaves whose contributions are computed for each row, as in the tables.

    `size` is how many players on their paths that is; background rows make it as much work as several times as many.
    """

    def __init__(self, part: _Part, paths: _Paths, slots: _Slots, background: Matrix | None) -> None:
        self._part = part
        n_leaves, self._most = slots.player.shape
        leaf, place = np.nonzero(paths.node[slots.leaves] >= 0)
        split, slot = paths.node[slots.leaves][leaf, place], paths.player[slots.leaves][leaf, place]
        following = np.full(len(split), -1)
        for number in range(paths.node.shape[1]):
            at = place == number
            following[at] = paths.below(slots.leaves[leaf[at]], number)
        order = np.argsort(slot * n_leaves + leaf, kind="stable")
        keys = (slot * n_leaves + leaf)[order]
        self._splits, self._split_of = np.unique(split[order], return_inverse=True)
        self._goes_left = (part.left[split] == following)[order, np.newaxis]
        self._starts = np.flatnonzero(np.diff(keys, prepend=-1))
        self._at = keys[self._starts]  # slots, (most, n_leaves) in a row, that are in use
        self._shares, self._values = slots.shares.T[:, :, np.newaxis], slots.values[:, np.newaxis]
        players = slots.player.T.ravel()[self._at]
        by_player = np.argsort(players, kind="stable")
        self._by_player = self._at[by_player]
        self._player_starts = np.flatnonzero(np.diff(players[by_player], prepend=-1))
        self._players = players[by_player][self._player_starts]
        self.size, self._n_leaves = len(self._at), n_leaves
        self._chunk_rows = max(1, _NUMBERS_PER_WALK // (self._most * n_leaves))
        self._seen: NDArray[np.bool_] | None = None
        if background is None:
            self.base = float((slots.shares.prod(axis=1) * slots.values).sum())
        else:
            self._seen = self._met(background)
            self.base = float((self._seen.all(axis=0) * self._values).sum() / len(background))
            self.size = max(1, self.size * len(background) // _INTEGRALS_PER_BACKGROUND)

    def add(self, X: Matrix, found: Numbers) -> None:
        """Add the leaves' contributions to `found` `(n_rows, n_players)`."""
        for start in range(0, len(X), self._chunk_rows):
            rows = slice(start, start + self._chunk_rows)
            met = self._met(X[rows])
            if self._seen is None:
                passes = met.astype(np.float64)
                numbers = _integrate(passes, self._shares, self._most) * (passes - self._shares)
            else:
                numbers = _mean_over(self._seen, met)
            numbers *= self._values
            numbers = numbers.reshape(-1, len(X[rows]))[self._by_player]
            found[rows, self._players] += np.add.reduceat(numbers, self._player_starts, axis=0).T

    def _met(self, X: Matrix) -> NDArray[np.bool_]:
        """Return which rows pass which slots, `(most, n_leaves, n_rows)`; all pass those that are not in use."""
        stays = self._goes_left == self._left(X)[self._split_of]  # (n_splits_on_paths, n_rows)
        met = np.ones((self._most * self._n_leaves, len(X)), dtype=np.bool_)
        met[self._at] = np.logical_and.reduceat(stays, self._starts, axis=0)
        return met.reshape(self._most, self._n_leaves, len(X))

    def _left(self, X: Matrix) -> NDArray[np.bool_]:
        """Return which splits send which rows left, `(n_splits, n_rows)`."""
        part, splits = self._part, self._splits
        values = X.T[part.feature[splits]]
        left = values <= part.threshold[splits][:, np.newaxis]
        for number, split in enumerate(splits.tolist()):
            if len(part.codes[split]):
                left[number] = np.isin(values[number], part.codes[split])
        found: NDArray[np.bool_] = np.where(np.isnan(values), part.missing_left[splits][:, np.newaxis], left)
        return found
