"""The contenders: how each is installed, started and called. `--only` selects from this table."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from app.version import VERSION

ROOT = Path(__file__).parents[1]
PEERS = Path(__file__).with_name("peers")
MODEL = "boston-housing"
COLUMNS = ["CHAS", "RM", "TAX", "PTRATIO", "B", "LSTAT"]

Rows = list[list[float]]


@dataclass(frozen=True, slots=True)
class Contender:
    """One server of the pipeline.

    `command`, `environ` and `path` may contain `{port}`, `{here}` (the peer's folder), `{root}` (this repository),
    `{scratch}` (an empty working folder), `{pipeline}` (its file) and `{rows}` (the number of rows in the request).
    """

    name: str
    title: str
    package: str  # whose version is reported
    command: tuple[str, ...]
    write: Callable[[Rows], Any]
    read: Callable[[Any], list[float]] = lambda reply: list(reply["prediction"])
    kind: Literal["ours", "floor", "engine", "peer"] = "peer"
    path: str = "/predict"
    environ: Mapping[str, str] = field(default_factory=dict)
    runs_in: str = "{scratch}"

    @property
    def requirements(self) -> Path:
        """The requirements file; for ours that of the repository."""
        return ROOT / "requirements-serve.txt" if self.kind in ("ours", "floor") else self.here / "requirements.txt"

    @property
    def here(self) -> Path:
        """The folder of the server, with `prepare.py` if the pipeline must be converted first."""
        return PEERS / self.name

    @property
    def version(self) -> str:
        """The pinned version of the package; for ours our own version."""
        if self.kind == "ours":
            return VERSION
        found = re.search(rf"^{self.package}(?:\[.*\])?==(\S+)", self.requirements.read_text(), re.MULTILINE)
        return found[1] if found else ""


def _rows(rows: Rows) -> Any:
    return {"rows": rows}


def _table(rows: Rows) -> Any:
    return {"columns": COLUMNS, "data": rows}


def _frame(rows: Rows) -> Any:
    """Return the columns as `DataFrame.to_json()` writes them."""
    return {name: {str(row): cells[column] for row, cells in enumerate(rows)} for column, name in enumerate(COLUMNS)}


def _tensor(rows: Rows) -> Any:
    return {"inputs": [{"name": "rows", "shape": [len(rows), len(COLUMNS)], "datatype": "FP64", "data": rows}]}


_TABSERVE = {"TABSERVE_PREDICTION_LOG": ""}
_UVICORN = ("uvicorn", "serve:app", "--app-dir", "{here}", "--workers", "2", "--port", "{port}")

CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(
            "tabserve",
            "Tabserve",
            "gunicorn",
            ("gunicorn", "--bind", "127.0.0.1:{port}"),
            _table,
            kind="ours",
            environ=_TABSERVE,
            runs_in="{root}",
        ),
        Contender(
            "raw",
            "constant on raw WSGI, gunicorn",
            "gunicorn",
            ("gunicorn", "--config", "{here}/gunicorn.conf.py", "--bind", "127.0.0.1:{port}"),
            _table,
            kind="floor",
            path="/{rows}",
            environ={"PYTHONPATH": "{here}:{root}"},
        ),
        Contender(
            "fastapi-engine",
            "FastAPI with our engine",
            "fastapi",
            _UVICORN,
            _rows,
            kind="engine",
            environ={"PYTHONPATH": "{root}"},
        ),
        Contender(
            "fastapi-bare",
            "FastAPI with our engine, no checks",
            "fastapi",
            _UVICORN,
            _rows,
            kind="engine",
            environ={"PYTHONPATH": "{root}"},
        ),
        Contender("fastapi", "FastAPI", "fastapi", _UVICORN, _rows),
        Contender(
            "mlserver",
            "MLServer",
            "mlserver",
            ("mlserver", "start", "{here}"),
            _tensor,
            read=lambda reply: list(reply["outputs"][0]["data"]),
            path="/v2/models/houses/infer",
            environ={
                "MLSERVER_HTTP_PORT": "{port}",
                "MLSERVER_METRICS_DIR": "{scratch}",
                "MLSERVER_MODEL_URI": "{pipeline}",
            },
        ),
        Contender(
            "bentoml",
            "BentoML",
            "bentoml",
            ("bentoml", "serve", "serve:Houses", "--working-dir", "{here}", "--host", "127.0.0.1", "--port", "{port}"),
            _rows,
        ),
        Contender("litserve", "LitServe", "litserve", ("python", "{here}/serve.py"), _rows),
        Contender(
            "mlflow",
            "MLflow",
            "mlflow",
            (
                "mlflow",
                "models",
                "serve",
                "--model-uri",
                "{scratch}/model",
                "--env-manager",
                "local",
                "--port",
                "{port}",
            ),
            lambda rows: {"inputs": rows},
            read=lambda reply: list(reply["predictions"]),
            path="/invocations",
        ),
        Contender(
            "kserve",
            "KServe",
            "kserve",
            ("python", "{here}/serve.py", "--http_port", "{port}", "--workers", "2"),
            lambda rows: {"instances": rows},
            read=lambda reply: list(reply["predictions"]),
            path="/v1/models/houses:predict",
        ),
        Contender(
            "ray",
            "Ray Serve",
            "ray",
            ("python", "{here}/serve.py"),
            _rows,
            path="/",
            environ={
                "RAY_SERVE_ENABLE_HA_PROXY": "1",
                "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
                "RAY_TMPDIR": "{scratch}",
            },
        ),
        Contender(
            "textbook",
            "the textbook service",
            "flask",
            ("gunicorn", "--workers", "2", "--bind", "127.0.0.1:{port}", "--pythonpath", "{here}", "serve:app"),
            _frame,
        ),
    )
}

# Ours as `make run` serves it: with a prediction log, which feedback needs.
LOGGED = replace(CONTENDERS["tabserve"], environ={"TABSERVE_PREDICTION_LOG": "sqlite:///{scratch}/predictions.db"})
