"""One version of a model on disk: written atomically, loaded only if every byte and every prediction is verified.

An artifact is a folder: `manifest.json`, which lists every other file with its hash, and those files. Serving reads
the manifest, `golden.json`, `reference.json`, and the model: `trees.npz` or `model.onnx`, with `columns.npz` if these
take computed columns, or `linear.npz`. It never opens a pickle.

To change the format: raise FORMAT_VERSION, let `load` read the older versions (they stay readable for ever), keep one
artifact of each older version in the tests, and describe the change in CHANGELOG.md.

Format 3 added `trees.npz`, from which the graph and the bit vectors are made, the types of features, and `null` for a
missing value among the golden rows. It also added classifiers: `task` is "classification", the target is a boolean or a
category whose categories are the labels in the order of their probabilities, `engine.decision` says how the label
follows, and a golden answer is a list of the label's position and the probabilities. Older formats have trees as
`model.onnx` and, if they fit, `forest.npz`. Format 2 added `engine.tolerance`. In format 1 every model is exact to the
last bit.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.engine.columns import MAX_COLUMNS_BYTES, Columns, ColumnsEngine
from model.engine.compare import differing, predict_by_batch_size
from model.engine.converted import ConvertedEngine
from model.engine.explanation import MAX_EXPLANATION_BYTES
from model.engine.forest import BitVectors, Forest
from model.engine.graph import MAX_GRAPH_BYTES
from model.engine.linear import LinearEngine
from model.engine.runtime import Engine, Predictor, TreesEngine
from model.engine.trees import MAX_TREES_BYTES, Trees
from model.errors import ArtifactError, GoldenRowsError, NotInStoreError
from model.schema.features import Matrix, Schema
from model.schema.numbers import is_number
from model.store import manifest as manifests
from model.store import reference
from model.store.card import CARD
from model.store.explanation import EXPLANATION, Explanations
from model.store.files import MAX_JSON_BYTES, open_regular, parse_json
from model.store.manifest import CONVERTED_ENGINE, GRAPH_ENGINE, LINEAR_ENGINE, TREES_ENGINE, File, Manifest
from model.store.reference import Reference
from model.store.signed import SIGNATURE, Signed, check_digests, check_no_other_files

FORMAT_VERSION = 3

MANIFEST = "manifest.json"
GRAPH = "model.onnx"
GOLDEN = "golden.json"
TREES = "trees.npz"
COLUMNS = "columns.npz"
LINEAR = "linear.npz"
FOREST = "forest.npz"
REFERENCE = "reference.json"
# All files together, since each is read completely for its hash. `_MAX_BYTES` limits those that are kept in memory: a
# forest has 17 MiB at most (`engine.forest.MAX_VECTOR_BYTES`).
MAX_ARTIFACT_BYTES = 2**31
MAX_CARD_BYTES = 2**16  # cards have 5 to 30 KB; the worst text of this size takes a second or two to render
MAX_GOLDEN_ROWS = 1_024  # exports write 64; each is replayed three times
_MAX_BYTES = {
    GRAPH: MAX_GRAPH_BYTES,
    TREES: MAX_TREES_BYTES,
    COLUMNS: MAX_COLUMNS_BYTES,
    LINEAR: MAX_COLUMNS_BYTES,
    EXPLANATION: MAX_EXPLANATION_BYTES,
    FOREST: 2**25,
    GOLDEN: MAX_JSON_BYTES,
    REFERENCE: MAX_JSON_BYTES,
}
INCOMING = ".incoming-"  # the prefix of a folder's name until the folder is complete

_TRAIN = "train it again with this version"
_RESTORE = "restore the artifact from its source, or train the model again"


@dataclass(frozen=True, slots=True)
class Draft:
    """An artifact that has no version yet: its part of the manifest's document, and its files by relative name.

    `observed` are facts that are others each time, such as seconds; they are no part of the digest.
    """

    manifest: Mapping[str, Any]
    files: Mapping[str, bytes]
    observed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Artifact:
    """One verified version of a model, ready to predict.

    `golden_predictions` are the trained model's for `golden_rows` `(n_rows, n_features)`, in the form of `predict`.
    Every engine of this version reproduces them to the `tolerance`, or to the last bit if it is 0. `explanations` say
    how the answers are made up. `card` is the text of its model card, None if there is none of at most
    `MAX_CARD_BYTES`.
    """

    path: Path
    name: str
    version: int
    manifest: Manifest
    schema: Schema
    engine: Predictor
    golden_rows: Matrix
    golden_predictions: NDArray[np.float64]
    tolerance: float
    reference: Reference
    explanations: Explanations
    card: str | None = None

    def predict(self, X: Matrix) -> NDArray[np.float64]:
        """Return `(n_rows,)` float64 for `X` of shape `(n_rows, n_features)`, in the schema's order.

        A classifier returns `(n_rows, 1 + n_classes)`: the position of the label in `manifest.classes`, then the
        probability of each class.
        """
        return self.engine.predict(X)


def save(draft: Draft, folder: Path, *, name: str, version: int) -> Path:
    """Write the draft as `folder` atomically and return the folder, which must not exist yet."""
    facts = {
        **draft.manifest,
        "format_version": FORMAT_VERSION,
        "name": name,
        "version": version,
        "files": {name: asdict(_fingerprint(content)) for name, content in sorted(draft.files.items())},
    }
    manifest = {
        **facts,
        "digest": digest(facts),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **({"observed": dict(draft.observed)} if draft.observed else {}),
    }
    incoming = folder.with_name(INCOMING + uuid.uuid4().hex)
    try:
        for relative, content in {**draft.files, MANIFEST: to_json(manifest)}.items():
            path = incoming / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, content)
        sync_folders(incoming)
        incoming.rename(folder)
    except BaseException:
        shutil.rmtree(incoming, ignore_errors=True)
        raise
    return folder


def write(path: Path, content: bytes) -> None:
    """Write a file and sync it to disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folders(root: Path) -> None:
    """Sync the names of all files in and below a folder to disk."""
    for folder in (root, *root.rglob("*/")):
        sync_folder(folder)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it that do not exist; sync their names to disk."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync_folder(each.parent)


