"""The README's commands, run."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from model import Store
from model.cli.main import main
from model.live.prediction_log import PredictionLog
from model.store import life
from model.store.artifact import read_draft
from tests.support.readme import BLOCKS, COMMANDS, PAGES, section
from tests.support.server import Server, serve
from tests.support.service import ROOT
from tests.support.signatures import key_pair

CURLS = [(commands.strip(), answer) for commands, answer in BLOCKS if commands.startswith("curl")]
BLOCKS_OF_PYTHON = [block for page in PAGES.values() for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL)]
EXPORTS = [block for block in BLOCKS_OF_PYTHON if "export(" in block]
# Those for a cluster are run by the tests of tests/outside/spark, and a handler of Lambda by test_lambda.py.
ELSEWHERE = ("export(", "pyspark", "aws_lambda")
EXAMPLES = [block for block in BLOCKS_OF_PYTHON if not any(word in block for word in ELSEWHERE)]
# What the examples of a training take for granted: a table, and its schema file.
TABLE = """
from model.cli.main import main
from tests.support.houses import write

write("houses.csv")
main(["describe", "houses.csv", "--target", "price", "--out", "houses.toml"])
"""
# What the example of a comparison takes for granted: rows that two versions were fitted on, and others.
VERSIONS = """
from model.cli.main import main
from tests.support.houses import write

write("houses.csv")
with open("houses.csv") as file:
    head, *lines = file
for name, rows in (("train.csv", lines[:400]), ("holdout.csv", lines[400:])):
    with open(name, "w") as file:
        file.writelines([head, *rows])
for learner in ("baseline", "linear"):
    main(["train", "prices", "--data", "train.csv", "--target", "price", "--learner", learner])
"""
# What the examples of an export take for granted: a fitted pipeline, in memory and in files, and its tables.
FITTED = """
import joblib
import pandas as pd
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor

