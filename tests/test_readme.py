"""The README: its commands work, its tables and its tree say what is there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from app import create_app
from app.config import Config
from conftest import ROOT, serve
from model.prediction_log import PredictionLog

README = (ROOT / "README.md").read_text()
# Each block of commands, with the JSON block that follows it where the README shows an answer.
BLOCKS = re.findall(r"```sh\n(.*?)```\n(?:\n```json\n(.*?)```\n)?", README, re.DOTALL)
COMMANDS = [command for commands, _ in BLOCKS for command in commands.splitlines()]
CURLS = [(commands.strip(), answer) for commands, answer in BLOCKS if commands.startswith("curl")]


def test_every_command_is_run_by_a_test_or_by_ci() -> None:
    """A command of the README is a make target that .ci/run calls, or of a kind that the tests below run."""
    ci = (ROOT / ".ci" / "run").read_text()

    def is_run(command: str) -> bool:
        if command == "make notebook":  # test_notebooks_can_import_the_models
            return True
        if command.split()[1:2] in (["push"], ["deploy"]):  # they need a registry and a cluster
            return True
        if command == "./run_docker.sh" or command.startswith("make image"):  # test_image.py
            return True
        if command == "make monitor":  # test_prometheus.py
            return True
        if command.startswith("make "):
            return re.search(rf"\b{command.split(' URL=')[0]}\b", ci) is not None
        return command.startswith(("curl ", ".venv/bin/python -m model "))

    inline = re.findall(r"`(?:[A-Z]+=\S+ )?(make [a-z-]+)", README)
    assert [command for command in COMMANDS + inline if not is_run(command)] == []


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


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize(("commands", "shown"), CURLS)
def test_curl_answers_as_shown(store: Path, tmp_path: Path, commands: str, shown: str) -> None:
    """The last curl line of a block gets the answer that stands below it, but for an id that the server made."""
    with serve(store, tmp_path, TABSERVE_PREDICTION_LOG=f"sqlite:///{tmp_path}/predictions.db") as server:
        here = commands.replace("localhost:8000", server.url.removeprefix("http://")).replace("\n", "; echo\n")
        done = subprocess.run(["bash", "-c", here], capture_output=True, text=True, check=True)

    answer, expected = json.loads(done.stdout.splitlines()[-1]), json.loads(shown)
    assert answer.pop("request_id", None) != expected.pop("request_id", "none")
    assert answer == expected


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith(".venv/bin/python -m model ")])
def test_model_commands_work(store: Path, tmp_path: Path, command: str) -> None:
    """A command of the README that works on the store, or on the prediction log, ends well and prints something."""
    words = shlex.split(command)
    assert words[:3] == [".venv/bin/python", "-m", "model"]
    (tmp_path / "model").symlink_to(ROOT / "model")
    PredictionLog(f"sqlite:///{tmp_path}/predictions.db").write([])
    run = [sys.executable, "-m", "model", "--store", str(store), *words[3:]]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=True)

    assert done.stdout.strip() != ""


def test_settings_table_is_the_configuration() -> None:
    """The README names every setting with its default and its help, word for word, and no other."""
    rows = re.findall(r"^\| `([A-Z_]+)` \| (?:`(.*?)`)? ?\| (.*) \|$", README, re.MULTILINE)

    def shown(default: object) -> str:
        return str(default).lower() if isinstance(default, bool) else str(default or "")

    settings = [(item.metadata["name"], item.default, item.metadata["help"]) for item in fields(Config)]
    assert rows == [(name, "" if default == () else shown(default), text) for name, default, text in settings]


def test_endpoint_table_is_the_routes(store: Path) -> None:
    """The README's tables name every route of the service, and no other; V1's and V2's by version in one sentence."""
    rules = create_app(Config(store=store)).url_map.iter_rules()
    routes = {f"{method} {rule.rule}" for rule in rules for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}}
    named = re.findall(r"`((?:GET|POST) [^` ]+)`", "\n".join(re.findall(r"^\|.*", README, re.MULTILINE)))

    assert sorted(named) == sorted({route.replace("/versions/<version>", "") for route in routes})


def test_make_targets_exist() -> None:
    """Every `make TARGET` that the README speaks of is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", README, re.MULTILINE)) - targets == set()


@pytest.mark.parametrize("folder", ["app", "model"])
def test_tree_names_every_module(folder: str) -> None:
    """The README's tree has a line for every module, and none for a module that is not there."""
    tree = README[README.index("## What is where") :]
    section = re.search(rf"^{folder}/.*\n((?:  .*\n)+)", tree, re.MULTILINE)
    assert section is not None

    named = set(re.findall(r"^  (\w+\.py)", section[1], re.MULTILINE))
    assert named == {path.name for path in (ROOT / folder).glob("*.py")} - {"__init__.py"}