def sync_folder(folder: Path) -> None:
    """Sync the names of the files in a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load(folder: Path, *, converted: bool = True, signed: Signed | None = None) -> Artifact:
    """Return the artifact after checking every file's hash and replaying the golden rows.

    Raises `ArtifactError`, which names the file and what to do; without `converted` for a converted graph, too, and
    with `signed` for anything that the signature does not cover.
    """
    document, files = read(folder, _MAX_BYTES, optional={CARD: MAX_CARD_BYTES}, signed=signed)
    try:
        to_json(document)  # neither a log line nor a page can show strings that are not valid UTF-8
        manifest = manifests.parse(document)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(folder / MANIFEST, f"does not describe a model ({error})", _RESTORE) from None
    if manifest.engine == CONVERTED_ENGINE and not converted:
        raise ArtifactError(
            folder / MANIFEST,
            "describes the graph of a general converter, whose operators may take any time and memory",
            "set TABSERVE_ALLOW_CONVERTED=true if you trust its source",
        )
    model_file = _model_file(manifest)
    missing = [name for name in (model_file, GOLDEN, REFERENCE) if name not in files]
    if missing:
        raise ArtifactError(folder / MANIFEST, f"does not list {' and '.join(missing)}", _RESTORE)
    rows, answers = _golden(folder / GOLDEN, files[GOLDEN], manifest)
    try:
        distribution = reference.parse(parse_json(files[REFERENCE]), manifest.schema)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"is not a training distribution ({error})"
        raise ArtifactError(folder / REFERENCE, reason, _RESTORE) from None
    engine = _engine(manifest, files, folder)
    with _named(folder / model_file, _TRAIN):
        replayed = predict_by_batch_size(engine.predict, rows)
        if replayed.shape[1:] != answers.shape:
            raise ValueError(f"it gives answers of the shape {replayed.shape[1:]}, not {answers.shape}")
    loaded = Artifact(
        path=folder,
        name=manifest.name,
        version=manifest.version,
        manifest=manifest,
        schema=manifest.schema,
        engine=engine,
        golden_rows=rows,
        golden_predictions=answers,
        tolerance=manifest.tolerance,
        reference=distribution,
        explanations=Explanations(manifest, engine, rows, files.get(EXPLANATION, b"")),
        card=files[CARD].decode(errors="replace") if CARD in files else None,
    )
    check_golden_rows(loaded, replayed)
    return loaded


def _engine(manifest: Manifest, files: Mapping[str, bytes], folder: Path) -> Predictor:
    """Return the engine that a manifest describes. Raises `ArtifactError` that names the file that cannot be used."""
    n_features, n_classes = len(manifest.schema.names), len(manifest.classes)
    with _named(folder / COLUMNS):
        columns = Columns.unpack(files[COLUMNS], n_features) if COLUMNS in files else None
    with _named(folder / FOREST):
        vectors = BitVectors(Forest.unpack(files[FOREST]), n_features) if FOREST in files else None
    with _named(folder / _model_file(manifest), _TRAIN):
        if manifest.engine == LINEAR_ENGINE:
            return LinearEngine.unpack(files[LINEAR], n_features, manifest.steps, manifest.decision)
        if manifest.engine == CONVERTED_ENGINE:
            columns = columns or Columns(n_features, [])
            return ConvertedEngine(files[GRAPH], columns, n_classes, manifest.allowed_difference, manifest.steps)
        if manifest.engine == GRAPH_ENGINE:
            graph = Engine(
                files[GRAPH],
                vectors,
                n_outputs=max(1, n_classes),
                of_sums=manifest.steps,
                decision=manifest.decision,
            )
            return ColumnsEngine(columns, graph) if columns else graph
        n_places = columns.as_taken(manifest.schema.category_places) if columns else manifest.schema.n_places
        trees = Trees.unpack(files[TREES], n_places)
        engine = TreesEngine(trees, len(n_places), manifest.steps, manifest.decision)
        return ColumnsEngine(columns, engine) if columns else engine


def _model_file(manifest: Manifest) -> str:
    return {TREES_ENGINE: TREES, LINEAR_ENGINE: LINEAR}.get(manifest.engine, GRAPH)


@contextmanager
def _named(path: Path, what_to_do: str = _RESTORE) -> Iterator[None]:
    """Name the file in an error. Neither numpy's nor the runtime's exceptions share a base class."""
    try:
        yield
    except Exception as error:
        raise ArtifactError(path, f"cannot be served: {error}", what_to_do) from None


def to_golden(names: Sequence[str], X: Matrix, y: NDArray[np.float64]) -> bytes:
    """Return the file of golden rows `(n_rows, n_features)` and their answers, in the form of `Artifact.predict`."""
    rows = [[None if cell != cell else cell for cell in row] for row in X.tolist()]
    return to_json({"columns": list(names), "X": rows, "y": y.tolist()})


def _golden(path: Path, content: bytes, manifest: Manifest) -> tuple[Matrix, NDArray[np.float64]]:
    """Return the golden rows, NaN for missing, and their finite answers. Raises `ArtifactError`."""
    schema, n_classes = manifest.schema, len(manifest.classes)
    try:
        golden = parse_json(content)
        columns, X, y = tuple(golden["columns"]), golden["X"], golden["y"]
        cells = [cell for row in X for cell in row]
        numbers = [number for answer in y for number in answer] if n_classes else y
        if not all(cell is None or is_number(cell) for cell in cells) or not all(map(is_number, numbers)):
            raise ValueError("not rows of finite numbers with one for each column")
        if n_classes and not all(len(answer) == 1 + n_classes and answer[0] in range(n_classes) for answer in y):
            raise ValueError(f"not the position of a label and {n_classes} probabilities for each row")
        if {len(row) for row in X} != {len(columns)}:
            raise ValueError("not rows of finite numbers with one for each column")
        if not len(X) == len(y) <= MAX_GOLDEN_ROWS:
            raise ValueError(f"{len(X)} rows and {len(y)} answers, not equally many and at most {MAX_GOLDEN_ROWS}")
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(path, f"has no golden rows ({error})", _RESTORE) from None
    rows = np.array(X, dtype=np.float64)  # None becomes NaN
    if columns != schema.names:
        raise ArtifactError(path, "has other columns than the manifest, or in another order", _RESTORE)
    for feature, kinds, values in zip(schema.features, schema.cells, rows.T):
        known = values[~np.isnan(values)]
        if len(known) < len(values) and not feature.missing:
            raise ArtifactError(path, f"has no golden rows ({feature.name} is missing in one)", _RESTORE)
        if kinds.n_places and not np.isin(known, np.arange(kinds.n_places)).all():
            raise ArtifactError(path, f"has no golden rows ({feature.name} has a category beyond its own)", _RESTORE)
    return rows, np.array(y, dtype=np.float64)


def check_golden_rows(model: Artifact, replayed: NDArray[np.float64]) -> None:
    """Compare an engine's predictions `(n_batch_sizes, n_rows)` for the golden rows with the trained model's.

    Raises `GoldenRowsError` if any differs.
    """
    allowed_difference = model.manifest.allowed_difference
    is_different = differing(model.golden_predictions, replayed, model.tolerance, allowed_difference)
    different = int(is_different.any(axis=0).sum())
    if different:
        raise GoldenRowsError(
            model.path / GOLDEN,
            f"{different} of {len(model.golden_rows)} golden rows are answered differently than by the trained model",
            "do not serve it; train it again on this machine and compare",
            name=model.name,
            version=model.version,
        )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest's document after checking its format and digest, but not its files and facts.

    Raises `ArtifactError`.
    """
    return parse_manifest(folder / MANIFEST, _manifest_bytes(folder))


