"""A version as an OCI image layout, which the ordinary tools of containers push to a registry.

Two forms of the same files, each in the media types that its readers ask for:

- a model of the CNCF's ModelPack (https://github.com/modelpack/model-spec, docs/spec.md and docs/config.md of v0.0.7):
  a layer for each file, as a tar, so that a runtime which unpacks layers gives the folder of the version;
- an image with the files in `/models`, the folder of it that KServe mounts or reads
  (https://kserve.github.io/website/docs/model-serving/storage/providers/oci, kserve/kserve#5558): one layer.

The same version gives the same digests: no times, owners or modes of this machine. Knows nothing of registries.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import uuid
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from model.errors import ArchiveError
from model.store import artifact
from model.store.archive import files_of
from model.store.artifact import Artifact
from model.store.manifest import GRAPH_ENGINE, LINEAR_ENGINE, TREES_ENGINE
from model.store.versions import Store

_MODEL = "application/vnd.cncf.model"
_IMAGE = "application/vnd.oci.image"
_ANNOTATION = "org.opencontainers.image"
# What a file is to ModelPack, by its name: all else is configuration of the weights.
_WEIGHTS = {artifact.TREES, artifact.GRAPH, artifact.LINEAR, artifact.COLUMNS, artifact.FOREST}
_WEIGHT_SUFFIXES = (".safetensors", ".joblib")
_DOC_SUFFIXES = (".md", ".png", ".svg", ".html", ".ipynb")
_FORMATS = {TREES_ENGINE: "npz", LINEAR_ENGINE: "npz", GRAPH_ENGINE: "onnx"}


def pack(store: Store, reference: str, folder: Path, *, is_image: bool = False) -> str:
    """Verify a version, write it with its signature to a new folder, and return the digest of its manifest.

    It is a ModelPack, or with `is_image` an image. Raises `ArchiveError` if the folder exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArchiveError(f"{folder} exists and is not empty; name a new folder")
    model = store.load(reference)
    contents = files_of(model)
    incoming = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        blobs = incoming / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        manifest = _image(model, contents, blobs) if is_image else _model(model, contents, blobs)
        written = _blob(blobs, _json(manifest), f"{_IMAGE}.manifest.v1+json")
        described = {**written, "annotations": {f"{_ANNOTATION}.ref.name": str(model.version)}}
        if not is_image:
            described["artifactType"] = f"{_MODEL}.manifest.v1+json"
        index = {"schemaVersion": 2, "mediaType": f"{_IMAGE}.index.v1+json", "manifests": [described]}
        artifact.write(incoming / "index.json", _json(index))
        artifact.write(incoming / "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        artifact.sync_folders(incoming)
        if folder.exists():
            folder.rmdir()
        incoming.rename(folder)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    digest: str = written["digest"]
    return digest


def _model(model: Artifact, contents: Mapping[str, bytes], blobs: Path) -> dict[str, Any]:
    """Write the layers and the configuration of a ModelPack, and return its manifest."""
    layers = []
    for name, content in sorted(contents.items()):
        layer = _blob(blobs, _tar({name: content}), f"{_MODEL}.{_kind(name)}.v1.tar")
        layers.append({**layer, "annotations": {"org.cncf.model.filepath": name}})
    document = model.manifest.document
    about = {
        "createdAt": document.get("created_at"),
        "authors": [owner] if (owner := document.get("tags", {}).get("owner")) else None,
        "family": model.name,
        "name": model.name,
        "version": str(model.version),
        "title": document.get("title"),
        "revision": document["digest"],
    }
    config = {
        "descriptor": {key: value for key, value in about.items() if value},
        "config": {
            "architecture": document.get("algorithm") or model.manifest.engine,
            "format": _FORMATS.get(model.manifest.engine, "onnx"),
            "precision": "float64",
        },
        "modelfs": {"type": "layers", "diffIds": [layer["digest"] for layer in layers]},
    }
    return {
        "schemaVersion": 2,
        "mediaType": f"{_IMAGE}.manifest.v1+json",
        "artifactType": f"{_MODEL}.manifest.v1+json",
        "config": _blob(blobs, _json(config), f"{_MODEL}.config.v1+json"),
        "layers": layers,
        "annotations": _annotations(model),
    }


def _image(model: Artifact, contents: Mapping[str, bytes], blobs: Path) -> dict[str, Any]:
    """Write the layer and the configuration of an image with the files in /models, and return its manifest."""
    below = {f"models/{name}": content for name, content in contents.items()}
    layer = _blob(blobs, _tar(below), f"{_IMAGE}.layer.v1.tar")
    created = model.manifest.document.get("created_at")
    config = {
        "created": created,
        # The files are the same on every machine; amd64 is the one that every tool takes without being asked.
        "architecture": "amd64",
        "os": "linux",
        "config": {"Labels": _annotations(model)},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        "history": [{"created": created, "created_by": "tabserve"}],
    }
    return {
        "schemaVersion": 2,
        "mediaType": f"{_IMAGE}.manifest.v1+json",
        "config": _blob(blobs, _json(config), f"{_IMAGE}.config.v1+json"),
        "layers": [layer],
        "annotations": _annotations(model),
    }


def _annotations(model: Artifact) -> dict[str, str]:
    document = model.manifest.document
    found = {
        "created": document.get("created_at"),
        "title": document.get("title") or model.name,
        "version": str(model.version),
        "revision": document["digest"],
    }
    return {f"{_ANNOTATION}.{key}": value for key, value in found.items() if value}


def _kind(name: str) -> str:
    """Return what a file is to ModelPack: weights, their configuration, or documentation."""
    if name in _WEIGHTS or name.endswith(_WEIGHT_SUFFIXES):
        return "weight"
    return "doc" if name.endswith(_DOC_SUFFIXES) else "weight.config"


def _tar(contents: Mapping[str, bytes]) -> bytes:
    """Return a tar of these files and the folders that they are in, the same for the same contents."""
    folders = {str(parent) for name in contents for parent in PurePosixPath(name).parents if parent.name}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted({*folders, *contents}):
            member = tarfile.TarInfo(name)  # mode 0644, owner 0, time 0
            if name in folders:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(member)
            else:
                member.size = len(contents[name])
                archive.addfile(member, io.BytesIO(contents[name]))
    return packed.getvalue()


def _blob(blobs: Path, content: bytes, media_type: str) -> dict[str, Any]:
    """Write a blob, and return its descriptor."""
    digest = hashlib.sha256(content).hexdigest()
    artifact.write(blobs / digest, content)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
