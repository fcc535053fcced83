"""The proof of equality: a right graph passes, and a graph that differs in one bit of one prediction fails."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model import Matrix, Store
from model.cli.main import main
from model.engine.runtime import Predict, TreesEngine
from model.engine.trees import Trees
from model.errors import ProofError
from model.store.manifest import Proof
from model.train import proof, recipe
from model.train.compile.fold import fold
from tests.support import examples
from tests.support import proof as shared
from tests.support.proof import Case
from tests.support.service import bits

trained = shared.trained

# Node 0 is the leaf of the initial prediction; the others of this list are splits that decide.
SPLITS = [0, 1, 6, 39, 99, -1]


def compiled(trees: Trees) -> Predict:
    return TreesEngine(trees, 6).predict


def changed(trees: Trees, name: str, number: int, change: Callable[[float], float]) -> Trees:
    """Return the trees with the threshold of one split, or one leaf, changed."""
    values = getattr(trees, name).copy()
    places = np.flatnonzero(~trees.is_leaf) if name == "threshold" else np.arange(len(values))
    before = float(values[places[number]].item())
    values[places[number]] = change(before)
    assert values[places[number]] != before
    return replace(trees, **{name: values})


def up(value: float) -> float:
    return math.nextafter(value, math.inf)


def down(value: float) -> float:
    return math.nextafter(value, -math.inf)


def test_right_graph_is_proven(trained: Case) -> None:
    """A right graph gives the figures: the number of rows of each kind, and no difference."""
    assert trained.prove(compiled(trained.trees)) == Proof(
        table_rows=506,
        random_rows=100_000,
        limit_rows=14,
        split_rows=len(trained.split_rows),
        different_rows=0,
        largest_relative_difference=0.0,
        seed=0,
    )


def test_model_without_splits_is_proven(trained: Case) -> None:
    """Without rows at splits, as for a network or trees of one leaf, the other rows prove it."""
    none = replace(trained, model=replace(trained.model, split_rows=np.empty((0, 6))))

    assert none.prove(compiled(trained.trees)).split_rows == 0
    with pytest.raises(ProofError):
        none.prove(compiled(changed(trained.trees, "leaves", 0, up)))


def test_tolerance_is_relative(trained: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tolerance is relative, the figures have the largest difference, and a prediction of 0 must be exact."""
    monkeypatch.setattr(proof, "RANDOM_ROWS", 2_000)

    def off(share: float) -> Predict:
        return lambda rows: trained.model.predict(rows) * (1 + share * (rows[:, :1] > 0).any(axis=1))

    found = trained.prove(off(1e-9), 1e-8)
    assert 0 < found.different_rows <= 2_000 + 506 + 14 + len(trained.split_rows)
    assert found.largest_relative_difference == pytest.approx(1e-9, rel=1e-3)
    with pytest.raises(ProofError, match="differs from the trained one on"):
        trained.prove(off(1e-7), 1e-8)

    zero = replace(trained, model=replace(trained.model, predict=lambda rows: np.where(rows[:, 0] > 0, 1.0, 0.0)))
    assert zero.prove(zero.model.predict, 1e-8).different_rows == 0
    near = zero.prove(lambda rows: zero.model.predict(rows) * (1 + 1e-9), 1e-8)
    assert near.largest_relative_difference == pytest.approx(1e-9, rel=1e-3)
    with pytest.raises(ProofError):
        zero.prove(lambda rows: zero.model.predict(rows) + 1e-300 * (rows[:, 0] <= 0), 1e-8)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("change", [up, down])
def test_threshold_off_by_one_bit_is_found(trained: Case, split: int, change: Callable[[float], float]) -> None:
    """A single threshold moved to the next float64, up or down, fails the proof on the rows at the splits."""
    broken = changed(trained.trees, "threshold", split, change)

    with pytest.raises(ProofError, match=r"differs from the trained one on \d+ of \d+ split rows, by up to "):
        trained.prove(compiled(broken))