def manifest_content(model: Artifact) -> bytes:
    """Return the bytes of a loaded version's manifest. Raises `ArtifactError` if it has changed since."""
    path, content = model.path / MANIFEST, _manifest_bytes(model.path)
    if parse_manifest(path, content) != model.manifest.document:
        raise ArtifactError(path, "has changed since it was verified", "try again")
    return content


def file_content(model: Artifact, name: str, max_bytes: int) -> bytes:
    """Return the bytes of a file that a loaded version lists, as they were verified.

    Raises `NotInStoreError` if it lists none of this name, or a larger one; `ArtifactError` if it has changed since.
    """
    listed = model.manifest.files.get(name)
    if listed is None or listed.size > max_bytes:
        raise NotInStoreError(f"{model.name} version {model.version} has no {name} of at most {max_bytes} bytes")
    path = model.path / name
    try:
        with open_regular(path) as file:
            content = file.read(listed.size + 1)
    except OSError as error:
        raise _unreadable(path, error) from None
    if hashlib.sha256(content).hexdigest() != listed.sha256:
        raise ArtifactError(path, "has changed since it was verified", _RESTORE)
    return content


def write_signature(folder: Path, content: bytes) -> None:
    """Write the signature of a version in one step; an earlier one is replaced."""
    # Beside the folder, in which a signature allows no other file.
    incoming = folder.resolve().with_name(f".{SIGNATURE}.{uuid.uuid4().hex}")
    try:
        write(incoming, content)
        incoming.replace(folder / SIGNATURE)
        sync_folder(folder)
    finally:
        incoming.unlink(missing_ok=True)


