"""The service in this process: its protocols, an example request, and checks of its replies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import requests
from flask.testing import FlaskClient
from numpy.typing import NDArray

from app import create_app
from app.config import Config
from model.store import artifact

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "model" / "data" / "boston_housing.csv"

# The first row of the table: the request that the README shows.
HOUSE = {"CHAS": 0, "RM": 6.575, "TAX": 296.0, "PTRATIO": 15.3, "B": 396.9, "LSTAT": 4.98}
ANSWER = 25.002145787183498  # its prediction, published as 25.00214579
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


def parsing(take: Callable[[list[dict[str, Any]]], None]) -> Callable[[Iterable[bytes]], None]:
    """Return a log writer that passes its parsed lines to `take`."""
    return lambda pieces: take([json.loads(line) for line in b"".join(pieces).splitlines()])


def everywhere_client(store: Path, write_lines: Callable[[list[dict[str, Any]]], None], **settings: Any) -> FlaskClient:
    """Return a client of a service that answers at the paths of all `PROTOCOLS`."""
    routes = {"aip_health_route": "/vertex/health", "aip_predict_route": "/vertex/predict"}
    return create_app(Config(store=store, **{**routes, **settings}), write_log=parsing(write_lines)).test_client()


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object], files: dict[str, bytes] | None = None) -> None:
    """Change an artifact and correct its hashes, sizes and digest, as an attacker who knows the format would."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for name, content in (files or {}).items():
        (folder / name).write_bytes(content)
        manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    change(manifest)
    facts = {key: value for key, value in manifest.items() if key not in ("digest", "created_at", "observed")}
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