def test_every_threshold_has_rows_that_find_it_moved(trained: Case) -> None:
    """No split of any tree can move by one bit, up or down, without changing a prediction at the splits."""
    answers = trained.model.predict(trained.split_rows)
    n_splits = len(trained.split_rows) // 2
    unseen = [
        (split, change.__name__)
        for split in range(n_splits)
        for change in (up, down)
        if np.array_equal(
            bits(compiled(changed(trained.trees, "threshold", split, change))(trained.split_rows)),
            bits(answers),
        )
    ]
    assert unseen == []


@pytest.mark.parametrize("leaf", [0, 1, 50, -1])
@pytest.mark.parametrize("direction", [1, -1])
def test_leaf_off_by_one_bit_of_an_answer_is_found(trained: Case, leaf: int, direction: int) -> None:
    """A single leaf, the initial prediction included, that is off by the last bit of a prediction fails the proof."""
    # The last bit of a small leaf itself is lost when it is added to a prediction, so no prediction shows it.
    bit = direction * float(np.spacing(64.0))
    broken = changed(trained.trees, "leaves", leaf, lambda value: value + bit)

    with pytest.raises(ProofError, match=r"differs from the trained one on \d+ of 506 table rows, by up to "):
        trained.prove(compiled(broken))


@pytest.mark.parametrize("group", ["table_rows", "random_rows", "limit_rows", "split_rows"])
def test_one_bit_of_one_answer_fails_its_group(trained: Case, group: str) -> None:
    """One prediction that is off by one bit fails the proof, which names the group of the row."""
    groups = {
        "table_rows": trained.subject.X,
        "random_rows": proof.random_rows(trained.schema, proof.RANDOM_ROWS, seed=0),
        "limit_rows": proof.limit_rows(trained.schema),
        "split_rows": trained.split_rows,
    }
    predict = compiled(trained.trees)

    def off_by_one_bit(rows: Matrix) -> NDArray[np.float64]:
        answers = predict(rows)
        last = len(groups[group]) - 1
        if np.array_equal(rows[: last + 1], groups[group]):
            answers[last] = np.nextafter(answers[last], np.inf)
        return answers

    with pytest.raises(ProofError, match=rf"on 1 of {len(groups[group])} {group.replace('_', ' ')}, by up to"):
        trained.prove(off_by_one_bit)


def test_random_rows_are_half_beyond_the_range(trained: Case) -> None:
    """Every other random row is within the training range, the rest up to its width outside, by the seed."""
    low = np.array([feature.minimum for feature in trained.schema.features])
    high = np.array([feature.maximum for feature in trained.schema.features])
    rows = proof.random_rows(trained.schema, 1000, seed=1)

    within: NDArray[np.bool_] = np.all((rows >= low) & (rows <= high), axis=1)  # (n_rows,)
    assert within[::2].all()
    assert within[1::2].mean() < 0.1
    assert ((rows >= low - (high - low)) & (rows <= high + (high - low))).all()
    assert np.array_equal(rows, proof.random_rows(trained.schema, 1000, seed=1))
    assert not np.array_equal(rows, proof.random_rows(trained.schema, 1000, seed=2))


def break_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the compiler set the last threshold one bit too high."""

    def broken(*arguments: Any) -> tuple[Trees, Matrix]:
        trees, cover = fold(*arguments)
        return changed(trees, "threshold", -1, up), cover

    monkeypatch.setattr("model.train.compile.compiled.fold", broken)


def test_broken_compiler_gives_no_draft(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline that compiles to a graph one bit off cannot be exported."""
    break_compile(monkeypatch)

    broken = examples.trained(n_estimators=25)

    with pytest.raises(ProofError, match=r"split rows.*nothing was written"):
        recipe.draft(broken)


def test_broken_compiler_leaves_the_store_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`train` with a compiler that is one bit off exits with 1, says why and writes no version."""
    break_compile(monkeypatch)

    assert main(["--store", str(tmp_path / "store"), "train", "boston-housing", "--n-estimators", "25"]) == 1
    output = capsys.readouterr()
    assert output.err.startswith("error: the compiled model differs from the trained one on ")
    assert "champion" not in output.out
    assert Store(tmp_path / "store").names() == []
