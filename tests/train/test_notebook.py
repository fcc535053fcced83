"""The notebooks: they run with parameters, reproduce the published figures and give the command line's models."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from model.train.examples import NOTEBOOKS

from model import Store
from model.cli.main import main
from model.train import notebook
from tests.support.service import ROOT

OWN_MODEL = ROOT / "notebooks" / "03_your_own_model.ipynb"

Train = Callable[[str], Path]


def needs(name: str) -> None:
    """Skip the test if the model's training package is not installed."""
    if name == "height-weight":
        pytest.importorskip("torch", reason="the network is trained with PyTorch, which is not installed")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Return the artifact that `make train` writes through a model's notebook."""

    @cache
    def train(name: str) -> Path:
        needs(name)
        root: Path = tmp_path_factory.mktemp("notebook")
        assert main(["--store", str(root), "train", name, "--notebook"]) == 0
        return root / name / "1"

    return train


@pytest.fixture(scope="module")
def commanded(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Train:
    """Return the artifact that `python -m model train` writes."""

    @cache
    def train(name: str) -> Path:
        if (store / name).exists():
            return store / name / "1"
        needs(name)
        root: Path = tmp_path_factory.mktemp("commanded")
        assert main(["--store", str(root), "train", name]) == 0
        return root / name / "1"

    return train


def outputs_of(artifact: Path) -> list[dict[str, Any]]:
    """Return all outputs of the kept notebook."""
    cells = json.loads((artifact / "notebook.ipynb").read_text())["cells"]
    return [output for cell in cells for output in cell.get("outputs", [])]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        *[("boston-housing", file) for file in ("trees.npz", "pipeline.joblib", "golden.json", "reference.json")],
        *[("height-weight", file) for file in ("model.onnx", "weights.safetensors", "golden.json", "reference.json")],
    ],
)
def test_gives_the_same_model_as_the_command_line(trained: Train, commanded: Train, name: str, file: str) -> None:
    """The notebook and `python -m model train` write the same bytes."""
    assert (trained(name) / file).read_bytes() == (commanded(name) / file).read_bytes()


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("boston-housing", r"1\. *, +6\.395, 666\. *, +20\.2 *, 391\.34 *, +13\.27"),  # the first two validation rows
        ("boston-housing", r"0\. *, +5\.895, 224\. *, +20\.2 *, 394\.81 *, +10\.56"),
        ("boston-housing", r"best: \{'n_estimators': 200, 'mse': 11\.754\d+\}"),
        ("boston-housing", r"\bmse=26\.359\d+"),
        ("boston-housing", r"^25\.00214579$"),
        ("boston-housing", r"20\.35373177$"),  # what the book's service answers to everything
        ("boston-housing", r"\bdifferent_rows=0\b"),
        ("height-weight", r"^LinearRegression +weight = 3\.1016 height - 83\.741  RMSE 10\.1380$"),
        ("height-weight", r"^network +weight = 3\.1016 height - 83\.741  RMSE 10\.1380$"),
        ("height-weight", r"^network +RMSE 10\.1[45] pounds$"),
        ("height-weight", r"^condition number 5,922,\d{3}$"),
        ("height-weight", r"^through the origin +loss 106\.92  RMSE 10\.34 .* 59\.17$"),
        ("height-weight", r"^0\.016 pounds up +loss 105\.79  RMSE 10\.29 .* 59\.19$"),  # both of the book's figures
        ("height-weight", r"^least squares +loss 101\.59  RMSE 10\.08 .* 59\.22$"),
    ],
)
def test_reproduces_the_published_figures(trained: Train, name: str, figure: str) -> None:
    """The executed notebook shows the figures of the published example, and the proof."""
    texts = [output.get("text") or output.get("data", {}).get("text/plain", []) for output in outputs_of(trained(name))]

    assert re.search(figure, "\n".join("".join(text) for text in texts), re.MULTILINE)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_artifact_keeps_the_notebook_without_traces_of_the_run(trained: Train, name: str) -> None:
    """The kept notebook has outputs and figures, but no path, time or warning of its run."""
    artifact = trained(name)
    text = (artifact / "notebook.ipynb").read_text()

    assert sum("image/png" in output.get("data", {}) for output in outputs_of(artifact)) == 6
    assert [output for output in outputs_of(artifact) if output.get("name") == "stderr"] == []
    assert str(artifact.parents[1]) not in text
    assert re.findall(r"\d{4}-\d\d-\d\dT\d\d:\d\d", text) == []


@pytest.mark.parametrize(
    ("name", "table", "problem"),
    [
        ("boston-housing", "CHAS,RM\n0,abc\n", "row 0, column 'RM': 'abc' is not a number"),
        (
            "height-weight",
            "Height-Inches\n170\n",
            "row 0, column 'Height-Inches': 170 is not plausible: 40 to 100 inches",
        ),
    ],
)
def test_bad_data_stops_the_notebook_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, table: str, problem: str
) -> None:
    """A table that cannot be trained on ends the run with its report, and the store stays empty."""
    needs(name)
    path = tmp_path / "bad.csv"
    path.write_text(table)

    assert main(["--store", str(tmp_path / "store"), "train", name, "--notebook", "--data", str(path)]) == 1
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def cells_of(notebook: Path, kind: str) -> list[str]:
    """Return the sources of the notebook's cells of one kind."""
    cells: list[dict[str, Any]] = json.loads(notebook.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


@pytest.mark.parametrize("notebook", NOTEBOOKS.values(), ids=NOTEBOOKS)
def test_notebook_defines_nothing_and_is_committed_clean(notebook: Path) -> None:
    """The notebook imports from `model`, defines no function or class, and is committed without outputs."""
    code = cells_of(notebook, "code")

    assert [cell for cell in code if re.search(r"^\s*(def|class|async def) |lambda", cell, re.MULTILINE)] == []
    assert any("from model import" in cell for cell in code)
    assert '"outputs": []' in notebook.read_text()
    assert "image/png" not in notebook.read_text()


@pytest.mark.parametrize("notebook", NOTEBOOKS.values(), ids=NOTEBOOKS)
def test_sections_are_the_four(notebook: Path) -> None:
    """The notebook's sections are Ingest, EDA, Modeling and Conclusion."""
    sections = [line for cell in cells_of(notebook, "markdown") for line in cell.splitlines() if line.startswith("## ")]

    assert sections == ["## Ingest", "## EDA", "## Modeling", "## Conclusion"]


def test_notebook_has_the_defaults_of_the_command_line() -> None:
    """The network's parameters in the notebook, which the command line can set, are the defaults of the code."""
    needs("height-weight")
    from model.train.learners.mlp import NetworkRegressor

    parameters: dict[str, Any] = {}
    exec(cells_of(NOTEBOOKS["height-weight"], "code")[0], parameters)
    defaults = NetworkRegressor().get_params()
    in_notebook = {name: parameters[name] for name in defaults if name not in ("progress", "checkpoint_seconds")}

    assert in_notebook.pop("checkpoint") == ""
    assert {**in_notebook, "hidden": tuple(in_notebook["hidden"])}.items() <= defaults.items()


def test_template_exports_a_model_of_ones_own(tmp_path: Path) -> None:
    """The template runs as it stands, and its model is served with the pipeline's bits."""
    executed = json.loads(notebook.run(OWN_MODEL, parameters={"store": tmp_path / "store"}))

    found = Store(tmp_path / "store").load("rents")
    assert found.manifest.document["data"]["rows"] == 1_600
    assert "".join(executed["cells"][-1]["outputs"][0]["data"]["text/plain"]) == "np.int64(0)"
