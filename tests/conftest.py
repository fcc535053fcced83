"""One trained model for all tests, the service around it, and a real gunicorn."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import requests
from flask.testing import FlaskClient
from numpy.typing import NDArray

from app import create_app
from app.config import Config, Route
from model import artifact
from model.__main__ import main
from postgres import Postgres, run_postgres

# These run in an environment of their own, by test_clients.py.
collect_ignore = ["clients"]

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "model" / "data" / "boston_housing.csv"

# The first row of the table: the request that the README shows.
HOUSE = {"CHAS": 0, "RM": 6.575, "TAX": 296.0, "PTRATIO": 15.3, "B": 396.9, "LSTAT": 4.98}
COLUMNS = list(HOUSE)

Rows = Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Protocol:
    """One prediction protocol: its path, the format of rows, and the fields of a reply and of an error."""

    path: str
    write: Callable[[Rows], dict[str, Any]]  # cells in the schema's order
    read: Callable[[Any], list[float]]
    error: tuple[str, ...] = ("error",)
    message: str = "error"
    unfit: int = 400  # the status for rows that do not fit the schema


def write_tensors(rows: Rows) -> dict[str, Any]:
    """Return rows as a V2 request with one FP64 tensor for each feature."""
    shape = {"shape": [len(rows)], "datatype": "FP64"}
    return {"inputs": [{"name": name, **shape, "data": [row[i] for row in rows]} for i, name in enumerate(COLUMNS)]}


PROTOCOLS = {
    "native": Protocol(
        "/predict",
        write=lambda rows: {"columns": COLUMNS, "data": rows},
        read=lambda reply: reply["prediction"],
        error=("error", "status", "details"),
        unfit=422,
    ),
    "V2": Protocol(
        "/v2/models/boston-housing/infer", write=write_tensors, read=lambda reply: reply["outputs"][0]["data"]
    ),
    "V1": Protocol(
        "/v1/models/boston-housing:predict",
        write=lambda rows: {"instances": rows},
        read=lambda reply: reply["predictions"],
    ),
    "Vertex AI": Protocol(
        "/vertex/predict", write=lambda rows: {"instances": rows}, read=lambda reply: reply["predictions"]
    ),
    "MLflow": Protocol(
        "/invocations",
        write=lambda rows: {"dataframe_split": {"columns": COLUMNS, "data": rows}},
        read=lambda reply: reply["predictions"],
        error=("error_code", "message"),
        message="message",
    ),
}


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with version 1 of boston-housing, trained by the command line. Tests must not change it."""
    root: Path = tmp_path_factory.mktemp("store")
    assert main(["--store", str(root), "train", "boston-housing"]) == 0
    return root


@pytest.fixture(scope="session")
def pipeline(store: Path) -> Any:
    """The fitted scikit-learn pipeline of the artifact, which serving must equal."""
    return joblib.load(store / "boston-housing" / "1" / "pipeline.joblib")


@pytest.fixture(scope="session")
def houses() -> pd.DataFrame:
    """The features of all 506 rows, columns in the schema's order."""
    return pd.read_csv(TABLE).drop(columns="MEDV").astype(float)


@pytest.fixture
def log_lines() -> list[dict[str, Any]]:
    """The lines that `client` logs."""
    return []


@pytest.fixture
def client(store: Path, log_lines: list[dict[str, Any]]) -> FlaskClient:
    """A client of the service, in this process."""
    return create_app(Config(store=store), write_log=parsing(log_lines.extend)).test_client()


def parsing(take: Callable[[list[dict[str, Any]]], None]) -> Callable[[Iterable[bytes]], None]:
    """Return a log writer that passes its parsed lines to `take`."""
    return lambda pieces: take([json.loads(line) for line in b"".join(pieces).splitlines()])


def everywhere_client(store: Path, write_lines: Callable[[list[dict[str, Any]]], None], **settings: Any) -> FlaskClient:
    """Return a client of a service that answers at the paths of all `PROTOCOLS`."""
    routes = {"aip_health_route": Route("/vertex/health"), "aip_predict_route": Route("/vertex/predict")}
    return create_app(Config(store=store, **{**routes, **settings}), write_log=parsing(write_lines)).test_client()


