"""Runs the tests of tests/outside/clients, by the interpreter of their own environment, against this server."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support.server import Server, serve
from tests.support.service import ROOT

CLIENTS = ROOT / ".venv-clients" / "bin"
FOLDER = ROOT / "tests" / "outside" / "clients"
FILES = sorted(FOLDER.glob("test_*.py"))

pytestmark = pytest.mark.skipif(
    not (CLIENTS / "python").exists(), reason="there is no .venv-clients; `make test-all` makes it"
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_clients(server: Server, tmp_path: Path, path: Path) -> None:
    """Every test of a client passes, and none is skipped."""
    run(path, server, tmp_path)


@pytest.mark.parametrize("name", ["precious", "mine", "stars"])
def test_clients_of_classifiers(classifiers_store: Path, tmp_path: Path, name: str) -> None:
    """Clients get the labels of each type: booleans, strings and whole numbers."""
    with serve(classifiers_store, tmp_path, TABSERVE_MODELS=name) as server:
        run(FOLDER / "of_classifiers" / "test_labels.py", server, tmp_path)


def test_client_of_agents(store: Path, tmp_path: Path) -> None:
    """An agent's client lists the model, asks it, and is refused with reasons."""
    with serve(store, tmp_path, TABSERVE_MCP="true") as server:
        run(FOLDER / "of_agents" / "test_mcp_client.py", server, tmp_path)


def run(path: Path, server: Server, tmp_path: Path) -> None:
    """Run the tests in a file, all of which must pass."""
    report = tmp_path / "report.xml"
    command = [str(CLIENTS / "python"), "-m", "pytest", str(path), "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, f"--junitxml={report}", "--url", server.url],
        env={**os.environ, "DO_NOT_TRACK": "true"},  # MLflow would report its use
        capture_output=True,
        text=True,
        timeout=1000,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    suite = ElementTree.parse(report).find("testsuite")

    assert suite is not None
    assert int(suite.attrib["tests"]) > 0
    assert [suite.attrib[outcome] for outcome in ("failures", "errors", "skipped")] == ["0", "0", "0"]
