"""Owns what the shell scripts say where something that they need is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.service import ROOT

TOOLS = ("bash", "dirname", "git", "sed", "cat")


def run(script: str, path: Path, **environ: str) -> tuple[int, str]:
    """Run a script with nothing on its path but `path`; return its exit status and what it says."""
    kept = {"HOME": os.environ.get("HOME", "/"), "PATH": str(path), **environ}
    done = subprocess.run([ROOT / script], env=kept, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr.strip()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A folder of programs, without docker and kubectl."""
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found
        (tmp_path / tool).symlink_to(found)
    return tmp_path


def program(path: Path, name: str, text: str) -> None:
    """Put a program of our own on the path."""
    (path / name).write_text(f"#!/bin/bash\n{text}\n")
    (path / name).chmod(0o755)


def test_no_docker(path: Path) -> None:
    """Without docker, and without an engine that answers, the scripts say what to install or start."""
    without = run("run_docker.sh", path)
    program(path, "docker", "exit 1")

    assert without == run("run_docker.sh", path)
    assert without[0] == 1
    assert without[1].startswith("the Docker engine does not answer: start Docker, or install it")


@pytest.mark.parametrize("image", ["", "tabserve"])
def test_nowhere_to_push(path: Path, image: str) -> None:
    """An image without a registry is not pushed; the message shows how to name one."""
    assert run("upload_docker.sh", path, IMAGE=image) == (
        1,
        "set IMAGE to the repository to push to: IMAGE=registry.example.com/team/tabserve",
    )


def test_dirty_tree(path: Path) -> None:
    """What no commit names is not pushed, unless one says so."""
    (path / "git").unlink()
    program(path, "git", "echo ' M app/version.py'")

    assert run("upload_docker.sh", path, IMAGE="registry.example.com/tabserve") == (
        1,
        "the working tree has uncommitted changes: commit them, or set ALLOW_DIRTY=1",
    )
    told = run("upload_docker.sh", path, IMAGE="registry.example.com/tabserve", ALLOW_DIRTY="1")[1]
    assert told.startswith("the Docker engine does not answer")


def test_no_cluster(path: Path) -> None:
    """Without kubectl, an overlay or a cluster the script says which of them is missing."""
    assert run("run_kubernetes.sh", path) == (1, "install kubectl: https://kubernetes.io/docs/tasks/tools")
    program(path, "kubectl", "exit 1")
    assert run("run_kubernetes.sh", path) == (
        1,
        "the cluster does not answer; choose one: kubectl config use-context NAME",
    )
    status, told = run("run_kubernetes.sh", path, OVERLAY="gup")
    assert status == 1
    assert told.startswith("k8s/overlays/gup not found; set OVERLAY to one of: canary cpu fill gpu")


CLUSTER = """echo "$@" >>"$LOG"
case $* in
  "get hpa"*) echo -n "$LEAST" ;;
  "get deployment"*) echo -n "$REPLICAS" ;;
  "get events"*) echo "0/3 nodes are available: 3 Insufficient nvidia.com/gpu" ;;
  "rollout status"*) exit "$ROLLOUT" ;;
esac"""


@pytest.mark.parametrize(
    ("least", "replicas", "scaled"), [("2", "1", True), ("2", "2", False), ("2", "7", False), ("", "1", False)]
)
def test_rollout_waits_for_the_least_replicas(
    path: Path, tmp_path: Path, least: str, replicas: str, scaled: bool
) -> None:
    """The rollout is waited for with at least the autoscaler's replicas; more are not taken away."""
    program(path, "kubectl", CLUSTER)
    log = tmp_path / "log"
    status, told = run("run_kubernetes.sh", path, LOG=str(log), LEAST=least, REPLICAS=replicas, ROLLOUT="0")
    calls = log.read_text().splitlines()

    assert (status, told) == (0, "")
    assert (f"scale deployment/tabserve --replicas {least}" in calls) == scaled
    assert calls[-1] == "port-forward service/tabserve 8000:http"


def test_rollout_that_fails_shows_the_events(path: Path, tmp_path: Path) -> None:
    """Where the rollout does not end, the script shows pods and events, and fails."""
    program(path, "kubectl", CLUSTER)
    environ = {"LOG": str(tmp_path / "log"), "LEAST": "", "REPLICAS": "1", "ROLLOUT": "1", "OVERLAY": "gpu"}
    done = subprocess.run(
        [ROOT / "run_kubernetes.sh"], env={"PATH": str(path), **environ}, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 1
    assert "3 Insufficient nvidia.com/gpu" in done.stdout
    assert done.stderr.strip() == "the rollout did not end; see the pods and events above"