@pytest.fixture(scope="session")
def everywhere(store: Path) -> FlaskClient:
    """A client of a service at the paths of all `PROTOCOLS`. Tests share it: they must not change it."""
    return everywhere_client(store, lambda lines: None)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL that tests may freeze and stop, and start again."""
    with run_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database for predictions."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'log.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    server.execute("DROP TABLE IF EXISTS predictions")
    return server.url()


@dataclass
class Server:
    """A running gunicorn: its URL, its process and its output files."""

    url: str
    process: subprocess.Popen[bytes]
    stdout: Path
    stderr: Path

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def terminate(self) -> int:
        """Send SIGTERM, wait for the end and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=40)


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a server with SIGTERM, and kill it if that takes too long."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def serve(
    store: Path, folder: Path, *, wait: str = "/readyz", port: str = "", prefix: Sequence[str] = (), **settings: str
) -> Iterator[Server]:
    """Run gunicorn as `make run` does until the block ends; `wait` for a path to reply 200. Port "" is any free one.

    `settings` are environment variables, as in `WEB_CONCURRENCY="1"`; by default there is no prediction log.
    `prefix` is a command that runs the server.
    """
    if not port:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("TABSERVE_", "PROMETHEUS_", "PORT"))}
    environ = {**kept, "TABSERVE_STORE": str(store), "TABSERVE_PREDICTION_LOG": "", "TMPDIR": str(folder), **settings}
    stdout, stderr = folder / "stdout.log", folder / "stderr.log"
    command = [*prefix, str(Path(sys.executable).parent / "gunicorn"), "--bind", f"127.0.0.1:{port}"]
    with stdout.open("wb") as out, stderr.open("wb") as err:
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=out, stderr=err)
    server = Server(f"http://127.0.0.1:{port}", process, stdout, stderr)
    try:
        _wait_for(server, wait)
        yield server
    finally:
        end(process)


def _wait_for(server: Server, path: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if requests.get(server.url + path, timeout=5).status_code == 200:
                return
        except requests.ConnectionError:
            if server.process.poll() is not None:
                break
        time.sleep(0.05)
    raise AssertionError(f"the server did not answer {path}:\n{server.stderr.read_text()}")


@pytest.fixture(scope="module")
def server(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A gunicorn with two workers that tests share: they must not stop it."""
    with serve(store, tmp_path_factory.mktemp("server"), WEB_CONCURRENCY="2") as running:
        yield running


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object], files: dict[str, bytes] | None = None) -> None:
    """Change an artifact and correct its hashes, sizes and digest, as an attacker who knows the format would."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for name, content in (files or {}).items():
        (folder / name).write_bytes(content)
        manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    change(manifest)
    facts = {key: value for key, value in manifest.items() if key not in ("digest", "created_at")}
    manifest["digest"] = artifact.digest(facts)
    (folder / "manifest.json").write_bytes(artifact.to_json(manifest))


def bits(values: Any) -> NDArray[np.int64]:
    """Return the bit patterns of float64 values, so that equality is to the last bit."""
    return np.asarray(values, dtype=np.float64).view(np.int64)


def strict_json(reply: Any) -> Any:
    """Return the JSON of a reply, from the test client or requests; NaN and infinities, which are not JSON, fail."""

    def not_strict(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    assert reply.headers["Content-Type"] == "application/json"
    return json.loads(reply.content if isinstance(reply, requests.Response) else reply.data, parse_constant=not_strict)


def refused(reply: Any, status: int, protocol: str = "V2") -> str:
    """Return the message of an error reply after checking its status, its format and that it leaks no internals."""
    form, body = PROTOCOLS[protocol], strict_json(reply)
    assert (reply.status_code, tuple(body)) == (status, form.error), body
    message = body[form.message]
    assert isinstance(message, str)
    assert message
    assert not [
        inside for inside in ("Traceback", ".py", "numpy", "orjson", "zlib", " object at ") if inside in message
    ]
    return message
