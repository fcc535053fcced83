"""The table of learners: what a learner needs is checked before it is used, and examples name learners that exist."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from model.cli.main import main
from model.table import recipes
from model.train.learners import LEARNERS


@pytest.mark.parametrize("name", recipes.names())
def test_example_names_a_learner(name: str) -> None:
    """Each example's default learner is in the table, and so are its options."""
    description = recipes.find(name)

    assert description.learner in LEARNERS
    assert description.options.keys() <= LEARNERS[description.learner].options.keys()


@pytest.mark.parametrize("more", [[], ["--notebook"]], ids=["directly", "notebook"])
def test_learner_without_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    """Training with a learner whose package is not installed exits with 1, says how to install it, writes nothing."""
    monkeypatch.setitem(sys.modules, "torch", None)  # Python then finds no such package

    assert main(["--store", str(tmp_path / "store"), "train", "height-weight", *more]) == 1
    assert "error: an MLP needs PyTorch, which is not installed; run make train" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()
