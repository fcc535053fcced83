"""The table of learners: what a learner needs is checked before it is used, and examples name learners that exist."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from model import Store
from model.cli.main import main
from model.errors import DataError
from model.table import recipes
from model.train.learners import LEARNERS, options_of


@pytest.mark.parametrize("name", recipes.names())
def test_example_names_a_learner(name: str) -> None:
    """Each example's default learner is in the table, and so are its options."""
    description = recipes.find(name)

    assert description.learner in LEARNERS
    assert description.options.keys() <= LEARNERS[description.learner].options.keys()


@pytest.mark.parametrize(
    ("learner", "options", "part"),
    [
        ("linear", {"alpha": "much"}, "alpha in options is 'much', and not a number"),
        ("linear", {"alpha": float("nan")}, "alpha in options is nan, and not a number"),
        ("linear", {"alpha": True, "penalty": 1}, "penalty in options is 1, and not a text"),
        ("linear", {"alfa": 1.0}, "has no option 'alfa'"),
        ("forest", {"min_samples_leaf": 1.5}, "min_samples_leaf in options is 1.5, and not a whole number"),
        ("forest", {"max_features": []}, "max_features in options is [], and not a number or a text"),
        ("gbm", {"n_estimators": [300]}, "n_estimators in options is [300], and not a whole number"),
    ],
)
def test_option_of_a_schema_file_that_cannot_be(learner: str, options: dict[str, object], part: str) -> None:
    """An option that a learner does not have, or of another type, is named with what is accepted."""
    with pytest.raises(DataError, match=re.escape(part)):
        options_of(learner, options)


def test_options_of_a_schema_file_are_those_of_the_command_line() -> None:
    """A whole number is a number, and a text becomes what the command line makes of it."""
    assert options_of("linear", {"alpha": 2, "penalty": "ridge"}) == {"alpha": 2.0, "penalty": "ridge"}
    pytest.importorskip("torch")
    found = options_of("mlp", {"checkpoint": "run.pt", "hidden": [8, 8], "compile": False, "max_epochs": 3})
    assert found == {"checkpoint": Path("run.pt"), "hidden": [8, 8], "compile": False, "max_epochs": 3}
    with pytest.raises(DataError, match="precision in options is 'float16', and not one of float32, bfloat16"):
        options_of("mlp", {"precision": "float16"})
    with pytest.raises(DataError, match="gpu_clocks in options is 'fast', and not what it must be"):
        options_of("mlp", {"gpu_clocks": "fast"})


@pytest.mark.parametrize("more", [[], ["--notebook"]], ids=["directly", "notebook"])
def test_learner_without_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    """Training with a learner whose package is not installed exits with 1, says how to install it, writes none."""
    monkeypatch.setitem(sys.modules, "torch", None)  # Python then finds no such package

    assert main(["--store", str(tmp_path / "store"), "train", "height-weight", *more]) == 1
    assert "error: an MLP needs PyTorch, which is not installed; run make train" in capsys.readouterr().err
    assert Store(tmp_path / "store").names() == []
