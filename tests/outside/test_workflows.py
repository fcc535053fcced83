"""Runs the tests of tests/outside/workflows, by the interpreter of their own environment, and the scripts of Argo."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from app.version import VERSION
from tests.support.apart import pass_apart
from tests.support.service import ROOT

PYTHON = ROOT / ".venv-workflows" / "bin" / "python"
FOLDER = ROOT / "tests" / "outside" / "workflows"
TEMPLATE: dict[str, Any] = yaml.safe_load((ROOT / "workflows" / "argo.yaml").read_text())["spec"]


@pytest.mark.skipif(not PYTHON.exists(), reason="there is no .venv-workflows; `make test-all` makes it")
@pytest.mark.parametrize("path", sorted(FOLDER.glob("test_*.py")), ids=lambda path: path.stem)
def test_engines(tmp_path: Path, path: Path) -> None:
    """Every test of a workflow engine passes, and none is skipped."""
    own = {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "workflows"),
    }
    pass_apart(PYTHON, path, FOLDER, tmp_path, own)


def scripts() -> dict[str, str]:
    """Return the script of each task of Argo's workflow."""
    found = {}
    for task in TEMPLATE["templates"][0]["dag"]["tasks"]:
        (parameter,) = task["arguments"]["parameters"]
        found[task["name"]] = parameter["value"]
    return found


def test_argo_runs_the_commands(tmp_path: Path) -> None:
    """The scripts train two versions side by side and promote the better one; a verdict is an answer, no failure."""
    for name, first, count in (("train", 0, 200), ("holdout", 1000, 1200)):
        rows = [f"{x / 7},{x % 5},{3 * x / 7 + x % 5 + (x * 37 % 11) / 9}" for x in range(first, first + count)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["area,rooms,price", *rows]) + "\n")
    environ = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MODEL": "prices",
        "DATA": str(tmp_path / "train.csv"),
        "HOLDOUT": str(tmp_path / "holdout.csv"),
        "TARGET": "price",
        "LEARNER_A": "baseline",
        "LEARNER_B": "linear",
    }
    (wrapper,) = TEMPLATE["templates"][1]["container"]["args"]

    def start(name: str) -> subprocess.Popen[str]:
        script, command = (
            text.replace("/models", shlex.quote(str(tmp_path / "store"))).replace("/tmp/status", str(tmp_path / name))
            for text in (scripts()[name], wrapper)
        )
        return subprocess.Popen(
            ["sh", "-c", command], env={**environ, "SCRIPT": script}, cwd=ROOT, text=True, stdout=subprocess.PIPE
        )

    def run(*names: str) -> None:
        started = [start(name) for name in names]
        outputs = [each.communicate(timeout=900)[0] for each in started]
        assert [each.returncode for each in started] == [0] * len(names), outputs

    def status(name: str) -> str:
        return (tmp_path / name).read_text().strip()

    run("check")
    run("train-a", "train-b")
    run("compare")
    assert status("compare") in ("0", "3")  # 3 if B was first, and so is the champion already
    run("promote")
    history = subprocess.run(
        [sys.executable, "-m", "model", "--store", str(tmp_path / "store"), "history", "prices"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    b = re.findall(r"tag b (?:to|from \d+ to) (\d+)", history)[-1]
    assert re.findall(r"champion (?:to|from \d+ to) (\d+)", history)[-1] == b
    run("compare")
    assert status("compare") == "3"  # the other one than the champion is worse


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 2", 2), ("exit 3", 0), ("exit 5", 0), ("kill -KILL $$", 137)]
)
def test_argo_fails_for_all_but_an_answer(tmp_path: Path, script: str, status: int) -> None:
    """A verdict is no failure of a task; a command that was killed, as for want of memory, is one."""
    (wrapper,) = TEMPLATE["templates"][1]["container"]["args"]
    command = wrapper.replace("/tmp/status", str(tmp_path / "status"))
    done = subprocess.run(["sh", "-c", command], env={**os.environ, "SCRIPT": script}, timeout=60)

    assert done.returncode == status


@pytest.mark.parametrize(("status", "end"), [(0, 0), (1, 1), (4, 0), (137, 1)])
def test_argo_promotion_fails_with_its_command(tmp_path: Path, status: int, end: int) -> None:
    """The promotion of two versions fails if a command of it fails or is killed, and not for a verdict."""
    command = tmp_path / "python"
    command.write_text(f"#!/bin/sh\nexit {status}\n")
    command.chmod(0o755)
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    assert subprocess.run(["sh", "-c", scripts()["promote"]], env=environ, timeout=60).returncode == end


def test_argo_image_is_of_this_version() -> None:
    """The workflow's image is the one for training of this version."""
    values = {each["name"]: each.get("value") for each in TEMPLATE["arguments"]["parameters"]}

    assert values["image"] == f"tabserve:{VERSION}-train"
