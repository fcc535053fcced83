"""The notebooks: they run with a plan, reproduce the published figures and give the command line's models."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from model import Store
from model.cli.main import main
from model.table import recipes
from model.train import notebook
from model.train.recipe import TEMPLATE
from tests.support.service import ROOT

OWN_MODEL = ROOT / "notebooks" / "03_your_own_model.ipynb"
NOTEBOOKS = {name: Path(recipes.find(name).notebook) for name in recipes.names()}
RENTS = "area,district,rent\n" + "".join(
    f"{n},{'NW'[n % 2]}ord,{9 * n + 40 * (n % 2) + n % 7}\n" for n in range(20, 140)
)

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


def contents_of(artifact: Path) -> dict[str, bytes]:
    """Return the content of each file of an artifact."""
    return {str(path.relative_to(artifact)): path.read_bytes() for path in artifact.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_gives_the_same_model_as_the_command_line(trained: Train, commanded: Train, name: str) -> None:
    """The notebook and `python -m model train` write the same bytes: all files but the notebook, and all facts."""
    one, other = contents_of(trained(name)), contents_of(commanded(name))
    facts, expected = json.loads(one.pop("manifest.json")), json.loads(other.pop("manifest.json"))
    for document in (facts, expected):
        document["code"].pop("notebook")
        document["files"].pop("notebook.ipynb", None)
        for fact in ("version", "created_at", "digest"):
            del document[fact]

    assert one.pop("notebook.ipynb")
    assert one == other
    assert facts == expected


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
        ("boston-housing", r"^357 +21\.7 +21\.648240 +-0\.051760$"),  # the evaluation table, and its summary
        ("boston-housing", r"^mean +22\.573529 +22\.620563 +0\.047033$"),
        ("boston-housing", r"^9,\d{3} characters of JSON, 102 answers, the first 21\.64824009728004$"),
        ("boston-housing", r"^(answers that differ in a bit from the evaluation table: 0\n[^a]*){2}"),
        ("height-weight", r"^LinearRegression +weight = 3\.1016 height - 83\.741  RMSE 10\.1380$"),
        ("height-weight", r"^network +weight = 3\.1016 height - 83\.741  RMSE 10\.1380$"),
        ("height-weight", r"^network +RMSE 10\.1[45] pounds$"),
        ("height-weight", r"^std +11\.640392 +6\.03\d+ +10\.14\d+$"),  # of the evaluation table
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
    ("name", "cell", "wrong", "problem"),
    [
        ("boston-housing", "6.575", "abc", "row 0, column 'RM': 'abc' is not a number"),
        ("height-weight", "68.00753", "170", "row 0, column 'Height-Inches': 170 is not plausible: 40 to 100 inches"),
    ],
)
def test_bad_data_stops_the_notebook_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, cell: str, wrong: str, problem: str
) -> None:
    """A table that cannot be trained on ends the run with its report, and the store stays empty."""
    needs(name)
    path, own = tmp_path / "bad.csv", Path(recipes.find(name).data)
    table = gzip.decompress(own.read_bytes()) if own.suffix == ".gz" else own.read_bytes()
    path.write_text(table.decode().replace(cell, wrong, 1))

    assert main(["--store", str(tmp_path / "store"), "train", name, "--notebook", "--data", str(path)]) == 1
    assert problem in capsys.readouterr().err
    assert Store(tmp_path / "store").names() == []


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("arguments", "torch"),
    [
        ([], False),
        (["MODEL=height-weight"], True),
        (["MODEL=prices", "ARGS=--data houses.csv --target price"], False),
        (["MODEL=prices", "ARGS=--data houses.csv --target price --learner mlp"], True),
    ],
)
def test_make_installs_pytorch_where_a_network_is_trained(arguments: list[str], torch: bool) -> None:
    """`make train` installs PyTorch only if the schema file of MODEL, or ARGS, name the network."""
    command = ["make", "--dry-run", "--always-make", "train", *arguments]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert ("-r requirements-torch.txt" in shown) is torch
    assert f" --notebook {arguments[1].partition('=')[2] if len(arguments) > 1 else ''}" in shown


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


def test_template_trains_on_any_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table of one's own goes through the template, which the artifact keeps without paths and progress bars.

    The command prints the same lines as without a notebook, in the same order.
    """
    (tmp_path / "rents.csv").write_text(RENTS)
    arguments = ["--data", str(tmp_path / "rents.csv"), "--target", "rent", "--trials", "2", "--notebook"]

    assert main(["--store", str(tmp_path / "store"), "train", "rents", *arguments]) == 0

    found = Store(tmp_path / "store").load("rents")
    text = (found.path / "notebook.ipynb").read_text()
    assert found.manifest.document["code"]["notebook"] == TEMPLATE.relative_to(ROOT).as_posix()
    assert found.schema.names == ("area", "district")
    assert "linear is better than the baseline" in text
    assert [output for output in outputs_of(found.path) if output.get("name") == "stderr"] == []
    assert str(tmp_path) not in text
    lines = capsys.readouterr().out.splitlines()
    assert main(["--store", str(tmp_path / "other"), "train", "rents", *arguments[:-1]]) == 0
    expected = capsys.readouterr().out.splitlines()
    words = [[line.split(" ")[0] for line in each if line[:1].strip()] for each in (lines, expected)]
    assert words[0] == [*words[1], "notebook"]
    assert lines[: lines.index("")] == expected[: expected.index("")]


def test_another_learner_goes_through_the_template(tmp_path: Path) -> None:
    """The text of an example's notebook is about its learner, so another learner goes through the template."""
    arguments = ["--learner", "baseline", "--notebook"]

    assert main(["--store", str(tmp_path), "train", "boston-housing", *arguments]) == 0
    assert Store(tmp_path).load("boston-housing").manifest.document["code"]["notebook"] == "notebooks/train.ipynb"


def test_standard_input_is_no_table_of_a_notebook(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A notebook runs in another process, so standard input is refused before anything is run."""
    assert main(["--store", str(tmp_path), "train", "rents", "--data", "-", "--target", "rent", "--notebook"]) == 1
    assert "name a file by --data" in capsys.readouterr().err


def test_template_exports_a_model_of_ones_own(tmp_path: Path) -> None:
    """The template runs as it stands, and its model is served with the pipeline's bits."""
    executed = json.loads(notebook.run(OWN_MODEL, parameters={"store": tmp_path / "store"}))

    found = Store(tmp_path / "store").load("rents")
    assert found.manifest.document["data"]["rows"] == 1_600
    assert "".join(executed["cells"][-1]["outputs"][0]["data"]["text/plain"]) == "np.int64(0)"
