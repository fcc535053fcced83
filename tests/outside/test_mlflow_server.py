"""Runs and versions at a real MLflow server, in an environment of its own: what arrives, twice, and without one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from model import Store
from model.store import life, runs
from model.store.artifact import read_draft
from model.store.runs import FAILED
from tests.support.server import end
from tests.support.service import ROOT

PYTHON = ROOT / ".venv-clients" / "bin" / "python"
NAME = "boston-housing"
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
# What asks the registered version for its golden rows, away from this project.
ASK = """
import json, sys
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
golden = json.load(open(sys.argv[3]))
frame = pandas.DataFrame(golden["X"], columns=golden["columns"])
served = mlflow.pyfunc.load_model(sys.argv[2])
whole = frame.head(1).astype({"CHAS": "int64", "TAX": "int64"})
assert served.predict(whole).tolist() == golden["y"][:1]
print(json.dumps(served.predict(frame).tolist()))
"""

pytest.importorskip("mlflow", reason='needs MLflow: make install EXTRAS="mlflow-skinny"')
pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="there is no .venv-clients; `make test-all` makes it")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an MLflow server that the tests share."""
    folder = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    where = [f"--backend-store-uri=sqlite:///{folder}/mlflow.db", f"--artifacts-destination={folder}/artifacts"]
    command = [str(PYTHON), "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1", *where]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **QUIET}, stdout=log, stderr=log, cwd=folder)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 300
    try:
        while True:
            try:
                if requests.get(f"{url}/health", timeout=5).ok:
                    break
            except requests.RequestException:
                assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield url
    finally:
        end(process)


@pytest.fixture
def models(store: Path, worse_store: Path, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Store, str]:
    """A store with a trained version, a failed run, and a version without a run; and the model's name, a test's own."""
    name = f"{NAME}-{request.node.name.replace('_', '-')[:40].rstrip('-')}"
    found = Store(tmp_path / "store")
    for source in (store, worse_store):
        found.add(name, read_draft(source / NAME / "1"))
    (run,), _ = runs.read(Store(store), NAME)
    trained = replace(run, model=name, facts={**run.facts, "digest": found.load(f"{name}@1").manifest.digest})
    failed = replace(run, model=name, outcome=FAILED, error="no rows", facts={})
    for each in (trained, failed):
        runs.write(found, each)
    return found, name


def send(store: Store, name: str, url: str, *, status: int = 0) -> str:
    """Send a model and return what the command prints, errors if it fails."""
    command = [sys.executable, "-m", "model", "--store", str(store.root), "runs", name, "--mlflow", url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


def call(url: str, path: str, **body: Any) -> Any:
    """Return the reply of MLflow's REST API."""
    reply = requests.post(f"{url}/api/2.0/mlflow/{path}", json=body, timeout=60)
    reply.raise_for_status()
    return reply.json()


def asked(url: str, path: str, **parameters: str) -> Any:
    reply = requests.get(f"{url}/api/2.0/mlflow/{path}", params=parameters, timeout=60)
    reply.raise_for_status()
    return reply.json()


def everything(url: str, name: str) -> dict[str, Any]:
    """Return what MLflow has of a model: runs by our id, versions, and the registered model."""
    experiment = asked(url, "experiments/get-by-name", experiment_name=name)["experiment"]["experiment_id"]
    found = call(url, "runs/search", experiment_ids=[experiment], max_results=100)["runs"]
    return {
        "runs": {tags_of(run["data"])["tabserve.run"]: run for run in found},
        "n_runs": len(found),
        "versions": asked(url, "model-versions/search", filter=f"name = '{name}'")["model_versions"],
        "model": asked(url, "registered-models/get", name=name)["registered_model"],
    }


def tags_of(document: Any) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in document["tags"]}


def aliases(url: str, name: str) -> dict[str, str]:
    model = asked(url, "registered-models/get", name=name)["registered_model"]
    return {each["alias"]: each["version"] for each in model.get("aliases", [])}