def _manifest_bytes(folder: Path) -> bytes:
    try:
        with open_regular(folder / MANIFEST) as file:
            return file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise _unreadable(folder / MANIFEST, error) from None


def parse_manifest(path: Path, content: bytes) -> dict[str, Any]:
    """Return a manifest's document after checking its format and digest. Raises `ArtifactError` that names `path`."""
    try:
        document: dict[str, Any] = parse_json(content)
        format_version = document["format_version"]
    except (ValueError, KeyError, TypeError):
        raise ArtifactError(path, "is not a manifest", _RESTORE) from None
    if type(format_version) is not int or format_version < 1:
        raise ArtifactError(path, f"has the format version {format_version!r}, which does not exist", _RESTORE)
    if format_version > FORMAT_VERSION:
        raise ArtifactError(
            path,
            f"is of format {format_version}; this version of tabserve reads formats up to {FORMAT_VERSION}",
            "upgrade tabserve, or train the model again with this version",
        )
    expected = {key: value for key, value in document.items() if key not in ("digest", "created_at", "observed")}
    try:
        unchanged = document.get("digest") == digest(expected)
    except (ValueError, RecursionError):  # NaN or infinity: Python parses them, strict JSON has none
        unchanged = False
    if not unchanged:
        raise ArtifactError(path, "was changed after it was written: its digest differs", _RESTORE)
    return document


