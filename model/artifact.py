"""One version of a model on disk: write it whole, and load it only when every byte and every answer is right.

An artifact is a folder: `manifest.json`, which names and hashes every other file, and those files. Serving
reads the manifest, `model.onnx`, `forest.npz` where there is one, `golden.json` and `reference.json`; it never opens
a pickle.

To change the format: raise FORMAT_VERSION, teach `load` to read the older versions (they stay readable for
ever), keep one artifact of each older version in the tests, and say in CHANGELOG.md what changed.

Format 2 has `engine.tolerance`; in format 1 every model answers to the last bit.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model import drift, schema
from model.bit_vectors import BitVectors, Forest
from model.drift import Reference
from model.engine import Engine, Predictor, differing, predict_every_way
from model.errors import ArtifactError, GoldenRowsError
from model.schema import Matrix, Schema

FORMAT_VERSION = 2

MANIFEST = "manifest.json"
GRAPH = "model.onnx"
GOLDEN = "golden.json"
FOREST = "forest.npz"
REFERENCE = "reference.json"
# A compiled model may differ from the trained one by at most this, relative to its answer, whatever the manifest says.
MAX_TOLERANCE = 1e-6
INCOMING = ".incoming-"  # what a folder's name begins with until it is whole

_RESTORE = "restore the artifact from where it came, or train it again"


@dataclass(frozen=True, slots=True)
class Draft:
    """An artifact that has no version yet: the facts of its manifest, and its files by relative name."""

    manifest: Mapping[str, Any]
    files: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Artifact:
    """One verified version of a model, ready to answer.

    `golden_rows` `(n_rows, n_features)` have the trained model's `golden_answers` `(n_rows,)`; every engine of this
    version gives them to within `tolerance`, relative, or to the last bit where that is 0.
    """

    path: Path
    name: str
    version: int
    manifest: Mapping[str, Any]
    schema: Schema
    engine: Predictor
    golden_rows: Matrix
    golden_answers: NDArray[np.float64]
    tolerance: float
    reference: Reference

    def predict(self, X: Matrix) -> NDArray[np.float64]:
        """Return `(n_rows,)` float64 for `X` of shape `(n_rows, n_features)`, in the schema's order."""
        return self.engine.predict(X)


def save(draft: Draft, folder: Path, *, name: str, version: int) -> Path:
    """Write the draft as `folder`, whole or not at all, and return it. The folder must not exist."""
    facts = {
        **draft.manifest,
        "format_version": FORMAT_VERSION,
        "name": name,
        "version": version,
        "files": {name: _fingerprint(content) for name, content in sorted(draft.files.items())},
    }
    manifest = {**facts, "digest": digest(facts), "created_at": datetime.now(UTC).isoformat(timespec="seconds")}
    incoming = folder.with_name(INCOMING + uuid.uuid4().hex)
    try:
        for relative, content in {**draft.files, MANIFEST: to_json(manifest)}.items():
            path = incoming / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, content)
        incoming.rename(folder)
    except BaseException:
        shutil.rmtree(incoming, ignore_errors=True)
        raise
    return folder


