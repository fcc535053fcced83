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

from model.live.prediction_log import PredictionLog
from tests.support.readme import BLOCKS, COMMANDS, PAGES, section
from tests.support.server import Server, serve
from tests.support.service import ROOT

CURLS = [(commands.strip(), answer) for commands, answer in BLOCKS if commands.startswith("curl")]
EXAMPLES = [block for page in PAGES.values() for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL)]


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
    """A server with a prediction log, as `make run` starts it."""
    folder = tmp_path_factory.mktemp("server")
    with serve(store, folder, TABSERVE_PREDICTION_LOG=f"sqlite:///{folder}/predictions.db") as started:
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
def test_python_prints_as_shown(logging_server: Server, example: str) -> None:
    """An example in Python, run in the project's folder, prints what the comment of its last line says."""
    code = example.replace("http://localhost:8000", logging_server.url)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == example.strip().rpartition("  # ")[2]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith(".venv/bin/python -m model ")])
def test_model_commands_work(store: Path, tmp_path: Path, command: str) -> None:
    """A command that works on the store, or on the prediction log, ends well and prints something."""
    words = shlex.split(command)
    assert words[:3] == [".venv/bin/python", "-m", "model"]
    (tmp_path / "model").symlink_to(ROOT / "model")
    PredictionLog(f"sqlite:///{tmp_path}/predictions.db").write([])
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