def read(
    folder: Path,
    max_bytes: Mapping[str, int] | None = None,
    *,
    optional: Mapping[str, int] | None = None,
    signed: Signed | None = None,
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the manifest's document and the bytes of its files, after checking every file against its hash.

    Keeps only the files in `max_bytes`, which also limits their sizes, and those in `optional` that are not larger than
    it says; all files where `max_bytes` is None. With `signed` the
    signature is verified first, and must cover the manifest and every file that it lists; the folder may have no other.
    Every file is read once, so what is returned is what was verified. Raises `ArtifactError`.
    """
    path = folder / MANIFEST
    digests = signed(folder) if signed else None
    content = _manifest_bytes(folder)
    manifest_sha256 = hashlib.sha256(content).hexdigest()
    if digests is not None:  # before anything in the manifest is read
        signed_manifest = {name: sha256 for name, sha256 in digests.items() if name == MANIFEST}
        check_digests(folder, signed_manifest, {MANIFEST: manifest_sha256})
    document = parse_manifest(path, content)
    expected = listed_files(path, document)
    if digests is not None:
        actual = {name: file.sha256 for name, file in expected.items()} | {MANIFEST: manifest_sha256}
        check_digests(folder, digests, actual)
        check_no_other_files(folder, actual)
    files = {}
    for name, file in expected.items():
        relative = PurePosixPath(name)
        if file.size > (max_bytes or {}).get(name, MAX_ARTIFACT_BYTES):
            raise ArtifactError(folder / name, f"has {file.size} bytes, more than are allowed", "do not use it")
        in_memory = max_bytes is None or name in max_bytes or file.size <= (optional or {}).get(name, -1)
        sha256, content = _read(folder, relative, file.size, in_memory=in_memory)
        if sha256 != file.sha256:
            raise ArtifactError(folder / name, "was changed after it was written: its hash differs", _RESTORE)
        if in_memory:
            files[name] = content
    return document, files


def listed_files(path: Path, document: Mapping[str, Any]) -> dict[str, File]:
    """Return the files that a manifest lists, by their names. `path` is the manifest's, for errors.

    Raises `ArtifactError` if they are too large together, or one is not in the folder.
    """
    try:
        found = manifests.files(document)
    except ValueError:
        raise ArtifactError(path, "does not list its files", _RESTORE) from None
    if sum(file.size for file in found.values()) > MAX_ARTIFACT_BYTES:
        raise ArtifactError(path, f"names files of more than {MAX_ARTIFACT_BYTES} bytes", "do not use it")
    for name in found:
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts:
            raise ArtifactError(path, f"names a file outside its folder: {name!r}", "do not use it")
    return found


def read_draft(folder: Path) -> Draft:
    """Return the draft that an artifact was saved from, so that it can be saved again with more files."""
    document, files = read(folder)
    own = ("format_version", "name", "version", "files", "digest", "created_at", "observed")
    facts = {key: value for key, value in document.items() if key not in own}
    return Draft(facts, files, document.get("observed", {}))


def digest(facts: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest's facts, independent of their order and of when they were written."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def to_json(value: Any) -> bytes:
    """Return `value` as indented strict JSON. Floats round-trip exactly."""
    return (json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _fingerprint(content: bytes) -> File:
    return File(sha256=hashlib.sha256(content).hexdigest(), size=len(content))


def _read(folder: Path, relative: PurePosixPath, size: int, *, in_memory: bool) -> tuple[str, bytes]:
    """Return the SHA-256 of a regular file of this size and, if `in_memory`, its bytes. Raises `ArtifactError`."""
    path = folder / relative
    sha256_of, chunks = hashlib.sha256(), []
    try:
        if path.parent.resolve() != (folder.resolve() / relative).parent:
            raise OSError(errno.ELOOP, "its folder is a link")
        with open_regular(path) as file:
            actual_size = os.fstat(file.fileno()).st_size
            if actual_size != size:
                raise ArtifactError(path, f"has {actual_size} bytes where the manifest says {size}", _RESTORE)
            while size > 0 and (chunk := file.read(min(size, 2**20))):
                size -= len(chunk)
                sha256_of.update(chunk)
                if in_memory:
                    chunks.append(chunk)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    return sha256_of.hexdigest(), b"".join(chunks)


def _unreadable(path: Path, error: Exception) -> ArtifactError:
    if isinstance(error, FileNotFoundError):
        return ArtifactError(path, "is missing", _RESTORE)
    reason = getattr(error, "strerror", None) or error  # a ValueError has none: the name contains a NUL
    return ArtifactError(path, f"cannot be read: {reason}", "check its name and permissions")