table = pd.DataFrame({"area": [float(n) for n in range(40)], "rent": [9.0 * (n // 4) for n in range(40)]})
table[:30].to_csv("train.csv", index=False)
table[30:].to_csv("test.csv", index=False)
X_train, y_train, X_test, y_test = table[["area"]][:30], table["rent"][:30], table[["area"]][30:], table["rent"][30:]
pipeline = make_pipeline(StandardScaler(), DecisionTreeRegressor(random_state=0)).fit(X_train, y_train)
joblib.dump(pipeline, "rents.joblib")
"""


def test_notebooks_can_import_the_models() -> None:
    """A kernel that JupyterLab starts in the notebooks' folder finds `model` by what `make notebook` sets."""
    shown = subprocess.run(["make", "-n", "notebook"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    path = re.findall(r'^PYTHONPATH="(.+)" .*jupyter lab', shown, re.MULTILINE)[0]
    command = [sys.executable, "-c", "import model; print(model.__file__)"]
    done = subprocess.run(
        command,
        cwd=ROOT / "notebooks",
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )

    assert Path(done.stdout.strip()) == ROOT / "model" / "__init__.py"


@pytest.fixture(scope="module")
def logging_server(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a prediction log, as `make run` starts it, that answers agents."""
    folder = tmp_path_factory.mktemp("server")
    log = f"sqlite:///{folder}/predictions.db"
    with serve(store, folder, TABSERVE_PREDICTION_LOG=log, TABSERVE_MCP="true") as started:
        yield started


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize(("commands", "shown"), CURLS)
def test_curl_answers_as_shown(logging_server: Server, commands: str, shown: str) -> None:
    """The last curl line of a block gets the answer that stands below it, but for an id that the server made."""
    here = commands.replace("localhost:8000", logging_server.url.removeprefix("http://")).replace("\n", "; echo\n")
    done = subprocess.run(["bash", "-c", here], capture_output=True, text=True, check=True)

    answer, expected = json.loads(done.stdout.splitlines()[-1]), json.loads(shown)
    assert answer.pop("request_id", None) != expected.pop("request_id", "none")
    assert answer == expected


@pytest.mark.parametrize("example", EXAMPLES)
def test_python_prints_as_shown(logging_server: Server, store: Path, example: str) -> None:
    """An example in Python, run in the project's folder, prints what the comment of its last line says."""
    code = example.replace("http://localhost:8000", logging_server.url).replace('"store"', repr(str(store)))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == example.strip().rpartition("  # ")[2]


@pytest.mark.parametrize("example", EXPORTS)
def test_python_exports_a_model(tmp_path: Path, example: str) -> None:
    """An example of an export, after a pipeline was fitted, writes a version into the store beside it."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", FITTED + example], cwd=tmp_path, env=environ, check=True)

    assert (tmp_path / "store" / "rents" / "1" / "manifest.json").is_file()


@pytest.mark.parametrize("command", [c for c in dict.fromkeys(COMMANDS) if c.startswith(".venv/bin/python -m model ")])
def test_model_commands_work(store: Path, tmp_path: Path, command: str) -> None:
    """A command that works on the store, or on the prediction log, ends well and prints something."""
    words = shlex.split(command)
    assert words[:3] == [".venv/bin/python", "-m", "model"]
    (tmp_path / "model").symlink_to(ROOT / "model")
    PredictionLog(f"sqlite:///{tmp_path}/predictions.db").write([])
    if words[3] in ("describe", "import", "train", "compare", "retrain"):  # which must not change the tests' own store
        store = tmp_path / "store"
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        before = VERSIONS if words[3] in ("compare", "retrain") else FITTED + TABLE
        subprocess.run([sys.executable, "-c", before], cwd=tmp_path, env=environ, check=True)
    if words[3] in ("diff", "promote", "rollback", "tag", "prune"):  # of a store with a second version
        store = Path(shutil.copytree(store, tmp_path / "store"))
        models = Store(store)
        models.add("boston-housing", read_draft(models.find("boston-housing")))
        if words[3] == "rollback":
            life.promote(models, models.load("boston-housing@2"), after=models.last_move("boston-housing"))
    if "--key" in words:
        store = Path(shutil.copytree(store, tmp_path / "signed"))
        private, public = key_pair(tmp_path, "signing")
        if public.name in words:
            assert main(["--store", str(store), "sign", "boston-housing", "--key", str(private)]) == 0
    if words[3] == "train" and "--trials" not in words:  # in place of two minutes
        words += ["--trials", "2"]
    run = [sys.executable, "-m", "model", "--store", str(store), *words[3:]]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=True)

    assert done.stdout.strip() != ""


def test_help_names_every_target() -> None:
    """`make help` prints every target once, and first those that are marked `##1` to `##9`, in that order."""
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY:((?:.*\\\n)*.*)", makefile, re.MULTILINE)
    assert phony is not None
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    named = re.findall(r"^ +make ([a-z-]+) ", shown, re.MULTILINE)
    marked = re.findall(r"^([a-z-]+):.*##([1-9]) ", makefile, re.MULTILINE)

    assert sorted(named) == sorted(phony[1].replace("\\", "").split())
    assert named[: len(marked)] == [name for name, _ in sorted(marked, key=lambda pair: pair[1])] != []


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a checkout by git")
def test_rooms_are_the_folders() -> None:
    """The README's rooms name every top-level folder and every package in app/ and model/."""
    tree = re.findall(r"^( *)(\w+)/ ", section("Rooms"), re.MULTILINE)
    folders = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    top = {path.partition("/")[0] for path in folders.splitlines() if "/" in path and not path.startswith(".")}
    rooms = {path.parent.name for folder in ("app", "model") for path in (ROOT / folder).glob("*/__init__.py")}

    assert {name for indent, name in tree if not indent} == top
    assert rooms - {name for indent, name in tree if indent} == set()