def test_everything_arrives_and_once(models: tuple[Store, str], mlflow_url: str) -> None:
    """Runs with parameters, metrics and outcome, versions and aliases arrive; sent again, nothing changes."""
    store, name = models
    first = send(store, name, mlflow_url)
    found = everything(mlflow_url, name)
    recorded, _ = runs.read(store, name)
    digests = [store.load(f"{name}@{version}").manifest.digest for version in (1, 2)]

    assert first == f"mlflow   {name}: 3 runs and 2 versions are new there, 2 aliases moved\n"
    trained, failed = (found["runs"][run.id] for run in recorded)
    assert [run["info"]["status"] for run in (trained, failed)] == ["FINISHED", "FAILED"]
    assert tags_of(failed["data"])["mlflow.note.content"] == "no rows"
    metrics = {each["key"]: each["value"] for each in trained["data"]["metrics"]}
    assert metrics["validation.rmse"] == recorded[0].part("metrics")["validation"]["rmse"]
    params = {each["key"]: each["value"] for each in trained["data"]["params"]}
    assert params["data.sha256"] == recorded[0].part("data")["sha256"]
    assert {tags_of(each)["tabserve.version"]: tags_of(each)["tabserve.digest"] for each in found["versions"]} == {
        "1": digests[0],
        "2": digests[1],
    }
    assert aliases(mlflow_url, name) == {"champion": "1", "candidate": "2"}
    assert send(store, name, mlflow_url) == f"mlflow   {name}: 0 runs and 0 versions are new there, 0 aliases moved\n"
    assert everything(mlflow_url, name) == found


def test_import_of_what_is_none_of_the_known_is_one_line(models: tuple[Store, str], mlflow_url: str) -> None:
    """A version that was sent from here cannot be imported again, and the reason stands alone, without a bar a file."""
    store, name = models
    send(store, name, mlflow_url)
    words = ["import", f"mlflow:models:/{name}/1", "--name", "again", "--data", "none.csv", "--target", "y"]
    command = [sys.executable, "-m", "model", "--store", str(store.root), *words]
    environ = {**os.environ, **QUIET, "MLFLOW_TRACKING_URI": mlflow_url}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300)
    opening, error = done.stderr.splitlines()
    assert opening.startswith("opening  mlflow:models:/")
    assert "is a model of the flavors python_function" in error


def test_aliases_follow_the_store(models: tuple[Store, str], mlflow_url: str) -> None:
    """An alias that moved or was taken away here is so there; one that somebody set there stays."""
    store, name = models
    life.tag(store, f"{name}@1", "challenger")
    send(store, name, mlflow_url)
    call(mlflow_url, "registered-models/alias", name=name, alias="theirs", version="1")
    assert aliases(mlflow_url, name)["challenger"] == "1"
    life.promote(store, store.load(f"{name}@2"), after=store.last_move(name))
    life.untag(store, name, "challenger")
    send(store, name, mlflow_url)

    assert aliases(mlflow_url, name) == {"champion": "2", "candidate": "2", "theirs": "1"}
    assert "0 aliases moved" in send(store, name, mlflow_url)


def test_sending_goes_on_where_it_was_stopped(models: tuple[Store, str], mlflow_url: str) -> None:
    """A run of which only a part had arrived is completed, and there is no second one."""
    store, name = models
    recorded, _ = runs.read(store, name)
    experiment = call(mlflow_url, "experiments/create", name=name)["experiment_id"]
    call(mlflow_url, "runs/create", experiment_id=experiment, tags=[{"key": "tabserve.run", "value": recorded[0].id}])
    send(store, name, mlflow_url)
    found = everything(mlflow_url, name)

    assert found["n_runs"] == len(found["runs"]) == 3
    assert found["runs"][recorded[0].id]["info"]["status"] == "FINISHED"


def test_registered_version_answers_with_its_bits(models: tuple[Store, str], mlflow_url: str, tmp_path: Path) -> None:
    """What MLflow loads by an alias, away from this project, answers the golden rows with the bits of the version."""
    store, name = models
    send(store, name, mlflow_url)
    golden = store.root / name / "1" / "golden.json"
    command = [sys.executable, "-c", ASK, mlflow_url, f"models:/{name}@champion", str(golden)]
    environ = {**os.environ, **QUIET}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == json.loads(golden.read_text())["y"]


def test_server_that_is_gone(models: tuple[Store, str], tmp_path: Path) -> None:
    """Without a server one line says so, without credentials; a training with `--mlflow` ends as without it."""
    store, name = models
    port = free_port()
    error = send(store, name, f"http://user:secret@127.0.0.1:{port}", status=1)
    train = [sys.executable, "-m", "model", "--store", str(store.root), "train", name, "--data", "none.csv"]
    options = ["--target", "x", "--mlflow", f"http://127.0.0.1:{port}"]
    done = subprocess.run([*train, *options], cwd=ROOT, capture_output=True, text=True, timeout=300)
    recorded, _ = runs.read(store, name)

    assert error.startswith("error: no MLflow server answers at http://127.0.0.1:")
    assert error.count("\n") == 1
    assert "secret" not in error
    assert done.returncode == 1
    assert done.stderr.startswith("mlflow   not sent: no MLflow server answers at ")
    assert "error: none.csv cannot be read" in done.stderr
    assert recorded[-1].outcome == FAILED
