"""The notebook: it runs with parameters, reproduces the published figures and gives the command line's model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from model.__main__ import main

NOTEBOOK = ROOT / "notebooks" / "01_boston_housing_gbm.ipynb"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact that `make train` writes, through the notebook."""
    root: Path = tmp_path_factory.mktemp("notebook")
    assert main(["--store", str(root), "train", "boston-housing", "--notebook"]) == 0
    return root / "boston-housing" / "1"


@pytest.fixture(scope="module")
def outputs(trained: Path) -> str:
    """Everything that the executed notebook printed or showed as text."""
    cells = json.loads((trained / "notebook.ipynb").read_text())["cells"]
    found = [output for cell in cells for output in cell.get("outputs", [])]
    texts = [output.get("text") or output.get("data", {}).get("text/plain", []) for output in found]
    return "\n".join("".join(text) for text in texts)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.onnx", "pipeline.joblib", "golden.json", "reference.json"])
def test_gives_the_same_model_as_the_command_line(trained: Path, store: Path, name: str) -> None:
    """The notebook and `python -m model train` write the same bytes."""
    assert (trained / name).read_bytes() == (store / "boston-housing" / "1" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "figure",
    [
        r"1\. *, +6\.395, 666\. *, +20\.2 *, 391\.34 *, +13\.27",  # the first two validation rows
        r"0\. *, +5\.895, 224\. *, +20\.2 *, 394\.81 *, +10\.56",
        r"best: \{'n_estimators': 200, 'mse': 11\.754\d+\}",
        r"'mse': 26\.359\d+",
        r"^25\.00214579$",
        r"20\.35373177$",  # what the book's service answers to everything
        r"'different_rows': 0",
    ],
)
def test_reproduces_the_published_figures(outputs: str, figure: str) -> None:
    """The executed notebook shows the figures of the published example, and the proof."""
    assert re.search(figure, outputs, re.MULTILINE)


@pytest.mark.slow
def test_artifact_keeps_the_notebook_without_traces_of_the_run(trained: Path) -> None:
    """The kept notebook has outputs and pictures, and neither a path nor a time of the run that made it."""
    text = (trained / "notebook.ipynb").read_text()
    cells = json.loads(text)["cells"]

    assert sum("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", [])) == 6
    assert str(trained.parents[1]) not in text
    assert re.findall(r"\d{4}-\d\d-\d\dT\d\d:\d\d", text) == []


@pytest.mark.slow
def test_bad_data_stops_the_notebook_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table that cannot be trained on ends the run with its report, and the store stays empty."""
    table = tmp_path / "bad.csv"
    table.write_text("CHAS,RM\n0,abc\n")

    assert (
        main(["--store", str(tmp_path / "store"), "train", "boston-housing", "--notebook", "--data", str(table)]) == 1
    )
    assert "row 0, column RM: 'abc' is not a number" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def cells_of(kind: str) -> list[str]:
    """Return the sources of the notebook's cells of one kind."""
    cells: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


def test_notebook_defines_nothing_and_is_committed_clean() -> None:
    """The notebook imports from `model`, defines no function or class, and is committed without outputs."""
    code = cells_of("code")

    assert [cell for cell in code if re.search(r"^\s*(def|class|async def) |lambda", cell, re.MULTILINE)] == []
    assert any("from model import" in cell for cell in code)
    assert '"outputs": []' in NOTEBOOK.read_text()
    assert "image/png" not in NOTEBOOK.read_text()


def test_sections_are_the_four() -> None:
    """The notebook's sections are Ingest, EDA, Modeling and Conclusion."""
    sections = [line for cell in cells_of("markdown") for line in cell.splitlines() if line.startswith("## ")]

    assert sections == ["## Ingest", "## EDA", "## Modeling", "## Conclusion"]