def write(path: Path, content: bytes) -> None:
    """Write a file through to the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def load(folder: Path) -> Artifact:
    """Return the artifact after checking every file's hash and replaying the golden rows.

    Raises `ArtifactError`, which names the file and what to do; nothing is half-loaded.
    """
    manifest, files = read(folder)
    try:
        model_schema = schema.from_manifest(manifest)
        name, version = str(manifest["name"]), int(manifest["version"])
        if not {"title", "algorithm"} <= manifest.keys():
            raise ValueError("title or algorithm is missing")
        for part in ("training", "validation"):
            if not {"rows", "rmse", "mae", "bias"} <= manifest["metrics"][part].keys():
                raise ValueError(f"metrics of the {part} rows are missing")
        graph = files[GRAPH]
        golden = json.loads(files[GOLDEN])
        columns = tuple(golden["columns"])
        rows = np.array(golden["X"], dtype=np.float64).reshape(-1, len(columns))
        answers = np.array(golden["y"], dtype=np.float64)
        reference = drift.parse(json.loads(files[REFERENCE]), model_schema)
        tolerance = _tolerance(manifest)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(folder / MANIFEST, f"does not describe a model ({error!r})", _RESTORE) from None
    if columns != model_schema.names:
        raise ArtifactError(folder / GOLDEN, "has other columns, or in another order, than the manifest", _RESTORE)
    if len(rows) == 0 or answers.shape != (len(rows),):
        raise ArtifactError(folder / GOLDEN, f"has {len(rows)} rows and {answers.size} answers", _RESTORE)
    try:
        vectors = BitVectors(Forest.unpack(files[FOREST]), len(model_schema.names)) if FOREST in files else None
    except Exception as error:  # whatever numpy raises for arrays that do not fit each other
        raise ArtifactError(folder / FOREST, f"cannot be used: {error}", _RESTORE) from None
    try:
        engine = Engine(graph, vectors)
        replayed = predict_every_way(engine.predict, rows)
    except Exception as error:  # whatever the runtime raises for a graph or an input that it cannot run
        raise ArtifactError(folder / GRAPH, f"cannot be served: {error}", "train it again with this version") from None
    found = Artifact(folder, name, version, manifest, model_schema, engine, rows, answers, tolerance, reference)
    check_golden_rows(found, replayed)
    return found


def check_golden_rows(found: Artifact, replayed: NDArray[np.float64]) -> None:
    """Hold `(n_ways, n_rows)` answers of an engine to the golden rows against those of the trained model.

    Raises `GoldenRowsError` if one differs.
    """
    different = int(differing(found.golden_answers, replayed, found.tolerance).any(axis=0).sum())
    if different:
        raise GoldenRowsError(
            found.path / GOLDEN,
            f"{different} of {len(found.golden_rows)} golden rows are answered otherwise than by the trained model",
            "do not serve it; train it again on this machine and compare",
            name=found.name,
            version=found.version,
        )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest after checking its format and its digest, and none of its files. Raises `ArtifactError`."""
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(_read_bytes(path))
        found = manifest["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ArtifactError(path, "is not a manifest", _RESTORE) from None
    if type(found) is not int or found < 1:
        raise ArtifactError(path, f"has the format version {found!r}, which never was one", _RESTORE)
    if found > FORMAT_VERSION:
        raise ArtifactError(
            path,
            f"is of format {found}, and this tabserve reads formats up to {FORMAT_VERSION}",
            "upgrade tabserve, or train the model again with this one",
        )
    expected = {key: value for key, value in manifest.items() if key not in ("digest", "created_at")}
    try:
        unchanged = manifest.get("digest") == digest(expected)
    except ValueError:  # NaN or infinity, which Python's parser reads and strict JSON has not
        unchanged = False
    if not unchanged:
        raise ArtifactError(path, "was changed after it was written: its digest is another", _RESTORE)
    return manifest


def read(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the manifest and every file's bytes, each checked against its hash. Raises `ArtifactError`."""
    path = folder / MANIFEST
    manifest = read_manifest(folder)
    try:
        sizes = {name: fingerprint["size"] for name, fingerprint in manifest["files"].items()}
    except (KeyError, TypeError, AttributeError):
        raise ArtifactError(path, "does not say which files there are", _RESTORE) from None
    files = {}
    for name, size in sizes.items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ArtifactError(path, f"names a file outside its folder: {name!r}", "do not use it")
        content = _read_bytes(folder / name)
        if len(content) != size:
            raise ArtifactError(folder / name, f"has {len(content)} bytes where the manifest says {size}", _RESTORE)
        if _fingerprint(content) != manifest["files"][name]:
            raise ArtifactError(folder / name, "was changed after it was written: its hash is another", _RESTORE)
        files[name] = content
    return manifest, files


def _tolerance(manifest: Mapping[str, Any]) -> float:
    """Return how far an engine may be from the trained model. Raises `ValueError` for more than is ever right."""
    tolerance = manifest["engine"]["tolerance"] if manifest["format_version"] > 1 else 0.0
    if not 0 <= tolerance <= MAX_TOLERANCE:
        raise ValueError(f"the tolerance {tolerance!r} is not from 0 to {MAX_TOLERANCE}")
    return float(tolerance)


def read_draft(folder: Path) -> Draft:
    """Return the draft that an artifact was saved from, so that it can be saved again with more files."""
    manifest, files = read(folder)
    own = ("format_version", "name", "version", "files", "digest", "created_at")
    return Draft({key: value for key, value in manifest.items() if key not in own}, files)


def digest(facts: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest's facts, independent of their order and of when they were written."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def to_json(value: Any) -> bytes:
    """Return `value` as strict JSON that a person can read; floats are written so that they read back the same."""
    return (json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _fingerprint(content: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(path, "is missing", _RESTORE) from None
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL in it
        reason = getattr(error, "strerror", error)
        raise ArtifactError(path, f"cannot be read: {reason}", "check its name and permissions") from None
